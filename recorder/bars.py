"""Millisecond bars: trades in, closed OHLCV bars out; no I/O, and the time is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from heapq import heappop, heappush
from itertools import compress
from operator import attrgetter
from typing import Any, Final

import msgspec

from recorder.conditions import EVERYTHING, HIGH_LOW, OPEN_CLOSE, VOLUME, UpdateRule
from recorder.ohlcv import (
    EXACT,
    PRICE_BEGIN,
    PRICE_END,
    SIZE_END,
    Line,
    Lines,
    Trade,
    Window,
    read_trades,
)
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.rows import Rows
from recorder.stats import counter, gauge, label

LEAP_MS: Final = 10_000
"""A trade further ahead of event time than this does not move it alone."""
LEAP_TRADES: Final = 3
"""So many trades in a row must be ahead before event time follows."""
_NEVER_MS: Final = 1 << 62


class Bar(msgspec.Struct, frozen=True, gc=False):
    """A closed bar. `data` is what clients get: one compact JSON object; `end_ms` is exclusive."""

    interval_ms: int
    symbol: str
    start_ms: int
    end_ms: int
    data: bytes


def _left_out(reason: str, about: str) -> Any:
    return counter(
        "polygon_bars_left_out_total",
        "What is in no bar, by reason: trades unreadable (no time, price or size) and misdated (far ahead of all "
        "others); entries late (their window had closed), not_counted (by their conditions), unpriced (no trade "
        "of the window sets a price), partial (the window began before it was wanted) and abandoned (it was no "
        "longer wanted).",
        where={"reason": reason},
        about=about,
    )


@dataclass(slots=True)
class BarStats:
    """What became of the trades of one cluster. A trade has one entry for each interval that wants its symbol.

    Once no window is open, `entries = in_bars + late + not_counted + unpriced + partial + abandoned`.
    """

    cluster: str = label("feed", "Name of the cluster.")
    trades: int = counter("polygon_bars_trades_total", "Trades of symbols of which clients want bars.")
    unreadable: int = _left_out(
        "unreadable", "Of these: without a time, or with an unreadable price, size or condition."
    )
    misdated: int = _left_out("misdated", "Of these: far ahead of the time of all others.")
    entries: int = counter(
        "polygon_bars_entries_total",
        "The readable ones, once for each length of bar that is wanted of the symbol.",
    )
    in_bars: int = counter(
        "polygon_bars_entries_used_total",
        "Entries that are in bars; the rest are in open windows or left out.",
    )
    late: int = _left_out("late", "Entries whose window had closed.")
    not_counted: int = _left_out("not_counted", "Entries that their conditions leave out.")
    unpriced: int = _left_out("unpriced", "Entries in windows in which no trade could set a price.")
    partial: int = _left_out("partial", "Entries in windows that had begun before they were wanted.")
    abandoned: int = _left_out(
        "abandoned", "Entries in windows that were open when no client wanted them any more."
    )
    bars: int = counter("polygon_bars_total", "Bars made.")
    open_windows: int = gauge("polygon_bars_open_windows", "Windows being filled.")


class BarMaker:
    """Makes the bars of one cluster, of every length and symbol that is wanted.

    **Windows.** A trade belongs to the window `[floor(t/n)*n, +n)` of its own time `t`, early or late, until that window
    is closed: when event time has passed its end by `delay_ms`. Whether a trade is late depends on the trades before it
    and on watermarks, never on how the trades were cut into batches.

    **Event time** is the newest trade time seen in the cluster, wanted or not. In silence, watermarks move it on: it is
    then behind the watermark by as much as the newest trade was behind its own arrival, and by `delay_ms`. So a trade
    that the exchange sends at most `2 * delay_ms` after its time is never late because time has passed, however long it
    was on its way; and a feed that was smooth, one that stalled and one that came in one piece give the same bars.

    **Leaps.** A trade more than `LEAP_MS` ahead of event time waits. It is in a bar only if event time comes to it: by
    itself, or because `LEAP_TRADES` in a row are ahead, whose earliest time it then becomes. If a trade of the present
    comes first, those that waited were misdated. So begins event time, too, unless the feed falls silent after fewer.

    **Values.** Open and close are of the first and last trade by trade time; arrival breaks ties. What a trade updates is
    `rule`'s answer (`conditions`); None lets every trade update everything. Where no trade of a window may set open and
    close, those that may set high and low do. A window in which no trade may set a price gives no bar. `v` is the exact
    sum of `ds`, or `s` where that is absent, without trailing zeros. `vw` is the volume-weighted price of the trades that
    add to `v`, so it may lie outside of `l` and `h`, rounded to `VW_DIGITS` significant digits; without volume it is the
    close. `n` counts the trades that add to `v`. Prices keep the digits of the trade (`150.2500`).

    **Beginning in the middle.** An interval's first bar is of the first window that begins after the newest trade seen
    when it was first wanted, so that every bar is whole. No longer wanted, its open windows are given up.

    No trade can make it raise; what became of each is in `stats`. Times to pass in are nanoseconds of the source's clock
    (`Batch.read_ns`, `Watermark.until_ns`); those of the trades are Unix ms. Memory is bounded by the trades of the open
    windows' span, and by `ohlcv.SYMBOLS_MAX`.
    """

    def __init__(self, cluster: str, *, delay_ms: int, rule: UpdateRule | None = None) -> None:
        """A cluster without trades has no bars."""
        self.cluster = cluster
        self.stats = BarStats(cluster)
        self._channel = CLUSTERS[cluster].trade_channel
        self._delay_ms = delay_ms
        self._rule = rule

        self._lines = Lines()
        self._open: dict[int, dict[Line, Window]] = {}
        """Open windows by the time at which they end; `_ends` is a heap of these times."""
        self._ends: list[int] = []
        self._ahead: list[tuple[str, int, Trade | None]] = []
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
        self._lines.want(interval_ms, symbol, self._newest_ms)

    def unwant(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `want`; one without a `want` is ignored."""
        self._lines.unwant(interval_ms, symbol)

    def add(self, events: Rows, read_ns: int) -> None:
        """Take the trades of one batch. Call `close_due` afterwards for the bars that they closed."""
        channel = self._channel
        count = events.counts.get(channel)
        if not count:
            return
        if self._lines.crowded:
            self._lines.forget({line.symbol for windows in self._open.values() for line in windows})
        symbols, times_ms, fragments = events.symbols, events.times_ms, events.fragments
        if count < len(events):
            picked = [event_channel == channel for event_channel in events.channels]
            symbols = list(compress(symbols, picked))
            times_ms = list(compress(times_ms, picked))
            fragments = list(compress(fragments, picked))
        if self._only_time_passes(times_ms, read_ns):
            return
        lines_of = self._lines
        wanted = [lines_of[symbol] for symbol in symbols]
        trades: Iterable[Trade | None]
        if all(wanted):
            trades = read_trades(fragments)
        else:
            read = iter(read_trades(list(compress(fragments, wanted))))
            trades = [next(read) if lines else None for lines in wanted]
        newest_ms = self._newest_ms
        with localcontext(EXACT):
            self._take(zip(symbols, times_ms, wanted, trades, strict=True))
        if self._newest_ms > newest_ms or not newest_ms:
            self._moved_ns = read_ns

    def _only_time_passes(self, times_ms: list[int], read_ns: int) -> bool:
        """While nobody wants bars, let trades move event time, all at once; False where one of them leaps."""
        if self._lines.wanted_count or self._ahead or not self._newest_ms:
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
        # In how far the newest trade was late at its arrival is not known, and so not made up for.
        idle_ms = (until_ns - self._moved_ns) // 1_000_000 - self._delay_ms
        if idle_ms > 0:
            with localcontext(EXACT):
                self._pass(idle_ms, until_ns)

    def due_ns(self) -> int | None:
        """Return the time from which on a watermark makes a difference; None if only trades do."""
        if not self._lines.wanted_count:
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
        """Return the bars whose windows have closed, by window end, symbol and interval."""
        return self._close(self._closed_ms)

    def flush(self) -> list[Bar]:
        """Close all windows and forget event time: at the end, or when a source starts over."""
        with localcontext(EXACT):
            self._leap()
        bars = self._close(max(self._ends, default=0))
        self._reset()
        self._lines.start_over()
        return bars

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
            self._take([(symbol, time_ms, self._lines[symbol], trade) for symbol, time_ms, trade in ready])
            self._ahead = waiting

    def _misdate(self) -> None:
        """Give up the trades that wait."""
        for symbol, _, _ in self._ahead:
            if self._lines[symbol]:
                self.stats.trades += 1
                self.stats.misdated += 1
        self._ahead = []

    def _take(self, rows: Iterable[tuple[str, int, tuple[Line, ...], Trade | None]]) -> None:
        """Let trades move event time, and add them to their windows."""
        stats = self.stats
        rule = self._rule
        trades_count = entries = 0
        newest_ms, closed_ms, anybody_ahead = self._newest_ms, self._closed_ms, bool(self._ahead)
        for symbol, time_ms, lines, trade in rows:
            if time_ms > newest_ms or anybody_ahead:
                is_ahead = self._move_to(symbol, time_ms, trade)
                newest_ms, closed_ms, anybody_ahead = self._newest_ms, self._closed_ms, bool(self._ahead)
                if is_ahead:
                    continue
            if not lines:
                continue
            trades_count += 1
            if trade is None or time_ms <= 0:
                stats.unreadable += 1
                continue
            price = trade.price
            size: int | Decimal | None = trade.size_exact
            if size is None:
                size = trade.size
            if not (PRICE_BEGIN < price < PRICE_END and 0 <= size < SIZE_END):
                stats.unreadable += 1
                continue
            entries += len(lines)
            updates = EVERYTHING
            if trade.conditions and rule is not None:
                updates = rule(trade.conditions, time_ms)
                if not updates:
                    stats.not_counted += len(lines)
                    continue
            value = price * size
            for line in lines:
                if line.start_ms <= time_ms < line.end_ms and line.end_ms > closed_ms:
                    window = line.window
                else:
                    found = self._window(line, time_ms - time_ms % line.interval_ms)
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
        """Let a trade move event time, or let it wait because it leaps, which is then True."""
        if time_ms > self._leap_ms:
            self._ahead.append((symbol, time_ms, trade))
            if len(self._ahead) >= LEAP_TRADES:
                self._leap()
            return True
        if self._ahead and time_ms > max(self._event_ms - LEAP_MS, 0):
            self._misdate()
        if time_ms > self._newest_ms:
            self._move(time_ms)
        return False

    def _window(self, line: Line, start_ms: int) -> Window | None:
        """Find or open a window; None, counted, if it takes no trades."""
        end_ms = start_ms + line.interval_ms
        if end_ms <= self._closed_ms:
            self.stats.late += 1
            return None
        windows = self._open.get(end_ms)
        window = windows.get(line) if windows else None
        if window is None:
            if start_ms <= line.after_ms:
                self.stats.partial += 1
                return None
            if windows is None:
                windows = self._open[end_ms] = {}
                heappush(self._ends, end_ms)
            window = windows[line] = Window(end_ms)
            self.stats.open_windows += 1
        line.start_ms = start_ms
        line.end_ms = end_ms
        line.window = window
        return window

    def _close(self, until_ms: int) -> list[Bar]:
        bars: list[Bar] = []
        stats = self.stats
        while self._ends and self._ends[0] <= until_ms:
            end_ms = heappop(self._ends)
            windows = self._open.pop(end_ms)
            stats.open_windows -= len(windows)
            for line in sorted(windows, key=_ORDER):
                window = windows[line]
                trades = window.trades + window.unsized
                if line.dropped:
                    stats.abandoned += trades
                elif not window.settle():
                    stats.unpriced += trades
                else:
                    stats.in_bars += trades
                    start_ms = end_ms - line.interval_ms
                    bars.append(
                        Bar(
                            line.interval_ms,
                            line.symbol,
                            start_ms,
                            end_ms,
                            window.encode(line.prefix, start_ms),
                        )
                    )
        stats.bars += len(bars)
        return bars

    def __repr__(self) -> str:
        return (
            f"BarMaker({self.cluster}, {self._lines.wanted_count} wanted, event_ms={self._event_ms}, "
            f"open_windows={self.stats.open_windows}, bars={self.stats.bars}, late={self.stats.late})"
        )


_ORDER: Final = attrgetter("order")
