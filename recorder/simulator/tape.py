"""Stretches of seeded market: for each event its symbol, price and random bits, as columns.

A market that is paced plays stretch after stretch, each one new: prices walk on. Making an event costs several times
what sending one costs, so a market that is faster than `WALK_RATE_MAX`, or floods, plays one stretch again and again.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from recorder.simulator.listings import Listed, listed, weights
from recorder.simulator.waves import Waves
from recorder.simulator.wire import NUMBER_BLOCK, WORDS

WALK_RATE_MAX: Final = 10_000
"""Events a second and cluster up to which each event is a new one."""
_LOOP_EVENTS: Final = 100_000
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


def walks(rate: float) -> bool:
    """Return whether a market of this rate goes on without repeating itself; 0 floods."""
    return 0 < rate <= WALK_RATE_MAX


def tape_events(rate: float) -> int:
    """Return how long a stretch is, in whole thousands: about a second of a market that walks on."""
    return max(1, round(rate / NUMBER_BLOCK)) * NUMBER_BLOCK if walks(rate) else _LOOP_EVENTS


def slice_events(rate: float, frame_events: int) -> int:
    """Return how many events are sent at a time: those of ten milliseconds, in full frames if they fill one."""
    wanted = max(1, round(rate * _SLICE_SECONDS)) if rate else max(_FLOOD_SLICE_EVENTS, frame_events)
    return wanted if wanted < frame_events else wanted // frame_events * frame_events


class Board:
    """What all stretches of one cluster's market share: what is listed, how often it is traded, where prices go."""

    def __init__(self, cluster: str, seed: int, symbols: int | None = None) -> None:
        self.cluster = cluster
        self.seed = seed
        self.words = WORDS[cluster]
        self.listing: list[Listed] = listed(cluster, seed, symbols)
        self.channels: tuple[str, ...] = tuple(self.words.mix)
        self.shares = list(accumulate(weights(len(self.listing))))
        self.channel_table = _channel_table(list(self.words.mix.values()))
        # A step is half a basis point, but at least one tick.
        self.units = [max(1, entry.price // (entry.tick * 20_000)) * entry.tick for entry in self.listing]
        self._waves = Waves(f"{seed}/{cluster}/waves", len(self.listing))

    def levels(self, places: Sequence[int], number: int) -> dict[int, int]:
        """Return how many steps above its listed price each of these symbols begins a stretch."""
        heights = self._waves.heights(places, number)
        return {
            place: round(height * self.listing[place].price / self.units[place])
            for place, height in zip(places, heights, strict=True)
        }


class Tape:
    """One stretch of a market: the same events for the same arguments.

    `places[i]` is the place of event i's symbol in `listing`, `prices[i]` is in the symbol's own unit. Prices go from
    where the stretch of this number begins to where the `following` one does, which is the next one unless it is given.
    """

    def __init__(self, board: Board, *, events: int, number: int = 0, following: int | None = None) -> None:
        """`events` is a multiple of 1,000, so that the low digits of an event's number stay its own."""
        if events % NUMBER_BLOCK or events <= 0:
            raise ValueError(f"a tape has whole thousands of events, not {events}")
        self.words = board.words
        self.listing = board.listing
        self.channels = board.channels
        self.number = number
        rng = Random(f"{board.seed}/{board.cluster}/tape/{number}")
        self.places = array("I", rng.choices(range(len(self.listing)), cum_weights=board.shares, k=events))
        self.bits = array("Q", rng.randbytes(events * _BITS // 8))
        table = board.channel_table
        self.channel_numbers = bytes([table[bits % _CHANNEL_STEPS] for bits in self.bits])
        self.prices = _walks(
            board, self.places, self.bits, number, number + 1 if following is None else following
        )
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
        return f"Tape({self.number}, {len(self)} events, {len(self.listing)} symbols)"


def _channel_table(shares: Sequence[float]) -> list[int]:
    """Return the channel that each value of the lowest bits stands for."""
    bounds = [round(bound / sum(shares) * _CHANNEL_STEPS) for bound in accumulate(shares)]
    return [next(n for n, bound in enumerate(bounds) if step < bound) for step in range(_CHANNEL_STEPS)]


def _walks(
    board: Board, places: Sequence[int], bits: Sequence[int], number: int, following: int
) -> array[int]:
    """Let the price of each symbol walk at random from where it is to where it has to be at the end."""
    steps = (-1, 0, 0, 1)
    levels = [0] * len(board.listing)
    counts = [0] * len(board.listing)
    walk = []
    for place, bit in zip(places, bits, strict=True):
        levels[place] += steps[bit >> 62]
        counts[place] += 1
        walk.append(levels[place])
    traded = list(dict.fromkeys(places))
    begins, ends = board.levels(traded, number), board.levels(traded, following)
    seen = [0] * len(board.listing)
    prices = array("q")
    for place, level in zip(places, walk, strict=True):
        seen[place] += 1
        begin = begins[place]
        # The walk less its own drift, plus the one that is wanted.
        drift = (levels[place] - ends[place] + begin) * seen[place] // counts[place]
        entry = board.listing[place]
        prices.append(max(entry.tick, entry.price + (begin + level - drift) * board.units[place]))
    return prices
