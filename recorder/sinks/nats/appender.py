"""PURE. One cluster's events on their way into its stream: gathered to messages, numbered, sent, acknowledged.

A message is appended by compare-and-set: it names the sequence number that the stream's last message must have. One
message is under way at a time, so none can be stored behind one that was refused. What was stored behind the last
message that is known to be stored is read before anything is sent, whoever wrote it; what it holds is taken out of what
is to be sent. So a message whose outcome nobody knows is stored once, and two recorders of one feed append each event
once.

The recorder whose message is the newest one leads: it appends what comes. The other one follows, keeps each event for
the time of a takeover, and appends what the stream has not got by then: as a fill, or, where the other one has been
silent for as long, as the one that leads from then on.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from recorder.ledger import PairStats
from recorder.settings.nats import NatsRole
from recorder.sinks.nats.absences import Absences
from recorder.sinks.nats.ahead import Ahead
from recorder.sinks.nats.message import Frames, Gathered, Message, Stored, halves_of, without
from recorder.stream_message import BODY_BYTES_MAX, HANDED_OVER, End, Heading, Names, decode_frames

GATHERED_BYTES_MAX: Final = 512 * 1024
"""Frames that are sent as one message, before they are compressed; a read that is larger is a message of its own."""
CONTENT_BYTES_MAX: Final = 700 * 1024
"""A larger content is split, so that the servers' own limit of 1 MiB holds also where it is read as base64."""
NEVER_NS: Final = 1 << 62
ALONE_NS: Final = 10_000_000_000
"""A recorder that has heard nothing of another one for that long does not listen for it: a refusal says that it is back."""
LOOK_BACK_NS: Final = 10_000_000_000
"""Messages of the last seconds are read at the start: their events may come yet over a connection that is slower."""
_PARTS_OF_TAKEOVER: Final = 4
"""A recorder that follows makes a message of what comes within this part of the time for a takeover."""


class Appender:
    """Knows what is under way into one stream. It never waits and never sends; `NatsPublisher` does."""

    def __init__(
        self,
        cluster: str,
        prefix: str,
        writer: str,
        stats: PairStats,
        role: NatsRole,
        takeover_ns: int,
        absences: Absences,
    ) -> None:
        """`writer` names this run of the recorder in each message; `role` is how it begins."""
        self.cluster = cluster
        self.stream, self.subject = Names.of(prefix, cluster)
        self.writer = writer
        self.stats = stats
        self.content_bytes_max = CONTENT_BYTES_MAX
        self.takeover_ns = takeover_ns
        self._absences = absences
        self._ahead = Ahead(cluster)
        self._gathered = Gathered()
        self._waiting: deque[Message] = deque()
        self._compared = 0
        """How many of these, from the first on, were compared with what the stream has."""
        self.sent: Message | None = None
        """Sent and not acknowledged."""
        self._stored: list[Stored] = []
        self._lost: list[Message] = []
        self.bytes_under_way = 0
        """The content of all messages that are made and not acknowledged."""
        self.created = ""
        """Of the stream that is appended to; empty before it is known."""
        self.last_seq = 0
        """Of the last message that is known."""
        self.end_seq = 0
        """Of the last message that is known to exist. What is between is read before anything is sent."""
        self.next_first = 1
        """The number of the event behind the last message that is known."""
        self.last_received_ns = 0
        """When its frames were received, by the wall clock; 0: not known."""
        self.heard_ns = 0
        """When another recorder's message was read last, or the stream was looked at first. Monotonic clock."""
        self.gap = ""
        """What the next message has to say of the stream; empty for nothing."""
        self._gap_noted_seq = -1
        self._role = role
        self._history_seq = 0
        """Of the last message that the stream had at the start: who wrote up to there does not matter."""
        self._look_back_to_ns = 0

    @property
    def leads(self) -> bool:
        """Whether this recorder appends what comes; else it follows the one that does."""
        return self.stats.leads

    @property
    def is_behind(self) -> bool:
        """Whether the stream has messages that are not known yet."""
        return self.last_seq < self.end_seq

    def gather(self, item: Frames, now_ns: int) -> None:
        """Take the frames of one read."""
        gathered = self._gathered
        self._absences.take(item.received_ns, lost=item.dropped > 0)
        if gathered.frames and (
            item.dropped
            or gathered.size + item.size > GATHERED_BYTES_MAX
            or self._absences.lies_between(gathered.received_ns, item.received_ns)
        ):
            self.seal()
            gathered = self._gathered
        gathered.add(item, now_ns)
        if gathered.size >= GATHERED_BYTES_MAX:
            self.seal()

    def linger(self, now_ns: int, linger_ns: int) -> int:
        """Make a message of what is gathered once it has waited for long enough; return the nanoseconds until then.

        While a message is under way, the next one may grow. A recorder that follows makes few, large ones.
        """
        gathered = self._gathered
        if not gathered.frames:
            return NEVER_NS
        if not self.leads or self._absences.due:
            linger_ns = max(linger_ns, self.takeover_ns // _PARTS_OF_TAKEOVER)
        rest_ns = gathered.since_ns + linger_ns - now_ns
        if rest_ns <= 0 and (self.sent is None or not self.leads):
            self.seal()
        return max(0, rest_ns)

    def seal(self) -> None:
        """Make a message of what is gathered."""
        gathered = self._gathered
        if not gathered.frames:
            return
        self._gathered, message = Gathered(), gathered.sealed()
        self._waiting.append(message)
        self.bytes_under_way += len(message.content)

    def due_ns(self, now_ns: int) -> int:
        """Return the nanoseconds until a message that waits may be sent, as far as time decides."""
        return max(0, self._waiting[0].since_ns + self._wait_ns - now_ns) if self._waiting else NEVER_NS

    @property
    def _wait_ns(self) -> int:
        """How long the next message has to wait for what another recorder appends."""
        if self.gap != HANDED_OVER and self._absences.before(self._waiting[0].received_ns):
            return self._absences.patience_ns
        return 0 if self.leads else self.takeover_ns

    def next_message(self, now_ns: int) -> Message | None:
        """Return the message that is to be sent now, numbered; it counts as sent from then on. None: there is none.

        A message beyond the servers' limit is split. What cannot be split is lost: `take_lost` has it.
        """
        if self.sent is not None or self.is_behind:
            return None
        while self._waiting:
            if self._waiting[0].since_ns + self._wait_ns > now_ns:
                return None
            if self._ahead:
                self._ahead.expire(now_ns)
                if not self._take_out_covered(0):
                    continue
            if len(self._waiting[0].content) > self.content_bytes_max:
                if not self._split():
                    self._lose()
                continue
            message = self.sent = self._waiting.popleft()
            self._compared = max(0, self._compared - 1)
            is_fill = not self.leads and now_ns - self.heard_ns < self.takeover_ns
            message.role = "fill" if is_fill else "active"
            message.first, message.seq = self.next_first, self.last_seq + 1
            message.gap, self.gap = self.gap, ""
            message.missed = self._absences.before(message.received_ns)
            waits = self._waiting[0] if self._waiting else self._gathered
            message.covers = self._absences.covers(waits.received_ns)
            return message
        return None

    def _take_out_past(self, until_ns: int) -> None:
        """Compare what was received before then, by the wall clock: of a long past, more is read than is kept."""
        while self._compared < len(self._waiting) and self._waiting[self._compared].received_ns < until_ns:
            self._compared += self._take_out_covered(self._compared)

    def _take_out_covered(self, place: int) -> bool:
        """Take out of a message that waits what the stream has already; return whether anything is left of it."""
        message = self._waiting[place]
        rows, covered = self._ahead.covered(decode_frames(message.content))
        if not any(covered):
            return True
        left, known = without(message, rows, covered)
        self._stored.append(known)
        self.stats.covered_events += known.events
        self.bytes_under_way += (len(left.content) if left else 0) - len(message.content)
        if left is not None:
            self._waiting[place] = left
            return True
        del self._waiting[place]
        self._compared -= place < self._compared
        # The next message says what this one had to say. What a recorder that follows has lost, the other may well have.
        self._note_dropped(message.dropped if self.leads else 0, place)
        self.gap = self.gap or message.gap
        return False

    def _note_dropped(self, events: int, place: int = 0) -> None:
        into = self._waiting[place] if place < len(self._waiting) else self._gathered
        into.dropped += events

    def _lose(self) -> None:
        message = self._waiting.popleft()
        self.bytes_under_way -= len(message.content)
        self._lost.append(message)
        self._absences.lose()
        # Whoever reads the next one learns that this one is missing.
        self._note_dropped(message.events + message.dropped)

    @property
    def has_events(self) -> bool:
        """Whether there are events that are not known to be in the stream."""
        return self.sent is not None or bool(self._waiting) or bool(self._gathered.frames)

    def count(self) -> None:
        """Bring the gauges up to date."""
        stats = self.stats
        waiting = sum(message.events for message in self._waiting) + (self.sent.events if self.sent else 0)
        stats.uncovered_events = waiting + self._gathered.counts.total()
        stats.behind_messages = self.end_seq - self.last_seq
        stats.kept_events = len(self._ahead)

    def take_stored(self) -> list[Stored]:
        """Return, once, what has turned out to be in the stream."""
        stored, self._stored = self._stored, []
        return stored

    def take_lost(self) -> list[Message]:
        """Return, once, messages that cannot be sent, whatever is done."""
        lost, self._lost = self._lost, []
        return lost

    def heading(self, message: Message) -> Heading:
        """Return what the headers of a message are to say."""
        return message.heading(self.writer)

    def acknowledged(self) -> None:
        """Note that the message that was sent is stored where it was sent to."""
        message, self.sent = self.sent, None
        assert message is not None
        self.bytes_under_way -= len(message.content)
        self.last_seq = self.end_seq = message.seq
        self.next_first = message.first + message.events
        self.last_received_ns = message.received_ns
        self._absences.told(message.missed)
        self._stored.append(Stored(message.counts, message.events, message.size))
        if message.role == "fill":
            self.stats.fills += 1
            self.stats.filled_events += message.events
        elif not self.leads:
            self.stats.leads = True
            self.stats.takeovers += 1

    def refused(self, end_seq: int) -> None:
        """Note that the message that was sent is not stored, since the stream has more messages than we know."""
        self.stats.conflicts += 1
        self.end_seq = max(self.end_seq, end_seq)
        self._take_back()

    def absorb(self, seq: int, heading: Heading, content: bytes, now_ns: int) -> None:
        """Take a message that the stream has behind the last one that is known, whoever wrote it."""
        if seq <= self.last_seq:
            return
        is_ours = heading.writer == self.writer
        sent = self.sent
        if sent is not None and is_ours and (seq, heading.first) == (sent.seq, sent.first):
            self.acknowledged()  # it was read sooner than its acknowledgement
            return
        self.last_seq = seq
        self.end_seq = max(self.end_seq, seq)
        self.next_first = heading.next_first
        self.last_received_ns = heading.received_ns
        self._ahead.add(decode_frames(content), now_ns)
        self._absences.read(heading, is_ours=is_ours)
        self._take_out_past(heading.received_ns - self.takeover_ns)
        if heading.gap:
            self.gap = ""  # the other one has told of it
        if seq <= self._history_seq:
            return
        if heading.role == "active" and self.leads != is_ours:
            if is_ours:
                self.stats.leads = True
                self.stats.takeovers += 1
            else:
                self.follow()
        if not is_ours:
            self.heard_ns = now_ns
            self.stats.other = heading.writer

    @property
    def looks_back_to_ns(self) -> int:
        """From when on messages are read at the start, by the servers' wall clock; 0 once some are known."""
        return self._look_back_to_ns if self.last_seq == 0 else 0

    def follow(self) -> None:
        """Lead no more: another recorder does."""
        if self.leads:
            self.stats.leads = False
            self.stats.step_backs += 1

    def claim(self) -> None:
        """Lead from now on, though nothing has come from the exchange yet: nobody has what it sent meanwhile."""
        if not self.leads:
            self.stats.leads = True
            self.stats.takeovers += 1
            self.gap = self.gap or HANDED_OVER

    def know_all(self, end_seq: int) -> None:
        """Note that everything up to a place in the stream is known, also where its last messages are gone."""
        self.last_seq = max(self.last_seq, end_seq)

    def is_alone(self, now_ns: int) -> bool:
        """Whether this recorder leads, knows everything, and has not heard of another one lately."""
        return self.leads and not self.is_behind and now_ns - self.heard_ns > ALONE_NS

    def resume(self, end: End, now_ns: int, *, is_idle: bool) -> None:
        """Go on with a stream as a new connection finds it. What it has behind the last known message is to be read then.

        `is_idle`: nobody has appended anything lately.
        """
        if not self.created:
            self._begin(end, now_ns, is_idle or end.last is None)
        elif end.created != self.created:
            self.gap, self.last_seq, self._look_back_to_ns = "deleted", 0, 0
        elif end.last is None:
            self._resume_empty(end.last_seq)
        elif end.last_seq < self.last_seq:
            self.gap, self.last_seq = "rolled back", end.last_seq
        self._take_back()
        self.created, self.end_seq = end.created, end.last_seq
        self.last_received_ns = end.last.received_ns if end.last else 0

    def _begin(self, end: End, now_ns: int, is_idle: bool) -> None:
        """Begin with a stream. Of one that is not idle, the latest messages are read: their events may come to us yet."""
        # No event of a stream that was emptied ever had the number that is next: each takes a byte at least.
        self.next_first = end.last.next_first if end.last else end.last_seq * BODY_BYTES_MAX + 1
        self.heard_ns, self._history_seq = now_ns, end.last_seq
        self._absences.begin(end.last)
        self.stats.leads = self._role == "active" or (self._role == "auto" and is_idle)
        if is_idle:
            self.last_seq = end.last_seq
            self.heard_ns -= ALONE_NS
        elif end.last is not None:
            self._look_back_to_ns = end.stored_ns - LOOK_BACK_NS
            self.stats.other = end.last.writer
        if end.last is None and end.last_seq:
            self.gap = "emptied"

    def _resume_empty(self, end_seq: int) -> None:
        """Go on with a stream that had messages, and has none."""
        if self.sent is not None and self.sent.seq <= end_seq:
            self.acknowledged()  # nobody can say that it was not
        if end_seq > max(0, self._gap_noted_seq):
            self.gap, self._gap_noted_seq = "purged", end_seq
        self.last_seq = end_seq

    def note_purge(self) -> None:
        """Let the next message say that all before it are gone."""
        self.gap, self._gap_noted_seq = "purged", self.last_seq

    def abandon(self) -> list[Message]:
        """Take away and return all that is not stored, as far as anybody knows."""
        self.seal()
        self._take_back()
        left = list(self._waiting)
        self._waiting.clear()
        self.bytes_under_way = 0
        return left

    def _take_back(self) -> None:
        """Let the message that was sent wait again, since it is not stored, or nobody knows."""
        message, self.sent = self.sent, None
        if message is not None:
            self.gap = self.gap or message.gap
            self._waiting.appendleft(message)
            self._compared += 1

    def _split(self) -> bool:
        """Put two messages in the place of the first that waits; return whether that was possible."""
        whole = self._waiting[0]
        parts = halves_of(whole, self.cluster)
        if parts:
            self._waiting.popleft()
            self._waiting.extendleft(reversed(parts))
            self.bytes_under_way += sum(len(part.content) for part in parts) - len(whole.content)
        return bool(parts)

    def __repr__(self) -> str:
        return (
            f"Appender({self.stream}, seq={self.last_seq}, next_first={self.next_first}, "
            f"leads={self.leads}, is_sending={self.sent is not None}, waiting={len(self._waiting)})"
        )
