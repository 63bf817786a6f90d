"""A stretch of seeded market that is played in a loop: for each event its symbol, price and random bits, as columns.

Texts are made when they are first needed, so a simulator starts at once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from recorder.simulator.listings import Listed, listed, weights
from recorder.simulator.wire import NUMBER_BLOCK, WORDS

_EVENTS_MIN: Final = 20_000
_EVENTS_MAX: Final = 100_000
_SECONDS: Final = 20
_SLICE_SECONDS: Final = 0.01
_FLOOD_SLICE_EVENTS: Final = 1_000
_RUNS: Final = 10
_BITS: Final = 64
_CHANNEL_STEPS: Final = 4_096
"""The lowest 12 bits of an event decide on its channel; the others are for its text."""


class Slice(NamedTuple):
    """Events `begin` to `end` of the tape, which are sent together. Each run has one time and one thousand."""

    begin: int
    end: int
    runs: tuple[int, ...]
    """Where each run begins; the first one at `begin`."""


def tape_events(rate: float) -> int:
    """Return a good length for a tape: some seconds of market, in whole thousands; flooding (0) gets the longest."""
    wanted = rate * _SECONDS if rate else _EVENTS_MAX
    return int(min(max(wanted, _EVENTS_MIN), _EVENTS_MAX)) // NUMBER_BLOCK * NUMBER_BLOCK


def slice_events(rate: float, frame_events: int) -> int:
    """Return how many events are sent at a time: those of ten milliseconds, in full frames if they fill one."""
    wanted = max(1, round(rate * _SLICE_SECONDS)) if rate else max(_FLOOD_SLICE_EVENTS, frame_events)
    return wanted if wanted < frame_events else wanted // frame_events * frame_events


class Tape:
    """The events of one cluster: the same ones for the same arguments. Prices end where they began.

    `places[i]` is the place of event i's symbol in `listing`, `prices[i]` is in the symbol's own unit.
    """

    def __init__(self, cluster: str, seed: int, *, events: int, symbols: int | None = None) -> None:
        """`events` is a multiple of 1,000, so that the low digits of an event's number stay its own."""
        if events % NUMBER_BLOCK or events <= 0:
            raise ValueError(f"a tape has whole thousands of events, not {events}")
        self.words = WORDS[cluster]
        self.listing: list[Listed] = listed(cluster, seed, symbols)
        self.channels: tuple[str, ...] = tuple(self.words.mix)
        rng = Random(f"{seed}/{cluster}/tape")
        shares = list(accumulate(weights(len(self.listing))))
        self.places = array("I", rng.choices(range(len(self.listing)), cum_weights=shares, k=events))
        self.bits = array("Q", rng.randbytes(events * _BITS // 8))
        table = _channel_table(list(self.words.mix.values()))
        self.channel_numbers = bytes([table[bits % _CHANNEL_STEPS] for bits in self.bits])
        self.prices = _closed_walks(self.listing, self.places, self.bits)
        self._trades: dict[int, list[tuple[int, int, int]]] = {}

    def __len__(self) -> int:
        return len(self.places)

    def text(self, index: int) -> bytes:
        """Return an event in the vendor's words, with marks for time and number."""
        return self.words.word[self.channels[self.channel_numbers[index]]](
            self.listing[self.places[index]],
            self.prices[index],
            self.bits[index],
            f"{index % NUMBER_BLOCK:03d}",
        ).encode()

    def trades(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Return what aggregates are made of, for the run from `begin` to `end`: place, price and size."""
        found = self._trades.get(begin)
        if found is None:
            size = self.words.size
            found = self._trades[begin] = [
                (self.places[index], self.prices[index], size(self.bits[index]))
                for index in range(begin, end)
                if self.channel_numbers[index] == 0
            ]
        return found

    def slices(self, events: int) -> list[Slice]:
        """Cut the tape into slices of `events`; the last one may be shorter."""
        step = max(1, events // _RUNS)
        slices = []
        for begin in range(0, len(self), events):
            end = min(begin + events, len(self))
            thousands = range(begin - begin % NUMBER_BLOCK + NUMBER_BLOCK, end, NUMBER_BLOCK)
            slices.append(Slice(begin, end, tuple(sorted({*range(begin, end, step), *thousands}))))
        return slices

    def __repr__(self) -> str:
        return f"Tape({len(self)} events, {len(self.listing)} symbols)"


def _channel_table(shares: Sequence[float]) -> list[int]:
    """Return the channel that each value of the lowest bits stands for."""
    bounds = [round(bound / sum(shares) * _CHANNEL_STEPS) for bound in accumulate(shares)]
    return [next(n for n, bound in enumerate(bounds) if step < bound) for step in range(_CHANNEL_STEPS)]


def _closed_walks(listing: Sequence[Listed], places: Sequence[int], bits: Sequence[int]) -> array[int]:
    """Let the price of each symbol walk at random, less its drift, so that it ends where it began."""
    steps = (-1, 0, 0, 1)
    levels = [0] * len(listing)
    counts = [0] * len(listing)
    walk = []
    for place, bit in zip(places, bits, strict=True):
        levels[place] += steps[bit >> 62]
        counts[place] += 1
        walk.append(levels[place])
    seen = [0] * len(listing)
    prices = array("q")
    # A step is half a basis point, but at least one tick.
    units = [max(1, entry.price // (entry.tick * 20_000)) * entry.tick for entry in listing]
    for place, level in zip(places, walk, strict=True):
        seen[place] += 1
        drift = levels[place] * seen[place] // counts[place]
        entry = listing[place]
        prices.append(max(entry.tick, entry.price + (level - drift) * units[place]))
    return prices
