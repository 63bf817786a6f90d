"""Windows that have closed, kept for a while so that late trades can amend their bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from recorder.bars.series import BarSeries
from recorder.bars.window import Window

WINDOW_BYTES: Final = 900
"""What a kept window takes: its numbers, as decimals, and its places."""


@dataclass(slots=True)
class Kept:
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

    def encode(self, suffix: str = "}") -> bytes:
        """Return its bar; nothing if no trade sets a price."""
        return self.window.encode(self.series.prefix, self.start_ms, suffix) if self.window.has_price else b""


class KeptWindows:
    """Closed windows by the time at which they end, at most `windows_max` of them: beyond that, the oldest go."""

    def __init__(self, windows_max: int) -> None:
        self._windows_max = windows_max
        self._kept: dict[int, dict[BarSeries, Kept]] = {}
        self._ends: list[int] = []
        self._count = 0
        self._touched: list[Kept] = []
        self.lost_ms = 0
        """Windows that ended at or before this time were let go for want of room, or their time was over."""

    def keep(self, series: BarSeries, window: Window, rev: int = 0) -> Kept:
        """Keep a window."""
        end_ms = window.end_ms
        windows = self._kept.get(end_ms)
        if windows is None:
            windows = self._kept[end_ms] = {}
            heappush(self._ends, end_ms)
        kept = windows[series] = Kept(series, window, rev)
        self._count += 1
        while self._count > self._windows_max:
            self._forget_oldest()
        return kept

    def find(self, series: BarSeries, end_ms: int) -> Kept | None:
        """Return the closed window of a series; None if it is not kept."""
        return self._kept.get(end_ms, {}).get(series)

    def touch(self, kept: Kept) -> Window:
        """Return a window for one late trade, and remember what its bar was."""
        if kept.sent is None:
            kept.sent = kept.encode()
            self._touched.append(kept)
        return kept.window

    def take_touched(self) -> list[Kept]:
        """Return the windows that late trades were added to since the last call."""
        touched, self._touched = self._touched, []
        return touched

    def forget_until(self, end_ms: int) -> None:
        """Let go of the windows that ended at or before a time."""
        while self._ends and self._ends[0] <= end_ms:
            self._forget_oldest()

    def clear(self) -> None:
        """Let go of all windows."""
        self._kept.clear()
        self._ends.clear()
        self._touched.clear()
        self._count = self.lost_ms = 0

    def _forget_oldest(self) -> None:
        end_ms = heappop(self._ends)
        self._count -= len(self._kept.pop(end_ms))
        self.lost_ms = max(self.lost_ms, end_ms)

    def __iter__(self) -> Iterator[Kept]:
        for windows in self._kept.values():
            yield from windows.values()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"KeptWindows({self._count} of at most {self._windows_max})"
