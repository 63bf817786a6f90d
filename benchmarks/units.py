"""The simulator's frames, made beforehand and cut into units that `native/load.c` plays; a form for each protocol."""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import msgspec

from recorder.frames import header
from recorder.simulator.audience import Selection, compile_slice
from recorder.simulator.tape import Board, Tape, slice_events, tape_events
from recorder.simulator.wire import FIRST_NUMBER, stamps

SEED: Final = 1
_TIME_MS: Final = 1_760_375_617_600
_UNIT: Final = struct.Struct("=IIIi")
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)
"""A client's frames must be masked (RFC 6455, 5.3); by zeros the payload stays as it is."""
_STAMP: Final = b',"ns":"' + b"0" * 19 + b'"'
_STAMP_DIGITS_AT: Final = 7


class _Heading(msgspec.Struct):
    ev: str
    sym: str


@dataclass(frozen=True)
class Market:
    """A stretch of the seeded market of stocks: trades and quotes, in frames as the simulator packs them."""

    frames: Sequence[Sequence[bytes]]
    topics: Sequence[Sequence[str]]
    """`T.AAPL` of each event."""

    @cached_property
    def events(self) -> int:
        return sum(map(len, self.frames))

    @cached_property
    def symbols(self) -> list[str]:
        """What is traded here, most often first."""
        counts = Counter(topic.partition(".")[2] for frame in self.topics for topic in frame)
        return [symbol for symbol, _ in counts.most_common()]

    def shares(self) -> Counter[str]:
        """Return how often each topic occurs."""
        return Counter(topic for frame in self.topics for topic in frame)


@cache
def market(symbols: int, frame_events: int, events: int = 0) -> Market:
    """Return what a flooding simulator of that many symbols sends in one round; `events` makes it shorter."""
    tape = Tape(Board("stocks", SEED, symbols), events=events or tape_events(0))
    decoder = msgspec.json.Decoder(list[msgspec.Raw])
    frames = [
        [bytes(event) for event in decoder.decode(payload)] for payload in _payloads(tape, frame_events)
    ]
    heading = msgspec.json.Decoder(_Heading)
    topics = [[f"{each.ev}.{each.sym}" for each in map(heading.decode, frame)] for frame in frames]
    return Market(frames, topics)


def _payloads(tape: Tape, frame_events: int) -> Iterator[bytes]:
    selection = Selection(["T.*", "Q.*"])
    for part in tape.slices(slice_events(0, frame_events)):
        filling = [stamp for run in part.runs for stamp in stamps(_TIME_MS, FIRST_NUMBER + run)]
        for template in compile_slice(tape, part, selection, frame_events):
            yield from template.fill(filling).payloads()


@dataclass(frozen=True)
class Units:
    """What is fed, and what it makes a client progress by: see `native/load.c`."""

    texts: Sequence[bytes]
    weights: Sequence[int]
    """Of each unit, for a client that gets everything."""
    topic_weights: Sequence[Sequence[int]]
    """Of each event, for a client that gets it."""
    market: Market
    overhead: int
    """What a client's frame has besides its events' weights, headers not counted."""
    as_sent: bool = False
    """Whether weights are bytes of frames as they were sent."""
    stamps_at: Sequence[int] = ()

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write the files that `load` reads: data and index."""
        data, index = folder / "units.data", folder / "units.index"
        data.write_bytes(b"".join(self.texts))
        stamps_at = self.stamps_at or [-1] * len(self.texts)
        rows = zip(map(len, self.texts), self.weights, map(len, self.market.frames), stamps_at, strict=True)
        index.write_bytes(b"".join([_UNIT.pack(*row) for row in rows]))
        return data, index

    @property
    def weight_of_all(self) -> int:
        return sum(self.weights)

    def topics_weights(self, units: int) -> Counter[str]:
        """Return what each topic has brought after `units` units."""
        rounds, rest = divmod(units, len(self.texts))
        whole, begun = self._per_topic(len(self.texts)), self._per_topic(rest)
        return Counter({topic: weight * rounds + begun[topic] for topic, weight in whole.items()})

    def _per_topic(self, units: int) -> Counter[str]:
        found: Counter[str] = Counter()
        for topics, weights in zip(self.market.topics[:units], self.topic_weights[:units], strict=True):
            for topic, weight in zip(topics, weights, strict=True):
                found[topic] += weight
        return found


def _comma_weights(market: Market) -> list[array[int]]:
    """An event in an array takes its own bytes and a comma; the array one byte more than the sum."""
    return [array("I", [len(event) + 1 for event in frame]) for frame in market.frames]


def frames(market: Market, *, stamped: bool = False, masked: bool = False) -> Units:
    """Return frames for programs that pass them on untouched: every client progresses by bytes as they are sent.

    `masked` frames are a client's, for a program that is published to; what it sends on is not masked.
    """
    texts, weights, stamps_at = [], [], []
    for events in market.frames:
        first, *others = events
        head = first[:-1] + _STAMP + b"}" if stamped else first
        payload = b"[" + b",".join([head, *others]) + b"]"
        front = header(len(payload))
        stamps_at.append(len(front) + len(first) + _STAMP_DIGITS_AT if stamped else -1)
        weights.append(len(front) + len(payload))
        if masked:
            front = front[:1] + bytes([front[1] | _MASKED]) + front[2:] + _NO_MASK
        texts.append(front + payload)
    return Units(texts, weights, (), market, overhead=0, as_sent=True, stamps_at=stamps_at)


def arrays(market: Market, *, stamped: bool = False) -> Units:
    """Return frames for a program that makes its own arrays of the events in them."""
    sent = frames(market, stamped=stamped)
    each = _comma_weights(market)
    weights = [sum(row) + (len(_STAMP) if stamped else 0) for row in each]
    return Units(sent.texts, weights, each, market, overhead=1, stamps_at=sent.stamps_at)


def nats_messages(market: Market) -> Units:
    """Return one message an event, published to its topic (NATS client protocol, PUB); subscribers get MSG."""
    texts, each = [], []
    for topics, events in zip(market.topics, market.frames, strict=True):
        texts.append(
            b"".join([_published(topic, event) for topic, event in zip(topics, events, strict=True)])
        )
        each.append(
            array("I", [_delivered(topic, event) for topic, event in zip(topics, events, strict=True)])
        )
    return Units(texts, list(map(sum, each)), each, market, overhead=0)


NATS_SID: Final = "1%03d"
"""Subscription ids, all of one length, so that the size of a message tells nothing of its subscription."""


def _published(topic: str, event: bytes) -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (topic.encode(), len(event), event)


def _delivered(topic: str, event: bytes) -> int:
    return len(b"MSG %b %b %d\r\n\r\n" % (topic.encode(), (NATS_SID % 0).encode(), len(event))) + len(event)
