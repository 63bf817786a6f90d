"""Bars do not depend on how the feed reached us: smooth, stalled, or in one piece, as long as the connection lived."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from fakes import FakeClock, batch_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import bar_settings

from recorder.bars import Bar, BarStats
from recorder.bus import Watermark
from recorder.servers.bars import BarSource
from recorder.servers.past.hotlog import HotLog
from recorder.servers.topics import BarTopic

T0 = 1_790_000_000_000
DELAY_MS = 20
TRAVEL_MS = 7
"""From the exchange to us, and from us to the exchange."""
TICK_MS = 10
REST_MS = 1500
"""How long the exchange is silent at the end; longer than the longest bar."""


class Sending(NamedTuple):
    """Trades that the exchange sends in one frame. Each is of a time up to twice the delay before that."""

    at_ms: int
    trades: tuple[tuple[int, str, int], ...]
    """How long before, symbol and price."""

    @property
    def frame(self) -> bytes:
        trades = [
            f'{{"ev":"T","sym":"{symbol}","p":{price},"s":1,"t":{T0 + self.at_ms - age_ms}}}'
            for age_ms, symbol, price in self.trades
        ]
        return f"[{','.join(trades)}]".encode()


class Stall(NamedTuple):
    """Nothing arrives from then on until then, and nothing is lost."""

    from_ms: int
    until_ms: int


class Connection:
    """What the exchange sent and what it answers, in order, on their way to a bar source."""

    def __init__(self, stalls: Sequence[Stall]) -> None:
        self.clock = FakeClock()
        self.start_ns = self.clock.mono_ns
        self.source = BarSource(
            ["stocks"], bar_settings(delay_ms=DELAY_MS), self.clock, HotLog("run", 0, ["stocks"], 0)
        )
        self.source.connect("stocks", self)
        self.source.attach(lambda _, bars: self.bars.extend(bars))
        self.bars: list[Bar] = []
        self.stalls = stalls
        self.pings: deque[tuple[int, int]] = deque()
        """When they reach the exchange, and when they were sent (ns)."""
        self.on_the_way: deque[tuple[int, Sending | int]] = deque()
        """When it arrives; frames, and of pongs the time of their ping (ns)."""
        for symbol in ("*", "A"):
            for interval_ms in (10, 100, 1000):
                self.source.want("stocks", BarTopic(interval_ms, symbol))

    def ask_time(self) -> None:
        self.pings.append((self.now_ms + TRAVEL_MS, self.clock.mono_ns))

    @property
    def now_ms(self) -> int:
        return (self.clock.mono_ns - self.start_ns) // 1_000_000

    @property
    def stats(self) -> BarStats:
        return self.source.makers["stocks"].stats

    def send(self, content: Sending | int) -> None:
        arrival_ms = self.now_ms + TRAVEL_MS
        for stall in self.stalls:
            if stall.from_ms <= arrival_ms < stall.until_ms:
                arrival_ms = stall.until_ms
        if self.on_the_way:
            arrival_ms = max(arrival_ms, self.on_the_way[-1][0])
        self.on_the_way.append((arrival_ms, content))

    def play(self, sendings: Sequence[Sending], until_ms: int) -> list[Bar]:
        """Let the exchange send it all and fall silent; return the bars once none is open."""
        rest = deque(sendings)
        while self.now_ms < until_ms:
            while rest and rest[0].at_ms <= self.now_ms:
                self.send(rest.popleft())
            while self.pings and self.pings[0][0] <= self.now_ms:
                self.send(self.pings.popleft()[1])
            while self.on_the_way and self.on_the_way[0][0] <= self.now_ms:
                self.deliver(self.on_the_way.popleft()[1])
            if self.now_ms % TICK_MS == 0:
                self.source.tick()
            self.clock.advance(0.001)
        assert self.stats.open_windows == 0
        return self.bars

    def deliver(self, content: Sending | int) -> None:
        if isinstance(content, Sending):
            self.source.accept(batch_of(content.frame, read_ns=self.clock.mono_ns))
        else:
            self.source.advance(Watermark("stocks", content))


TRADES = st.lists(
    st.tuples(st.integers(0, 2 * DELAY_MS), st.sampled_from("AB"), st.integers(1, 9)), min_size=1, max_size=4
)
SENDINGS = st.lists(st.tuples(st.integers(0, 400), TRADES), min_size=1, max_size=12)
STALLS = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 2500)).map(lambda s: Stall(s[0], s[0] + s[1])), max_size=4
)


@given(SENDINGS, STALLS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_bars_are_the_same_however_the_feed_came(
    steps: list[tuple[int, list[tuple[int, str, int]]]], stalls: list[Stall]
) -> None:
    """The same bars in the same order, byte for byte, and the same trades late."""
    at_ms = 2000
    sendings = [Sending(at_ms, ((0, "CLOCK", 1),) * 3)]
    for step_ms, trades in steps:
        at_ms += step_ms
        sendings.append(Sending(at_ms, tuple(trades)))
    end_ms = at_ms + 4 * REST_MS
    ways = {
        "smooth": (),
        "stalled": [Stall(stall.from_ms + 2000, stall.until_ms + 2000) for stall in stalls],
        "in one piece": [Stall(0, at_ms + REST_MS)],
    }
    found = {}
    for way, way_stalls in ways.items():
        connection = Connection(way_stalls)
        bars = connection.play(sendings, end_ms)
        # Where time stands at the end is no property of the bars.
        found[way] = bars, replace(connection.stats, event_time=0)
    assert found["stalled"] == found["smooth"]
    assert found["in one piece"] == found["smooth"]


def test_in_a_quiet_market_a_bar_comes_a_round_trip_after_its_time() -> None:
    """It waits twice the delay, for the next look at what is due, and for ping and pong."""
    connection = Connection(())
    late_ms: dict[int, int] = {}
    connection.source.attach(
        lambda _, bars: late_ms.update({bar.end_ms - T0: connection.now_ms + T0 - bar.end_ms for bar in bars})
    )
    connection.play([Sending(2000, ((0, "CLOCK", 1),) * 3), Sending(2050, ((0, "A", 7),))], 6000)
    assert set(late_ms) == {2010, 2060, 2100, 3000}
    assert max(late_ms.values()) <= TRAVEL_MS + 2 * DELAY_MS + TICK_MS + 2 * TRAVEL_MS
