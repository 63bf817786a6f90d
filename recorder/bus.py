"""One in-process bus: a source publishes batches, consumers take them off in one synchronous pass."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, runtime_checkable

from recorder.log import RateLimited, get_logger
from recorder.polygon.careful import is_status_only, names_status, statuses_in
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows, ScannedRows, Status

_WARN_SECS: Final = 5.0

log = get_logger("polygon_events")


class Mark(NamedTuple):
    """A border between two reads of the recorder that has the connection to the exchange."""

    frames: int
    """Of a batch, that have come by then."""
    after: str
    """The position, as clients are told: it stands for everything of the cluster up to there."""


class Batch:
    """The frames of one read of one cluster's socket: decoded once, when somebody first asks, and shared by all.

    `frames` are the bytes as received, `received_ns` is wall-clock nanoseconds. `read_ns` is the same moment by the
    source's own clock, which never jumps: `Watermark.until_ns` is of that clock, and only differences mean something.
    Frames that hold nothing but statuses are among them: `statuses` has their content, `data_frames` leaves them out.
    """

    __slots__ = (
        "_data_frames",
        "_decoder",
        "_events_count",
        "_format",
        "_lines",
        "_rows",
        "_statuses",
        "_wire",
        "cluster",
        "frames",
        "marks",
        "read_ns",
        "received_ns",
        "recorded",
    )

    def __init__(
        self,
        cluster: str,
        received_ns: int,
        frames: Sequence[bytes],
        decoder: Decoder,
        events_count: int = 0,
        *,
        read_ns: int,
        wire: Sequence[bytes] = (),
        marks: Sequence[Mark] = (),
    ) -> None:
        """`events_count`: how many events there are, where another process knows already.

        `wire`: where a source has that, what it read, in pieces: the same frames, each a text message in one unmasked
        WebSocket frame whose header is as short as can be.
        """
        self.cluster = cluster
        self.received_ns = received_ns
        self.read_ns = read_ns
        self.frames = frames
        self.marks = marks
        """Borders between reads among the frames, in order; none where nobody has numbered them."""
        self.recorded: Rows | None = None
        """The rows that become records, numbered by the stage; None where there is no stage, and nothing to record."""
        self._format: Format | None = None
        self._decoder = decoder
        self._events_count = events_count
        self._wire = wire
        # Made when somebody first asks.
        self._rows: Rows | None = None
        self._lines: bytes | None = None
        self._statuses: list[Status] | None = None
        self._data_frames: Sequence[bytes] | None = None

    @property
    def rows(self) -> Rows:
        """The events of all frames, in order."""
        rows = self._rows
        if rows is None:
            rows = self._rows = self._decoder.decode(self.frames)
        return rows

    @property
    def plain_frames(self) -> Sequence[bytes]:
        """The frames, where all are arrays without white space that hold the rows and nothing else; else none."""
        return self.frames if isinstance(self.rows, ScannedRows) else ()

    @property
    def wire(self) -> bytes:
        """All frames as a server sends them, headers and all, byte for byte; empty where the source does not have that."""
        if len(self._wire) != 1:
            self._wire = (b"".join(self._wire),)
        return self._wire[0]

    def record(self, rows: Rows, format_: Format) -> None:
        """Let these rows become records, whose lines `format_` makes."""
        self.recorded = rows
        self._format = format_

    @property
    def lines(self) -> bytes:
        """The records in the order of arrival, a line each; made when a sink first asks, and shared by all sinks."""
        lines = self._lines
        if lines is None:
            lines = self._lines = self.lines_of(self.recorded) if self.recorded is not None else b""
        return lines

    def lines_of(self, rows: Rows) -> bytes:
        """Return the lines of some of the records."""
        assert self._format is not None, "there are no records before the stage has made them"
        return self._format(self.received_ns // 1_000_000, rows)

    @property
    def statuses(self) -> list[Status]:
        """The statuses among the events, in order."""
        if self._rows is not None:
            return self._rows.statuses
        if self._statuses is None:
            # One search through all is cheaper than one through each.
            frames = self.frames if names_status(self.wire or b"".join(self.frames)) else ()
            self._statuses = [status for frame in frames for status in statuses_in(frame)]
        return self._statuses

    @property
    def data_frames(self) -> Sequence[bytes]:
        """The frames less those that hold nothing but statuses."""
        if not self.statuses:
            return self.frames
        if self._data_frames is None:
            self._data_frames = [frame for frame in self.frames if not is_status_only(frame)]
        return self._data_frames

    @property
    def events_known(self) -> int:
        """How many events there are, if somebody has decoded the batch; else 0."""
        return self._events_count if self._rows is None else len(self._rows)

    @property
    def newest_event_ms(self) -> int:
        """The time of the newest event, if somebody has decoded the batch; else 0."""
        return self._rows.span_ms[1] if self._rows is not None else 0

    def __repr__(self) -> str:
        return f"Batch({self.cluster}, {len(self.frames)} frames, {sum(map(len, self.frames))} bytes)"


@dataclass(frozen=True, slots=True)
class Border:
    """Everything of a cluster up to a position has been passed on, though nothing of it came behind the one before."""

    cluster: str
    after: str
    """As for `Mark`."""


class Missed(NamedTuple):
    """A time of which the recorder that is followed has nothing itself. Unix ms."""

    from_ms: int
    to_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A cluster's upstream connection is authenticated and subscribed."""

    cluster: str
    at_ns: int
    """Wall clock, nanoseconds."""
    resumed: int | None = None
    """Frames that came of what was missed since the last session, where that is all; None where some may be missing."""
    missed: tuple[Missed, ...] = ()


SOUGHT: Final = "seek"
"""Why a session of a replay ends that goes on at another time: what follows may be older than what came before."""


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """A session ended. Until the next `SessionOpened` of the cluster there is a gap."""

    cluster: str
    at_ns: int
    reason: str
    last_received_ns: int
    """Wall clock of the last read of the session; the gap begins there. 0 if nothing was read."""
    after: str = ""
    """The position up to which another recorder's stream was passed on; empty where there is none."""


SessionChange = SessionOpened | SessionClosed


@dataclass(frozen=True, slots=True)
class TopicsAnswered:
    """The exchange refuses topics that it was asked for, or no longer does."""

    cluster: str
    topics: tuple[str, ...]
    """As they are asked for upstream."""
    refusal: str
    """Why nothing will come of them, in words; empty: they are acknowledged after all, or no longer asked for."""


Format = Callable[[int, Rows], bytes]
"""Makes the records of rows that were received at a time in Unix milliseconds, a line each."""

Stage = Callable[[Batch], None]
"""What is done once with each batch before the consumers have it; it may add to the batch what they share."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """Everything that the exchange sent until `until_ns` has been passed on: time may pass up to there.

    Silence of events does not prove that: what was sent may still be on its way. A pong proves it, since the exchange
    answers a ping behind all that it sent before.
    """

    cluster: str
    until_ns: int
    """By the clock of `Batch.read_ns`."""


class Consumer(Protocol):
    """Takes batches off the bus."""

    def accept(self, batch: Batch) -> None:
        """Handle one batch at once, without waiting or raising. A consumer that is full drops the batch and counts it."""

    def session_changed(self, change: SessionChange) -> None:
        """Handle the beginning or end of an upstream session; in order with the batches."""


@runtime_checkable
class TimedConsumer(Consumer, Protocol):
    """A consumer that lives by the time that passes at the exchange."""

    def advance(self, watermark: Watermark) -> None:
        """Let time pass; in order with the batches."""


@runtime_checkable
class TopicConsumer(Consumer, Protocol):
    """A consumer that has promised topics to somebody."""

    def topics_answered(self, answered: TopicsAnswered) -> None:
        """Handle that the exchange refuses topics, or no longer does."""


@runtime_checkable
class NumberingConsumer(Consumer, Protocol):
    """A consumer that knows how far the recorder has come that this one follows."""

    def border_passed(self, border: Border) -> None:
        """Note a border; in order with the batches."""


@runtime_checkable
class BrakingConsumer(Consumer, Protocol):
    """A consumer that would have the sources wait rather than lose records."""

    def may_read(self) -> bool:
        """Whether the sources may read on, for all that this consumer knows. Never raises."""


@runtime_checkable
class PatientConsumer(Consumer, Protocol):
    """A consumer that knows whether anybody waits for what it is given. For any other consumer somebody always does."""

    def is_awaited(self) -> bool:
        """Whether a millisecond matters to somebody. Never raises."""


class Bus:
    """Hands each batch to every consumer in turn. It is the only fan-out, and the only place that isolates.

    A consumer that raises, against its promise, costs itself this batch and nobody else anything.
    """

    def __init__(self) -> None:
        self.consumers: list[Consumer] = []
        self._timed: list[TimedConsumer] = []
        self._promising: list[TopicConsumer] = []
        self._numbering: list[NumberingConsumer] = []
        self._braking: list[BrakingConsumer] = []
        self._patient: list[PatientConsumer] = []
        self.stage: Stage | None = None
        self.failures = 0
        """Calls in which the stage or a consumer raised."""
        self._warning = RateLimited(_WARN_SECS)

    def attach(self, consumer: Consumer) -> None:
        """Add a consumer behind the present ones."""
        self.consumers.append(consumer)
        if isinstance(consumer, TimedConsumer):
            self._timed.append(consumer)
        if isinstance(consumer, TopicConsumer):
            self._promising.append(consumer)
        if isinstance(consumer, NumberingConsumer):
            self._numbering.append(consumer)
        if isinstance(consumer, BrakingConsumer):
            self._braking.append(consumer)
        if isinstance(consumer, PatientConsumer):
            self._patient.append(consumer)

    def detach(self, consumer: Consumer) -> None:
        """Take a consumer off again. Not while a batch is passed on."""
        self.consumers.remove(consumer)
        self._timed = [timed for timed in self._timed if timed is not consumer]
        self._promising = [promising for promising in self._promising if promising is not consumer]
        self._numbering = [numbering for numbering in self._numbering if numbering is not consumer]
        self._braking = [braking for braking in self._braking if braking is not consumer]
        self._patient = [patient for patient in self._patient if patient is not consumer]

    def may_read(self) -> bool:
        """Whether a source may read on; asked after each batch, and every few milliseconds while it may not."""
        return all(consumer.may_read() for consumer in self._braking)

    def is_awaited(self) -> bool:
        """Whether anybody waits for the next batch; where nobody does, frames may wait a moment for others."""
        if len(self._patient) < len(self.consumers):
            return True
        return any(consumer.is_awaited() for consumer in self._patient)

    def publish(self, batch: Batch) -> None:
        """Pass a batch on."""
        if self.stage is not None:
            try:
                self.stage(batch)
            except Exception as error:
                # Nothing is recorded of the batch then, but the ports still serve it.
                self._failed(self.stage, error)
        for consumer in self.consumers:
            try:
                consumer.accept(batch)
            except Exception as error:
                self._failed(consumer, error)

    def announce(self, change: SessionChange) -> None:
        """Pass on that a session began or ended."""
        for consumer in self.consumers:
            try:
                consumer.session_changed(change)
            except Exception as error:
                self._failed(consumer, error)

    def advance(self, watermark: Watermark) -> None:
        """Pass on how far time has come."""
        for consumer in self._timed:
            try:
                consumer.advance(watermark)
            except Exception as error:
                self._failed(consumer, error)

    def pass_border(self, border: Border) -> None:
        """Pass on how far the recorder has come that this one follows."""
        for consumer in self._numbering:
            try:
                consumer.border_passed(border)
            except Exception as error:
                self._failed(consumer, error)

    def answer(self, answered: TopicsAnswered) -> None:
        """Pass on what the exchange says of topics."""
        for consumer in self._promising:
            try:
                consumer.topics_answered(answered)
            except Exception as error:
                self._failed(consumer, error)

    def _failed(self, consumer: Consumer | Stage, error: Exception) -> None:
        self.failures += 1
        if self._warning.ready(time.monotonic_ns()) is not None:
            log.error(
                "consumer_failed",
                consumer=repr(consumer),
                error="".join(traceback.format_exception(error)),
                failures=self.failures,
            )

    def __repr__(self) -> str:
        return f"Bus({len(self.consumers)} consumers, failures={self.failures})"
