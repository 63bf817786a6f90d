"""compose.yaml holds together: with the Compose specification, the settings, the image, Prometheus and Grafana."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client.programs import compiled_go, make_installation

from recorder.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose(request: pytest.FixtureRequest) -> dict[str, Any]:
    """compose.yaml as the library of `docker compose` understands it; what it does not know, it refuses."""
    loader = compiled_go(make_installation(request.config), "compose", ROOT / "tests" / "compose")
    loaded = subprocess.run(
        [loader, str(ROOT / "compose.yaml")], capture_output=True, text=True, env={}, timeout=30
    )
    assert (loaded.returncode, loaded.stderr) == (0, "")
    found: dict[str, Any] = json.loads(loaded.stdout)
    return found


def sources(service: dict[str, Any], kind: str) -> dict[str, str]:
    """Return what is mounted into a service, by where it is there."""
    return {
        volume["target"]: volume["source"] for volume in service.get("volumes", []) if volume["type"] == kind
    }


def test_the_settings_are_good_and_hold_no_secret(compose: dict[str, Any], tmp_path: Path) -> None:
    """The recorder would start with them, without a warning; key and tokens are files."""
    variables = {key: value or "" for key, value in compose["services"]["recorder"]["environment"].items()}
    assert not {"POLYGON_API_KEY", "AUTH_TOKENS"} & set(variables)
    files = {name for name in variables if name.endswith("_FILE")}
    assert files == {"POLYGON_API_KEY_FILE", "AUTH_TOKENS_FILE"}
    for name in files:
        folder, _, secret = variables[name].rpartition("/")
        assert folder == "/run/secrets"
        assert secret in {given["source"] for given in compose["services"]["recorder"]["secrets"]}
        (tmp_path / secret).write_text("app-1:a-long-random-token\n")
        variables[name] = str(tmp_path / secret)
    loaded = load_settings(environ=variables, cwd=tmp_path, overrides={"SINK": "ndjson", "NDJSON_DEST": "x"})
    assert loaded.warnings == ()


def test_all_that_is_mounted_exists(compose: dict[str, Any]) -> None:
    """Files and folders of the checkout are there and read-only; volumes and secrets are declared."""
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert volume["read_only"], f"{name}: {volume['source']}"
                assert Path(volume["source"]).exists(), f"{name}: {volume['source']}"
            else:
                assert volume["source"] in compose["volumes"]
        assert {given["source"] for given in service.get("secrets", [])} <= set(compose["secrets"])
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for secret in compose["secrets"].values():
        assert f"{Path(secret['file']).relative_to(ROOT).parent}/" in ignored


def test_nothing_is_reached_from_beyond_this_machine(compose: dict[str, Any]) -> None:
    """Every port is published on loopback; the recorder's are those of its image."""
    for service in compose["services"].values():
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}
    [exposed] = re.findall(r"^EXPOSE (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    ports = compose["services"]["recorder"]["ports"]
    assert [str(port["target"]) for port in ports] == exposed.split()
    assert all(str(port["target"]) == port["published"] for port in ports)


def test_each_service_is_watched_limited_and_comes_back(compose: dict[str, Any]) -> None:
    """A check of its health, a limit on memory and log, a restart, no capability, and one version of each image."""
    for name, service in compose["services"].items():
        assert service["restart"] == "unless-stopped"
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if "build" in service:
            assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
            assert service["read_only"] is True
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_the_recorder_has_what_its_image_and_its_settings_ask_for(compose: dict[str, Any]) -> None:
    """The volume is the image's, the build argument exists there, and a stop has the time that it may take."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    service = compose["services"]["recorder"]
    [volume] = re.findall(r"^VOLUME (.*)$", dockerfile, re.MULTILINE)
    assert list(sources(service, "volume")) == [volume]
    for argument in service["build"]["args"]:
        assert f"\nARG {argument}=" in dockerfile
    grace_secs = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_secs > load_settings({}, ROOT, require_key=False).settings.shutdown_timeout_secs


def test_prometheus_and_grafana_find_what_they_show(compose: dict[str, Any]) -> None:
    """Prometheus scrapes the recorder by its name here, Grafana asks Prometheus, and finds the dashboards."""
    services = compose["services"]
    port = services["recorder"]["environment"]["METRICS_ADDR"].rpartition(":")[2]
    scraped = sources(services["prometheus"], "bind")
    configured = Path(scraped["/etc/prometheus/prometheus.yml"]).read_text()
    assert f"recorder:{port}" in configured
    [secret] = {given["source"] for given in services["prometheus"]["secrets"]}
    assert f"credentials_file: /run/secrets/{secret}\n" in configured
    assert "--config.file=/etc/prometheus/prometheus.yml" in services["prometheus"]["command"]
    assert "/etc/prometheus/recorder.rules.yml" in scraped
    shown = sources(services["grafana"], "bind")
    provisioning = Path(shown["/etc/grafana/provisioning"])
    texts = {
        kind: "".join(path.read_text() for path in (provisioning / kind).glob("*.y*ml"))
        for kind in ("datasources", "dashboards")
    }
    assert "http://prometheus:9090" in texts["datasources"]
    [folder] = re.findall(r"^\s*path: (\S+)$", texts["dashboards"], re.MULTILINE)
    assert list(Path(shown[folder]).glob("*.json"))
