"""A feed of trades into a bar maker, and bars computed another way."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from recorder.bars import LEAP_TRADES, Bar, BarMaker, BarStats, trades_of
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.events import Decoder

T0 = 1_790_000_000_000
"""Event time at the start of most tests; no test's trades are in a window that has begun by then."""
DELAY_MS = 20
TICK_MS = 10
MS = 1_000_000

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For properties on a machine that others use, too."""


class Sent(NamedTuple):
    """A trade as a test speaks of it; price and size as spelled on the wire."""

    time_ms: int
    symbol: str = "AAPL"
    price: str = "150.25"
    size: str = "100"
    more: str = ""

    @property
    def text(self) -> str:
        return f'{{"ev":"T","sym":"{self.symbol}","p":{self.price},"s":{self.size},"t":{self.time_ms}{self.more}}}'


class Feed:
    """A bar maker and the clock it lives by. Event time stands at `T0` from the beginning."""

    def __init__(
        self,
        *wanted: tuple[int, str | None],
        cluster: str = "stocks",
        rule: Any = None,
        started: bool = True,
        amend_ms: int = 0,
        amend_windows_max: int = 10_000,
        make: Any = BarMaker,
        slice_windows: int = 0,
        is_scanned: bool = True,
    ) -> None:
        """With `amend_ms`, what is wanted is to be amended. `make` is the kind of bar maker.

        `is_scanned`: whether native code reads the trades, where it was built and can.
        `slice_windows`: how many windows are closed behind each batch and watermark; 0 is all that are due.
        """
        self.slice = {"windows_max": slice_windows} if slice_windows else {}
        self.maker: BarMaker = make(
            cluster, delay_ms=DELAY_MS, rule=rule, amend_ms=amend_ms, amend_windows_max=amend_windows_max
        )
        decoder = Decoder(cluster)
        self.decode = decoder.decode if is_scanned else decoder.decode_any
        self.now_ns = 5 * MS
        self.bars: list[Bar] = []
        if started:
            self.send(*[Sent(T0, "CLOCK")] * LEAP_TRADES)
        for interval_ms, symbol in wanted:
            self.maker.want(interval_ms, symbol)
            if amend_ms:
                self.maker.amend(interval_ms, symbol)

    def send(self, *trades: Sent | str) -> Feed:
        """Let trades arrive in one batch."""
        texts = [trade.text if isinstance(trade, Sent) else trade for trade in trades]
        rows = self.decode([f"[{','.join(texts)}]".encode()])
        if (arrived := trades_of(rows, CLUSTERS[self.maker.cluster].trade_channel)) is not None:
            self.maker.add(arrived, self.now_ns)
        self.bars += self.maker.close_due(**self.slice)
        return self

    def wait(self, ms: int) -> Feed:
        """Let time pass in silence, watermark after watermark."""
        for _ in range(ms // TICK_MS):
            self.now_ns += TICK_MS * MS
            self.maker.advance(self.now_ns)
            self.bars += self.maker.close_due(**self.slice)
        return self

    def end(self) -> list[dict[str, Any]]:
        """Close everything; return all bars."""
        self.bars += self.maker.flush()
        return self.values

    @property
    def values(self) -> list[dict[str, Any]]:
        """The bars until now, decoded."""
        return [json.loads(bar.data) for bar in self.bars]

    @property
    def stats(self) -> BarStats:
        return self.maker.stats


def balance(stats: BarStats) -> int:
    """Return the entries that are accounted for."""
    return stats.in_bars + stats.late + stats.not_counted + stats.unpriced + stats.partial + stats.abandoned


def expected_bars(
    arrived: Iterable[Sent], interval_ms: int, delay_ms: int = DELAY_MS
) -> tuple[list[tuple[Any, ...]], int]:
    """Compute bars in another way: first which trades are late, then each window from its sorted trades, in fractions."""
    windows: dict[tuple[int, str], list[tuple[int, int, Fraction, Fraction]]] = {}
    event_ms, late = T0, 0
    for arrival, trade in enumerate(arrived):
        event_ms = max(event_ms, trade.time_ms)
        end_ms = (trade.time_ms // interval_ms + 1) * interval_ms
        if end_ms + delay_ms <= event_ms:
            late += 1
            continue
        window = windows.setdefault((end_ms, trade.symbol), [])
        window.append((trade.time_ms, arrival, Fraction(trade.price), Fraction(trade.size)))
    bars = []
    for (end_ms, symbol), trades in sorted(windows.items()):
        trades.sort()
        prices = [price for _, _, price, _ in trades]
        volume = sum(size for *_, size in trades)
        value = sum(price * size for _, _, price, size in trades)
        vw = value / volume if volume else prices[-1]
        bars.append(
            (symbol, end_ms, prices[0], max(prices), min(prices), prices[-1], volume, vw, len(trades))
        )
    return bars, late


def assert_equal(bars: list[Bar], expected: list[tuple[Any, ...]]) -> None:
    """Compare bars with computed ones: exactly, `vw` to its last digit."""
    assert len(bars) == len(expected)
    for bar, (symbol, end_ms, *prices, volume, vw, count) in zip(bars, expected, strict=True):
        got = json.loads(bar.data, parse_float=Fraction, parse_int=Fraction)
        assert (got["sym"], got["e"]) == (symbol, end_ms) == (bar.symbol, bar.end_ms)
        assert [got[key] for key in "ohlc"] == prices
        assert (got["v"], got["n"]) == (volume, count)
        assert abs(got["vw"] - vw) <= abs(vw) / 10**9


SYMBOLS = st.sampled_from(["AAPL", "BRK.B", "T"])
CENTS = st.integers(1, 40_000).map(lambda cents: f"{cents // 100}.{cents % 100:02d}")
SIZES = st.one_of(
    st.integers(0, 1000).map(str), st.sampled_from(["0.1", "0.2", "4.522e-05", "0.01616617", "1e2"])
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Sent]:
    """Return trades in the order of arrival; their times are around a rising one, up to 300 ms early or late."""
    time_ms = T0 + 2000
    trades = []
    for step in draw(st.lists(st.integers(0, 60), min_size=1, max_size=40)):
        time_ms += step
        jitter = draw(st.integers(-300, 20))
        trades.append(Sent(time_ms + jitter, draw(SYMBOLS), draw(CENTS), draw(SIZES)))
    return trades
