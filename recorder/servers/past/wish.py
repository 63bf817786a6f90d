"""What one client wants of the past: topics from somewhere on, read from the archive or from memory until it has all."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Final

from recorder.archive.wanted import Piece, Place
from recorder.clock import Clock
from recorder.polygon.manner import PLAIN, Manner
from recorder.polygon.server import Subscribe
from recorder.servers.client import Client
from recorder.servers.past.cold import ColdReader, ColdReaders
from recorder.servers.past.entry import Start
from recorder.servers.past.hotlog import HotLog
from recorder.servers.port import HOT, Past, Port, Where
from recorder.servers.stats import Eviction, ServerStats

STEP_READS: Final = 8
"""Entries of the log, or pieces of the archive, that one client is sent before it is another client's turn."""
_ROOM: Final = 0.5
"""Share of what a client may leave unread that its past may fill."""

_WORDS_MAX: Final = 120
"""A close frame has room for 123 bytes of reason (RFC 6455, 5.5)."""


def has_room(client: Client, size: int) -> bool:
    """Return whether a client has room for more of its past. One that has nothing left to take has it for anything."""
    pending = client.pending_bytes
    return not pending or pending + size <= client.limits.pending_bytes_max * _ROOM


def reached_by(client: Client, log: HotLog) -> tuple[int, int]:
    """Return the position for which all that a client was sent stands: what is held back for it lies behind."""
    held = (interval.reached for interval in client.intervals if interval.is_holding)
    return min(held, default=log.reached)


def _fitting(client: Client, piece: Piece) -> int:
    """Return how many records of a piece a client has room for: all, some, or one where it has nothing left to take."""
    if has_room(client, piece.size) and piece.size <= client.limits.pending_bytes_max * _ROOM:
        return len(piece.records)
    room = int(client.limits.pending_bytes_max * _ROOM) - client.pending_bytes
    sizes = accumulate(map(len, piece.payloads))
    count = sum(1 for _ in takewhile(lambda size: size <= room, sizes))
    return count or int(not client.pending_bytes)


def end_for_good(client: Client, words: str, reason: Eviction) -> None:
    """Close a client that cannot be sent what it has yet to get: its stream ends, but never has a hole."""
    client.close(1008 if reason == "slow_consumer" else 1011, words[:_WORDS_MAX], reason)


@dataclass(slots=True)
class Wish:
    """Topics that a client gets from somewhere in the past on, and does not get live yet."""

    port: Port
    topics: dict[str, None]
    past: Past
    stats: ServerStats
    number: int
    """Of the next entry of the log to read."""
    seq: int
    """The number of the last record before it."""
    is_resume: bool
    """Whether the client is waiting for the end of the past."""
    manner: Manner = PLAIN
    """How it wants the topics from then on."""
    cold: ColdReader | None = None
    """What reads the archive, while that is read."""
    unanswered: tuple[Subscribe, Start] | None = None
    """The request, and what memory has of it, where the client has yet to be told what becomes of it."""
    is_begun: bool = False
    """Whether it is known what the archive has of it."""
    is_held: bool = False
    """Whether the log holds more for it."""
    cuts: list[Where] = field(default_factory=list)
    """Where a batch has to end, since the client gets more from there on."""
    is_findable: bool = True
    """Whether the archive has a place for where it is: amid the pieces of a read there is none."""
    rank: int = 0
    """What came up to there the client has; as for `Start`."""
    count: int = 0
    """What it has been sent, in events; on the firehose, in frames."""
    told: Place | None = None
    """The last place in the archive that the client was told."""

    @property
    def where(self) -> Where:
        """Where the next that it reads is."""
        return (HOT, self.number) if self.cold is None else self.cold.next

    def news(self, client: Client) -> Place | None:
        """Return the place in the archive for which all that the client was sent stands, unless it has been told that."""
        place = self.cold.place if self.cold is not None and self.unanswered is None else None
        if place == self.told or not client.session.topics.keys() <= self.topics.keys():
            return None  # it gets other topics from elsewhere
        self.told = place
        return place

    def is_ragged(self, client: Client) -> bool:
        """Return whether the client may have some of what comes later: of another cluster, behind another recorder."""
        return self.rank > 0 and not client.cluster

    def go_cold(self, cold: ColdReader, log: HotLog) -> None:
        """Read the archive from now on, until the log can take over."""
        self.cold = cold
        cold.sources = self.stats.archive_blocks
        self.is_begun = False
        if not self.is_held:
            self.is_held = True
            log.hold()

    def go_hot(self, number: int, seq: int, readers: ColdReaders) -> None:
        """Read the log from an entry on, before which is the record `seq`."""
        if self.cold is not None:
            readers.close(self.cold)
            self.cold = None
        self.number, self.seq = number, seq

    def let_go(self, log: HotLog, readers: ColdReaders | None) -> None:
        """Need nothing any more."""
        if self.cold is not None and readers is not None:
            readers.close(self.cold)
            self.cold = None
        if self.is_held:
            self.is_held = False
            log.let_go()

    def send_archived(
        self, client: Client, log: HotLog, readers: ColdReaders, clock: Clock, until_ns: int
    ) -> bool:
        """Send what has been read of the archive, up to where the log takes over; return whether there was anything."""
        cold = self.cold
        assert cold is not None
        for sent in range(STEP_READS):
            until_seq = None
            if cold.seq is not None:
                # In this turn of the loop nothing is added to the log: what it has from here on is all that there is.
                number, until_seq = log.meeting(cold.seq)
                if until_seq == cold.seq:
                    self.go_hot(number, until_seq, readers)
                    return True
                if until_seq < cold.seq:
                    return sent > 0  # a worker is fed a moment after the file
            if not cold.pieces:
                return sent > 0
            piece = cold.take()
            count = _fitting(client, piece)
            if not count:
                cold.put_back(piece)
                return sent > 0
            end_seq = min(piece.first_seq + count - 1, self._end_of(piece, until_seq))
            if end_seq < piece.last_seq:
                cold.put_back(piece.behind(end_seq))
                piece = piece.until(end_seq)
            self.count += self.past.send(readers.batch(piece), (piece.run_number, piece.first_seq))
            if client.closing or clock.monotonic_ns() >= until_ns:
                break
        return True

    def _end_of(self, piece: Piece, until_seq: int | None) -> int:
        """Return up to which record of a piece is sent at once."""
        ends = [
            seq - 1
            for run, seq in self.cuts
            if run == piece.run_number and piece.first_seq < seq <= piece.last_seq
        ]
        if until_seq is not None:
            ends.append(until_seq)
        return min([*ends, piece.last_seq])
