"""PURE. One cluster's events on their way into its stream: gathered to messages, numbered, sent, acknowledged.

A message is appended by compare-and-set: it names the sequence number that the stream's last message must have. So a
message that is sent twice, because nobody knows whether it arrived, is stored once. The messages keep their bounds when
they are sent again; hence the end of the stream says which of them had arrived.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from recorder.polygon.events import Decoder
from recorder.polygon.rows import array_of
from recorder.stream_message import BODY_BYTES_MAX, End, Heading, Names, decode_frames, encode_frames

GATHERED_BYTES_MAX: Final = 512 * 1024
"""Frames that are sent as one message, before they are compressed; a read that is larger is a message of its own."""
CONTENT_BYTES_MAX: Final = 700 * 1024
"""A larger content is split, so that the servers' own limit of 1 MiB holds also where it is read as base64."""
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
    dropped: int = 0
    first: int = 0
    """The number of its first event, once it is sent."""
    seq: int = 0
    """The place in the stream that it is sent to."""
    gap: str = ""
    sent_ns: int = 0
    """Monotonic clock."""


@dataclass(slots=True)
class _Gathered:
    """The frames of the next message."""

    frames: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    received_ns: int = 0
    since_ns: int = 0
    dropped: int = 0


class Appender:
    """Knows what is under way into one stream. It never waits and never sends; `NatsPublisher` does."""

    def __init__(self, cluster: str, prefix: str, writer: str) -> None:
        """`writer` names this run of the recorder in each message."""
        self.cluster = cluster
        self.stream, self.subject = Names.of(prefix, cluster)
        self.writer = writer
        self.content_bytes_max = CONTENT_BYTES_MAX
        self._gathered = _Gathered()
        self._waiting: deque[Message] = deque()
        self.sent: deque[Message] = deque()
        """Sent and not acknowledged, in order."""
        self.bytes_under_way = 0
        """The content of all messages that are made and not acknowledged."""
        self.created = ""
        """Of the stream that is appended to; empty before it is known."""
        self.last_seq = 0
        """Of the last message that is known to be stored."""
        self.next_first = 1
        """The number of the event behind it."""
        self.last_received_ns = 0
        """When its frames were received, by the wall clock; 0: not known."""
        self._gap = ""
        """What the next message has to say of the stream."""
        self._gap_noted_seq = -1

    def gather(self, item: Frames, now_ns: int) -> None:
        """Take the frames of one read."""
        gathered = self._gathered
        if gathered.frames and (item.dropped or gathered.size + item.size > GATHERED_BYTES_MAX):
            self.seal()
            gathered = self._gathered
        if not gathered.frames:
            gathered.received_ns, gathered.since_ns = item.received_ns, now_ns
            gathered.dropped += item.dropped
        gathered.frames += item.frames
        gathered.counts.update(item.counts)
        gathered.size += item.size
        if gathered.size >= GATHERED_BYTES_MAX:
            self.seal()

    @property
    def gathered_since_ns(self) -> int:
        """When the first of the gathered frames was taken, on the monotonic clock; 0: there are none."""
        return self._gathered.since_ns if self._gathered.frames else 0

    def seal(self) -> None:
        """Make a message of what is gathered."""
        gathered = self._gathered
        if not gathered.frames:
            return
        self._gathered = _Gathered()
        content = encode_frames(gathered.frames)
        events = gathered.counts.total()
        message = Message(
            content, gathered.counts, events, gathered.received_ns, gathered.size, gathered.dropped
        )
        self._waiting.append(message)
        self.bytes_under_way += len(content)

    def unsent(self) -> Iterator[Message]:
        """Yield each message that waits, numbered; it counts as sent from then on.

        Messages beyond the servers' limit are split. What cannot be split is left to `too_large`.
        """
        while self._waiting:
            while len(self._waiting[0].content) > self.content_bytes_max:
                if not self._split():
                    return
            message = self._waiting.popleft()
            behind = self.sent[-1] if self.sent else None
            message.first = behind.first + behind.events if behind else self.next_first
            message.seq = behind.seq + 1 if behind else self.last_seq + 1
            message.gap, self._gap = self._gap, ""
            self.sent.append(message)
            yield message

    def too_large(self) -> Message | None:
        """Take away and return the message that is next and cannot be sent, whatever is done; None if there is none."""
        if not self._waiting or len(self._waiting[0].content) <= self.content_bytes_max:
            return None
        message = self._waiting.popleft()
        self.bytes_under_way -= len(message.content)
        # Whoever reads the next one learns that this one is missing.
        if self._waiting:
            self._waiting[0].dropped += message.events + message.dropped
        else:
            self._gathered.dropped += message.events + message.dropped
        return message

    def heading(self, message: Message) -> Heading:
        """Return what the headers of a message are to say."""
        return Heading(
            message.first, message.events, message.received_ns, self.writer, message.dropped, message.gap
        )

    def acknowledged(self, seq: int) -> list[Message]:
        """Return the messages up to a place in the stream, which are stored: each names the one before it."""
        done = []
        while self.sent and self.sent[0].seq <= seq:
            message = self.sent.popleft()
            self.bytes_under_way -= len(message.content)
            self.last_seq = message.seq
            self.next_first = message.first + message.events
            self.last_received_ns = message.received_ns
            done.append(message)
        return done

    def is_foreign(self, end: End) -> bool:
        """Whether another run has appended behind the last message that is known to be ours."""
        if not self.created or end.created != self.created or end.last is None:
            return False
        return end.last.writer != self.writer and end.last_heading_seq > self.last_seq

    def resume(self, end: End) -> list[Message]:
        """Go on where the stream ends. Return the messages that had arrived; all others wait to be sent again."""
        arrived: list[Message] = []
        if not self.created:
            self.next_first = end.last.next_first if end.last else end.last_seq * BODY_BYTES_MAX + 1
            if end.last is None and end.last_seq:
                self._gap = "emptied"  # no event ever had the number that is next: each takes a byte at least
        elif end.created != self.created:
            self._gap = "deleted"
            self.next_first = end.last.next_first if end.last else self.next_first
        elif self.is_foreign(end):
            assert end.last is not None
            self.next_first = end.last.next_first
        else:
            arrived = self.acknowledged(end.last_seq)
            if end.last is None and self.last_seq > max(0, self._gap_noted_seq):
                self._gap, self._gap_noted_seq = "purged", self.last_seq
            elif end.last_seq < self.last_seq:
                self._gap = "rolled back"
        for message in self.sent:
            self._gap = self._gap or message.gap
        self._waiting.extendleft(reversed(self.sent))
        self.sent.clear()
        self.created, self.last_seq = end.created, end.last_seq
        self.last_received_ns = end.last.received_ns if end.last else 0
        return arrived

    def note_purge(self) -> None:
        """Let the next message say that all before it are gone."""
        self._gap, self._gap_noted_seq = "purged", self.last_seq

    @property
    def gap(self) -> str:
        """What the next message has to say of the stream; empty for nothing."""
        return self._gap

    def abandon(self) -> list[Message]:
        """Take away and return all that is not stored, as far as anybody knows."""
        self.seal()
        left = [*self.sent, *self._waiting]
        self.sent.clear()
        self._waiting.clear()
        self.bytes_under_way = 0
        return left

    def _split(self) -> bool:
        """Put two messages in the place of the first that waits; return whether that was possible."""
        whole = self._waiting[0]
        frames: Sequence[bytes] = decode_frames(whole.content)
        decoder = Decoder(self.cluster)
        if len(frames) == 1:
            fragments = decoder.decode(frames).fragments
            half = len(fragments) // 2
            halves = [[array_of(fragments[:half])], [array_of(fragments[half:])]]
        else:
            half = len(frames) // 2
            halves = [list(frames[:half]), list(frames[half:])]
        if not half:
            return False
        parts = []
        for part in halves:
            rows = decoder.decode(part)
            parts.append(Message(encode_frames(part), rows.counts, len(rows), whole.received_ns, 0))
        if not all(part.events for part in parts):
            parts = [part for part in parts if part.events]
        if sum(part.events for part in parts) != whole.events:
            return False
        parts[0].dropped = whole.dropped
        parts[-1].size = whole.size
        self._waiting.popleft()
        self._waiting.extendleft(reversed(parts))
        self.bytes_under_way += sum(len(part.content) for part in parts) - len(whole.content)
        return True

    def __repr__(self) -> str:
        return (
            f"Appender({self.stream}, seq={self.last_seq}, next_first={self.next_first}, "
            f"sent={len(self.sent)}, waiting={len(self._waiting)})"
        )
