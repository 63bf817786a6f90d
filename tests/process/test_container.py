"""The image does what docs/container.md says: it is built from the Dockerfile, and run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commands import KEY, simulating
from images import SECRETS, Images, images
from networks import network
from oracle import read_manifest, verified
from waiting import eventually_sync

IMAGE = "localhost/recorder"
USER = 10001


@pytest.mark.timeout(300)
def test_the_image_is_built_and_records(tmp_path: Path) -> None:
    """One build, looked at from all sides: what the image says of itself, how it runs, ends, and what each sink adds."""
    with images(tmp_path / "images") as made:
        made.build(IMAGE)
        says_how_it_is_run(made)
        records_and_stops(made, tmp_path)
        assert "native" in made.run_in(
            IMAGE, "/opt/recorder/bin/python", "-c", "import recorder._native as it; print(it)"
        )
        sinks = [
            f"--build-arg=ENABLE_{name}=true" for name in ("ZMQ_SINK", "NATS_SINK", "KAFKA_SINK", "UPLOADS")
        ]
        made.build(f"{IMAGE}:sinks", "--target=build", *sinks)
        added = packages(made, f"{IMAGE}:sinks") - packages(made, IMAGE)
        assert added == {"zmq", "nats", "confluent_kafka", "obstore"}
        words = made.build(f"{IMAGE}:odd", "--target=build", "--build-arg=ENABLE_ZMQ_SINK=maybe", status=1)
        assert "ENABLE_ZMQ_SINK=maybe is neither true nor false" in words


def says_how_it_is_run(made: Images) -> None:
    """Not root, signals to the recorder itself, a volume, all ports, a check of its health."""
    said = made.configuration(IMAGE)
    assert said["User"] == f"{USER}:{USER}"
    assert (said["Entrypoint"], said["Cmd"]) == (["recorder"], ["run"])
    assert said["StopSignal"] == "SIGTERM"
    assert list(said["Volumes"]) == [said["WorkingDir"]] == ["/var/lib/recorder"]
    assert set(said["ExposedPorts"]) == {"8765/tcp", "8767/tcp", "8768/tcp", "9898/tcp"}
    assert said["Healthcheck"]["Test"][0] == "CMD"
    assert {name.rpartition(".")[2] for name in said["Labels"]} >= {"title", "description", "licenses"}
    # Nothing beyond the container, and no secret, unless the operator says so.
    names = {variable.partition("=")[0] for variable in said["Env"]}
    assert names.isdisjoint({"BIND_HOST", "METRICS_ADDR", "POLYGON_API_KEY", "AUTH_TOKENS"})


def packages(made: Images, image: str) -> set[str]:
    """Return the names of what can be imported in an image and is not Python's own; pip is not among them."""
    listed = made.run_in(
        image,
        "/opt/recorder/bin/python",
        "-c",
        "import pkgutil, sysconfig\n"
        "for module in pkgutil.iter_modules([sysconfig.get_path('platlib')]): print(module.name)",
    )
    names = set(listed.split())
    assert "recorder" in names
    assert names.isdisjoint({"pip", "setuptools", "pytest"})
    return names


def records_and_stops(made: Images, folder: Path) -> None:
    """It runs as PID 1 without privilege on a root that cannot be written; SIGTERM ends it in order."""
    secrets, volume = folder / "secrets", folder / "volume"
    secrets.mkdir()
    volume.mkdir()
    os.chown(volume, USER, USER)
    (secrets / "polygon_api_key").write_text(f"{KEY}\n")
    check = made.configuration(IMAGE)["Healthcheck"]["Test"][1:]
    # With a network of its own it has the usual ports, as in a container engine.
    with (
        network() as net,
        simulating("--cluster=stocks", "--rate=600", f"--key={KEY}", cwd=folder, prefix=net.prefix) as port,
        made.running(
            IMAGE,
            volume,
            secrets,
            net.prefix,
            POLYGON_API_KEY_FILE=f"{SECRETS}/polygon_api_key",
            POLYGON_CLUSTER="stocks",
            POLYGON_WS_URL=f"ws://127.0.0.1:{port}",
            NDJSON_MIN_FREE_BYTES="0",
        ) as container,
    ):
        container.command.wait_for("started")
        state = container.status()
        assert state["NSpid"].split()[-1] == "1"
        assert set(state["Uid"].split()) == set(state["Gid"].split()) == {str(USER)}
        assert (state["NoNewPrivs"], int(state["CapBnd"], 16)) == ("1", 0)
        assert "Read-only file system" in container.execute("touch", "/opt/recorder/x").stderr
        healthy = container.execute(*check)
        assert (healthy.returncode, healthy.stdout + healthy.stderr) == (0, "")
        assert container.execute(*check, METRICS_ADDR=":9898").returncode == 0
        assert container.execute(*check, METRICS_ADDR="").returncode == 0
        sick = container.execute(*check, METRICS_ADDR="127.0.0.1:1")
        assert (sick.returncode, "refused" in sick.stderr) == (1, True)
        data = volume / "polygon.ndjson"
        eventually_sync(lambda: data.stat().st_size > 100_000, "records")
        os.kill(container.pid, signal.SIGTERM)
        assert container.command.wait() == 0, container.command.lines[-5:]
    [ended] = read_manifest(volume, "run_ended")
    assert ended["reason"] == "SIGTERM"
    assert {path.stat().st_uid for path in volume.iterdir()} == {USER}
    verified(volume)
