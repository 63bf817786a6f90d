"""The past of bars for one client in one cluster: a bar maker of its own sees again what the common one saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from recorder.archive.wanted import Piece, Place
from recorder.bars import Bar, BarMaker, trades_of
from recorder.bus import Batch
from recorder.servers.client import Client
from recorder.servers.past.bar_memory import BarMemory
from recorder.servers.past.bar_request import BarRequest
from recorder.servers.past.cold import ColdReader, ColdReaders
from recorder.servers.subscriptions import EVERYTHING
from recorder.servers.topics import BarTopic
from recorder.words import moment_text

_SILENCE_NS: Final = 1_000_000_000
"""The archive does not say when time was known to have passed. So much later than what was recorded then it has: as in a
replay, no trade that was on its way for less is late because of that."""

TOO_SLOW: Final = "too slow: what you have yet to get is no longer kept"


class Joiner(Protocol):
    """A port whose clients can be given the past."""

    def held_bars(self, client: Client, cluster: str) -> Iterable[BarTopic]:
        """Return the bars that a client gets live."""

    def send_bars(self, client: Client, bars: Sequence[Bar]) -> None:
        """Send a client bars of the past."""

    def join(self, client: Client, cluster: str, topics: Iterable[BarTopic]) -> None:
        """A client has got all it missed; from now on it gets what all get."""


@dataclass(slots=True)
class Edge:
    """Where the bars begin that a client has yet to get."""

    start_ms: int
    """Windows that begin earlier are left out."""
    closed_ms: int | None = None
    """Windows that end at or before this time are left out; None: those that closed before the place."""
    number: int = 0
    """Of the entry of the log behind which the client's position is."""
    place: Place | None = None
    """The same in the archive."""
    is_passed: bool = True
    """Whether that has come."""

    def wants(self, bar: Bar) -> bool:
        """Whether a bar lies behind. Of those that are amended, what had come before the place is left out."""
        if bar.start_ms < self.start_ms:
            return False
        if bar.rev:
            return self.is_passed
        return bar.end_ms > self.closed_ms if self.closed_ms is not None else self.is_passed

    def come_to(self, closed_ms: int) -> None:
        """The place has come, when windows up to this time had closed."""
        self.is_passed = True
        if self.closed_ms is None:
            self.closed_ms = closed_ms


@dataclass(eq=False, slots=True)
class Replay:
    """Sends one client what it missed, and what comes meanwhile, until the common maker has every window whole."""

    client: Client
    joiner: Joiner
    memory: BarMemory
    edge: Edge
    order: int
    """Counts the replays."""
    key: object
    """Requests with the same one are one replay, as long as that has not begun."""
    requests: dict[BarRequest, None] = field(default_factory=dict)
    topics: dict[BarTopic, BarRequest] = field(default_factory=dict)
    """What it asked for, and in which request."""
    spelled: dict[BarTopic, BarRequest] = field(default_factory=dict)
    """The same under every spelling of the symbols."""
    amend_wishes: set[BarTopic] = field(default_factory=set)
    """Of what it asked for, what it wants again when late trades change it."""
    amended: frozenset[BarTopic] = frozenset()
    """The same under every spelling of the symbols."""
    held: frozenset[BarTopic] = frozenset()
    """What it gets live already, and so not from here."""
    maker: BarMaker | None = None
    """None while it waits its turn."""
    number: int = 0
    """Of the moment in memory that its maker sees next."""
    cold: ColdReader | None = None
    """What reads the archive, while that is read."""
    is_found: bool = False
    """Whether it is known what the archive has."""
    clock_ns: int = 0
    """What the clock of the reads is behind the wall clock."""
    run_id: str = ""
    """The run that is read."""
    ended: list[Bar] = field(default_factory=list)
    """Bars of a run that has ended, which are still to be sent."""
    has_met_place: bool = False
    """Whether records of the run of the client's position have been read."""
    whole_after_ms: int = 0
    """Windows that begin later can be made whole from what is read."""
    until_ms: int = 0
    """Windows that end later are whole with the common maker."""
    short: str = ""
    """Why it begins later than its client has asked for; empty where it does not."""
    lost: str = ""
    """Why it cannot go on; empty while it can."""

    @property
    def is_ready(self) -> bool:
        """Whether its clients have been told what becomes of their wishes."""
        return all(request.is_answered for request in self.requests)

    @property
    def is_at_tip(self) -> bool:
        """Whether its maker has seen all that there is."""
        return self.cold is None and self.number == self.memory.end

    def why_short(self, since_ms: int) -> str:
        """Return why it begins later than was asked for, and from when on to ask; empty where it does not."""
        asked = f"ask for what came from {since_ms} on ({moment_text(since_ms)})"
        return f"{self.short}: {asked}" if self.short else ""

    def wants(self, bar: Bar) -> bool:
        """Whether the client is to get a bar from here; count it as of the past until the tip has been reached."""
        topics = (BarTopic(bar.interval_ms, bar.symbol), BarTopic(bar.interval_ms, EVERYTHING))
        asked = [
            topic for topic in topics if topic in self.spelled and (not bar.rev or topic in self.amended)
        ]
        if not asked or not self.edge.wants(bar) or not self.held.isdisjoint(topics):
            return False
        self.spelled[asked[0]].count += 1
        return True

    def give_back(self, topics: Iterable[BarTopic], spelled: Iterable[BarTopic]) -> None:
        """The client does not want these any more, from here or live."""
        gone = frozenset(spelled)
        for topic in topics:
            self.topics.pop(topic, None)
            self.amend_wishes.discard(topic)
        self.spelled = {topic: request for topic, request in self.spelled.items() if topic not in gone}
        self.amended -= gone
        self.held -= gone

    def step(self, maker: BarMaker, readers: ColdReaders | None) -> bool:
        """Let the maker see the next that there is; return False where there is nothing yet, or no more."""
        if self.cold is not None and readers is not None:
            return self._read_archive(maker, self.cold, readers)
        moment = self.memory.moment(self.number)
        if moment is None:
            if self.number < self.memory.end:
                self.lost = TOO_SLOW
            return False
        if not self.edge.is_passed and moment.number >= self.edge.number:
            self.edge.come_to(maker.closed_ms)
        if moment.is_watermark:
            maker.advance(moment.ns)
        elif moment.number < self.memory.log.first:
            self.lost = TOO_SLOW
            return False
        else:
            self._enter(maker, self.memory.log.batch(moment.number), moment.ns)
        self.number += 1
        return True

    def close(self, readers: ColdReaders | None) -> None:
        """Read no more."""
        if self.cold is not None and readers is not None:
            readers.close(self.cold)
            self.cold = None

    def _read_archive(self, maker: BarMaker, cold: ColdReader, readers: ColdReaders) -> bool:
        until_seq = None
        if cold.seq is not None:
            # In this turn of the loop nothing is added to the log: what it has from here on is all that there is.
            number, until_seq = self.memory.log.meeting(cold.seq)
            if until_seq == cold.seq:
                self.close(readers)
                self.number = self.memory.behind_entry(number)
                return True
            if until_seq < cold.seq:
                return False  # a worker is fed a moment after the file
        if not cold.pieces:
            return False
        piece = cold.take()
        end_seq = min(piece.last_seq, piece.last_seq if until_seq is None else until_seq)
        place = self.edge.place
        if place is not None and place.run_id == piece.run_id and piece.first_seq <= place.seq < end_seq:
            end_seq = place.seq
        if end_seq < piece.last_seq:
            cold.put_back(piece.behind(end_seq))
            piece = piece.until(end_seq)
        self._take_piece(maker, piece, readers)
        return True

    def _take_piece(self, maker: BarMaker, piece: Piece, readers: ColdReaders) -> None:
        if piece.run_id != self.run_id:
            if self.run_id:
                # As behind a gap: what ended before the next run began is a bar, and nothing is of both runs.
                self.ended += maker.flush(piece.received_ms - _SILENCE_NS // 1_000_000)
            self.run_id = piece.run_id
        edge, place = self.edge, self.edge.place
        if not edge.is_passed and place is not None and place.run_id == piece.run_id:
            self.has_met_place = True
            if piece.first_seq > place.seq:
                edge.come_to(maker.closed_ms)
        elif not edge.is_passed and self.has_met_place:
            edge.come_to(0)
        read_ns = piece.received_ms * 1_000_000 - self.clock_ns
        maker.advance(read_ns - _SILENCE_NS)
        if piece.cluster == self.memory.cluster:
            self._enter(maker, readers.batch(piece), read_ns)

    def _enter(self, maker: BarMaker, batch: Batch, read_ns: int) -> None:
        trades = trades_of(batch.rows, self.memory.trade_channel)
        if trades is not None:
            maker.add(trades, read_ns)
