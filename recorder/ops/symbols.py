"""What each symbol did lately: its last price and its events a second, for as long as somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from typing import Final

import msgspec

from recorder.bus import Batch, Bus, SessionChange
from recorder.clock import Clock
from recorder.ops.sections import plain
from recorder.ops.status_schema import SYMBOLS_LISTED_MAX, Symbol
from recorder.polygon.channels import CHANNELS
from recorder.polygon.rows import Rows, to_object

WATCH_SECS: Final = 5.0
"""How long the symbols are followed after somebody asked for them."""
EVENTS_MAX: Final = 20_000
"""Events that are looked at within a second; of a busier one, the rates are worked out from these."""
SYMBOLS_MAX: Final = 20_000
"""Symbols of a cluster that are remembered: the wire names them, so there could be any number."""
_KEPT: Final = 0.8
"""How much of a rate is that of the seconds before: the last five count for two thirds."""
_RATE_MIN: Final = 0.005


class _Trade(msgspec.Struct):
    p: float


class _Value(msgspec.Struct):
    val: float


class _Aggregate(msgspec.Struct):
    c: float


class _Quote(msgspec.Struct):
    bp: float | None = None
    b: float | None = None


_PRICED: Final[Mapping[str, type[msgspec.Struct]]] = {
    "trade": _Trade,
    "value": _Value,
    "aggregate": _Aggregate,
    "quote": _Quote,
}
"""The kinds of channels that name a price, the best one first. Of a quote it is the bid."""
_RANK: Final = {kind: rank for rank, kind in enumerate(_PRICED)}


class Symbols:
    """Follows the symbols of all clusters while somebody watches, and is not even on the bus otherwise.

    It counts whole columns of a batch at a time, and reads a price only from the events that it shows. Within a second
    it looks at `EVENTS_MAX` events at most. Call `watch` whenever somebody looks, and `look` once a second.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._watched_until_ns = 0
        self._looked_ns = 0
        self._left = EVENTS_MAX
        """Events that may still be looked at in this second."""
        self._tallies: dict[str, _Tally] = {}

    @property
    def is_watched(self) -> bool:
        """Whether the symbols are followed at present."""
        return self._watched_until_ns > 0

    def watch(self) -> None:
        """Follow the symbols for the next seconds."""
        now_ns = self._clock.monotonic_ns()
        if not self.is_watched:
            self._looked_ns = now_ns
            self._bus.attach(self)
        self._watched_until_ns = now_ns + int(WATCH_SECS * 1e9)

    def look(self) -> None:
        """Work out the rates of the last second; stop following once nobody watches any more."""
        if not self.is_watched:
            return
        now_ns = self._clock.monotonic_ns()
        if now_ns > self._watched_until_ns:
            self._watched_until_ns = 0
            self._bus.detach(self)
            self._tallies.clear()
            return
        secs = max(1e-9, (now_ns - self._looked_ns) / 1e9)
        self._looked_ns, self._left = now_ns, EVENTS_MAX
        for tally in self._tallies.values():
            tally.look(secs)

    def accept(self, batch: Batch) -> None:
        """Count a batch, while there is something left for this second."""
        tally = self._tallies.get(batch.cluster)
        if tally is None:
            tally = self._tallies[batch.cluster] = _Tally()
        tally.frames += len(batch.frames)
        if self._left > 0:
            rows = batch.rows
            self._left -= len(rows)
            tally.add(rows, len(batch.frames))

    def session_changed(self, change: SessionChange) -> None:
        """Do nothing: what is counted are events."""

    def is_awaited(self) -> bool:
        """Return False: who looks at a page does not wait for a millisecond."""
        return False

    def most_active(self, find: str = "") -> list[Symbol]:
        """Return the busiest symbols, of those whose name contains `find` in whatever case."""
        wanted = find.casefold()
        found = [
            (tally.rate(symbol), cluster, symbol)
            for cluster, tally in self._tallies.items()
            for symbol in tally.symbols
            if wanted in symbol.casefold()
        ]
        return [
            Symbol(cluster, plain(symbol), self._tallies[cluster].price(symbol), round(rate, 2))
            for rate, cluster, symbol in nlargest(SYMBOLS_LISTED_MAX, found)
        ]

    @property
    def count(self) -> int:
        """How many symbols were seen since somebody watches."""
        return sum(len(tally.symbols) for tally in self._tallies.values())

    def __repr__(self) -> str:
        return f"Symbols({self.count}, watched={self.is_watched})"


class _Tally:
    """The symbols of one cluster."""

    def __init__(self) -> None:
        self.frames = 0
        """Frames of this second, looked at or not."""
        self._frames_looked = 0
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._looks = 0
        self._channel = ""
        """The channel that prices are taken from: the best one so far."""
        self._last: dict[str, bytes] = {}
        """The newest event of that channel by symbol, as it came."""

    def add(self, rows: Rows, frames: int) -> None:
        """Take one batch."""
        self._frames_looked += frames
        self._counts.update(rows.symbols)
        best = min(rows.counts, key=_rank, default="")
        if _rank(best) < _rank(self._channel):
            self._channel = best
            self._last.clear()
        if self._channel in rows.counts:
            priced = rows.of_channels({self._channel})
            self._last.update(zip(priced.symbols, priced.fragments, strict=True))

    def look(self, secs: float) -> None:
        """Turn the counts of a second into rates."""
        self._looks += 1
        scale = self.frames / self._frames_looked if self._frames_looked else 1.0
        rates = {symbol: rate * _KEPT for symbol, rate in self._rates.items() if rate > _RATE_MIN}
        share = scale / secs * (1 - _KEPT)
        for symbol, events in self._counts.items():
            rates[symbol] = rates.get(symbol, 0.0) + events * share
        if len(rates) > SYMBOLS_MAX:
            rates = dict(nlargest(SYMBOLS_MAX, rates.items(), key=lambda entry: entry[1]))
        if len(self._last) > SYMBOLS_MAX:
            self._last = {symbol: event for symbol, event in self._last.items() if symbol in rates}
        self._rates = rates
        self._counts.clear()
        self.frames = self._frames_looked = 0

    @property
    def symbols(self) -> set[str]:
        """Whatever was seen; without those that have become silent and have no price."""
        return {*self._rates, *self._last}

    def rate(self, symbol: str) -> float:
        """Return a symbol's events a second. What began a moment ago counts in full."""
        return self._rates.get(symbol, 0.0) / (1 - _KEPT ** max(1, self._looks))

    def price(self, symbol: str) -> float | None:
        """Return a symbol's last price; None where its events name none."""
        event = self._last.get(symbol)
        known = CHANNELS.get(self._channel)
        if event is None or known is None:
            return None
        try:
            found = msgspec.json.decode(to_object(event), type=_PRICED[known.kind], strict=False)
        except msgspec.MsgspecError:
            return None
        return next((value for value in msgspec.structs.astuple(found) if value is not None), None)


def _rank(channel: str) -> int:
    known = CHANNELS.get(channel)
    return _RANK.get(known.kind, len(_RANK)) if known is not None else len(_RANK)
