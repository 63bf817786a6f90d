"""Bars as clients get them: equal to what DuckDB makes of the recorded trades, and whole whatever `since` they name."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import duckdb
import pytest
from commands import live_settings, running, simulating
from fakes import FakeClock, batch_of
from hypothesis import example, given
from hypothesis import strategies as st
from serving import Peer, PromptSource, bar_settings, event, frame_of, in_production_loop, serving
from shared_data import shared_file
from waiting import DEADLINE_SECS, eventually, eventually_sync

from recorder import loop
from recorder.bars import Bar
from recorder.bus import Watermark
from recorder.clock import SystemClock
from recorder.polygon.server import Subscribe
from recorder.servers import bars as bars_module
from recorder.servers.bars import BarSource
from recorder.servers.client import Client
from recorder.servers.demand import OnDemandTopics
from recorder.servers.filtered import TopicPort
from recorder.servers.past import bar_pasts
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.relay import BarRelay
from recorder.servers.stats import ServerStats
from recorder.servers.topics import BarTopic, parse_bar_topic
from recorder.settings import DemandSettings

T0 = 1_790_000_000_000
DELAY_MS = 20
START_MS = 3
"""Trades that begin event time."""
CATCH_UP_TURNS_MAX = 1000
"""More turns than any past here has batches, watermarks and windows; in the shortest steps, each takes a turn."""
NOTHING_KNOWN: dict[str, frozenset[str]] = {"stocks": frozenset()}
"""Of what a recorder of stocks is subscribed to."""


def trade(time_ms: int, symbol: str = "A", price: float = 1.0, size: int = 1) -> bytes:
    return b'{"ev":"T","sym":"%s","p":%s,"s":%d,"t":%d}' % (
        symbol.encode(),
        str(price).encode(),
        size,
        T0 + time_ms,
    )


class Asker(str):
    """A client by its name, which is told what becomes of its wish."""

    cluster = "stocks"
    pending_bytes = 0

    def __init__(self, name: str) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, *payloads: bytes) -> None:
        self.said += [json.loads(payload)[0] for payload in payloads]


class Listeners:
    """Stands for a port: what each client got, live and from replays, in order."""

    def __init__(self, source: BarSource) -> None:
        self.source = source
        self.askers: dict[str, Asker] = {}
        self.got: dict[str, list[Bar]] = {}
        self.live: dict[str, set[BarTopic]] = {}
        self.amended: dict[str, bool] = {}
        source.attach(self.accept_bars)

    def subscribe(
        self, client: str, topics: Iterable[str], since_ms: int | None = None, *, amend: bool = False
    ) -> None:
        self.got.setdefault(client, [])
        parsed = [topic for topic in map(parse_bar_topic, topics) if topic is not None]
        for topic in parsed:
            self.source.want("stocks", topic, amend=amend)
        self.amended[client] = amend
        if since_ms is None:
            self.join(client, "stocks", parsed)  # type: ignore[arg-type]
        else:
            wish = Subscribe(tuple(topics), since_ms, amend, partial=True)
            asker: Any = self.askers.setdefault(client, Asker(client))
            request = self.source.request(asker, ("stocks",), wish, ServerStats("bars"))
            assert self.source.replay("stocks", parsed, request, self, amend=amend)

    def accept_bars(self, cluster: str, bars: Sequence[Bar]) -> None:
        for client, topics in self.live.items():
            self.got[client] += [
                bar
                for bar in bars
                if {BarTopic(bar.interval_ms, bar.symbol), BarTopic(bar.interval_ms, "*")} & topics
                and (not bar.rev or self.amended[client])
            ]

    def held_bars(self, client: Client, cluster: str) -> Iterable[BarTopic]:
        return self.live.get(client, set())  # type: ignore[call-overload, no-any-return]

    def send_bars(self, client: Client, bars: Sequence[Bar]) -> None:
        self.got[client] += bars  # type: ignore[index]

    def join(self, client: Client, cluster: str, topics: Iterable[BarTopic]) -> None:
        self.live.setdefault(client, set()).update(topics)  # type: ignore[arg-type]


class Market:
    """A bar source, its clock, trades that arrive in batches, and an exchange that answers pings at once."""

    def __init__(self, bytes_max: int = 1 << 24, **changes: Any) -> None:
        self.clock = FakeClock()
        self.turns: deque[Callable[[], None]] = deque()
        """What the loop is to call in its next turn."""
        self.log = HotLog("run", bytes_max, ["stocks"], T0)
        self.numbering = Numbering(self.log)
        self.source = BarSource(
            ["stocks"], bar_settings(**changes), self.clock, self.log, call_soon=self.turns.append
        )
        self.clients = Listeners(self.source)
        self.source.connect("stocks", self)
        self.is_stalled = False
        """Whether nothing comes through: no trades, no pongs."""
        self.asked = 0

    def ask_time(self) -> None:
        self.asked += 1
        if not self.is_stalled:
            self.source.advance(Watermark("stocks", self.clock.mono_ns))

    def turn(self) -> None:
        """Let the loop have one turn."""
        for _ in range(len(self.turns)):
            self.turns.popleft()()

    def send(self, *trades: bytes) -> None:
        self.turn()
        self.accept(frame_of(*trades))

    def accept(self, frame: bytes) -> None:
        batch = batch_of(frame, read_ns=self.clock.mono_ns, received_ns=self.clock.wall_ns())
        self.numbering.accept(batch)
        self.source.accept(batch)

    def wait(self, ms: int) -> None:
        for _ in range(ms // 10):
            self.clock.advance(0.01)
            self.turn()
            self.source.tick()

    def catch_up(self, client: str) -> None:
        """Let time pass until a client has got all it missed."""
        for _ in range(CATCH_UP_TURNS_MAX):
            if client in self.clients.live:
                return
            self.wait(10)
        behind = [replay.memory.end - replay.number for replay in self.source._clusters["stocks"].replays]
        raise AssertionError(f"{client} is still behind, by as many batches: {behind}")


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.lists(
            st.tuples(st.integers(-DELAY_MS, DELAY_MS), st.sampled_from("AB"), st.integers(1, 5)),
            min_size=1,
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=30,
)
"""Batches: the time that passes before each, and its trades' distance from now, early and late. Of a trade that the
exchange sends later than this, it depends on when the time was asked for whether it is late."""
TOPICS = st.sampled_from([["100Ms.A"], ["100Ms.*"], ["100Ms.*", "100Ms.A", "250Ms.A"], ["30Ms.B", "100Ms.A"]])


def play(market: Market, arrivals: Sequence[tuple[int, list[tuple[int, str, int]]]], now_ms: int) -> int:
    """Let batches arrive; return the time at the end."""
    for pause_ms, trades in arrivals:
        market.wait(pause_ms // 10 * 10)
        now_ms += pause_ms // 10 * 10
        market.send(*(trade(now_ms + off, symbol, 100 + price) for off, symbol, price in trades))
    return now_ms


STEPS = st.tuples(st.sampled_from([0, 10**9]), st.sampled_from([1, 2, 1000]))
"""How long the past is worked on at a time (ns), and how many windows are closed in a turn."""


@contextmanager
def in_steps(step_ns: int, slice_windows: int) -> Iterator[None]:
    """Have a bar source work in steps of this size."""
    before = bar_pasts.REPLAY_STEP_NS, bar_pasts.SLICE_WINDOWS
    bar_pasts.REPLAY_STEP_NS = step_ns  # type: ignore[misc]
    bar_pasts.SLICE_WINDOWS = bars_module.SLICE_WINDOWS = slice_windows  # type: ignore[misc,attr-defined]
    try:
        yield
    finally:
        bar_pasts.REPLAY_STEP_NS, bar_pasts.SLICE_WINDOWS = before  # type: ignore[misc]
        bars_module.SLICE_WINDOWS = before[1]  # type: ignore[misc,attr-defined]


@given(ARRIVALS, st.data(), TOPICS, st.booleans(), st.integers(-100, 600), STEPS)
def test_since_gives_what_who_was_there_got(
    arrivals: list[Any],
    data: st.DataObject,
    topics: list[str],
    is_popular: bool,
    since: int,
    steps: tuple[int, int],
) -> None:
    """Wherever a client comes in: past and live bars together are those of a client that was there all the time.

    That is, of all windows that begin at `since` or later: what is live is not held back. None twice, none missing,
    each topic in order; whether the topics are new or others hold them, and however short the steps are in which the
    past is made, and windows are closed.
    """
    split = data.draw(st.integers(0, len(arrivals)))
    market = Market()
    if is_popular:
        market.clients.subscribe("always", topics)
    reference = Market()
    reference.clients.subscribe("always", topics)
    with in_steps(*steps):
        markets = (market, reference)
        for one in markets:
            one.send(*[trade(0, "CLOCK")] * START_MS)
            now_ms = play(one, arrivals[:split], 1000)
        market.clients.subscribe("late", topics, T0 + 1000 + since)
        for one in markets:
            play(one, arrivals[split:], now_ms)
            one.wait(2000)
            one.send(trade(now_ms + 60_000, "CLOCK"), *[trade(now_ms + 60_000, "CLOCK")] * START_MS)
            one.wait(2000)
    expected = [bar for bar in reference.clients.got["always"] if bar.start_ms >= T0 + 1000 + since]
    got = [bar for bar in market.clients.got["late"] if bar.start_ms >= T0 + 1000 + since]
    assert sorted(got, key=order) == sorted(expected, key=order)
    for interval_ms in (30, 100, 250):
        ends = [bar.end_ms for bar in got if bar.interval_ms == interval_ms]
        assert ends == sorted(ends)
    assert market.clients.live["late"] == {parse_bar_topic(topic) for topic in topics}


LATE_ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.lists(
            st.tuples(st.sampled_from([0, -10, -300, -1500]), st.sampled_from("AB"), st.integers(1, 5)),
            min_size=1,
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=30,
)
LATE_ARRIVALS_SPLIT = LATE_ARRIVALS.flatmap(
    lambda arrivals: st.tuples(st.just(arrivals), st.integers(0, len(arrivals)))
)
"""What arrives, and how much of it before the client comes."""


@given(LATE_ARRIVALS_SPLIT, TOPICS, st.sampled_from([None, False, True]), st.integers(-100, 600), STEPS)
# So much past in the shortest steps that the client is still behind when the last trade comes, and long after it.
@example(([(60, [(0, "A", 1)])] * 12, 12), ["100Ms.A"], None, 0, (0, 1))
def test_since_gives_amended_bars_as_who_was_there_got_them(
    arrivals_split: tuple[list[Any], int],
    topics: list[str],
    others_amend: bool | None,
    since: int,
    steps: tuple[int, int],
) -> None:
    """Each bar, and each amended one behind it, in the order of revisions: of the past, and of late trades after it.

    Others hold the topics, with or without amended bars, or (None) nobody does.
    """
    arrivals, split = arrivals_split
    market, reference = Market(), Market()
    if others_amend is not None:
        market.clients.subscribe("always", topics, amend=others_amend)
    reference.clients.subscribe("always", topics, amend=True)
    with in_steps(*steps):
        markets = (market, reference)
        for one in markets:
            # Trades come so often that no window waits for time: when that is asked for says what is late.
            one.send(*[trade(2000, "CLOCK")] * START_MS)
            now_ms = play_steadily(one, arrivals[:split], 2000)
        market.clients.subscribe("late", topics, T0 + 2000 + since, amend=True)
        for one in markets:
            last_ms = play_steadily(one, arrivals[split:], now_ms)
            play_steadily(one, [(60, [(0, "CLOCK", 1)])] * 20 + [(10, [(-1500, "A", 3)])], last_ms)
            one.wait(1000)
        # In the shortest steps, what is missed grows faster than it is made up for, as long as trades come.
        market.catch_up("late")
    found = []
    for client, one in (("late", market), ("always", reference)):
        bars = [bar for bar in one.clients.got[client] if bar.start_ms >= T0 + 2000 + since]
        found.append(sorted(bars, key=lambda bar: (*order(bar), bar.rev)))
        for key in set(map(order, bars)):
            revisions = [bar.rev for bar in bars if order(bar) == key]
            assert revisions == sorted(revisions)
    assert found[0] == found[1]


def play_steadily(
    market: Market, arrivals: Sequence[tuple[int, list[tuple[int, str, int]]]], now_ms: int
) -> int:
    """Let batches arrive, with a trade of the present each 10 ms; return the time at the end."""
    for pause_ms, trades in arrivals:
        for _ in range(pause_ms // 10):
            market.wait(10)
            now_ms += 10
            market.send(trade(now_ms, "CLOCK"))
        market.send(*(trade(now_ms + off, symbol, 100 + price) for off, symbol, price in trades))
    return now_ms


def order(bar: Bar) -> tuple[int, str, int]:
    return bar.end_ms, bar.symbol, bar.interval_ms


def test_overlapping_topics_are_replayed_once() -> None:
    """What a client gets live already does not come again from a replay, also where it asks while one is made."""
    market = Market()
    market.clients.subscribe("one", ["100Ms.A"])
    market.send(*[trade(0, "A")] * START_MS)
    for number in range(1, 11):
        market.send(trade(number * 50, "A"), trade(number * 50, "B"))
    live = len(market.clients.got["one"])
    assert live
    market.clients.subscribe("one", ["100Ms.*"], T0)
    market.wait(10)
    market.send(trade(2000, "A"), trade(2000, "B"))
    market.wait(500)
    keys = [order(bar) for bar in market.clients.got["one"]]
    assert len(keys) == len(set(keys))
    assert {symbol for _, symbol, _ in keys} == {"A", "B"}


class Reader:
    """A client of a port that notes what it is sent, in order."""

    cluster = "stocks"
    window_bits = 0

    def __init__(self) -> None:
        self.got: list[str] = []

    def write(self, data: bytes, events_count: int) -> None:
        self.got += [symbol.decode() for symbol in re.findall(rb'"sym":"(\w+)"', data)]

    def pong(self, payload: bytes) -> None:
        self.got.append(payload.decode())


def due_bars(market: Market) -> tuple[TopicPort, Any]:
    """Return a port and a client to which three bars are due, of which one has been sent."""
    port = TopicPort("bars", NOTHING_KNOWN, ServerStats("bars"), 1000, market.source, None, bars_only=True)
    client: Any = Reader()
    market.send(*[trade(0, "CLOCK")] * START_MS)
    port.subscribe(client, ("100Ms.*",))
    market.send(trade(150, "C"), trade(150, "B"), trade(150, "A"))
    market.send(trade(1000, "CLOCK"))
    assert client.got == ["A"]
    return port, client


def test_windows_of_one_time_are_closed_in_slices() -> None:
    """One slice on the pass and one a turn, in order; what closes later comes behind, and trades of the closed are late."""
    market = Market()
    with in_steps(0, 1):
        _, client = due_bars(market)
        market.accept(frame_of(trade(160, "C"), trade(2000, "A")))
        assert client.got == ["A", "B"]
        stats = market.source.makers["stocks"].stats
        assert (stats.late, stats.open_windows) == (1, 1)
        for expected in (["A", "B", "C"], ["A", "B", "C", "CLOCK"]):
            market.turn()
            assert client.got == expected
        assert not market.turns
        assert stats.in_bars == 4


def test_the_loop_goes_on_with_closing() -> None:
    """Without another batch and without a timer, the loop's next turns hand on all that is due."""

    async def run() -> list[str]:
        source = BarSource(["stocks"], bar_settings(), FakeClock(), HotLog("run", 0, ["stocks"], 0))
        market = Market()
        market.source = source
        with in_steps(0, 1):
            _, client = due_bars(market)
            for _ in range(3):
                await asyncio.sleep(0)
            return client.got

    assert loop.run(run()) == ["A", "B", "C"]


def test_what_is_due_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more windows than are kept waiting, the first are closed at once."""
    monkeypatch.setattr(bars_module, "DUE_WINDOWS_MAX", 10)
    market = Market()
    with in_steps(0, 1):
        _, client = due_bars(market)
        market.send(*(trade(1150, f"S{number}") for number in range(100)))
        market.send(trade(3000, "CLOCK"))
        waiting = market.source.makers["stocks"].closing_count
        assert waiting < 30, "those, and a few for the time that sorting took"
        assert len(client.got) == 3 + 1 + 100 - waiting


def test_a_client_that_unsubscribes_gets_what_was_due() -> None:
    """Bars of windows that had closed come before the acknowledgement, and none behind it."""
    market = Market()
    with in_steps(0, 1):
        port, client = due_bars(market)
        port.unsubscribe(client, ("100Ms.*",))
        assert client.got == ["A", "B", "C"]
        market.turn()
        market.send(trade(3000, "CLOCK"))
        assert client.got == ["A", "B", "C"]


@pytest.mark.parametrize(("ping", "got"), [("time 7", ["A", "B", "C", "time 7"]), ("x", ["A", "x"])])
def test_the_answer_to_who_asks_for_the_time_is_behind_the_bars(ping: str, got: list[str]) -> None:
    """Such a pong says that everything until then has been sent; any other is answered at once."""
    market = Market()
    with in_steps(0, 1):
        port, client = due_bars(market)
        port.ping(client, ping.encode())
        assert client.got == got


@in_production_loop
async def test_ports_that_close_send_what_is_due_first() -> None:
    """Bars of windows that had closed come before 1012."""
    with in_steps(0, 1):
        async with serving() as ports:
            peer = await ports.client("bars", "100Ms.*")
            ports.publish(frame_of(*[event("T", "CLOCK", 0)] * START_MS))
            ports.publish(frame_of(*(event("T", f"S{number}", 150) for number in range(50))))
            ports.publish(frame_of(event("T", "CLOCK", 1000)))
            await ports.serving.close(5.0)
            bars = []
            while len(bars) < 50:
                bars += await peer.receive()
            assert await peer.ended() == 1012


def test_a_topic_given_back_is_not_replayed() -> None:
    """A client that unsubscribes, or leaves, before its past has been made gets none of it."""
    market = Market()
    market.send(*[trade(0, "A")] * START_MS, trade(50, "A"), trade(500, "A"))
    for client in ("unsubscribed", "left"):
        market.clients.subscribe(client, ["100Ms.A"], T0)
    askers: Any = market.clients.askers
    market.source.cancel("stocks", [BarTopic(100, "A")], askers["unsubscribed"])
    market.source.forget(askers["left"])
    market.wait(100)
    assert market.clients.got == {"unsubscribed": [], "left": []}
    assert market.clients.live == {}


class Follower:
    """A client of a port, of which a test needs no more than that it is one."""

    cluster = "stocks"


def wanted(market: Market) -> int:
    """Return how many bars somebody wants."""
    return market.source._clusters["stocks"].maker._series.wanted_count


def test_who_catches_up_and_leaves_wants_nothing_any_more() -> None:
    """Topics given back, or a client gone, while the past is being sent: each wish is undone once, others' stay."""
    market = Market()
    market.send(*[trade(0, "A")] * START_MS)
    market.clients.subscribe("other", ["100Ms.A"])
    port = TopicPort(
        "filtered", NOTHING_KNOWN, ServerStats("filtered"), 1000, market.source, None, bars_only=False
    )
    for topics_given_back in [(), ("100Ms.A",), ("100Ms.A", "7Ms.*")]:
        client: Any = Follower()
        port.subscribe(client, ("100Ms.A", "7Ms.*"), Subscribe(("100Ms.A", "7Ms.*"), T0))
        assert wanted(market) == 2
        port.unsubscribe(client, topics_given_back)
        port.forget(client)
        assert wanted(market) == 1
    market.send(trade(150, "A"), trade(500, "A"))
    assert market.clients.got["other"]


def test_what_is_asked_for_while_catching_up_waits_for_the_past() -> None:
    """Topics may overlap, so that a live bar now would come again with the past."""
    market = Market()
    market.send(*[trade(0, "A")] * START_MS)
    port = TopicPort(
        "filtered", NOTHING_KNOWN, ServerStats("filtered"), 1000, market.source, None, bars_only=False
    )
    client: Any = Follower()
    port.subscribe(client, ("100Ms.*",), Subscribe(("100Ms.*",), T0))
    port.subscribe(client, ("100Ms.A",))
    assert list(port.held_bars(client, "stocks")) == []


class AskedSource:
    """A source of topics that notes what it is subscribed to."""

    def __init__(self) -> None:
        self.topics: list[str] = []

    def subscribe(self, topics: Iterable[str]) -> None:
        self.topics += topics

    def unsubscribe(self, topics: Iterable[str]) -> None:
        self.topics = [topic for topic in self.topics if topic not in set(topics)]

    def ask_time(self) -> None:
        pass


@pytest.mark.parametrize("relayed", [False, True], ids=["made here", "of another recorder"])
def test_bars_of_another_recorder_need_no_trades_here(relayed: bool) -> None:
    """Bars that are made here want their trades upstream; those that come made want none."""
    exchange, aggregator, clock = AskedSource(), AskedSource(), FakeClock()
    relay = BarRelay((1, 60_000))
    relay.connect("stocks", aggregator)
    demand = OnDemandTopics(
        DemandSettings(enabled=True), {"stocks": exchange}, {"stocks": frozenset()}, clock
    )
    bars = relay if relayed else BarSource(["stocks"], bar_settings(), clock, HotLog("run", 0, ["stocks"], 0))
    port = TopicPort("filtered", NOTHING_KNOWN, ServerStats("filtered"), 1000, bars, demand, bars_only=False)
    client: Any = Follower()
    port.subscribe(client, ("100Ms.A", "Q.B"))
    assert exchange.topics == (["Q.B"] if relayed else ["T.A", "Q.B"])
    assert aggregator.topics == (["100Ms.A"] if relayed else [])


def test_the_past_is_made_in_steps_and_in_turn() -> None:
    """However many ask for the past at once, one tick works on it no longer than a step, and each is served."""
    market = Market()
    market.send(*[trade(0, "A")] * START_MS)
    for number in range(1, 200):
        market.send(trade(number * 20, "A"))
    clients = [f"client {number}" for number in range(3 * bar_pasts.REPLAYS_MAX)]
    for client in clients:
        market.clients.subscribe(client, ["100Ms.A"], T0)
    market.source.tick()
    begun = [client for client in clients if market.clients.got[client]]
    assert len(begun) == bar_pasts.REPLAYS_MAX
    for number in range(200, 400):
        market.send(trade(number * 20, "A"))
        market.wait(10)
    assert len({tuple(market.clients.got[client]) for client in clients}) == 1
    assert len(market.clients.got[clients[-1]]) > 70


def test_memory_is_that_of_the_log_and_a_bar_is_whole_or_not_given() -> None:
    """What the log forgets is gone for bars, too; a misdated trade does not empty the memory."""
    market = Market(bytes_max=200_000)
    market.send(*[trade(0, "A")] * START_MS, trade(10**10, "A"))
    assert market.source.kept_from_ms("stocks") == T0
    for number in range(1, 200):
        market.send(trade(number * 10, "A"), event("Q", "A", 0, fill="x" * 10_000))
    kept_from_ms = market.source.kept_from_ms("stocks")
    assert T0 + 1700 < kept_from_ms < T0 + 1990
    market.clients.subscribe("late", ["10Ms.A", "100Ms.A"], T0)
    market.wait(10)
    past_count = len(market.clients.got["late"])
    market.send(trade(5000, "A"))
    market.wait(200)
    starts = [bar.start_ms for bar in market.clients.got["late"]]
    assert starts
    assert min(starts) >= kept_from_ms
    answer, complete = market.clients.askers["late"].said
    assert (answer["recovered"], answer["available_since"]) == (False, kept_from_ms)
    assert answer["reason"] == f"memory has them from {kept_from_ms} on (RESUME_BUFFER_BYTES)"
    assert (complete["status"], complete["count"]) == ("resume_complete", past_count)


def test_a_stalled_feed_makes_no_bar_short() -> None:
    """What was on its way for a second is in its bar, and the bar is sent as soon as a pong says that nothing is."""
    market = Market()
    market.clients.subscribe("one", ["100Ms.A"])
    market.send(*[trade(0, "CLOCK")] * START_MS, trade(110, "A"))
    market.is_stalled = True
    market.wait(1000)
    assert market.clients.got["one"] == []
    market.is_stalled = False
    market.send(trade(120, "A"), trade(199, "A"))
    market.wait(200)
    [bar] = market.clients.got["one"]
    assert b'"n":3' in bar.data
    assert market.source.makers["stocks"].stats.late == 0


def test_the_time_is_asked_for_where_a_window_waits_for_it() -> None:
    """Not while trades come, not before a window could close, not without windows, and not without bars that are wanted."""
    market = Market()
    market.wait(1000)
    market.send(*[trade(0, "CLOCK")] * START_MS)
    market.wait(1000)
    assert market.asked == 0
    market.clients.subscribe("one", ["100Ms.A"])
    for number in range(1, 100):
        market.send(trade(number * 10, "A"))
        market.wait(10)
    assert market.asked == 0
    market.wait(1000)
    assert market.asked == 1
    assert len(market.clients.got["one"]) == 9
    market.wait(60_000)
    assert market.asked == 1


# Through the ports


async def bars_until(peer: Peer, last: int) -> list[dict[str, Any]]:
    """Read bars up to the one that begins at `last`."""
    bars: list[dict[str, Any]] = []
    while not bars or bars[-1]["s"] < last:
        bars += [one for one in await peer.receive() if one["ev"] != "status"]
    return bars


@pytest.mark.parametrize("port", ["bars", "filtered"])
@in_production_loop
async def test_bars_come_through_both_ports(port: str) -> None:
    """The same bar, in both spellings of type and symbol, reaches a client that asked for it by symbol or by `*`, once."""
    async with serving() as ports:
        ports.publish(frame_of(*[event("T", "CLOCK", 0)] * START_MS))
        peer = await ports.client(port, "100Ms.AAPL", "100Ms.*")
        ports.publish(frame_of(event("T", "AAPL", 120, p=2.5), event("T", "AAPL", 150, p=1.5, s=3)))
        ports.publish(frame_of(event("T", "MSFT", 900)))
        [bar] = await peer.receive()
        start_ms = 1_790_000_000_100
        assert bar == {
            "ev": "MB",
            "T": "b",
            "sym": "AAPL",
            "S": "AAPL",
            "interval": 100,
            "n": 2,
            "v": 103,
            "o": 2.5,
            "h": 2.5,
            "l": 1.5,
            "c": 1.5,
            "vw": pytest.approx(254.5 / 103),
            "s": start_ms,
            "e": start_ms + 100,
            "t": start_ms,
        }


@in_production_loop
async def test_everything_has_no_bars() -> None:
    """`*` means every event and never a bar; a client that also asks for bars by name gets these, too."""
    async with serving() as ports:
        ports.publish(frame_of(*[event("T", "CLOCK", 0)] * START_MS))
        everything = await ports.client("filtered", "*")
        both = await ports.client("filtered", "*", "100Ms.AAPL")
        frames = [frame_of(event("T", "AAPL", 120)), frame_of(event("T", "MSFT", 900))]
        last = event("T", "LAST", 901)
        for frame in [*frames, frame_of(last)]:
            ports.publish(frame)
        assert b"MB" not in b"".join(await everything.events_until(last))
        assert b"MB" in b"".join(await both.events_until(last))


@in_production_loop
async def test_pairs_have_bars_under_every_spelling() -> None:
    """`100Ms.X:BTC-USD` is the pair that the exchange delivers as `BTC-USD`."""
    async with serving(("crypto",)) as ports:
        peer = await ports.client("bars", "100Ms.X:BTC-USD")
        for time_ms in (1, 1, 1, 120, 900):
            ports.publish(
                b'[{"ev":"XT","pair":"BTC-USD","p":7.5,"s":4.5e-05,"t":%d}]' % (T0 + time_ms),
                cluster="crypto",
            )
        bars = await bars_until(peer, T0 + 100)
        assert bars[-1]["sym"] == "BTC-USD"
        assert bars[-1]["v"] == 4.5e-05


@pytest.mark.parametrize("port", ["bars", "filtered"])
@in_production_loop
async def test_since_through_a_port(port: str) -> None:
    """Past bars come behind the ack, oldest first, and live ones follow without a seam."""
    async with serving() as ports:
        ports.publish(frame_of(*[event("T", "AAPL", 0)] * START_MS))
        ports.publish(*(frame_of(event("T", "AAPL", number * 50)) for number in range(1, 20)))
        peer = await ports.client(port)
        await peer.send(action="subscribe", params="100Ms.AAPL", since=T0 + 300)
        assert await peer.status() == ("success", "subscribed to: 100Ms.AAPL")
        [answer] = await peer.receive()
        assert answer["message"] == "bars: what you missed follows"
        assert (answer["recovered"], answer["available_since"], answer["gaps"]) == (True, 0, [])
        ports.publish(*(frame_of(event("T", "AAPL", number * 50)) for number in range(20, 40)))
        bars = await bars_until(peer, T0 + 1800)
        assert [bar["s"] for bar in bars] == [T0 + start for start in range(300, 1900, 100)]
        assert [bar["n"] for bar in bars] == [2] * 16


@pytest.mark.parametrize("port", ["bars", "filtered"])
@in_production_loop
async def test_amended_bars_come_to_clients_that_asked(port: str) -> None:
    """By symbol or by `*`, once, behind the bar that they replace; other clients see no change at all."""
    async with serving() as ports:
        ports.publish(frame_of(*[event("T", "CLOCK", 0)] * START_MS))
        plain = await ports.client(port, "100Ms.*", "100Ms.AAPL")
        peer = await ports.client(port)
        await peer.subscribe("100Ms.*", "100Ms.AAPL", amend=True)
        ports.publish(frame_of(event("T", "AAPL", 120), event("T", "MSFT", 900)))
        ports.publish(frame_of(event("T", "AAPL", 130, p=7.5)))
        ports.publish(frame_of(event("T", "MSFT", 1900)))
        bars = [bar for _ in range(3) for bar in await peer.receive()]
        assert [(bar["sym"], bar["h"], bar.get("rev"), bar.get("amended")) for bar in bars] == [
            ("AAPL", 150.25, None, None),
            ("AAPL", 150.25, 1, True),
            ("MSFT", 150.25, None, None),
        ]
        assert [bar["n"] for bar in bars] == [1, 2, 1]
        seen = [bar for _ in range(2) for bar in await plain.receive()]
        assert seen == [bar for bar in bars if "rev" not in bar]
        await peer.unsubscribe("100Ms.*", "100Ms.AAPL")
        [maker] = ports.serving.makers.values()
        assert repr(maker).startswith("BarMaker(stocks, 2 wanted")
        await plain.ws.close()
        await eventually(lambda: "0 wanted" in repr(maker), "nobody wants bars")


@in_production_loop
async def test_where_bars_are_not_amended_the_acknowledgement_says_so() -> None:
    """For events, where the recorder has it switched off, and for what is held already."""
    async with serving() as ports:
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.AAPL,100Ms.AAPL", amend=True)
        assert (await peer.status())[1] == (
            "subscribed to: T.AAPL (amend is without effect: only bars are amended)"
        )
        assert (await peer.status())[1] == "subscribed to: 100Ms.AAPL"
    async with serving(bars={"amend_secs": 0.0}) as ports:
        peer = await ports.client("bars")
        await peer.send(action="subscribe", params="100Ms.AAPL", amend=True)
        assert (await peer.status())[1] == (
            "subscribed to: 100Ms.AAPL (amend is without effect: this recorder amends no bars)"
        )
        ports.publish(frame_of(*[event("T", "CLOCK", 0)] * START_MS, event("T", "AAPL", 120)))
        ports.publish(frame_of(event("T", "MSFT", 900), event("T", "AAPL", 130), event("T", "AAPL", 910)))
        ports.publish(frame_of(event("T", "MSFT", 1900)))
        assert [bar["n"] for _ in range(2) for bar in await peer.receive()] == [1, 1]


@in_production_loop
async def test_amended_bars_of_another_recorder_are_passed_on() -> None:
    """A relay asks for them always, and sends them to those of its clients that asked."""
    bar = b'{"ev":"MB","sym":"AAPL","interval":100,"s":%d,"e":%d%s}'
    first, second = (bar % (T0, T0 + 100, end) for end in (b"", b',"amended":true,"rev":1'))
    async with serving(bars={"aggregator_url": "ws://127.0.0.1:1"}) as ports:
        assert ports.serving.relay is not None
        ports.serving.relay.connect("stocks", PromptSource("stocks", SystemClock()))
        plain = await ports.client("bars", "100Ms.AAPL")
        peer = await ports.client("bars")
        await peer.subscribe("100Ms.AAPL", amend=True)
        ports.serving.relay.accept(batch_of(frame_of(first)))
        ports.serving.relay.accept(batch_of(frame_of(second)))
        ports.serving.relay.accept(batch_of(frame_of(first)))
        assert [await peer.raw() for _ in range(3)] == [frame_of(first), frame_of(second), frame_of(first)]
        assert [await plain.raw() for _ in range(2)] == [frame_of(first), frame_of(first)]


@in_production_loop
async def test_a_relay_says_that_the_other_recorder_amends_no_bars() -> None:
    """Known from its acknowledgement: clients that asked before are told then, later ones at once; and it can change."""
    refused = b'{"ev":"status","status":"success","message":"subscribed to: 100Ms.AAPL (amend is without effect: why)"}'
    granted = b'{"ev":"status","status":"success","message":"subscribed to: 100Ms.AAPL"}'
    words = "(amend is without effect: the recorder that makes the bars amends none)"
    async with serving(bars={"aggregator_url": "ws://127.0.0.1:1"}) as ports:
        relay = ports.serving.relay
        assert relay is not None
        relay.connect("stocks", PromptSource("stocks", SystemClock()))
        plain, first, second = [await ports.client("bars") for _ in range(3)]
        await plain.subscribe("100Ms.AAPL")
        await first.subscribe("100Ms.MSFT", "100Ms.AAPL", amend=True)
        relay.accept(batch_of(frame_of(refused)))
        assert [(await first.status())[1] for _ in range(2)] == [
            f"subscribed to: 100Ms.AAPL {words}",
            f"subscribed to: 100Ms.MSFT {words}",
        ]
        await second.send(action="subscribe", params="100Ms.AAPL", amend=True)
        assert (await second.status())[1] == f"subscribed to: 100Ms.AAPL {words}"
        bar = b'{"ev":"MB","sym":"AAPL","interval":100,"s":%d,"e":%d}' % (T0, T0 + 100)
        relay.accept(batch_of(frame_of(refused), frame_of(bar)))
        assert [await peer.raw() for peer in (plain, first, second)] == [frame_of(bar)] * 3, (
            "nobody is told twice"
        )
        relay.accept(batch_of(frame_of(granted)))
        await second.unsubscribe("100Ms.AAPL")
        await second.send(action="subscribe", params="100Ms.AAPL", amend=True)
        assert (await second.status())[1] == "subscribed to: 100Ms.AAPL"


@in_production_loop
async def test_since_brings_events_and_bars() -> None:
    """One request may ask for the past of both, which are answered each."""
    async with serving() as ports:
        ports.publish(frame_of(event("T", "AAPL", 1)))
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.AAPL,100Ms.AAPL", since=T0)
        assert await peer.status() == ("success", "subscribed to: T.AAPL")
        assert (await peer.status())[0] == "success"
        got = [one for _ in range(5) for one in await peer.receive()]
        assert [one["message"] for one in got if one["ev"] == "status"] == [
            "what you missed follows",
            "that was all you missed: 1",
            "bars: what you missed follows",
            "bars: that was all you missed: 0",
        ]
        ports.publish(frame_of(event("T", "AAPL", 500)))
        got += [one for _ in range(2) for one in await peer.receive()]
        assert [one["ev"] for one in got if one["ev"] != "status"] == ["T", "T", "MB"]


@in_production_loop
async def test_ten_thousand_replays_do_not_stop_the_others() -> None:
    """A client that asks for the past of very many topics again and again leaves the loop to the others."""
    names = [f"S{number}" for number in range(5000)]
    async with serving() as ports:
        ports.publish(frame_of(*(event("T", name, 0) for name in names)))
        for time_ms in range(50, 5000, 50):
            ports.publish(frame_of(*(event("T", name, time_ms) for name in names[:200])))
        good = await ports.client("filtered", "T.PING")
        greedy = await ports.client("bars")
        for _ in range(3):
            await greedy.send(action="subscribe", bars=[f"100Ms.{name}" for name in names], since=1)
            await greedy.send(action="unsubscribe", bars=[f"100Ms.{name}" for name in names[:-1]])
        slowest = 0.0
        clock = asyncio.get_running_loop().time
        for number in range(200):
            begun = clock()
            ports.publish(frame_of(event("T", "PING", number)))
            await good.raw()
            slowest = max(slowest, clock() - begun)
        assert slowest < 1.0


# The real command


LATE_MS = 1000
"""How long windows wait for trades that the simulated exchange sends late, whatever keeps this machine busy."""


def bars_by_duckdb(archive: Path, interval_ms: int) -> dict[tuple[str, int], tuple[float, ...]]:
    """Compute bars of the recorded trades, every one of them; by symbol and start."""
    query = f"""
        with trade as (
            select payload->>'sym' as symbol, cast(payload->>'t' as bigint) as t, seq,
                cast(payload->>'p' as decimal(18, 6)) as p,
                cast(coalesce(payload->>'ds', payload->>'s') as decimal(18, 6)) as s
            from read_json('{archive}', format = 'newline_delimited',
                columns = {{payload: 'json', type: 'varchar', seq: 'bigint'}})
            where type = 'T'
        )
        select symbol, t - t % {interval_ms} as start, first(p order by t, seq), max(p), min(p),
            last(p order by t, seq), sum(s), count(*)
        from trade group by all"""
    return {(row[0], row[1]): tuple(map(float, row[2:])) for row in duckdb.connect().sql(query).fetchall()}


async def collect(address: str, topics: list[str], since_ms: int, last_ms: int) -> list[dict[str, Any]]:
    """Read bars from a time on, or from where they are kept, until each length has one that ends after `last_ms`."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://{address}/stocks") as ws:
        await ws.send_json({"action": "auth", "params": "test-key-0123456789"})
        await ws.send_json({"action": "subscribe", "params": topics, "since": since_ms, "partial": True})
        bars: list[dict[str, Any]] = []
        open_lengths = {int(topic.partition("Ms")[0]) for topic in topics}
        while open_lengths:
            found = await ws.receive_json(timeout=DEADLINE_SECS)
            bars += [bar for bar in found if bar["ev"] == "MB"]
            open_lengths -= {bar["interval"] for bar in found if bar["ev"] == "MB" and bar["e"] > last_ms}
        return bars


def by_window(bars: Iterable[dict[str, Any]], interval_ms: int) -> dict[tuple[str, int], tuple[float, ...]]:
    """Return bars of one length by symbol and start; there is one of each."""
    rows = [bar for bar in bars if bar["interval"] == interval_ms]
    found = {(bar["sym"], bar["s"]): tuple(float(bar[name]) for name in "ohlcvn") for bar in rows}
    assert len(found) == len(rows)
    return found


def before(
    bars: dict[tuple[str, int], tuple[float, ...]], interval_ms: int, end_ms: int
) -> dict[tuple[str, int], tuple[float, ...]]:
    """Return the bars that end by a time."""
    return {key: bar for key, bar in bars.items() if key[1] + interval_ms <= end_ms}


@pytest.mark.parametrize("market", ["ticks", "seeded"])
def test_bars_equal_those_computed_from_the_archive(market: str, tmp_path: Path) -> None:
    """The real command: bars of both ports equal DuckDB's over the recorded trades; none missing, none different.

    The client comes while the market runs and asks for what there was, so past and live bars are held to it alike. Of the
    seeded market nothing is in memory: the past is made of the archive.
    """
    if market == "ticks":
        path = shared_file("data/ticks_stocks_20131007.ndjson.gz")
        options = ["--ticks", str(path), "--speed", "60", "--frame-events", "20"]
        ticks = gzip.decompress(path.read_bytes()).splitlines()
        first_ms, last_ms = json.loads(ticks[0])["m"]["t"], json.loads(ticks[-1])["m"]["t"] - 2000
    else:
        options = ["--seed", "7", "--rate", "3000", "--symbols", "50"]
        first_ms = last_ms = 0
    is_archived = market == "seeded"
    intervals = (7, 100, 1000)
    topics = [f"{interval_ms}Ms.*" for interval_ms in intervals]
    with simulating(*options, "--cluster", "stocks", cwd=tmp_path) as port:
        variables = live_settings(
            port,
            tmp_path,
            BAR_CONDITIONS="all",
            BAR_DELAY_MS=str(LATE_MS) if market == "seeded" else "20",
            FIREHOSE_PORT="0",
            FILTERED_PROXY_PORT="0",
            AGGREGATOR_PORT="0",
            RESUME_BUFFER_BYTES="0" if is_archived else "64MiB",
        )
        with running("run", cwd=tmp_path, **variables) as recorder:
            started = recorder.wait_for("started")
            eventually_sync(lambda: recorder.received() > 1000, "some events")
            since_ms = time.time_ns() // 1_000_000 if is_archived else first_ms
            eventually_sync(lambda: recorder.received() > 3000, "some more")
            # However long this machine took to come so far, some seconds of the market are compared.
            last_ms = last_ms or time.time_ns() // 1_000_000 + 4000

            async def both() -> list[list[dict[str, Any]]]:
                ports = (started["bars"], started["filtered"])
                return await asyncio.gather(
                    *(collect(address, topics, since_ms, last_ms) for address in ports)
                )

            collected = loop.run(both())
            assert recorder.metric("polygon_server_archive_reads_total") == (2 if is_archived else 0)
            assert recorder.stop() == 0
    for interval_ms in intervals:
        expected = before(bars_by_duckdb(tmp_path / "polygon.ndjson", interval_ms), interval_ms, last_ms)
        expected = {window: bar for window, bar in expected.items() if window[1] >= since_ms}
        assert len(expected) > 100
        for bars in collected:
            assert before(by_window(bars, interval_ms), interval_ms, last_ms) == expected
