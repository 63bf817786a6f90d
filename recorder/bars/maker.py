"""Makes the bars of one cluster: event time, its windows, and when they close."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from recorder.bars.amendments import Amendments
from recorder.bars.bar import Bar
from recorder.bars.conditions import StockRule
from recorder.bars.kinds import kinds as kinds_here
from recorder.bars.series import WantedSeries
from recorder.bars.stats import BarStats
from recorder.bars.trades import Trades
from recorder.bars.windows import LEAP_MS, NEVER_MS, BarSeries, Border, Window

_ALL: Final = 1 << 62
"""More windows than there are."""


class Progress(NamedTuple):
    """How far time has come for a bar maker."""

    newest_ms: int = 0
    event_ms: int = 0
    closed_ms: int = 0
    moved_ns: int = 0
    """When event time was moved last, by the clock of what is passed in."""


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
        rule: StockRule | None = None,
        amend_ms: int = 0,
        amend_windows_max: int = 0,
    ) -> None:
        """`amend_ms`: how long after its end, in event time, a window takes late trades where that is wanted."""
        self.cluster = cluster
        self.stats = BarStats(cluster)
        self._delay_ms = delay_ms

        kinds = kinds_here()
        self._series = WantedSeries(kinds.series)
        self._amendments = Amendments(
            self._series, self.stats, kinds.window, amend_ms=amend_ms, windows_max=amend_windows_max
        )
        stretch = rule.stretch if rule is not None else None
        self._windows = kinds.windows(delay_ms, self.stats, self._series, stretch, self._amended_window)
        self._due: deque[Border | list[Bar]] = deque()
        """Closed windows whose bars are still to be made, and amended bars, which come behind them."""
        self._moved_ns = 0
        """When the trade came that moved event time last; while there is none, when the first of those that wait did."""

    @property
    def event_ms(self) -> int:
        """The event time, Unix ms; 0 before the first trade."""
        return self._windows.event_ms

    @property
    def newest_ms(self) -> int:
        """The newest trade time, Unix ms; 0 before the first trade."""
        return self._windows.newest_ms

    @property
    def closed_ms(self) -> int:
        """Windows that end at or before this Unix ms are closed."""
        return self._windows.closed_ms

    @property
    def progress(self) -> Progress:
        """How far time has come, for another maker that goes on from here."""
        windows = self._windows
        return Progress(windows.newest_ms, windows.event_ms, windows.closed_ms, self._moved_ns)

    def go_on_from(self, progress: Progress) -> None:
        """Begin where another maker was: nothing may be wanted yet, and so every bar that comes is whole."""
        windows = self._windows
        windows.newest_ms, windows.event_ms, windows.closed_ms, self._moved_ns = progress
        windows.leap_ms = progress.event_ms + LEAP_MS if progress.newest_ms else 0

    @property
    def closing_count(self) -> int:
        """How many closed windows, and amended bars, are still to be returned."""
        return sum(map(len, self._due))

    def want(self, interval_ms: int, symbol: str | None = None) -> None:
        """Begin to make bars of a length for a symbol, None for all. Each call is undone by one `unwant`."""
        self._series.want(interval_ms, symbol, self.newest_ms)

    def unwant(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `want`; one without a `want` is ignored."""
        self._series.unwant(interval_ms, symbol)

    def amend(self, interval_ms: int, symbol: str | None = None) -> None:
        """Let late trades amend the wanted bars that close from now on. Each call is undone by one `unamend`."""
        known_after_ms = max(self.newest_ms, self.closed_ms - interval_ms)
        self._series.amend(interval_ms, symbol, known_after_ms)

    def unamend(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `amend`; one without an `amend` is ignored."""
        self._series.unamend(interval_ms, symbol)

    def add(self, trades: Trades, read_ns: int) -> None:
        """Add the trades of one batch. Call `close_due` afterwards for the bars that they closed."""
        symbols, times_ms = trades.symbols, trades.times_ms
        windows = self._windows
        if self._series.crowded:
            busy = {series.symbol for found in windows.open.values() for series in found}
            self._series.forget(busy | self._amendments.symbols)
        newest_ms = windows.newest_ms
        if self._series.wanted_count or not windows.only_time_passes(times_ms):
            series_of = self._series
            wanted = [series_of[symbol] for symbol in symbols]
            windows.add(symbols, times_ms, wanted, trades.numbers(wanted))
        if windows.newest_ms > newest_ms or not newest_ms:
            self._moved_ns = read_ns
        self._gather(self.closed_ms)

    def advance(self, until_ns: int) -> None:
        """Let time pass: every trade that was sent until then has been added. Call `close_due` afterwards."""
        # How late the newest trade arrived is unknown. Event time stays behind by as much, which makes nothing late.
        idle_ms = (until_ns - self._moved_ns) // 1_000_000 - self._delay_ms
        if idle_ms > 0 and self._windows.advance(idle_ms):
            self._moved_ns = until_ns
        self._gather(self.closed_ms)

    def due_ns(self) -> int | None:
        """Return the time from which on a watermark makes a difference; None if only trades do."""
        windows = self._windows
        ahead_ms = windows.ahead_ms
        if not self._series.wanted_count:
            return None
        if ahead_ms != NEVER_MS and not windows.newest_ms:
            return self._after_ns(1)
        close_ms = windows.ends[0] + self._delay_ms if windows.ends else NEVER_MS
        next_ms = min(close_ms, ahead_ms - LEAP_MS)
        is_waiting = windows.ends or ahead_ms != NEVER_MS
        return self._after_ns(next_ms - windows.newest_ms) if is_waiting else None

    def closes_ns(self, end_ms: int) -> int:
        """Return the time at which a watermark closes windows that end at `end_ms`, if no trade does before."""
        return self._after_ns(end_ms + self._delay_ms - self.newest_ms)

    def _after_ns(self, idle_ms: int) -> int:
        """Return the time at which event time is so far beyond the newest trade."""
        return self._moved_ns + (max(idle_ms, 1) + self._delay_ms) * 1_000_000

    def close_due(self, windows_max: int = _ALL) -> list[Bar]:
        """Return the bars of windows that have closed, by window end, symbol and interval; behind them the amended ones.

        Those of at most `windows_max` windows are made now; the others stay due (`closing_count`), and are what they are
        whatever comes in the meantime. Call it once after each `add` and `advance`, and again while bars are due.
        """
        if amended := self._amendments.take_bars(self.closed_ms):
            self._due.append(amended)
        return self._make_bars(windows_max)

    def flush(self, until_ms: int = NEVER_MS) -> list[Bar]:
        """Close the windows that end by a time, and forget everything: at the end, or when a source starts over."""
        self._windows.leap()
        self._gather(until_ms)
        bars = self._make_bars(_ALL)
        self._windows.reset()
        self._moved_ns = 0
        self._amendments.clear()
        self._series.start_over()
        self.stats.open_windows = 0
        return bars

    def adopt(self, other: BarMaker, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Take over the closed windows of a maker that knows more of the past; see `Amendments.adopt`."""
        self._amendments.adopt(other._amendments, interval_ms, symbol, after_ms)

    def _gather(self, until_ms: int) -> None:
        """Let open windows that end by a time take no more trades. Late ones go to `Amendments` from here on."""
        windows = self._windows
        windows.gather(until_ms)
        for border in windows.due:
            self._amendments.keep(border.end_ms, border.windows)
        self._due += windows.due
        windows.due.clear()

    def _make_bars(self, windows_max: int) -> list[Bar]:
        """Return the bars of the next windows that are due, and the amended ones that come before those of others."""
        bars: list[Bar] = []
        due, stats = self._due, self.stats
        stats.event_time = self.event_ms
        while due and windows_max > 0:
            front = due[0]
            if isinstance(front, list):
                bars += front
                windows_max -= len(front)
                due.popleft()
            elif cost := front.sort():
                windows_max -= cost
            else:
                waiting = len(front)
                bars += map(Bar, *front.close(windows_max, stats))
                windows_max -= waiting - len(front)
                if not front:
                    due.popleft()
        return bars

    def _amended_window(self, series: BarSeries, start_ms: int) -> Window | None:
        """Return the closed window of a late trade, None if it is too late to amend its bar."""
        # This very batch may have closed it.
        self._gather(self.closed_ms)
        return self._amendments.late_window(series, start_ms, self.closed_ms)

    def __repr__(self) -> str:
        return (
            f"BarMaker({self.cluster}, {self._series.wanted_count} wanted, event_ms={self.event_ms}, "
            f"open_windows={self.stats.open_windows}, bars={self.stats.bars}, late={self.stats.late})"
        )
