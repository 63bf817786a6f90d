"""When each event of a paced market happens: a steady rate on average, with bursts and a heavy opening within it."""

from __future__ import annotations

from bisect import bisect_right
from random import Random
from typing import Final

_PERIOD_SECS: Final = 10.0
_BURSTS: Final = ((10.0, 0.05), (5.0, 0.1), (3.0, 0.3))
"""Factor of the rate, and for how many seconds; together well under a fifth of a period's events."""
_OPEN_FACTOR: Final = 3.0
_OPEN_SECS: Final = 5.0
_OPEN_EVENED_OUT_SECS: Final = 60.0


class Schedule:
    """Returns the time of the n-th event, n from 0; the same times for the same arguments.

    Over every ten seconds (the first minute, if it opens heavily) there are exactly as many events as the rate says.
    """

    def __init__(self, rate: float, start_ms: float, *, bursts: Random | None, session_open: bool) -> None:
        self._rate = rate
        self._origin_ms = start_ms
        self._origin_index = 0
        self._open = session_open
        self._steady: list[float] = [0.0]
        """Where, on the time axis of a steady market, a stretch of one rate begins."""
        self._real: list[float] = [0.0]
        self._stretch: list[float] = [1.0]
        """Real seconds for one steady second."""
        if bursts is not None:
            self._place_bursts(bursts)

    def time_ms(self, index: int) -> float:
        """Return the Unix time of an event, in milliseconds."""
        steady = (index - self._origin_index) / self._rate
        if self._open and steady < _OPEN_EVENED_OUT_SECS:
            steady = _opening(steady)
        periods, rest = divmod(steady, _PERIOD_SECS)
        at = bisect_right(self._steady, rest) - 1
        real = self._real[at] + (rest - self._steady[at]) * self._stretch[at]
        return self._origin_ms + (periods * _PERIOD_SECS + real) * 1000.0

    def index_at(self, time_ms: float) -> int:
        """Return the first event that happens at this time or later."""
        low, high = self._origin_index, self._origin_index + 1
        while self.time_ms(high) < time_ms:
            low, high = high, self._origin_index + 2 * (high - self._origin_index)
        while low < high:
            middle = (low + high) // 2
            if self.time_ms(middle) < time_ms:
                low = middle + 1
            else:
                high = middle
        return low

    def change_rate(self, index: int, factor: float) -> None:
        """Let the rate be `factor` times as high from this event on."""
        self._origin_ms = self.time_ms(index)
        self._origin_index = index
        self._rate *= factor
        self._open = False

    def _place_bursts(self, rng: Random) -> None:
        in_bursts = sum(secs for _, secs in _BURSTS)
        of_bursts = sum(factor * secs for factor, secs in _BURSTS)
        between = (_PERIOD_SECS - of_bursts) / (len(_BURSTS) + 1)
        stretch_between = (_PERIOD_SECS - in_bursts) / (_PERIOD_SECS - of_bursts)
        self._stretch[0] = stretch_between
        steady = 0.0
        for factor, secs in rng.sample(_BURSTS, len(_BURSTS)):
            steady += between
            self._begin_stretch(steady, 1 / factor)
            steady += factor * secs
            self._begin_stretch(steady, stretch_between)

    def _begin_stretch(self, steady: float, stretch: float) -> None:
        self._real.append(self._real[-1] + (steady - self._steady[-1]) * self._stretch[-1])
        self._steady.append(steady)
        self._stretch.append(stretch)


def _opening(steady: float) -> float:
    """Squeeze the first events together, and spread the rest of the first minute accordingly."""
    squeezed = _OPEN_FACTOR * _OPEN_SECS
    if steady < squeezed:
        return steady / _OPEN_FACTOR
    rest = (_OPEN_EVENED_OUT_SECS - _OPEN_SECS) / (_OPEN_EVENED_OUT_SECS - squeezed)
    return _OPEN_SECS + (steady - squeezed) * rest
