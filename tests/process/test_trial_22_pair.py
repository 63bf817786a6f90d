"""Trial 22: two recorders of one feed and one stream, through kills, stops and gaps: each event is in the stream once."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from commands import Running, live_settings, running, simulating
from nats_servers import Asking, NatsServer, clustered, messages_of, nats_variables, proven
from networks import Network, entered, switched
from trials import LONG, report, scale
from waiting import eventually_sync, lasting

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(90, 3600))]

RATE: Final = 2000
ROUNDS: Final = 15
TAKEOVER_SECS: Final = 0.5
LATE_SECS: Final = TAKEOVER_SECS * 3 + 1
"""What came to a recorder this short before its end may not be in the stream, if the other one had ended, too."""
ELECTED_SECS: Final = scale(60, 120)
"""Three servers of 2.9 may take this long, on a busy machine, until they have a leader again."""
GAPS: Final = ("--fault", f"reset:after={scale(6000, 30000)}")
"""Each connection to the exchange is cut now and then, so that either recorder misses something."""


class Pair:
    """Two recorders, and what each of them has received."""

    def __init__(
        self,
        tmp_path: Path,
        exchange: str,
        servers: list[NatsServer],
        stack: ExitStack,
        places: Sequence[Network] = (),
        **variables: str,
    ) -> None:
        """`exchange` is the address of the simulator. `places` are where the two run, each in a network of its own."""
        self._tmp_path = tmp_path
        self._places = dict(zip(("one", "other"), places, strict=False))
        self._variables = nats_variables(
            servers[0],
            NATS_URL=",".join(server.url for server in servers),
            NATS_REPLICAS=str(len(servers)),
            NATS_TAKEOVER_SECS=str(TAKEOVER_SECS),
            ROLES="archive,ops",
            NDJSON_FLUSH_INTERVAL_MS="50",
            NDJSON_FLUSH_EVERY="50",
            POLYGON_WS_URL=f"ws://{exchange}",
            **variables,
        )
        self._stack = stack
        self.one, self.other = self.start("one"), self.start("other")
        self.ends: list[float] = []
        """When both had ended, on the wall clock."""

    def start(self, name: str) -> Running:
        """Run a recorder."""
        settings = live_settings(0, self._tmp_path / name, **self._variables)
        prefix: tuple[str, ...] = ()
        if name in self._places:
            prefix = self._places[name].prefix
        recorder = self._stack.enter_context(running("run", cwd=self._tmp_path, prefix=prefix, **settings))
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
        both = Pair(tmp_path, f"127.0.0.1:{port}", servers, stack)
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
        killed = time.monotonic()
        leads.kill()
        eventually_sync(lambda: is_leading(follows), "a takeover", every_secs=0.02)
        pause_secs = time.monotonic() - killed
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
        figure=f"{events:,} events, {filled:,} of them filled in, 0 missing, 0 doubled; the other one led "
        f"{pause_secs:.1f} s after the kill, with NATS_TAKEOVER_SECS={TAKEOVER_SECS}",
    )


def strike(both: Pair, servers: list[NatsServer], dice: random.Random) -> str:
    """Let one thing go wrong for a while; return what."""
    leads, follows = both.in_order()
    what = dice.choice(("kill", "kill", "stop", "term", "kill both", "kill server", "stop server"))
    secs = dice.uniform(0.1, 4)
    victims = {"kill both": (leads, follows)}.get(what, (dice.choice((leads, follows)),))
    server = dice.choice(servers)
    if what.startswith("kill") and not what.endswith("server"):
        for victim in victims:
            victim.kill()
        if what == "kill both":
            both.ends.append(time.time())
        lasting(secs)
        for victim in victims:
            both.again(victim)
    elif what == "term":
        assert victims[0].stop() == 0, victims[0].lines[-20:]
        lasting(secs)
        both.again(victims[0])
    elif what == "stop":
        victims[0].send(signal.SIGSTOP)
        lasting(secs)
        victims[0].send(signal.SIGCONT)
    elif what == "kill server":
        server.kill()
        lasting(secs)
        server.start()
    else:
        server.pause()
        lasting(secs * 3)
        server.resume()
    appended(both.one, 1)
    appended(both.other, 1)
    return what


def test_two_recorders_with_one_key(tmp_path: Path) -> None:
    """One is connected to the exchange at a time; the other one connects when that is killed, and the stream says so."""
    with (
        clustered(tmp_path / "nats", 1) as servers,
        simulating(
            "--cluster", "stocks", "--rate", str(RATE), "--connections-max", "1", cwd=tmp_path
        ) as port,
        ExitStack() as stack,
    ):
        both = Pair(tmp_path, f"127.0.0.1:{port}", servers, stack, NATS_STANDBY="waiting")
        leads, follows = both.in_order()
        appended(leads)
        assert feed_of(follows)["state"] == "standby"
        assert follows.get("/ready")[0] == 503
        leads.kill()
        killed = time.time()
        appended(follows)
        both.again(leads)
        waits, has = both.in_order()[::-1]
        appended(has)
        assert feed_of(waits)["state"] == "standby"
        assert not has.logged("disconnected"), "the one that came back has let the other one alone"
        has.send(signal.SIGSTOP)
        appended(waits)
        has.send(signal.SIGCONT)
        eventually_sync(lambda: feed_of(has)["state"] == "standby", "the one that stood still waits")
        appended(waits)
        assert len(waits.logged("disconnected")) == 0
        for recorder in (has, waits):
            assert recorder.stop() == 0, recorder.lines[-20:]
        messages = messages_of(servers[0])
        stored = Counter(proven(messages))
        received = [each for name in ("one", "other") for each in both.received(name)]
    assert max(stored.values()) == 1
    # The one that was killed had the only connection, and its archive may be ahead of the stream.
    missing = [event for at_ms, event in received if not 0 <= killed - at_ms / 1000 <= 1]
    assert not Counter(missing) - stored, "an event is missing"
    assert [message.headers.get("Gap") for message in messages if "Gap" in message.headers] == [
        "handed over"
    ] * 2


def feed_of(recorder: Running) -> dict[str, Any]:
    """Return what a recorder says of its connection to the exchange."""
    feed: dict[str, Any] = json.loads(recorder.get("/status")[1])["feeds"][0]
    return feed


def asked(server: NatsServer, what: str) -> dict[str, Any]:
    """Return what a server answers about the stream; nothing where none of them leads it, and so nobody answers."""
    try:
        with Asking(server, timeout_secs=2) as asking:
            return asking.ask(f"$JS.API.STREAM.{what}.MD_STOCKS")
    except TimeoutError:
        return {}


def grown(server: NatsServer, messages: int) -> None:
    """Wait until the stream has so many more messages."""

    def last_seq() -> int:
        return int(asked(server, "INFO").get("state", {"last_seq": 0})["last_seq"])

    before = eventually_sync(last_seq, "the state of the stream", ELECTED_SECS)
    eventually_sync(lambda: last_seq() > before + messages, "more messages", ELECTED_SECS)


def leader_moved(server: NatsServer, name: str) -> bool:
    """Let another server lead the stream, unless it is the one that should."""
    leader = asked(server, "INFO").get("cluster", {}).get("leader")
    if leader and leader != name:
        asked(server, "LEADER.STEPDOWN")
        lasting(1)
    return bool(leader == name)


@pytest.mark.timeout(scale(180, 3600))
def test_a_partition(tmp_path: Path) -> None:
    """The recorder that leads, and the server that leads the stream, are cut off together: they append nothing."""
    with switched(3) as (switch, places), entered(switch), ExitStack() as stack:
        servers = stack.enter_context(clustered(tmp_path / "nats", 3, places))
        market = ("--cluster", "stocks", "--rate", str(RATE), "--host", switch.address)
        port = stack.enter_context(simulating(*market, cwd=tmp_path))
        both = Pair(tmp_path, f"{switch.address}:{port}", servers, stack, places)
        cut_off, left = both.in_order()
        if cut_off is both.other:
            places[0], places[1], servers[0], servers[1] = places[1], places[0], servers[1], servers[0]
        names = {both.one: "n0", both.other: "n1"}
        eventually_sync(
            lambda: leader_moved(servers[2], names[cut_off]), "the leader beside the recorder", ELECTED_SECS
        )
        grown(servers[2], 100)
        begun = time.time()
        places[0].cut(*places[1:])
        eventually_sync(lambda: is_leading(left), "a takeover", ELECTED_SECS)
        pause_secs = time.time() - begun
        grown(servers[2], 500)
        healed = time.time()
        places[0].heal()
        # It may be amid an attempt that waits for its time-outs.
        eventually_sync(
            lambda: is_leading(cut_off) is False,
            "the one that was cut off follows",
            ELECTED_SECS,
        )
        grown(servers[2], 100)
        writer = left.logged("nats_role")[-1]["other"]
        events, filled = judged(both, servers[1:])
        messages = messages_of(servers[1])
        by_minority = [
            message
            for message in messages
            if message.headers["Writer"] == writer
            and begun + 1 < int(message.headers["Received-Ns"]) / 1e9 < healed
            and message.headers["Role"] == "active"
        ]
        assert not by_minority
    report(
        22,
        fault="a partition: one server of three, which leads the stream, and the recorder that leads",
        injected=f"three network namespaces; iptables drops all between them for {healed - begun:.0f} s",
        holds="the recorder that is cut off appends nothing; the other one goes on; once it is healed, the stream has "
        "every event that either received, once",
        figure=f"1 faults, {events:,} events, {filled:,} of them filled in, 0 missing, 0 doubled; the stream stood "
        f"still for {pause_secs:.1f} s",
    )


if LONG:

    @pytest.mark.parametrize("count", [1, 3])
    def test_anything_at_random(tmp_path: Path, count: int) -> None:
        """kill -9, SIGSTOP and SIGTERM of either recorder, of both, of any server, again and again."""
        dice = random.Random(22 + count)
        struck: Counter[str] = Counter()
        with pair(tmp_path, count) as (both, servers):
            for _ in range(ROUNDS):
                struck[strike(both, servers, dice)] += 1
            events, filled = judged(both, servers)
        report(
            22,
            fault=f"recorders and servers at random, {count} of these",
            injected=", ".join(f"{times} times {what}" for what, times in sorted(struck.items()))
            + "; connections to the exchange are cut",
            holds="the stream has every event that either recorder received, once; its numbers have no hole; only what both "
            "had received in the moment in which both are killed may be missing",
            figure=f"{struck.total()} faults, {events:,} events, {filled:,} of them filled in, 0 missing, 0 doubled",
        )
