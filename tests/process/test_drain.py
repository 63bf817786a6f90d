"""DRAIN_SECS: before it stops, and on SIGUSR2, a recorder sends its clients elsewhere; nobody here misses anything."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Running, live_settings, running, simulating
from listening import listening
from waiting import eventually_sync
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

MARKET = ("--cluster", "stocks", "--symbols", "20", "--rate", "500")


def refusal(url: str) -> tuple[int, str]:
    """Return status and Retry-After of the answer to a new client."""
    try:
        connect(url).close()
    except InvalidStatus as error:
        return error.response.status_code, error.response.headers.get("Retry-After", "")
    return 101, ""


def draining(recorder: Running) -> dict[str, Any]:
    """Return what /status says of it."""
    found: dict[str, Any] = json.loads(recorder.get("/status")[1])["draining"]
    return found


@pytest.mark.parametrize("workers", ["0", "1"])
def test_clients_are_sent_away_in_order(tmp_path: Path, workers: str) -> None:
    """SIGUSR2 drains and lets in again; SIGTERM drains and stops: new clients are refused, the others served until 1012."""
    with simulating(*MARKET, cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "archive", DRAIN_SECS="1", SERVE_WORKERS=workers)
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("subscribed")
            url = f"ws://{recorder.address_of('firehose')}"
            with listening(url) as first:
                eventually_sync(lambda: recorder.get("/ready")[0] == 200, "readiness")
                recorder.send(signal.SIGUSR2)
                recorder.wait_for("drained")
                eventually_sync(lambda: first.close_code, "the close")
                assert first.close_code == 1012
            assert draining(recorder)["state"] == "drained"
            assert recorder.get("/ready")[0] == 503
            assert "SIGUSR2" in recorder.get("/ready")[1]
            assert recorder.metric("polygon_draining") == 1
            assert refusal(url) == (503, "5")
            seen = recorder.received()
            recorder.send(signal.SIGUSR2)
            recorder.wait_for("drain_ended")
            with listening(url) as second:
                assert recorder.get("/ready")[0] == 200
                assert recorder.received() > seen, "it records all the while"
                begun = time.monotonic()
                recorder.send(signal.SIGTERM)
                recorder.wait_for("draining", 2)
                frames = len(second.frames)
                assert refusal(url) == (503, "5")
                assert recorder.get("/ready")[0] == 503
                assert draining(recorder)["is_stopping"]
                eventually_sync(lambda: len(second.frames) > frames, "more frames")
                assert recorder.wait() == 0
                assert time.monotonic() - begun >= 1
                eventually_sync(lambda: second.close_code, "the close")
                assert second.close_code == 1012
            assert recorder.logged("drained")[-1]["clients"] == 1
            assert recorder.logged("stopped")[0]["reason"] == "SIGTERM"


def test_a_second_signal_ends_the_drain_in_order(tmp_path: Path) -> None:
    """It costs no patience: the archive is closed as by any stop. SIGUSR2 changes nothing meanwhile."""
    with simulating(*MARKET, cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "archive", DRAIN_SECS="600")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("subscribed")
            recorder.send(signal.SIGTERM)
            recorder.wait_for("draining")
            recorder.send(signal.SIGUSR2)
            recorder.wait_for("drain_kept")
            assert recorder.stop() == 0
            assert not recorder.logged("stop_forced")
            assert [entry["reason"] for entry in recorder.logged("stopped")] == ["SIGTERM"]
