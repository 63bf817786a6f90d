"""What comes of following a server: events, what is lost or left out between them, positions, the server's own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from recorder.bus import Batch, SessionChange
from recorder.client.bars import BarMemory, by_time
from recorder.errors import Disconnected, UpstreamError
from recorder.polygon import control
from recorder.polygon.client import ClientSession, Step
from recorder.polygon.manner import CONFLATED, DROPPED, SNAPSHOT, SNAPSHOT_COMPLETE
from recorder.polygon.rows import Rows, Status
from recorder.words import moment_text


class Event(NamedTuple):
    """One event."""

    channel: str
    """What it is: `T` is a trade, `Q` a quote, `MB` a bar."""
    symbol: str
    time_ms: int
    """Its own time, Unix ms; 0 where it names none."""
    payload: bytes
    """The JSON object, byte for byte as it was sent."""
    is_snapshot: bool = False
    """Whether it is the last of its symbol and channel, from before this program followed: no event of the stream."""


class Lost(NamedTuple):
    """A time of which events are missing here, and nobody will send them. It stands before what came behind it.

    Times are Unix ms. They are those of the side that noticed: of the server for its own gaps, of this program for a
    connection that was cut.
    """

    reason: str
    from_ms: int | None
    """None where nobody knows, as for a position of long ago."""
    to_ms: int | None
    """None while it lasts."""
    cluster: str = ""
    """Empty: of all that this program follows."""

    def __str__(self) -> str:
        what = f"events of {self.cluster}" if self.cluster else "events"
        begin = f" from {moment_text(self.from_ms)}" if self.from_ms is not None else ""
        end = f" to {moment_text(self.to_ms)}" if self.to_ms is not None else " on"
        return f"{what} are missing{begin}{end}: {self.reason}"


class LeftOut(NamedTuple):
    """Events that the recorder did not send because this program was slow, as it has chosen by `slow`.

    It stands where they are missing. A second follower with `after` as its position gets them.
    """

    dropped: int
    """How many there were, less those of `conflated`."""
    conflated: int
    """Events whose place a newer one of the same symbol and channel has taken, which comes."""
    from_ms: int
    """When the first of them came to the recorder, Unix ms."""
    to_ms: int
    """When the last did."""
    after: str
    """A position behind which all of them lie."""

    @property
    def events_count(self) -> int:
        """How many there were in all."""
        return self.dropped + self.conflated

    def __str__(self) -> str:
        newer = f", {self.conflated:,} of them for newer ones of the same symbols" if self.conflated else ""
        times = f"from {moment_text(self.from_ms)} to {moment_text(self.to_ms)}"
        return f"{self.events_count:,} events are left out{newer}, {times}: this program was slow"


class LastValues(NamedTuple):
    """Values of a snapshot: the last events of each symbol and channel before what comes live."""

    rows: Rows


class Position(NamedTuple):
    """Stands for everything before it; a client that asks for what came `after` it misses nothing."""

    after: str


class Cut(NamedTuple):
    """A connection has ended, or there is none; the next attempt comes by itself."""

    reason: str
    wait_secs: float

    def __str__(self) -> str:
        return f"{self.reason}; the next attempt comes in {self.wait_secs:.1f} s"


Part = Rows | LastValues | Status | Lost | LeftOut | Position | Cut


class _Gap(msgspec.Struct):
    """A time in which the server itself had no connection, or a replay has nothing."""

    begin_ms: int = msgspec.field(name="from")
    end_ms: int | None = msgspec.field(name="to")
    reason: str
    cluster: str = ""

    def lost(self) -> Lost:
        return Lost(self.reason, self.begin_ms, self.end_ms, self.cluster)


class _Answer(msgspec.Struct):
    """What becomes of a wish for the past."""

    recovered: bool
    reason: str = ""
    available_since: int | None = None
    gaps: list[_Gap] = msgspec.field(default_factory=list)


class _Account(msgspec.Struct):
    """What was left out."""

    dropped: int
    conflated: int
    begin_ms: int = msgspec.field(name="from")
    end_ms: int = msgspec.field(name="to")
    after: str

    def left_out(self) -> LeftOut:
        return LeftOut(self.dropped, self.conflated, self.begin_ms, self.end_ms, self.after)


_read_accounts: Final[Callable[[bytes], list[_Account]]] = msgspec.json.Decoder(list[_Account]).decode
_read_gaps: Final[Callable[[bytes], list[_Gap]]] = msgspec.json.Decoder(list[_Gap]).decode
_read_answers: Final[Callable[[bytes], list[_Answer]]] = msgspec.json.Decoder(list[_Answer]).decode
NO_BAR_YET: Final = "no bar had come by which a server knows from when on bars are missing"


class PartMaker:
    """A consumer that makes parts of what a server sends, connection by connection.

    It stands behind a `Resumption`, so that each event comes to it once. Where a connection follows another and the
    server says nothing of the time between, what came then is lost, and that is said before the next event.
    """

    def __init__(self, wanted_from_ms: int | None) -> None:
        """`wanted_from_ms` is the time from which on the first session wants the past, if that is how it asks."""
        self.parts: list[Part] = []
        """What was made and is not taken yet."""
        self.requests: list[bytes] = []
        """What is to be sent to the server now."""
        self.failure: UpstreamError | None = None
        """By what the server has ended the session, in words."""
        self.is_complete = False
        """Whether a replay is over."""
        self.has_data = False
        """Whether the present session has brought events."""
        self.has_had_data = False
        """Whether any session has."""
        self._from_ms = wanted_from_ms
        """Wall clock until which a session has brought what there was, Unix ms."""
        self._heard_ms = 0
        """Wall clock of the last frame, Unix ms."""
        self._protocol = ClientSession("", ())
        self.bars = BarMemory()
        self._bars: list[tuple[int | None, list[str]]] = []
        """Topics of bars to ask for once the others were asked for, each with the time from which on."""
        self._bars_had_ms: int | None = None
        """Up to when all bars came that are asked for again, Unix ms; None where none came."""
        self._bars_lost = ""
        """Why bars of the last cut are missing, which is not said yet."""
        self._unsaid: Lost | None = None
        """What the last connection has cost, unless the server makes up for it."""
        self._is_in_snapshot = False
        self._has_recovered = False
        """Whether the server sends in this session everything that was missed."""
        self._has_values = self._had_values = False
        """Whether a snapshot has come to its end, and whether one had before this session."""
        self._gaps_before: set[Lost] = set()
        self._gaps: set[Lost] = set()
        """What the server has told in this session, and in the one before, that it has not."""

    def begin(self, protocol: ClientSession, bars: Sequence[str] = ()) -> None:
        """Read a new connection. `bars` are asked for beside the topics of `protocol`, which resume."""
        self._protocol, self._bars = protocol, list(by_time(bars, self.bars))
        had_ms = [time_ms for topic in bars if (time_ms := self.bars.newest_ms(topic)) is not None]
        self._bars_had_ms = min(had_ms, default=None)
        if self._bars and self._unsaid is not None:
            self._bars_lost = NO_BAR_YET if any(since_ms is None for since_ms, _ in self._bars) else ""
            if not protocol.topics:
                self._unsaid = None
        self.failure, self.has_data = None, False
        self._is_in_snapshot = self._has_recovered = False
        self._had_values = self._has_values
        self.requests = []
        if self._gaps:
            self._gaps_before, self._gaps = self._gaps, set()

    def end(self, reason: str) -> None:
        """Note that the connection has ended. Had it begun to bring something, what comes until the next one is missing."""
        if self.has_data or self._protocol.acknowledged:
            self._from_ms = self._heard_ms
            self.bars.cut()
            self._unsaid = Lost(f"{reason}; the server sends nothing of the past", self._from_ms, None)

    def take(self) -> list[Part]:
        """Return what was made since the last call."""
        parts, self.parts = self.parts, []
        return parts

    def accept(self, batch: Batch) -> None:
        """Make parts of a batch that holds events, or statuses alone."""
        self._heard_ms = batch.received_ns // 1_000_000
        rows = batch.rows
        if rows or rows.rejects:
            # A firehose passes on what its exchange says amid events: that was said to the recorder.
            self._say_lost()
            self.has_data = True
            if not self._is_in_snapshot:
                self.has_had_data = True
                self.parts.append(self.bars.new(rows))
            elif not self._knows_values:
                self.parts.append(LastValues(rows))
        else:
            for status in rows.statuses:
                self._take_status(status, batch.frames[0])

    def keep(self, after: str) -> None:
        """Make a part of a position."""
        self._say_lost()
        self.parts.append(Position(after))

    @property
    def _knows_values(self) -> bool:
        """Whether a snapshot has nothing new: an earlier session had one, and nothing is missing since."""
        return self._had_values and self._has_recovered

    def session_changed(self, change: SessionChange) -> None:
        """`begin` and `end` say more."""

    def _take_status(self, status: Status, frame: bytes) -> None:
        if self.failure is not None:
            return
        is_late = self.has_had_data and control.NOTHING_COMES in status.message
        is_border = status.status in (SNAPSHOT, SNAPSHOT_COMPLETE)
        if is_late:
            # A topic that was served may be served again: the exchange acknowledges it late, or in its next session.
            self.parts.append(Lost(status.message, self._heard_ms, None))
        elif not (is_border and self._knows_values):
            self.parts.append(status)
        if is_border:
            self._is_in_snapshot = status.status == SNAPSHOT
            self._has_values = self._has_values or not self._is_in_snapshot
        try:
            if status.status == control.RESUME:
                if status.message.startswith(control.BARS):
                    self._take_answer_for_bars(frame)
                else:
                    self._take_answer(frame)
            elif status.status in (DROPPED, CONFLATED):
                self.parts += [account.left_out() for account in _read_accounts(frame)]
            elif status.status == control.GAP:
                self.parts += [gap.lost() for gap in _read_gaps(frame)]
            self.requests += self._protocol.receive(status)
        except UpstreamError as error:
            self.failure = error
            return
        except msgspec.MsgspecError as error:
            self.failure = Disconnected(f"a status of the server, {status.status}, cannot be read: {error}")
            return
        self.is_complete = self.is_complete or status.status == control.REPLAY_COMPLETE
        if self._bars and self._protocol.step in (Step.SUBSCRIBING, Step.STREAMING):
            for since_ms, topics in self._bars:
                self.requests += self._protocol.subscribe(topics, since_ms)
            self._bars = []

    def _take_answer_for_bars(self, frame: bytes) -> None:
        """Learn what becomes of bars of the past: those that came before are asked for once more."""
        for answer in _read_answers(frame):
            kept_from_ms = answer.available_since
            if not answer.recovered and (
                kept_from_ms is None or self._bars_had_ms is None or kept_from_ms > self._bars_had_ms
            ):
                self._bars_lost = answer.reason

    def _take_answer(self, frame: bytes) -> None:
        """Learn what becomes of the past."""
        for answer in _read_answers(frame):
            self._has_recovered = answer.recovered
            self._unsaid = None
            missing = [] if answer.recovered else [Lost(answer.reason, self._from_ms, answer.available_since)]
            for lost in [*missing, *(gap.lost() for gap in answer.gaps)]:
                if lost not in self._gaps | self._gaps_before:
                    self.parts.append(lost)
                self._gaps.add(lost)

    def _say_lost(self) -> None:
        """Say what the last connection has cost, since the server does not make up for it."""
        if self._unsaid is not None:
            self.parts.append(self._unsaid._replace(to_ms=self._heard_ms))
            self._unsaid = None
        elif self._bars_lost:
            self.parts.append(Lost(f"bars: {self._bars_lost}", self._from_ms, self._heard_ms))
        self._bars_lost = ""

    def __repr__(self) -> str:
        return f"PartMaker({self._protocol!r}, {len(self.parts)} parts)"
