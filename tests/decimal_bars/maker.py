"""Makes the bars of one cluster: event time, its windows, and when they close."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal, localcontext
from heapq import heappop, heappush
from itertools import compress
from operator import attrgetter
from typing import Final

from decimal_bars.amendments import Amendments
from decimal_bars.series import BarSeries
from decimal_bars.trades import EXACT, PRICE_BEGIN, PRICE_END, SIZE_END, Trade, read_trades
from decimal_bars.window import Window
from recorder.bars.bar import Bar
from recorder.bars.series import WantedSeries
from recorder.bars.stats import BarStats
from recorder.bars.trades import Trades
from recorder.bars.windows import EVERYTHING, HIGH_LOW, OPEN_CLOSE, VOLUME, Conditions

LEAP_MS: Final = 10_000
"""A trade further ahead of event time than this does not move it alone."""
LEAP_TRADES: Final = 3
"""Event time follows once this many trades in a row are ahead."""
_NEVER_MS: Final = 1 << 62


class BarMaker:
    """Makes the bars of one cluster, of every length and symbol that is wanted.

    **Windows.** A trade belongs to the window `[floor(t/n)*n, +n)` of its own time `t`, early or late, until that window
    is closed. It closes when event time has passed its end by `delay_ms`. Whether a trade is late depends on the trades
    before it and on watermarks, never on how the trades were cut into batches. `Window` says what becomes of its values.

    **Event time** is the newest trade time seen in the cluster, wanted or not. In silence, watermarks move it on. It is
    then behind the watermark by as much as the newest trade was behind its own arrival, and by `delay_ms`. So a trade
    that the exchange sends at most `2 * delay_ms` after its time is never late because time has passed, however long it
    was on its way. A feed that was smooth, one that stalled and one that came in one piece give the same bars.

    **Leaps.** A trade more than `LEAP_MS` ahead of event time waits. It is in a bar only if event time comes to it: by
    itself, or because `LEAP_TRADES` in a row are ahead, of which the earliest then sets event time. If a trade of the
    present comes first, those that waited were misdated. The first trades set event time likewise, or fewer in silence.

    **Beginning in the middle.** The first bar of a series is of the first window that begins after the newest trade seen
    when it was first wanted, so that every bar is whole. When nobody wants the series, its open windows are given up.

    **Amending.** Where that is asked for, a late trade is added to its closed window all the same (`Amendments`). If that
    changes the bar, the bar is made again with the batch, with the next `rev`. The first bar of a window never changes.

    No trade can make it raise; `stats` counts what became of each. Times to pass in are nanoseconds of the source's clock
    (`Batch.read_ns`, `Watermark.until_ns`); those of the trades are Unix ms. Memory is bounded by the trades of the open
    windows' span, by `series.SYMBOLS_MAX`, and by `amend_windows_max`.
    """

    def __init__(
        self,
        cluster: str,
        *,
        delay_ms: int,
        rule: Callable[[Conditions, int], int] | None = None,
        amend_ms: int = 0,
        amend_windows_max: int = 0,
    ) -> None:
        """`amend_ms`: how long after its end, in event time, a window takes late trades where that is wanted."""
        self.cluster = cluster
        self.stats = BarStats(cluster)
        self._delay_ms = delay_ms
        self._rule = rule

        self._series = WantedSeries(BarSeries)  # type: ignore[arg-type]  # of decimals
        self._open: dict[int, dict[BarSeries, Window]] = {}
        """Open windows by the time at which they end; `_ends` is a heap of these times."""
        self._ends: list[int] = []
        self._ahead: list[tuple[str, int, Trade | None]] = []
        self._amendments = Amendments(
            self._series, self.stats, amend_ms=amend_ms, windows_max=amend_windows_max
        )
        self._bars: list[Bar] = []
        """Bars that had to close in the middle of a batch."""
        self._reset()

    def _reset(self) -> None:
        self._newest_ms = 0
        """The newest trade time, 0 before the first."""
        self._event_ms = 0
        self._leap_ms = 0
        """Trades after this time leap."""
        self._closed_ms = 0
        """Windows that end at or before this time are closed."""
        self._moved_ns = 0
        """When the trade came that moved event time last; while there is none, when the first of those that wait did."""

    @property
    def event_ms(self) -> int:
        """The event time, Unix ms; 0 before the first trade."""
        return self._event_ms

    @property
    def newest_ms(self) -> int:
        """The newest trade time, Unix ms; 0 before the first trade."""
        return self._newest_ms

    @property
    def closed_ms(self) -> int:
        """Windows that end at or before this Unix ms are closed."""
        return self._closed_ms

    def want(self, interval_ms: int, symbol: str | None = None) -> None:
        """Begin to make bars of a length for a symbol, None for all. Each call is undone by one `unwant`."""
        self._series.want(interval_ms, symbol, self._newest_ms)

    def unwant(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `want`; one without a `want` is ignored."""
        self._series.unwant(interval_ms, symbol)

    def amend(self, interval_ms: int, symbol: str | None = None) -> None:
        """Let late trades amend the wanted bars that close from now on. Each call is undone by one `unamend`."""
        known_after_ms = max(self._newest_ms, self._closed_ms - interval_ms)
        self._series.amend(interval_ms, symbol, known_after_ms)

    def unamend(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `amend`; one without an `amend` is ignored."""
        self._series.unamend(interval_ms, symbol)

    def add(self, trades: Trades, read_ns: int) -> None:
        """Add the trades of one batch. Call `close_due` afterwards for the bars that they closed."""
        symbols, times_ms, fragments, _ = trades
        if self._series.crowded:
            busy = {series.symbol for windows in self._open.values() for series in windows}
            self._series.forget(busy | self._amendments.symbols)
        if self._only_time_passes(times_ms, read_ns):
            return
        series_of = self._series
        wanted = [series_of[symbol] for symbol in symbols]
        read: Iterable[Trade | None]
        if all(wanted):
            read = read_trades(fragments)
        else:
            # Reading costs more than all the rest, so only what is wanted is read.
            found = iter(read_trades(list(compress(fragments, wanted))))
            read = [next(found) if series else None for series in wanted]
        newest_ms = self._newest_ms
        with localcontext(EXACT):
            self._take(zip(symbols, times_ms, wanted, read, strict=True))
        if self._newest_ms > newest_ms or not newest_ms:
            self._moved_ns = read_ns

    def _only_time_passes(self, times_ms: list[int], read_ns: int) -> bool:
        """While nobody wants bars, let all trades at once move event time; False if one of them leaps."""
        if self._series.wanted_count or self._ahead or not self._newest_ms:
            return False
        newest_ms = max(times_ms)
        if newest_ms > self._leap_ms:
            return False
        if newest_ms > self._newest_ms:
            self._move(newest_ms)
            self._moved_ns = read_ns
        return True

    def advance(self, until_ns: int) -> None:
        """Let time pass: every trade that was sent until then has been added. Call `close_due` afterwards."""
        # How late the newest trade arrived is unknown. Event time stays behind by as much, which makes nothing late.
        idle_ms = (until_ns - self._moved_ns) // 1_000_000 - self._delay_ms
        if idle_ms > 0:
            with localcontext(EXACT):
                self._pass(idle_ms, until_ns)

    def due_ns(self) -> int | None:
        """Return the time from which on a watermark makes a difference; None if only trades do."""
        if not self._series.wanted_count:
            return None
        if self._ahead and not self._newest_ms:
            return self._after_ns(1)
        close_ms = self._ends[0] + self._delay_ms if self._ends else _NEVER_MS
        next_ms = min(close_ms, self._ahead_ms() - LEAP_MS)
        return self._after_ns(next_ms - self._newest_ms) if self._ends or self._ahead else None

    def closes_ns(self, end_ms: int) -> int:
        """Return the time at which a watermark closes windows that end at `end_ms`, if no trade does before."""
        return self._after_ns(end_ms + self._delay_ms - self._newest_ms)

    def _after_ns(self, idle_ms: int) -> int:
        """Return the time at which event time is so far beyond the newest trade."""
        return self._moved_ns + (max(idle_ms, 1) + self._delay_ms) * 1_000_000

    def close_due(self) -> list[Bar]:
        """Return the bars whose windows have closed, by window end, symbol and interval; behind them the amended ones."""
        bars = self._close(self._closed_ms)
        if self._amendments or self._bars:
            bars = [*self._bars, *bars, *self._amendments.take_bars(self._closed_ms)]
            self._bars = []
        return bars

    def flush(self) -> list[Bar]:
        """Close all windows and forget event time: at the end, or when a source starts over."""
        with localcontext(EXACT):
            self._leap()
        bars = self._close(max(self._ends, default=0))
        self._reset()
        self._amendments.clear()
        self._series.start_over()
        return bars

    def adopt(self, other: BarMaker, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Take over the closed windows of a maker that knows more of the past; see `Amendments.adopt`."""
        self._amendments.adopt(other._amendments, interval_ms, symbol, after_ms)

    def _move(self, time_ms: int) -> None:
        """Let a trade set event time."""
        self._newest_ms = self._event_ms = time_ms
        self._leap_ms = time_ms + LEAP_MS
        if time_ms - self._delay_ms > self._closed_ms:
            self._closed_ms = time_ms - self._delay_ms

    def _pass(self, idle_ms: int, until_ns: int) -> None:
        """Let time that has passed in silence move event time."""
        if not self._newest_ms:
            self._leap()
            self._moved_ns = until_ns
            return
        reach_ms = self._ahead_ms() - LEAP_MS
        # However far a watermark reaches, time passes over no trade that waits.
        event_ms = max(self._event_ms, min(self._newest_ms + idle_ms, reach_ms))
        self._event_ms = event_ms
        self._leap_ms = event_ms + LEAP_MS
        self._closed_ms = max(self._closed_ms, event_ms - self._delay_ms)
        if reach_ms <= event_ms:
            self._settle()
            self._moved_ns = until_ns

    def _ahead_ms(self) -> int:
        """Return the earliest time of the trades that wait."""
        return min((time_ms for _, time_ms, _ in self._ahead), default=_NEVER_MS)

    def _leap(self) -> None:
        """Believe the trades that wait; those far ahead of their earliest are still misdated."""
        if self._ahead:
            self._move(self._ahead_ms())
            self._settle()
            self._misdate()

    def _settle(self) -> None:
        """Take the waiting trades that event time has come to; they may bring it to others."""
        while ready := [row for row in self._ahead if row[1] <= self._leap_ms]:
            waiting = [row for row in self._ahead if row[1] > self._leap_ms]
            self._ahead = []
            self._take([(symbol, time_ms, self._series[symbol], trade) for symbol, time_ms, trade in ready])
            self._ahead = waiting

    def _misdate(self) -> None:
        """Leave out the trades that wait: they are misdated."""
        for symbol, _, _ in self._ahead:
            if self._series[symbol]:
                self.stats.trades += 1
                self.stats.misdated += 1
        self._ahead = []

    def _take(self, rows: Iterable[tuple[str, int, tuple[BarSeries, ...], Trade | None]]) -> None:
        """Let trades move event time, and add them to their windows."""
        stats = self.stats
        rule = self._rule
        trades_count = entries = 0
        newest_ms, closed_ms, anybody_ahead = self._newest_ms, self._closed_ms, bool(self._ahead)
        for symbol, time_ms, series, trade in rows:
            # Most trades are of the newest millisecond or older, and move nothing.
            if time_ms > newest_ms or anybody_ahead:
                is_ahead = self._move_to(symbol, time_ms, trade)
                newest_ms, closed_ms, anybody_ahead = self._newest_ms, self._closed_ms, bool(self._ahead)
                if is_ahead:
                    continue
            if not series:
                continue
            trades_count += 1
            if trade is None or time_ms <= 0:
                stats.unreadable += 1
                continue
            price = trade.price
            size: int | Decimal | None = trade.size_exact
            if size is None:
                size = trade.size
            # NaN fails every comparison, so that it ends here, too.
            if not (PRICE_BEGIN < price < PRICE_END and 0 <= size < SIZE_END):
                stats.unreadable += 1
                continue
            entries += len(series)
            updates = EVERYTHING
            if trade.conditions and rule is not None:
                updates = rule(trade.conditions, time_ms)
                if not updates:
                    stats.not_counted += len(series)
                    continue
            value = price * size
            for one in series:
                if one.start_ms <= time_ms < one.end_ms and one.end_ms > closed_ms:
                    # The window of the last trade: no look-up for nearly all of them.
                    window = one.window
                else:
                    found = self._window(one, time_ms - time_ms % one.interval_ms)
                    if found is None:
                        continue
                    window = found
                if updates & VOLUME:
                    window.trades += 1
                    window.volume += size
                    window.value += value
                else:
                    window.unsized += 1
                if updates & OPEN_CLOSE:
                    if window.open is None:
                        window.open = window.close = window.high = window.low = price
                        window.open_ms = window.close_ms = time_ms
                        continue
                    if time_ms >= window.close_ms:
                        window.close = price
                        window.close_ms = time_ms
                    elif time_ms < window.open_ms:
                        window.open = price
                        window.open_ms = time_ms
                    if price > window.high:
                        window.high = price
                    elif price < window.low:
                        window.low = price
                elif updates & HIGH_LOW:
                    window.add_second(time_ms, price)
        stats.entries += entries
        stats.trades += trades_count

    def _move_to(self, symbol: str, time_ms: int, trade: Trade | None) -> bool:
        """Let a trade move event time, or return True if it leaps and must wait."""
        if time_ms > self._leap_ms:
            self._ahead.append((symbol, time_ms, trade))
            if len(self._ahead) >= LEAP_TRADES:
                self._leap()
            return True
        # A straggler of long ago says nothing about the present, and so nothing about those that wait.
        if self._ahead and time_ms > max(self._event_ms - LEAP_MS, 0):
            self._misdate()
        if time_ms > self._newest_ms:
            self._move(time_ms)
        return False

    def _window(self, series: BarSeries, start_ms: int) -> Window | None:
        """Return the window that begins then, opened if need be; None, counted, if it takes no trades."""
        end_ms = start_ms + series.interval_ms
        if end_ms <= self._closed_ms:
            self.stats.late += 1
            if not series.is_amended:
                return None
            # This very batch may have closed the window. Its bar is sent as it was before it is sent again.
            self._bars += self._close(self._closed_ms)
            return self._amendments.late_window(series, start_ms, end_ms, self._closed_ms)
        windows = self._open.get(end_ms)
        window = windows.get(series) if windows else None
        if window is None:
            if start_ms <= series.after_ms:
                # It had begun before it was wanted, so that its first trades are missing.
                self.stats.partial += 1
                return None
            if windows is None:
                windows = self._open[end_ms] = {}
                heappush(self._ends, end_ms)
            window = windows[series] = Window(end_ms)
            self.stats.open_windows += 1
        series.start_ms = start_ms
        series.end_ms = end_ms
        series.window = window
        return window

    def _close(self, until_ms: int) -> list[Bar]:
        bars: list[Bar] = []
        stats = self.stats
        stats.event_time = self._event_ms
        while self._ends and self._ends[0] <= until_ms:
            end_ms = heappop(self._ends)
            windows = self._open.pop(end_ms)
            stats.open_windows -= len(windows)
            for series in sorted(windows, key=_ORDER):
                window = windows[series]
                trades = window.trades + window.unsized
                if series.dropped:
                    stats.abandoned += trades
                    continue
                if series.is_amended:
                    self._amendments.keep(series, window)
                if window.open is None and window.seconds is None:
                    stats.unpriced += trades
                    continue
                stats.in_bars += trades
                start_ms = end_ms - series.interval_ms
                data = window.encode(series.prefix, start_ms)
                bars.append(Bar(series.interval_ms, series.symbol, start_ms, end_ms, data))
        stats.bars += len(bars)
        return bars

    def __repr__(self) -> str:
        return (
            f"BarMaker({self.cluster}, {self._series.wanted_count} wanted, event_ms={self._event_ms}, "
            f"open_windows={self.stats.open_windows}, bars={self.stats.bars}, late={self.stats.late})"
        )


_ORDER: Final = attrgetter("order")
