"""Second and minute aggregates, exactly what the trades of the window amount to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60_000


@dataclass(slots=True)
class Window:
    """What was traded of one symbol in a span of time. Prices and sizes are integers, so sums are exact."""

    open: int
    high: int
    low: int
    close: int
    volume: int
    value: int
    """The sum of price times size."""
    count: int

    def add(self, price: int, size: int) -> None:
        """Take one more trade."""
        if price > self.high:
            self.high = price
        elif price < self.low:
            self.low = price
        self.close = price
        self.volume += size
        self.value += price * size
        self.count += 1

    def merge(self, later: Window) -> None:
        """Take all trades of a window that follows this one."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.value += later.value
        self.count += later.count

    @property
    def average(self) -> int:
        """The average price weighted by volume, rounded half up, in the unit of prices."""
        return (2 * self.value + self.volume) // (2 * self.volume)


@dataclass(frozen=True, slots=True)
class Closed:
    """A finished span: each symbol's window by its place in the listing, and its day up to the end of the span."""

    start_ms: int
    end_ms: int
    windows: dict[int, Window]
    days: dict[int, Window]


class Windows:
    """Collects trades in the order of their times; gives each second and minute that it saw from its beginning.

    Time only moves on. A span in whose midst it began is not given: its sums would be wrong.
    """

    def __init__(self) -> None:
        self._second_ms = 0
        """Start of the current second; 0 before the first trade or after a gap."""
        self._second: dict[int, Window] = {}
        self._minute: dict[int, Window] = {}
        self._day: dict[int, Window] = {}
        self._seconds_whole = False
        self._minutes_whole = False

    def interrupt(self) -> None:
        """Take note that events were left out from here to the next call."""
        self._second_ms = 0
        self._second = {}
        self._minute = {}
        self._seconds_whole = False
        self._minutes_whole = False

    def advance(self, now_ms: int) -> tuple[list[Closed], list[Closed]]:
        """Move on to the time of the next trade; return the seconds and the minutes that ended."""
        second = now_ms - now_ms % SECOND_MS
        if second <= self._second_ms:
            return [], []
        if not self._second_ms:
            # Exactly on the border, nothing of the span can have been missed.
            self._seconds_whole = now_ms == second
            self._minutes_whole = now_ms % MINUTE_MS == 0
            self._second_ms = second
            return [], []
        seconds, minutes = [], []
        ended = self._second
        for place, window in ended.items():
            _merge(self._day, place, window)
            _merge(self._minute, place, window)
        if ended and self._seconds_whole:
            days = {place: replace(self._day[place]) for place in ended}
            seconds.append(Closed(self._second_ms, self._second_ms + SECOND_MS, ended, days))
        minute = self._second_ms - self._second_ms % MINUTE_MS
        if second - second % MINUTE_MS > minute:
            if self._minute and self._minutes_whole:
                days = {place: replace(self._day[place]) for place in self._minute}
                minutes.append(Closed(minute, minute + MINUTE_MS, self._minute, days))
            self._minute = {}
            self._minutes_whole = True
        self._second = {}
        self._seconds_whole = True
        self._second_ms = second
        return seconds, minutes

    def add(self, trades: Iterable[tuple[int, int, int]]) -> None:
        """Take trades of the current second: place in the listing, price, size."""
        windows = self._second
        for place, price, size in trades:
            window = windows.get(place)
            if window is None:
                windows[place] = Window(price, price, price, price, size, price * size, 1)
            else:
                window.add(price, size)


def _merge(windows: dict[int, Window], place: int, later: Window) -> None:
    earlier = windows.get(place)
    if earlier is None:
        windows[place] = replace(later)
    else:
        earlier.merge(later)
