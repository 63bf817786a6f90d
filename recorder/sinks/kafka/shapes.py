"""PURE. The two shapes of messages: many frames of a cluster, as streams have them, or one record with its symbol as key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from recorder.polygon.events import Decoder
from recorder.polygon.rows import array_of
from recorder.stream_message import Heading, encode_frames

GATHERED_BYTES_MAX: Final = 512 * 1024
"""Frames that become one message, before they are compressed."""
CONTENT_BYTES_MAX: Final = 900_000
"""A larger content is split: librdkafka and brokers take a megabyte unless they are told otherwise."""
FRAME_COST_BYTES: Final = 64
"""What a frame takes in memory besides its bytes."""


@dataclass(slots=True)
class FramesItem:
    """The frames of one read, and how many events of each channel they hold."""

    cluster: str
    received_ns: int
    frames: Sequence[bytes]
    counts: Mapping[str, int]
    size: int
    """Bytes in memory."""
    first: int
    """The number of the first event."""
    events: int


@dataclass(slots=True)
class RecordsItem:
    """The records of one read: all lines, and the channel and symbol of each."""

    cluster: str
    data: bytes
    channels: Sequence[str]
    symbols: Sequence[str]
    counts: Mapping[str, int]

    @property
    def size(self) -> int:
        """The bytes of the lines."""
        return len(self.data)


@dataclass(slots=True)
class Draft:
    """A message before it is sent."""

    key: bytes | None
    value: bytes
    counts: Mapping[str, int]
    """Its events, by channel."""
    headers: dict[str, str | bytes | None] | None = None


@dataclass(slots=True)
class Parcel:
    """Messages that lead to one entry in the books."""

    cluster: str
    counts: Mapping[str, int]
    size: int
    """Bytes of the items that they were made of."""
    drafts: Sequence[Draft]


@dataclass(slots=True)
class _Gathered:
    """The frames of the next message of a cluster."""

    frames: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    received_ns: int = 0
    since_ns: int = 0
    first: int = 0
    events: int = 0


class FramesShape:
    """Gathers frames, and makes messages of them as `stream_message` says.

    Events are numbered before any are dropped. Hence a reader sees each loss as a hole in the numbers, and its size.
    """

    partition: Final = 0

    def __init__(self, linger_ms: int, writer: str) -> None:
        """`writer` names this run of the recorder in each message."""
        self._linger_ns = linger_ms * 1_000_000
        self._writer = writer
        self._gathered: dict[str, _Gathered] = {}

    def take(self, item: FramesItem, now_ns: int) -> Iterator[Parcel]:
        """Gather the frames of a read; yield what is complete by that."""
        gathered = self._gathered.get(item.cluster)
        if gathered is not None and (
            gathered.first + gathered.events != item.first or gathered.size + item.size > GATHERED_BYTES_MAX
        ):
            yield self._seal(item.cluster)
            gathered = None
        if gathered is None:
            gathered = _Gathered(received_ns=item.received_ns, since_ns=now_ns, first=item.first)
            self._gathered[item.cluster] = gathered
        gathered.frames += item.frames
        gathered.counts.update(item.counts)
        gathered.size += item.size
        gathered.events += item.events
        if gathered.size >= GATHERED_BYTES_MAX:
            yield self._seal(item.cluster)

    def due(self, now_ns: int) -> Iterator[Parcel]:
        """Yield what has lingered long enough."""
        for cluster, gathered in list(self._gathered.items()):
            if now_ns - gathered.since_ns >= self._linger_ns:
                yield self._seal(cluster)

    def due_secs(self, now_ns: int) -> float | None:
        """Return the time until more has lingered long enough; None if nothing is gathered."""
        since = [gathered.since_ns for gathered in self._gathered.values()]
        return max(0.0, (min(since) + self._linger_ns - now_ns) / 1e9) if since else None

    def rest(self) -> Iterator[Parcel]:
        """Yield all that is gathered."""
        for cluster in list(self._gathered):
            yield self._seal(cluster)

    def _seal(self, cluster: str) -> Parcel:
        gathered = self._gathered.pop(cluster)
        heading = Heading(gathered.first, gathered.events, gathered.received_ns, self._writer)
        drafts = list(_drafts(cluster, heading, gathered.frames, gathered.counts))
        return Parcel(cluster, gathered.counts, gathered.size, drafts)


class RecordsShape:
    """Makes a message of each record: its line, and its symbol as the key, so that a symbol stays in one partition."""

    partition: Final = -1  # librdkafka chooses it by the key

    def __init__(self) -> None:
        self._one_of: dict[str, Mapping[str, int]] = {}

    def take(self, item: RecordsItem, now_ns: int) -> Iterator[Parcel]:
        """Yield the messages of the records of a read."""
        one_of = self._one_of
        for channel in item.counts:
            one_of[channel] = {channel: 1}
        drafts = [
            Draft(symbol.encode() or None, line, one_of[channel])
            for line, channel, symbol in zip(
                item.data[:-1].split(b"\n"), item.channels, item.symbols, strict=True
            )
        ]
        one_of.clear()
        yield Parcel(item.cluster, item.counts, item.size, drafts)

    def due(self, now_ns: int) -> Iterator[Parcel]:
        """Yield nothing: librdkafka gathers records."""
        return iter(())

    def due_secs(self, now_ns: int) -> float | None:
        """Return None: nothing is gathered here."""
        return None

    def rest(self) -> Iterator[Parcel]:
        """Yield nothing."""
        return iter(())


def _drafts(
    cluster: str, heading: Heading, frames: Sequence[bytes], counts: Mapping[str, int]
) -> Iterator[Draft]:
    """Yield one message with these frames, or several where that would be too large."""
    content = encode_frames(frames)
    halves = _halves(cluster, frames) if len(content) > CONTENT_BYTES_MAX else []
    if not halves:
        yield Draft(None, content, counts, {**heading.headers()})
        return
    decoder = Decoder(cluster)
    first = heading.first
    for half in halves:
        rows = decoder.decode(half)
        yield from _drafts(cluster, heading._replace(first=first, events=len(rows)), half, rows.counts)
        first += len(rows)


def _halves(cluster: str, frames: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return the frames in two parts, or a single frame as two; nothing where it has one event alone."""
    if len(frames) > 1:
        middle = len(frames) // 2
        return [frames[:middle], frames[middle:]]
    fragments = Decoder(cluster).decode(frames).fragments
    middle = len(fragments) // 2
    return [[array_of(fragments[:middle])], [array_of(fragments[middle:])]] if middle else []
