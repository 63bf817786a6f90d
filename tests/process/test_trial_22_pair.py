"""Trial 22: two recorders of one feed and one stream, through kills, stops and gaps: each event is in the stream once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from commands import Running, live_settings, running, simulating
from nats_servers import NatsServer, clustered, messages_of, nats_variables, proven
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(90, 3600))]

RATE: Final = 2000
TAKEOVER_SECS: Final = 0.5
LATE_SECS: Final = TAKEOVER_SECS * 3 + 1
"""What came to a recorder this short before its end may not be in the stream, if the other one had ended, too."""
GAPS: Final = ("--fault", f"reset:after={scale(6000, 30000)}")
"""Each connection to the exchange is cut now and then, so that either recorder misses something."""


class Pair:
    """Two recorders, and what each of them has received."""

    def __init__(self, tmp_path: Path, port: int, servers: list[NatsServer], stack: ExitStack) -> None:
        self._tmp_path = tmp_path
        self._port = port
        self._variables = nats_variables(
            servers[0],
            NATS_URL=",".join(server.url for server in servers),
            NATS_REPLICAS=str(len(servers)),
            NATS_TAKEOVER_SECS=str(TAKEOVER_SECS),
            ROLES="archive,ops",
            NDJSON_FLUSH_INTERVAL_MS="50",
            NDJSON_FLUSH_EVERY="50",
        )
        self._stack = stack
        self.one, self.other = self.start("one"), self.start("other")
        self.ends: list[float] = []
        """When both had ended, on the wall clock."""

    def start(self, name: str) -> Running:
        """Run a recorder."""
        settings = live_settings(self._port, self._tmp_path / name, **self._variables)
        recorder = self._stack.enter_context(running("run", cwd=self._tmp_path, **settings))
        recorder.wait_for("started")
        return recorder

    def in_order(self) -> tuple[Running, Running]:
        """Return the recorder that leads, and the one that follows, once there is one of each."""

        def found() -> tuple[Running, Running] | None:
            leads = [is_leading(each) for each in (self.one, self.other)]
            if leads == [True, False]:
                return self.one, self.other
            return (self.other, self.one) if leads == [False, True] else None

        return eventually_sync(found, "one that leads and one that follows")

    def again(self, recorder: Running) -> None:
        """Let a recorder that has ended begin again."""
        if recorder is self.one:
            self.one = self.start("one")
        else:
            self.other = self.start("other")

    def received(self, name: str) -> list[tuple[int, bytes]]:
        """Return when each event in the archive of a recorder came, and its content as `json` writes it."""
        lines = (self._tmp_path / name / "polygon.ndjson").read_bytes().splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return [(record["ingest_ts"], json.dumps(record["payload"]).encode()) for record in records]


def is_leading(recorder: Running) -> bool | None:
    """Return whether a recorder leads; None where it has not said so yet."""
    said = recorder.logged("nats_role")
    return said[-1]["leads"] if said else None


def appended(recorder: Running, count: int = 300) -> None:
    """Wait until more events of a recorder are in the stream."""
    before = recorder.metric("polygon_nats_sent_total")
    eventually_sync(
        lambda: recorder.metric("polygon_nats_sent_total") > before + count, "events in the stream"
    )


@contextmanager
def pair(tmp_path: Path, count: int) -> Iterator[tuple[Pair, list[NatsServer]]]:
    """Yield a pair that works, and its servers."""
    with (
        clustered(tmp_path / "nats", count) as servers,
        simulating("--cluster", "stocks", "--rate", str(RATE), *GAPS, cwd=tmp_path) as port,
        ExitStack() as stack,
    ):
        both = Pair(tmp_path, port, servers, stack)
        both.in_order()
        yield both, servers


def judged(both: Pair, servers: list[NatsServer]) -> tuple[int, int]:
    """Stop both; return how many events the stream has, and how many of them are fills, each of them there once."""
    for recorder in (both.one, both.other):
        assert recorder.stop() == 0, recorder.lines[-20:]
    messages = messages_of(servers[0])
    stored = Counter(proven(messages))
    views = {name: both.received(name) for name in ("one", "other")}
    counts = [Counter(event for _, event in view) for view in views.values()]
    extra = stored - (counts[0] | counts[1])
    missing = (counts[0] | counts[1]) - stored
    assert max(stored.values()) == 1, "an event is there twice"
    # A recorder that is killed has sent some events to the stream that its archive had not flushed.
    assert len(extra) <= RATE * len(both.ends), "the stream has what nobody received"
    late = {
        event
        for view in views.values()
        for at_ms, event in view
        if any(0 <= end - at_ms / 1000 <= LATE_SECS for end in both.ends)
    }
    assert not set(missing) - late, f"{len(set(missing) - late)} events are missing"
    fills = sum(int(message.headers["Events"]) for message in messages if message.headers["Role"] == "fill")
    return len(stored), fills


def test_kills_and_stops_of_either(tmp_path: Path) -> None:
    """kill -9 of the one that leads, SIGSTOP of the one that leads then, SIGTERM of each; gaps of both connections."""
    with pair(tmp_path, 1) as (both, servers):
        leads, follows = both.in_order()
        appended(follows)
        leads.kill()
        eventually_sync(lambda: is_leading(follows), "a takeover")
        both.again(leads)
        leads, follows = both.in_order()
        appended(follows)
        leads.send(signal.SIGSTOP)
        eventually_sync(lambda: is_leading(follows), "a takeover")
        appended(follows)
        leads.send(signal.SIGCONT)
        eventually_sync(lambda: not is_leading(leads), "the one that led follows")
        appended(leads)
        status = json.loads(leads.get("/status")[1])
        [stream] = next(sink for sink in status["sinks"] if sink["name"] == "nats")["streams"]
        assert (stream["leads"], stream["step_backs"]) == (False, 1)
        assert follows.stop() == 0
        eventually_sync(lambda: is_leading(leads), "a takeover")
        appended(leads)
        events, filled = judged(both, servers)
    report(
        22,
        fault="one of two recorders is killed, stands still, or is stopped",
        injected="one server; kill -9, SIGSTOP and SIGTERM of the one that leads; its connections to the exchange are cut",
        holds="the stream has every event that either recorder received, once; its numbers have no hole",
        figure=f"{events:,} events, {filled:,} of them filled in, 0 missing, 0 doubled",
    )
