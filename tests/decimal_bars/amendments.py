"""Closed windows, kept for a while so that late trades can amend their bars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import localcontext
from heapq import heappop, heappush
from typing import Final

from decimal_bars.series import BarSeries
from decimal_bars.trades import EXACT
from decimal_bars.window import Window
from recorder.bars.bar import Bar
from recorder.bars.series import WantedSeries
from recorder.bars.stats import BarStats

WINDOW_BYTES: Final = 900
"""What a kept window takes: its numbers, as decimals, and its places."""


@dataclass(slots=True)
class _Kept:
    """A closed window."""

    series: BarSeries
    window: Window
    rev: int = 0
    """How often its bar was sent again."""
    sent: bytes | None = None
    """Its bar before the late trades of this batch; None while there are none, empty if it had no price."""

    @property
    def start_ms(self) -> int:
        """When the window began."""
        return self.window.end_ms - self.series.interval_ms

    @property
    def order(self) -> tuple[int, tuple[str, int]]:
        """The place of its bar among others."""
        return self.window.end_ms, self.series.order

    def encode(self, suffix: str = "}") -> bytes:
        """Return its bar; nothing if no trade sets a price."""
        return self.window.encode(self.series.prefix, self.start_ms, suffix) if self.window.has_price else b""


class Amendments:
    """The closed windows of one bar maker, of the series that are to be amended, and what late trades change in them.

    A window is kept for `amend_ms` after its end, in event time, and at most `windows_max` are: beyond that, the oldest
    go. What is gone is too late to amend, and is never taken for a window that had no trade.
    """

    def __init__(self, wanted: WantedSeries, stats: BarStats, *, amend_ms: int, windows_max: int) -> None:
        self._wanted = wanted
        self._stats = stats
        self._amend_ms = amend_ms
        self._windows_max = windows_max
        self._kept: dict[int, dict[BarSeries, _Kept]] = {}
        """By the time at which they end; `_ends` is a heap of these times."""
        self._ends: list[int] = []
        self._count = 0
        self._touched: list[_Kept] = []
        self._lost_ms = 0
        """Of windows that ended at or before this time, some were let go."""

    @property
    def symbols(self) -> set[str]:
        """The symbols of the windows that are kept."""
        return {series.symbol for windows in self._kept.values() for series in windows}

    def keep(self, series: BarSeries, window: Window) -> None:
        """Keep a window that has closed."""
        self._put(_Kept(series, window))

    def late_window(self, series: BarSeries, start_ms: int, end_ms: int, closed_ms: int) -> Window | None:
        """Return the closed window of a late trade; None, counted, if it is too late to amend its bar."""
        kept = self._kept.get(end_ms, {}).get(series)
        is_over = end_ms <= closed_ms - self._amend_ms
        is_known = end_ms > self._lost_ms and start_ms > self._wanted.known_after_ms(series)
        if is_over or (kept is None and not is_known):
            self._stats.too_late += 1
            return None
        if kept is None:
            # No trade came in time, so there was no bar.
            kept = _Kept(series, Window(end_ms))
            self._put(kept)
        if kept.sent is None:
            kept.sent = kept.encode()
            self._touched.append(kept)
        return kept.window

    def take_bars(self, closed_ms: int) -> list[Bar]:
        """Return the bars that late trades changed since the last call, by window end, symbol and interval."""
        bars: list[Bar] = []
        touched, self._touched = self._touched, []
        with localcontext(EXACT):
            for kept in sorted(touched, key=lambda kept: kept.order):
                sent, kept.sent = kept.sent, None
                # A trade may update nothing that a bar shows.
                if kept.encode() == sent:
                    continue
                kept.rev += 1
                series, end_ms = kept.series, kept.window.end_ms
                data = kept.encode(f',"amended":true,"rev":{kept.rev}}}')
                bars.append(Bar(series.interval_ms, series.symbol, kept.start_ms, end_ms, data, kept.rev))
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
            for theirs, kept in windows.items():
                end_ms = kept.window.end_ms
                if theirs.interval_ms != interval_ms or symbol not in (None, theirs.symbol):
                    continue
                if kept.start_ms <= after_ms or end_ms <= self._lost_ms:
                    continue
                for series in self._wanted[theirs.symbol]:
                    is_ours = series.interval_ms == interval_ms and series.is_amended
                    if is_ours and series not in self._kept.get(end_ms, {}):
                        self._put(_Kept(series, kept.window, kept.rev))

    def clear(self) -> None:
        """Forget all windows."""
        self._kept.clear()
        self._ends.clear()
        self._touched.clear()
        self._count = self._lost_ms = 0

    def _put(self, kept: _Kept) -> None:
        end_ms = kept.window.end_ms
        windows = self._kept.get(end_ms)
        if windows is None:
            windows = self._kept[end_ms] = {}
            heappush(self._ends, end_ms)
        windows[kept.series] = kept
        self._count += 1
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
