"""Which bars are wanted: series of one symbol and length, made when the symbol first trades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from recorder.bars.windows import BarSeries

SYMBOLS_MAX: Final = 200_000
"""Symbols remembered between their bars; options have more contracts in a year than memory is for."""


@dataclass(slots=True)
class _Amending:
    """What is to be amended, of one length and one symbol or all."""

    known_after_ms: int
    """Behind this time, all closed windows are kept that had a trade."""
    holders: int = 0


class WantedSeries(dict[str, tuple[BarSeries, ...]]):
    """The wanted series of each symbol, none for an unwanted one; made when a symbol is first asked for.

    What is wanted is counted: for a single symbol, or (None) for all. So is what is to be amended.
    """

    def __init__(self, make: type[BarSeries]) -> None:
        """`make` makes a series."""
        super().__init__()
        self._make = make
        self._holders: dict[tuple[int, str | None], int] = {}
        self._every: dict[int, int] = {}
        """Lengths wanted for all symbols, and the time after which their windows are whole."""
        self._own: dict[str, dict[int, int]] = {}
        """The same for single symbols."""
        self._amending: dict[tuple[int, str | None], _Amending] = {}
        self._made: dict[str, dict[int, BarSeries]] = {}
        self._symbols_max = SYMBOLS_MAX

    def want(self, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Count one client that wants a length; the first one's windows begin after `after_ms`."""
        key = (interval_ms, symbol)
        holders = self._holders.get(key, 0)
        self._holders[key] = holders + 1
        if holders:
            return
        if symbol is None:
            self._every[interval_ms] = after_ms
            self.clear()
        else:
            self._own.setdefault(symbol, {})[interval_ms] = after_ms
            self.pop(symbol, None)

    def unwant(self, interval_ms: int, symbol: str | None) -> None:
        """Undo one `want`; with the last one, the series end that nobody wants in another way."""
        key = (interval_ms, symbol)
        holders = self._holders.pop(key, 0)
        if holders > 1:
            self._holders[key] = holders - 1
        elif not holders:
            return
        elif symbol is None:
            del self._every[interval_ms]
            self.clear()
            for name in self._made:
                self._drop(name, interval_ms)
        else:
            del self._own[symbol][interval_ms]
            if not self._own[symbol]:
                del self._own[symbol]
            self.pop(symbol, None)
            self._drop(symbol, interval_ms)

    def amend(self, interval_ms: int, symbol: str | None, known_after_ms: int) -> None:
        """Count one client that wants late trades in bars that have closed; the first one's windows begin after
        `known_after_ms`."""
        self._amending.setdefault((interval_ms, symbol), _Amending(known_after_ms)).holders += 1
        self._mark_amended(interval_ms, symbol)

    def unamend(self, interval_ms: int, symbol: str | None) -> None:
        """Undo one `amend`."""
        amending = self._amending.get((interval_ms, symbol))
        if amending is None:
            return
        amending.holders -= 1
        if not amending.holders:
            del self._amending[interval_ms, symbol]
            self._mark_amended(interval_ms, symbol)

    def knows(self, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Record that all closed windows after a time are kept, for series that are amended."""
        amending = self._amending.get((interval_ms, symbol))
        if amending is not None:
            amending.known_after_ms = min(amending.known_after_ms, after_ms)

    def known_after_ms(self, series: BarSeries) -> int:
        """Return the time behind which all closed windows of a series are kept that had a trade."""
        keys = ((series.interval_ms, series.symbol), (series.interval_ms, None))
        return min(self._amending[key].known_after_ms for key in keys if key in self._amending)

    def _is_amended(self, series: BarSeries) -> bool:
        interval_ms = series.interval_ms
        return (interval_ms, None) in self._amending or (interval_ms, series.symbol) in self._amending

    def _mark_amended(self, interval_ms: int, symbol: str | None) -> None:
        symbols = self._made if symbol is None else (symbol,)
        for name in symbols:
            series = self._made.get(name, {}).get(interval_ms)
            if series is not None:
                series.is_amended = self._is_amended(series)

    def _drop(self, symbol: str, interval_ms: int) -> None:
        if interval_ms in self._every or interval_ms in self._own.get(symbol, ()):
            return
        series = self._made.get(symbol, {}).pop(interval_ms, None)
        if series is not None:
            series.dropped = True

    def __missing__(self, symbol: str) -> tuple[BarSeries, ...]:
        wanted = dict(self._own.get(symbol, ()))
        for interval_ms, after_ms in self._every.items():
            wanted[interval_ms] = min(after_ms, wanted.get(interval_ms, after_ms))
        series: tuple[BarSeries, ...] = ()
        if wanted:
            made = self._made.setdefault(symbol, {})
            name = msgspec.json.encode(symbol).decode()
            for interval_ms, after_ms in wanted.items():
                if interval_ms not in made:
                    one = made[interval_ms] = self._make(symbol, name, interval_ms, after_ms)
                    one.is_amended = bool(self._amending) and self._is_amended(one)
            series = tuple(made.values())
        self[symbol] = series
        return series

    @property
    def wanted_count(self) -> int:
        """The number of lengths that are wanted, for a symbol or for all."""
        return len(self._holders)

    @property
    def crowded(self) -> bool:
        """Whether it is time to `forget`."""
        return len(self) > self._symbols_max

    def forget(self, busy: set[str]) -> None:
        """Forget all symbols without open windows; they are made again when they trade."""
        self._made = {symbol: made for symbol, made in self._made.items() if symbol in busy}
        self.clear()
        # Were most of them busy, forgetting again and again would cost more than the memory.
        self._symbols_max = max(SYMBOLS_MAX, 2 * len(self._made))

    def start_over(self) -> None:
        """Forget all times, since the feed starts over."""
        for wanted in (self._every, *self._own.values()):
            wanted.update(dict.fromkeys(wanted, 0))
        for amending in self._amending.values():
            amending.known_after_ms = 0
        for made in self._made.values():
            for series in made.values():
                series.after_ms = 0
                series.start_ms = series.end_ms = -1
