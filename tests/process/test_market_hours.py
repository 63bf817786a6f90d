"""Silence, on a clock that says that the market is closed, and on one that says that it is open."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from commands import Running, finished, live_settings, running, simulating
from faketime import Clock
from waiting import eventually_sync

NEW_YORK = ZoneInfo("America/New_York")
SATURDAY = datetime(2026, 11, 21, 12, 0, tzinfo=NEW_YORK)
TUESDAY = datetime(2026, 11, 24, 10, 0, tzinfo=NEW_YORK)
SILENCES = 12
"""Pings of a quarter of READ_TIMEOUT_SECS each: three times as long as either timeout."""


def until(moment: datetime) -> float:
    """Return how far the clock must be moved for it to be then."""
    return moment.timestamp() - time.time()


def stays_silent(recorder: Running) -> None:
    """Wait until the exchange was asked for a sign of life so often that each timeout would be over."""
    sent = recorder.metric("polygon_heartbeats_sent_total")
    eventually_sync(
        lambda: recorder.metric("polygon_heartbeats_sent_total") >= sent + SILENCES, "a long silence"
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("stall:times=0", "data_timeout"), ("stall:times=0,pings=no", "read_timeout")],
    ids=["pongs come", "not even pongs come"],
)
def test_the_same_silence_by_night_and_by_day(tmp_path: Path, fault: str, reason: str) -> None:
    """On Saturday: ready, no reconnect, and said why nothing comes. On Tuesday at ten: not ready, and reconnects."""
    clock = Clock(tmp_path)
    clock.set(until(SATURDAY))
    settings = {
        "SESSION_CALENDAR": "on",
        "READ_TIMEOUT_SECS": "1",
        "HEARTBEAT_INTERVAL_SECS": "0.25",
        "DATA_TIMEOUT_SECS": "1.5",
        **clock.variables,
    }
    with (
        simulating("--cluster", "stocks", "--rate", "200", "--fault", fault, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **settings)) as recorder,
    ):
        recorder.wait_for("market_hours_known")
        eventually_sync(lambda: recorder.metric("polygon_subscribed") == 1, "subscribed")
        assert recorder.metric("polygon_session_open") == 0
        # What was ended before the hours were known does not count.
        ended = len(recorder.logged("disconnected"))
        stays_silent(recorder)
        assert recorder.get("/ready") == (200, "READY")
        [note] = json.loads(recorder.get("/ready?verbose")[1])["notes"]
        assert note == "stocks: the market is closed, so no data is expected before 2026-11-23 09:00 UTC"
        assert len(recorder.logged("disconnected")) == ended
        clock.set(until(TUESDAY))
        eventually_sync(lambda: recorder.get("/ready")[0] == 503, "not ready")
        eventually_sync(lambda: len(recorder.logged("disconnected")) > ended, "a reconnect")
        assert recorder.logged("disconnected")[-1]["reason"] == reason
        assert recorder.metric("polygon_session_open") == 1
        assert recorder.stop() == 0


def test_quiet_topics_rely_on_pongs(tmp_path: Path) -> None:
    """Of a few symbols nothing need come for long, in a session either: as long as pongs come, all is well."""
    clock = Clock(tmp_path)
    clock.set(until(TUESDAY))
    settings = {
        "SESSION_CALENDAR": "on",
        "SUBSCRIPTION": "T.ZZZZ",
        "READY_MIN_MESSAGES": "0",
        "READ_TIMEOUT_SECS": "1",
        "HEARTBEAT_INTERVAL_SECS": "0.25",
        "DATA_TIMEOUT_SECS": "1",
        **clock.variables,
    }
    with (
        simulating("--cluster", "stocks", "--rate", "200", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **settings)) as recorder,
    ):
        recorder.wait_for("market_hours_known")
        stays_silent(recorder)
        assert recorder.get("/ready") == (200, "READY")
        assert recorder.metric("polygon_session_open") == 1
        assert not recorder.logged("disconnected")
        assert recorder.stop() == 0


def processes(recorder: Running) -> list[int]:
    """Return the processes that a recorder has started."""
    pid = recorder.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    """Return the state of a process, as ps shows it; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_the_process_of_the_calendars_dies_with_the_recorder(tmp_path: Path) -> None:
    """Also a stopped one, for which a service manager would wait before it starts the recorder again."""
    settings = live_settings(9, tmp_path / "a", SESSION_CALENDAR="on")
    with running("run", cwd=tmp_path, **settings) as recorder:
        # Pandas: it has begun to compute, and has taken care of its end before.
        [child] = eventually_sync(
            lambda: [pid for pid in processes(recorder) if "pandas" in Path(f"/proc/{pid}/maps").read_text()],
            "a process that computes",
        )
        os.kill(child, signal.SIGSTOP)
        eventually_sync(lambda: state_of(child) == "T", "it stands still")
        recorder.send(signal.SIGKILL)
        recorder.wait()
        eventually_sync(lambda: state_of(child) in ("", "Z"), "its end")


def test_hours_that_are_asked_for_and_cannot_be_had(tmp_path: Path) -> None:
    """SESSION_CALENDAR=on without the package ends with 78 and what to install."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'exchange_calendars' else find(name, *a)\n"
    )
    settings = live_settings(9, tmp_path / "a", SESSION_CALENDAR="on", PYTHONPATH=str(hidden))
    result = finished("run", cwd=tmp_path, **settings)
    assert result.returncode == 78
    assert "SESSION_CALENDAR=on needs exchange_calendars" in result.stderr
    assert not (tmp_path / "a").exists()
