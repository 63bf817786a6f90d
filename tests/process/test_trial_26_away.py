"""Trial 26: the servers of a NATS stream are away: what the buffer holds comes later, what it does not hold is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
from commands import Running, live_settings, running, simulating
from nats_servers import Read, messages_of, nats_variables, proven, recorded, serving, stored
from trials import report, scale
from waiting import eventually_sync, lasting

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(60, 300))]

RATE: Final = 2000
AWAY_SECS: Final = scale(3, 15)


def away(tmp_path: Path, **variables: str) -> tuple[Running, list[Read], int]:
    """Kill the server of a recorder for a while; return it, what the stream has, and how many events were appended."""
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", str(RATE), cwd=tmp_path) as port,
        running(
            "run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **nats_variables(server, **variables))
        ) as recorder,
    ):
        eventually_sync(lambda: stored(recorder) > 1000, "events in the stream")
        server.kill()
        lasting(AWAY_SECS)
        server.start()
        before = stored(recorder)
        eventually_sync(lambda: stored(recorder) > before + 1000, "events behind the outage")
        assert recorder.stop() == 0, recorder.lines[-20:]
        return recorder, messages_of(server), int(balance(recorder)["recorded"])


def balance(recorder: Running) -> dict[str, Any]:
    """Return the books of the sink, as they stand in the log at the end."""
    [found] = [entry for entry in recorder.logged("balance") if entry["sink"] == "nats"]
    return found


def test_what_the_buffer_holds_comes_later(tmp_path: Path) -> None:
    """Nothing is dropped: the stream has what the archive has, in order."""
    recorder, messages, events = away(tmp_path)
    assert balance(recorder)["dropped"] == 0
    assert proven(messages) == recorded(tmp_path / "a")
    report(
        26,
        fault="the servers are away, within the buffer",
        injected=f"kill -9 of the server, a start {AWAY_SECS} s later; {RATE:,} events/s",
        holds="nothing is dropped; the stream has what the archive has, each event once, in order",
        figure=f"{events:,} events, 0 dropped, 0 missing, 0 doubled",
    )


def test_what_it_does_not_hold_is_counted(tmp_path: Path) -> None:
    """The newest are dropped: what the stream lacks is what the books and its own headers say."""
    recorder, messages, events = away(tmp_path, NATS_BUFFER_BYTES="100KiB")
    dropped = balance(recorder)["dropped"]
    archived, appended = Counter(recorded(tmp_path / "a")), Counter(proven(messages))
    assert dropped > 0
    assert not appended - archived
    assert (archived - appended).total() == dropped
    assert sum(int(message.headers.get("Dropped", 0)) for message in messages) == dropped
    report(
        26,
        fault="the servers are away, beyond the buffer",
        injected=f"kill -9 of the server, a start {AWAY_SECS} s later; {RATE:,} events/s, NATS_BUFFER_BYTES=100KiB",
        holds="what the stream lacks is what the books and the headers of the stream say; the archive has all",
        figure=f"{events:,} events, {dropped:,} dropped and counted, 0 missing besides, 0 doubled",
    )
