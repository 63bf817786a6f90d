"""Closed windows, kept for a while so that late trades can amend their bars."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Final

from recorder.bars.bar import Bar
from recorder.bars.series import WantedSeries
from recorder.bars.stats import BarStats
from recorder.bars.windows import BarSeries, Window, times_of

WINDOW_BYTES: Final = 640
"""What a kept window takes: its numbers, and its places."""


class Amendments:
    """The closed windows of one bar maker, of the series that are to be amended, and what late trades change in them.

    A window is kept for `amend_ms` after its end, in event time, and at most `windows_max` are: beyond that, the oldest
    go. What is gone is too late to amend, and is never taken for a window that had no trade.
    """

    def __init__(
        self,
        wanted: WantedSeries,
        stats: BarStats,
        make: type[Window],
        *,
        amend_ms: int,
        windows_max: int,
    ) -> None:
        """`make` makes a window."""
        self._wanted = wanted
        self._make = make
        self._stats = stats
        self._amend_ms = amend_ms
        self._windows_max = windows_max
        self._kept: dict[int, dict[BarSeries, Window]] = {}
        """By the time at which they end; `_ends` is a heap of these times."""
        self._ends: list[int] = []
        self._count = 0
        self._touched: list[tuple[BarSeries, Window]] = []
        self._lost_ms = 0
        """Of windows that ended at or before this time, some were let go."""

    @property
    def symbols(self) -> set[str]:
        """The symbols of the windows that are kept."""
        return {series.symbol for windows in self._kept.values() for series in windows}

    def keep(self, end_ms: int, windows: Mapping[BarSeries, Window]) -> None:
        """Keep those windows that are to be amended, of all that end at one time; their bars may be still to be made."""
        kept = {
            series: window for series, window in windows.items() if series.is_amended and not series.dropped
        }
        if kept:
            self._put(end_ms, kept)

    def late_window(self, series: BarSeries, start_ms: int, closed_ms: int) -> Window | None:
        """Return the closed window of a late trade; None, counted, if it is too late to amend its bar."""
        end_ms = start_ms + series.interval_ms
        windows = self._kept.get(end_ms, {})
        window = windows.get(series)
        is_over = end_ms <= closed_ms - self._amend_ms
        is_known = end_ms > self._lost_ms and start_ms > self._wanted.known_after_ms(series)
        if is_over or (window is None and not is_known):
            self._stats.too_late += 1
            return None
        if window is None:
            # No trade came in time, so there was no bar.
            window = self._make(end_ms, 0)
            window.closed = True
            self._put(end_ms, {series: window})
        elif not window.closed:
            # Its bar is still to be made, and will be sent as it was before it is sent again.
            window = windows[series] = window.copy()
            window.closed = True
        if window.sent is None:
            window.sent = _text(series, window)
            self._touched.append((series, window))
        return window

    def take_bars(self, closed_ms: int) -> list[Bar]:
        """Return the bars that late trades changed since the last call, by window end, symbol and interval."""
        bars: list[Bar] = []
        touched, self._touched = self._touched, []
        for series, window in sorted(touched, key=lambda one: (one[1].end_ms, one[0].order)):
            sent, window.sent = window.sent, None
            # A trade may update nothing that a bar shows.
            if _text(series, window) == sent:
                continue
            window.rev += 1
            text = _text(series, window, f',"amended":true,"rev":{window.rev}}}')
            start_ms = window.end_ms - series.interval_ms
            bars.append(Bar(series.interval_ms, series.symbol, start_ms, window.end_ms, text, window.rev))
        self._stats.amended += len(bars)
        while self._ends and self._ends[0] <= closed_ms - self._amend_ms:
            self._forget_oldest()
        return bars

    def adopt(self, other: Amendments, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Take over what another maker keeps that has seen the same trades and more of the past.

        From then on, late trades can amend all bars of these series whose windows began after `after_ms`.
        """
        self._wanted.knows(interval_ms, symbol, after_ms)
        for windows in other._kept.values():
            for theirs, window in windows.items():
                end_ms = window.end_ms
                if theirs.interval_ms != interval_ms or symbol not in (None, theirs.symbol):
                    continue
                if end_ms - interval_ms <= after_ms or end_ms <= self._lost_ms:
                    continue
                for series in self._wanted[theirs.symbol]:
                    is_ours = series.interval_ms == interval_ms and series.is_amended
                    if is_ours and series not in self._kept.get(end_ms, {}):
                        self._put(end_ms, {series: window})

    def clear(self) -> None:
        """Forget all windows."""
        self._kept.clear()
        self._ends.clear()
        self._touched.clear()
        self._count = self._lost_ms = 0

    def _put(self, end_ms: int, windows: dict[BarSeries, Window]) -> None:
        kept = self._kept.get(end_ms)
        if kept is None:
            self._kept[end_ms] = windows
            heappush(self._ends, end_ms)
        else:
            kept.update(windows)
        self._count += len(windows)
        while self._count > self._windows_max:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        end_ms = heappop(self._ends)
        self._count -= len(self._kept.pop(end_ms))
        self._lost_ms = max(self._lost_ms, end_ms)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Amendments({self._count} windows of at most {self._windows_max})"


def _text(series: BarSeries, window: Window, suffix: str = "}") -> bytes:
    """Return the bar of a window; nothing if no trade sets a price."""
    start_ms = window.end_ms - series.interval_ms
    return (
        window.encode(series.prefix, times_of(start_ms, window.end_ms) + suffix) if window.has_price else b""
    )
