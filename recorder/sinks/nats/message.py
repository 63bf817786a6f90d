"""PURE. The frames of a read on their way into a message of a stream, and what becomes of a message that is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows, array_of
from recorder.stream_message import Away, Heading, Role, decode_frames, encode_frames

FRAME_COST_BYTES: Final = 64
"""What a frame takes in memory besides its bytes."""


@dataclass(slots=True)
class Frames:
    """The frames of one read, and how many events of each channel they hold."""

    cluster: str
    received_ns: int
    frames: Sequence[bytes]
    counts: Mapping[str, int]
    size: int
    """Bytes in memory."""
    dropped: int = 0
    """Events that were lost just before these."""


@dataclass(slots=True)
class Message:
    """Frames in the form in which they are stored."""

    content: bytes
    counts: Mapping[str, int]
    events: int
    received_ns: int
    size: int
    """Bytes of the frames that it was made of, as the sink's queue counts them."""
    since_ns: int
    """When the first of them was taken. Monotonic clock."""
    dropped: int = 0
    first: int = 0
    """The number of its first event, once it is sent."""
    seq: int = 0
    """The place in the stream that it is sent to."""
    gap: str = ""
    role: Role = "active"
    missed: tuple[Away, ...] = ()
    covers: tuple[int, int] = (0, 0)
    sent_ns: int = 0
    """Monotonic clock."""

    def heading(self, writer: str) -> Heading:
        """Return what the headers are to say."""
        dropped = self.dropped if self.role == "active" else 0
        return Heading(
            self.first,
            self.events,
            self.received_ns,
            writer,
            dropped,
            self.gap,
            self.role,
            self.missed,
            self.covers,
        )


class Stored(NamedTuple):
    """Events that are in the stream."""

    counts: Mapping[str, int]
    events: int
    size: int
    """Bytes of the frames that nothing is left of."""


@dataclass(slots=True)
class Gathered:
    """The frames of the next message."""

    frames: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    received_ns: int = 0
    since_ns: int = 0
    dropped: int = 0

    def add(self, item: Frames, now_ns: int) -> None:
        """Take the frames of one read."""
        if not self.frames:
            self.received_ns, self.since_ns = item.received_ns, now_ns
            self.dropped += item.dropped
        self.frames += item.frames
        self.counts.update(item.counts)
        self.size += item.size

    def sealed(self) -> Message:
        """Return a message of them."""
        return Message(
            encode_frames(self.frames),
            self.counts,
            self.counts.total(),
            self.received_ns,
            self.size,
            self.since_ns,
            self.dropped,
        )


def without(message: Message, rows: Rows, covered: Sequence[bool]) -> tuple[Message | None, Stored]:
    """Return what is left of a message without the covered ones of its events, and what these are."""
    rest = rows.where([not each for each in covered])
    if not len(rest):
        return None, Stored(message.counts, message.events, message.size)
    content = encode_frames([array_of(rest.fragments)])
    known = rows.where(covered)
    left = replace(message, content=content, counts=rest.counts, events=len(rest))
    return left, Stored(known.counts, len(known), 0)


def halves_of(whole: Message, cluster: str) -> list[Message]:
    """Return two messages with the content of one, cut between its frames, or between its events; none: it has but one."""
    frames: Sequence[bytes] = decode_frames(whole.content)
    decoder = Decoder(cluster)
    if len(frames) == 1:
        fragments = decoder.decode(frames).fragments
        half = len(fragments) // 2
        halves = [[array_of(fragments[:half])], [array_of(fragments[half:])]]
    else:
        half = len(frames) // 2
        halves = [list(frames[:half]), list(frames[half:])]
    if not half:
        return []
    parts = []
    for part in halves:
        rows = decoder.decode(part)
        if len(rows):
            parts.append(
                replace(
                    whole,
                    content=encode_frames(part),
                    counts=rows.counts,
                    events=len(rows),
                    size=0,
                    dropped=0,
                )
            )
    if sum(part.events for part in parts) != whole.events:
        return []
    parts[0].dropped = whole.dropped
    parts[-1].size = whole.size
    return parts
