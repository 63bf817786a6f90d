"""Snapshots and intervals with the real command and its workers, held against a client that gets every event."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from commands import live_settings, running, simulating
from listening import listening
from waiting import eventually_sync

EVENTS = 5000
MARKET = ("--cluster", "stocks", "--symbols", "20", "--rate", "3000", "--market-start", "subscriber")
TOPICS = "T.*,Q.*"


def state_of(events: Iterable[bytes]) -> dict[tuple[str, str], bytes]:
    """Return the last event of each channel and symbol."""
    found: dict[tuple[str, str], bytes] = {}
    for one in events:
        fields = json.loads(one)
        found[fields["ev"], fields["sym"]] = one
    return found


def trades_of(events: Iterable[bytes]) -> list[bytes]:
    """Return the trades among some events."""
    return [one for one in events if one.startswith(b'{"ev":"T"')]


def test_every_worker_serves_snapshots_and_intervals(tmp_path: Path) -> None:
    """A snapshot and what comes behind it are the state of the whole stream; at intervals trades and last values come."""
    settings = live_settings(0, tmp_path / "a", SERVE_WORKERS="2", SINK="none")
    with simulating(*MARKET, "--fault", f"stall:after={EVENTS}", cwd=tmp_path) as port:
        settings["POLYGON_WS_URL"] = f"ws://127.0.0.1:{port}"
        with running("run", cwd=tmp_path, **settings) as recorder:
            url = f"ws://{recorder.address_of('filtered')}/stocks"
            with listening(url, TOPICS) as whole:
                eventually_sync(lambda: recorder.received() >= EVENTS / 2, "half of the events")
                with (
                    listening(url, TOPICS, snapshot=True) as first,
                    listening(url, TOPICS, snapshot=True) as second,
                    listening(url, TOPICS, interval_ms=50) as paced,
                ):
                    eventually_sync(lambda: recorder.received() >= EVENTS, "all events")
                    for late in (first, second):
                        eventually_sync(
                            lambda late=late: late.events[-1:] == whole.events[-1:], "the last event"
                        )
                        [begin] = late.told("snapshot")
                        [end] = late.told("snapshot_complete")
                        assert begin["is_whole"]
                        last, live = late.events[: end["count"]], late.events[end["count"] :]
                        before = whole.events[: len(whole.events) - len(live)]
                        assert whole.events[len(before) :] == live
                        assert state_of(last) == {**state_of(last), **state_of(before)}
                    due = state_of(whole.events)

                    def has_last_values() -> bool:
                        state = state_of(paced.events)
                        return bool(state) and state.items() <= due.items()

                    eventually_sync(has_last_values, "the last values")
                    trades = trades_of(paced.events)
                    assert trades == trades_of(whole.events)[-len(trades) :]
                    assert len(paced.events) < len(whole.events)
            assert recorder.stop() == 0
