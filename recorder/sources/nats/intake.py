"""Takes the messages of a stream: proves that nothing is missing, and passes on their frames with positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Final

from recorder.bus import Border, Mark, Missed
from recorder.jetstream.consumer import StoredMessage
from recorder.log import get_logger
from recorder.overlap import Overlap, Read, Recorded
from recorder.polygon.events import Decoder
from recorder.polygon.rows import array_of
from recorder.sources.nats.cursor import PURGED, UNREADABLE, Cursor, Hole
from recorder.sources.nats.stats import StreamStats
from recorder.sources.source import SourceContext
from recorder.sources.stats import Gap
from recorder.stats import with_newest
from recorder.stream_message import UnknownMessage, decode_frames, heading_of

CAUGHT_UP_MESSAGES: Final = 16
"""With no more than this to read, the stream is followed as it grows."""
PASS_BYTES_MAX: Final = 512 * 1024
"""Frames of several messages share a pass up to this size, where more than one waits."""

log = get_logger("polygon_upstream")


class Intake:
    """What one stream brings, over all connections.

    A session opens once what was missed has been read. Where events are missing between two messages, the session ends and
    a new one begins: its gap says why.

    Where this recorder was killed, more is recorded than the position says that it goes on behind: that overlap is left out
    of what was in the stream at the start.
    """

    def __init__(self, context: SourceContext, stream: StreamStats) -> None:
        self.cursor = Cursor()
        self.pass_bytes = 0
        """Bytes of the frames that wait for the next pass."""
        self.read_seq = 0
        """The place in the stream of the last message that was passed on or passed over."""
        self.lost_ns = 0
        """Monotonic time since which there is no session; 0 while there is one, and before the first."""
        self._overlap = Overlap()
        self._sure = copy(self.cursor)
        """The cursor behind the last message that was passed on, while some are held for the overlap."""
        self._is_told = True
        """Whether a position was told behind what was passed on."""
        self._until_seq = 0
        """The last message that the stream had when the connection began: there the overlap ends."""
        self._context = context
        self._clock = context.clock
        self._stats = context.stats
        self._stream = stream
        self._session = context.session()
        self._frames: list[bytes] = []
        self._marks: list[Mark] = []
        self._resumed: int | None = None
        """Frames that came since the last session of what was missed; None where some may be missing."""
        self._taken_seq = 0
        self._missed: list[Missed] = []
        """Gaps that the next session tells of."""
        self._unreadable = ""
        """Why the last message could not be read; empty if it could."""

    @property
    def is_open(self) -> bool:
        """Whether a session is."""
        return self._session.opened_at_ns > 0

    @property
    def was_open(self) -> bool:
        """Whether the last session was ever open."""
        return self._session.lasted_secs > 0

    def go_on(self, recorded: Recorded) -> None:
        """Go on behind what is recorded."""
        self.cursor = Cursor(recorded.after)
        self.cursor.received_ns = recorded.since_ms * 1_000_000
        self._sure = copy(self.cursor)
        self._overlap = recorded.overlap

    def renew(self) -> None:
        """Prepare for another attempt to connect, which has a session of its own."""
        self._session = self._context.session()
        if not self._overlap.is_over:
            self._overlap.begin()
            self.cursor = copy(self._sure)  # what was held comes again

    def begin(self, until_seq: int, *, known: bool) -> None:
        """Begin with a connection to a stream with this last message; `known`: the cursor stood in it before."""
        cursor = self.cursor
        self._until_seq = until_seq
        if not known:
            self._overlap.end()
        self.read_seq = self._taken_seq = cursor.seq
        self._resumed = 0 if known else None
        if known and cursor.cause == PURGED:
            self._miss(cursor.received_ns, self._clock.wall_ns(), f"stream_{PURGED}")
            cursor.received_ns = self._clock.wall_ns()  # what else is missing is so behind this moment
        if cursor.is_begun:
            self._context.bus.pass_border(Border(self._context.cluster, cursor.after))
            self._show_position()

    def take(self, message: StoredMessage) -> None:
        """Take a message for the next pass."""
        stream, cursor = self._stream, self.cursor
        self._taken_seq = message.seq
        stream.messages += 1
        stream.bytes_read += len(message.content)
        stream.lag_messages = message.pending
        try:
            heading = heading_of(message.headers)
            frames = decode_frames(message.content)
        except UnknownMessage as error:
            self._pass_over(message.seq, str(error))
            return
        self._unreadable = ""
        taken = cursor.take(message.seq, heading)
        if taken.hole is not None:
            self._tell(taken.hole)
        if taken.missed:
            missed = [Missed(*away) for away in taken.missed]
            self._break(missed[-1].reason, lambda: self._missed.extend(missed))
        if taken.known:
            frames = _without_first(self._context.cluster, frames, taken.known)
        if not self._overlap.is_over:
            self._leave_out(frames)
        elif frames:
            self._add(frames, cursor.after)
        self.show_lag(waits=message.pending > 0)
        if not self.is_open and self._overlap.is_over and message.pending <= CAUGHT_UP_MESSAGES:
            self.open()

    def show_lag(self, *, waits: bool) -> None:
        """Note how old the last event is, where more of them wait."""
        age_secs = (self._clock.wall_ns() - self.cursor.received_ns) / 1e9
        self._stream.lag_secs = max(0.0, age_secs) if waits else 0.0

    def deliver(self) -> None:
        """Pass on what was taken, in one synchronous pass."""
        frames, marks = self._frames, self._marks
        if frames:
            self._frames, self._marks, self.pass_bytes = [], [], 0
            self._session.publish(frames, marks=marks)
            self._show_position()
        self.read_seq = self._taken_seq

    def open(self) -> None:
        """Open the session: what was missed has come, as far as it ever will."""
        if not self._overlap.is_over:
            self._pass(self._overlap.end())
        self.deliver()
        stats, now_ns = self._stats, self._clock.monotonic_ns()
        missed, self._missed = tuple(self._missed), []
        if self.lost_ns:
            stats.reconnect_successes += 1
            stats.reconnect_seconds.observe((now_ns - self.lost_ns) / 1e9)
        self.lost_ns = stats.gap_since = 0
        if self._resumed is not None:
            stats.resumes += 1
            log.info("resumed", cluster=self._context.cluster, frames=self._resumed)
        for each in missed:
            self._note(each)
        self._session.open(self._resumed, missed)

    def leave(self, reason: str) -> None:
        """Pass on what was taken, and end the session."""
        self.deliver()
        if self.is_open:
            stats = self._stats
            stats.gap_since = (stats.last_received_ns or self._clock.wall_ns()) // 1_000_000
            stats.gap_reason = reason
            self.lost_ns = self._clock.monotonic_ns()
        self._session.close(reason, after=self._after)

    @property
    def _after(self) -> str:
        """The position behind what was passed on; empty where none was told."""
        if self._overlap.is_over:
            return self.cursor.after
        return self._sure.after if self._is_told else ""

    def _add(self, frames: Sequence[bytes], after: str) -> None:
        """Have frames passed on with the position behind them, if it is known."""
        self._frames += frames
        self.pass_bytes += sum(map(len, frames))
        if not self.is_open and self._resumed is not None:
            self._resumed += len(frames)
        if after:
            self._marks.append(Mark(len(self._frames), after))

    def _leave_out(self, frames: Sequence[bytes]) -> None:
        """Take a message of which events may be recorded."""
        read = self._overlap.take(frames, self.cursor.after)
        if read is None and self._taken_seq >= self._until_seq:
            read = self._overlap.end()
        self._pass(read)

    def _pass(self, read: Read | None) -> None:
        """Pass on what is left of messages that were held."""
        if read is None:
            return
        self._sure, self._is_told = copy(self.cursor), bool(read.after)
        if read.frames:
            self._add(read.frames, read.after)
            self.deliver()
        elif read.after:
            self._context.bus.pass_border(Border(self._context.cluster, read.after))

    def _pass_over(self, seq: int, words: str) -> None:
        """Leave out a message that cannot be read: whatever it has is missing, and the gap lasts until the next one."""
        self.cursor.cause = UNREADABLE
        self._stream.unreadable += 1
        shown = f"message {seq} of stream {self._stream.stream} cannot be read: {words}"
        if words != self._unreadable:
            self._unreadable = words
            log.error("stream_unreadable", cluster=self._context.cluster, message=shown)
        self.leave(f"stream_{UNREADABLE}")
        self._resumed = self._resumed or 0
        self._stats.reason = shown

    def _tell(self, hole: Hole) -> None:
        """Say that events are missing: to the log, the archive, the clients."""
        stream = self._stream
        stream.holes[hole.cause] += 1
        stream.events_missing += hole.events or 0
        log.error(
            "stream_hole",
            cluster=self._context.cluster,
            stream=stream.stream,
            cause=hole.cause,
            events=hole.events,
        )
        self._break(hole.reason, lambda: self._miss(hole.from_ns, hole.to_ns, hole.reason))

    def _break(self, reason: str, miss: Callable[[], None]) -> None:
        """End the session, if it is open, and begin another one that tells of what `miss` notes."""
        was_open = self.is_open
        if was_open:
            self.leave(reason)
            self._resumed = 0
        miss()
        if was_open:
            self.open()

    def _miss(self, from_ns: int, to_ns: int, reason: str) -> None:
        """Have the next session tell of a gap; where nobody knows since when, the archive may."""
        if from_ns:
            self._missed.append(Missed(from_ns // 1_000_000, to_ns // 1_000_000, reason))
        else:
            self._resumed = None

    def _note(self, missed: Missed) -> None:
        """Count and report a time of which events are missing."""
        stats, secs = self._stats, max(0.0, (missed.to_ms - missed.from_ms) / 1e3)
        stats.gaps += 1
        stats.gap_secs += secs
        stats.recent_gaps = with_newest(stats.recent_gaps, Gap(*missed))
        log.warning(
            "gap",
            cluster=self._context.cluster,
            secs=round(secs, 3),
            from_ms=missed.from_ms,
            to_ms=missed.to_ms,
            reason=missed.reason,
        )

    def _show_position(self) -> None:
        stream, cursor = self._stream, self.cursor
        stream.position, stream.event, stream.sequence = cursor.after, cursor.event, cursor.seq

    def __repr__(self) -> str:
        return f"Intake({self.cursor!r}, open={self.is_open})"


def _without_first(cluster: str, frames: Sequence[bytes], count: int) -> list[bytes]:
    """Return frames with all events but the first of them."""
    rest = Decoder(cluster).decode(frames).fragments[count:]
    return [array_of(rest)] if rest else []
