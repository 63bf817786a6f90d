"""What changes without a restart, as an operator changes it: files with slips, keys that are refused, other settings."""

from __future__ import annotations

import json
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed
from commands import KEY, Running, finished, live_settings, running, simulating
from listening import listening
from waiting import eventually_sync

GOOD = "good-0123456789"
OTHER = "other-0123456789"
SLIP = "a slip 0123456789"


def warnings(recorder: Running) -> list[str]:
    """Return what `/ready` warns of."""
    found: dict[str, Any] = json.loads(recorder.get("/ready?verbose=1")[1])
    return [warning for warning in found["warnings"] if warning.startswith("reload:")]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_cannot_be_used_is_told_and_not_taken(tmp_path: Path, workers: str) -> None:
    """The former tokens, certificate and settings stay; `/ready`, log and metric say so, without a token, until mended."""
    tokens, settings_file, key = tmp_path / "tokens", tmp_path / "settings.env", tmp_path / "api-key"
    tokens.write_text(f"me:{GOOD}\n")
    settings_file.write_text("CLIENTS_MAX=50\nSUBSCRIPTION=T.*\n")
    key.write_text(KEY)
    chain, chain_key = self_signed(tmp_path, "one")
    pem = chain.read_bytes()
    trust = ssl.create_default_context(cafile=str(chain))
    with simulating("--cluster", "stocks", "--rate", "200", cwd=tmp_path) as port:
        settings = live_settings(
            port,
            tmp_path / "archive",
            ENV_FILE=str(settings_file),
            POLYGON_API_KEY_FILE=str(key),
            AUTH_TOKENS_FILE=str(tokens),
            TLS_CERT_FILE=str(chain),
            TLS_KEY_FILE=str(chain_key),
            SERVE_WORKERS=workers,
        )
        del settings["POLYGON_API_KEY"], settings["SUBSCRIPTION"]
        with running("run", cwd=tmp_path, **settings) as recorder:
            url = f"wss://localhost:{recorder.port_of('filtered')}/stocks"
            assert warnings(recorder) == []
            tokens.write_text(f"me:{OTHER}\nyou:{SLIP}\n")
            chain.write_bytes(pem[:100])
            key.write_text("")
            settings_file.write_text("CLIENTS_MAX=many\nSUBSCRIPTION=Q.*\n")
            eventually_sync(lambda: len(warnings(recorder)) == 3, "the warnings")
            assert warnings(recorder) == [
                f"reload: {words}; what was read before stays in use, and a restart would fail"
                for words in (
                    f"CLIENTS_MAX='many' (in {settings_file}): must be a whole number from 1 to 1000000",
                    f"AUTH_TOKENS_FILE: {tokens}:2: a token must be printable ASCII without spaces",
                    f"TLS_CERT_FILE: {chain}: holds no certificate (PEM)",
                )
            ]
            eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready all the same")
            assert recorder.metric("polygon_reload_refused") == 3
            assert {entry["subject"] for entry in recorder.logged("reload_refused")} == {
                "settings",
                "tokens",
                "certificate",
            }
            with listening(url, "T.*", GOOD, trust) as client:
                eventually_sync(lambda: client.frames, "data by the former token and certificate")
            asked = finished("reload", "--pid", str(recorder.process.pid), cwd=tmp_path)
            assert (asked.returncode, asked.stdout.splitlines()[:2]) == (
                1,
                [f"the recorder with pid {recorder.process.pid} has reloaded", "reopened: the archive"],
            )
            refused = [
                line.partition(": ")[2].partition(". What")[0] for line in asked.stdout.splitlines()[2:]
            ]
            assert refused == [
                warning.removeprefix("reload: ").partition("; what")[0] for warning in warnings(recorder)
            ]

            tokens.write_text(f"me:{OTHER}\n")
            chain.write_bytes(pem)
            settings_file.write_text("CLIENTS_MAX=60\nSUBSCRIPTION=Q.*\n")
            recorder.send(signal.SIGHUP)
            eventually_sync(lambda: recorder.metric("polygon_reload_refused") == 1, "the key alone")
            assert warnings(recorder)[0].startswith(
                f"reload: POLYGON_API_KEY_FILE='{key}': names a file that holds no key"
            )
            key.write_text(KEY)
            eventually_sync(lambda: not warnings(recorder), "nothing to warn of")
            [done] = [entry for entry in recorder.logged("reloaded") if "tokens" in entry["mended"]]
            assert done["trigger"] == "SIGHUP"
            assert done["mended"] == ["certificate", "settings", "tokens"]
            assert done["changed"] == ["settings", "tokens"]
            assert done["variables"] == ["CLIENTS_MAX"]
            assert (done["tokens_added"], done["tokens_removed"]) == (["me"], ["me"])
            assert recorder.logged("restart_needed")[0]["variables"] == ["SUBSCRIPTION"]
            with listening(url, "T.*", OTHER, trust) as client:
                eventually_sync(lambda: client.frames, "data by the new token")
            asked = finished("reload", cwd=tmp_path, **settings)
            assert asked.stdout.splitlines() == [
                f"the recorder with pid {recorder.process.pid} has reloaded",
                "reopened: the archive",
                "waits for a restart: SUBSCRIPTION",
            ]
            assert asked.returncode == 0
            assert recorder.metric("polygon_reconnects_total") == 0
            assert recorder.stop() == 0
            text = "\n".join([*recorder.lines, asked.stdout])
    nobody = finished("reload", cwd=tmp_path, **settings)
    assert nobody.returncode == 1
    assert "no recorder runs with these settings on this machine" in nobody.stderr
    assert not [secret for secret in (KEY, GOOD, OTHER, SLIP) if secret in text]


def test_a_good_key_in_the_file_is_used_at_once_where_none_is_connected(tmp_path: Path) -> None:
    """A key that the exchange refuses for one of two clusters, changed: the next attempt comes at once, with the new one."""
    key = tmp_path / "api-key"
    key.write_text("wrong-0123456789")
    with simulating("--cluster", "stocks", "--key", KEY, cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "archive", POLYGON_API_KEY_FILE=str(key))
        del settings["POLYGON_API_KEY"]
        # The other cluster is nowhere, so that the exchange has not refused the key for all.
        settings |= {
            "POLYGON_CLUSTER": "stocks,options",
            "ENV_FILE": "/dev/null",
            "AUTH_TOKENS": f"me:{GOOD}",
        }
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.logged("connect_failed"), "a refusal")
            key.write_text(KEY)
            eventually_sync(lambda: recorder.received() > 0, "data")
            assert recorder.stop() == 0
