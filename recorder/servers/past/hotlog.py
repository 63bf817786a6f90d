"""The hot log: the reads of the last moments in memory, found by their position, for clients that missed some."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from recorder.archive.wanted import Asked, Place
from recorder.bus import Batch, Mark, SessionChange
from recorder.frames import pieces
from recorder.polygon.events import Decoder
from recorder.polygon.position import Position, Told, parse_told
from recorder.servers.past.entry import Entry, Start
from recorder.servers.past.outage import GAPS_MAX, Outage, Outages
from recorder.servers.past.upstream import ANOTHER, NOT_YET, TOO_OLD, Upstream

_FRAME_BYTES: Final = 48
"""Bytes that a frame takes besides its own, in memory."""
_ENTRY_BYTES: Final = 384
"""Bytes that an entry takes besides its frames."""
_OFFERED_PARTS: Final = (3, 4)
"""The newest part of the log that is offered. A reader that has begun at its oldest end has the rest for a head start."""
FLOOD_MS: Final = 250
"""Where the whole memory is filled anew within less, nobody can come back in time to read it."""
FLOOD_BYTES: Final = 512 * 1024
"""So much is kept then: memory that is used again at once is still in the processor's cache."""
ENTRY_BYTES_MAX: Final = 64 * 1024
"""A read that brought more is kept in pieces, if it has several frames: a reader is sent one at a time."""
_DECODED_MAX: Final = 16
"""Batches that stay decoded for the next reader: those that read together are that close to each other."""
HELD_BYTES: Final = 16 << 20
"""What is kept while somebody reads the archive, however small the log: what comes is in the file a flush later."""


class HotLog:
    """What was received last, an entry for each read, up to a number of bytes.

    A position is the number of frames that the run had received, over all clusters. It is told as `EPOCH:N`, where the
    epoch names the run of the recorder that has the connection to the exchange; where that has an archive, as
    `EPOCH:N:SEQ`, by which the position is found there, too. Frames are kept as they came: nothing is copied, and nothing
    is decoded unless somebody reads. Entries have numbers of their own, from 0, for readers.

    In a flood that fills the memory within `FLOOD_MS` only `FLOOD_BYTES` are kept, until it is over.

    Where this recorder follows another one, that one's positions are told (`upstream`), so that a client goes on at either,
    and each entry is a read there. Numbers of our own remain for clients that get several clusters: these come on a
    connection each, so that no position of the other recorder stands for all that such a client has.
    """

    def __init__(
        self,
        epoch: str,
        bytes_max: int,
        clusters: Iterable[str],
        now_ms: int,
        position: int = 0,
        *,
        manifest: Path | None = None,
        follows: bool = False,
    ) -> None:
        """`now_ms` is when the log begins, Unix ms, and `position` where. `manifest` is that of the run's archive.

        `follows` says that another recorder is followed, whose positions are to come.
        """
        self.epoch = epoch
        self.manifest = manifest
        self._bytes_max = bytes_max
        self._is_flood = False
        self._limit = bytes_max
        """What is kept now, unless somebody needs more."""
        self._decoders = {cluster: Decoder(cluster) for cluster in clusters}
        self.upstream = Upstream(self._decoders, awaited=follows)
        """The positions of the recorder that this one follows."""
        self._entries: dict[int, Entry] = {}
        self.first = 0
        """Number of the oldest entry that is there."""
        self.end = 0
        """Number of the next entry."""
        self.position = position
        """Everything up to there has been received."""
        self.seq = 0
        """The number of the last record that was made of it, where there is an archive."""
        self._readers = 0
        """Those that come from the archive and have yet to join."""
        self.settled = self.reached
        """Everything up to there has been passed on, too: what is passed on now lies behind it."""
        self.size = 0
        """Bytes of all entries that are there."""
        self._offered = 0
        """Number of the oldest entry that is offered."""
        self._offered_bytes = 0
        self.offered_position = position
        """The oldest position behind which everything is offered."""
        self.offered_ms = now_ms
        """Everything that was received from then on is offered, Unix ms."""
        self._offered_seq = 0
        self._newest_ms = now_ms
        self._decoded: OrderedDict[int, Batch] = OrderedDict()
        self._outages = Outages()

    @property
    def reached(self) -> tuple[int, int]:
        """The position up to which everything has been received, and the number of the last record then."""
        return self.position, self.seq

    def begin(self, position: int, now_ms: int, seq: int = 0, marks: Mapping[str, str] | None = None) -> None:
        """Begin behind a position, with nothing before it; `marks` are those of the recorder that this one follows."""
        self._offer_from(self.end, position, now_ms, seq)
        while self._entries:
            self._forget_first()
        self.position = position
        self.seq = seq
        self.settled = self.reached
        self._newest_ms = now_ms
        self.upstream.begin(marks or {})

    def take(
        self,
        cluster: str,
        frames: Sequence[bytes],
        received_ns: int,
        position: int,
        seq: int,
        marks: Sequence[Mark],
    ) -> Sequence[Mark]:
        """Keep what one read brought, whose last frame has this position, and whose last record this number.

        Return the borders among its frames. These are `marks`, if the recorder has told any that this one follows.
        """
        begin, begin_seq = position - len(frames), self.seq
        end = 0
        for mark in marks:
            rank = self.upstream.reach(cluster, mark.after)
            if mark.frames > end:
                read = frames[end : mark.frames]
                is_first, end = end == 0, mark.frames
                read_seq = seq if end == len(frames) else begin_seq
                self.append(
                    cluster, read, received_ns, begin + end, read_seq, mark.after, rank, begins_batch=is_first
                )
        if end == len(frames):
            return marks
        rest = frames[end:] if end else frames
        self.upstream.lose(cluster, rest)
        self.append(cluster, rest, received_ns, position, seq, begins_batch=end == 0)
        is_own = not (self.upstream.is_followed or self.upstream.is_awaited)
        return [Mark(len(frames), self.told(position, seq))] if is_own else marks

    def append(
        self,
        cluster: str,
        frames: Sequence[bytes],
        received_ns: int,
        position: int,
        seq: int = 0,
        after: str = "",
        rank: int = 0,
        *,
        begins_batch: bool = True,
    ) -> None:
        """Keep a read, whose last frame has this position, and whose last record this number; the rest as for `Entry`."""
        self.position = position
        begin_seq, self.seq = self.seq, seq
        before_ms, received_ms = self._newest_ms, max(self._newest_ms, received_ns // 1_000_000)
        self._newest_ms = received_ms
        if not (self._bytes_max or self._readers):
            self.upstream.forget(cluster, rank, after)
            self._offer_from(self.end, position, received_ms + 1, seq)
            return
        newest = self._entries.get(self.end - 1)
        reach = max(rank, newest.reach) if newest is not None else rank
        end = position - len(frames)
        for piece, piece_bytes in pieces(frames, ENTRY_BYTES_MAX):
            end += len(piece)
            size = piece_bytes + _FRAME_BYTES * len(piece) + _ENTRY_BYTES
            is_last = end == position
            self._entries[self.end] = Entry(
                end,
                cluster,
                piece,
                received_ns,
                received_ms,
                size,
                begin_seq,
                seq if is_last else begin_seq,
                after,
                rank,
                reach,
                begins_batch,
                is_last,
            )
            begins_batch = False
            self.end += 1
            self.size += size
            self._offered_bytes += size
        limit = self._limit = self._limit_bytes(before_ms)
        offered_bytes_max = limit * _OFFERED_PARTS[0] // _OFFERED_PARTS[1]
        while self._offered_bytes > offered_bytes_max or self.is_amid(self._offered):
            self._offer_next()
        self._forget()

    def hold(self) -> None:
        """Keep `HELD_BYTES` at least, until `let_go`: somebody comes from the archive, and will go on here."""
        self._readers += 1

    def let_go(self) -> None:
        """Undo one `hold`."""
        self._readers -= 1
        self._forget()

    def meeting(self, seq: int) -> tuple[int, int]:
        """Return where a reader of the archive can go on that has everything up to a number: at which entry, and up to
        which number it has to read before. That is below `seq` where the log has not come as far yet."""
        # Where the log is small, what is held is all that there is; else a reader is to have a head start.
        begin = self.first if self._limit < HELD_BYTES else self._offered
        kept = range(begin, self.end)
        number = begin + bisect_left(kept, seq, key=lambda number: self._entries[number].begin_seq)
        return number, self._entries[number].begin_seq if number < self.end else self.seq

    def begin_seq(self, number: int) -> int:
        """Return the number of the last record before an entry."""
        return self._entries[number].begin_seq if number < self.end else self.seq

    def session_changed(self, change: SessionChange) -> None:
        """Remember the times in which there was no connection."""
        self._outages.session_changed(change, self.position)
        while (oldest := self._outages.oldest) is not None and (
            len(self._outages) > GAPS_MAX or oldest.position < self.offered_position
        ):
            self._forget_outage(oldest)

    def after(self, text: str, cluster: str = "") -> Start:
        """Return where a reader of a cluster (`""`: of all) begins that has everything up to a position, as it was told."""
        told = parse_told(text)
        if told is None:
            return self._refused(f"{text[:60]!r} is no position: take one from a status named position")
        if told.epoch != self.epoch:
            return self._after_another(told, cluster)
        is_findable = told.record is not None and self.manifest is not None
        older = Place(told.epoch, told.record or 0) if is_findable else None
        if told.number is None:
            return self._behind_record(told.record or 0, older)
        position = told.number
        if position > self.position:
            return self._refused(NOT_YET)
        if position < self.offered_position:
            return self._refused(TOO_OLD, older)
        number = self._search(lambda entry: entry.position, position)
        if position == self.offered_position:
            return self._found(self._offered, position)
        if number == self.end or self._entries[number].position != position:
            return self._refused("this recorder has told nobody this position")
        return self._found(number + 1, position)

    def _after_another(self, told: Told, cluster: str) -> Start:
        """Return where a reader begins that has everything up to a position of another run, or another recorder."""
        rank, reason = 0, NOT_YET if self.upstream.is_awaited else ANOTHER
        if told.number is not None and not self.upstream.is_awaited:
            rank, reason = self.upstream.find(Position(told.epoch, told.number), cluster)
        if reason:
            clusters = (cluster,) if cluster else tuple(self._decoders)
            older = Asked(told, clusters) if reason != NOT_YET and self.manifest is not None else None
            return self._refused(reason, older)._replace(rank=rank)
        number = self._search(lambda entry: entry.reach, rank + 1)
        return self._found(number, self._before(number))._replace(rank=rank)

    def since(self, since_ms: int, now_ms: int) -> Start:
        """Return where a reader begins that wants what was received from a time on, Unix ms, that millisecond included."""
        if since_ms > now_ms:
            return self._refused("since is a time that has not come yet")
        if since_ms < self.offered_ms:
            reason = f"what is kept was received from {self.offered_ms} on (RESUME_BUFFER_BYTES)"
            return self._refused(reason, since_ms if self.manifest is not None else None)
        number = self._search(lambda entry: entry.received_ms, since_ms)
        return self._found(number, self._before(number))

    def is_ahead(self, text: str, cluster: str) -> bool:
        """Return whether a position is one that this recorder will come to, if those that told it are right."""
        return self.after(text, cluster).reason == NOT_YET

    @property
    def offered_number(self) -> int:
        """Number of the oldest entry that is offered."""
        return self._offered

    @property
    def now(self) -> Start:
        """Where a reader begins that wants nothing of the past."""
        return self._found(self.end, self.position)

    def oldest(self, reason: str) -> Start:
        """Return where a reader begins that takes what there is, though for this reason that is not all."""
        start = self._found(self._offered, self.offered_position)
        return start._replace(recovered=False, reason=reason)

    def told(self, position: int, seq: int = 0) -> str:
        """Return a position as clients are told; behind that number of records, where there is an archive."""
        return f"{self.epoch}:{position}" if self.manifest is None else f"{self.epoch}:{position}:{seq}"

    def told_to(self, cluster: str, reached: tuple[int, int] | None = None) -> str:
        """Return what stands for everything up to a point of this log, or to its end, for a client of a cluster.

        Empty where it is not known, since something came behind which no position was told.
        """
        if not self.upstream.follows(cluster):
            return "" if self.upstream.is_awaited else self.told(*(reached or self.reached))
        if reached is None or reached == self.reached:
            return self.upstream.told(cluster)
        kept = range(self.first, self.end)
        behind = bisect_right(kept, reached[0], key=lambda number: self._entries[number].position)
        before = (self._entries[number] for number in reversed(kept[:behind]))
        return next((entry.after for entry in before if entry.after and cluster in ("", entry.cluster)), "")

    def available_to(self, cluster: str) -> str:
        """Return the oldest position behind which everything is offered to a client of a cluster."""
        if self.upstream.follows(cluster):
            return self.upstream.available(cluster)
        return self.told(self.offered_position, self._offered_seq)

    def outages(self, position: int, cluster: str) -> list[Outage]:
        """Return the gaps behind a position in a cluster (`""`: in all), oldest first."""
        return self._outages.behind(position, cluster)

    def batch(self, number: int) -> Batch:
        """Return an entry as the batch that it was. Raise KeyError where it is forgotten, or not there yet."""
        batch = self._decoded.get(number)
        if batch is None:
            entry = self._entries[number]
            decoder = self._decoders[entry.cluster]
            after = entry.after or ("" if self.upstream.is_followed else self.told(entry.position, entry.seq))
            marks = [Mark(len(entry.frames), after)] if after and entry.ends_read else []
            batch = Batch(entry.cluster, entry.received_ns, entry.frames, decoder, read_ns=0, marks=marks)
            self._decoded[number] = batch
            if len(self._decoded) > _DECODED_MAX:
                self._decoded.popitem(last=False)
        return batch

    def has_come(self, number: int, rank: int) -> bool:
        """Return whether an entry is among what came up to a rank."""
        return 0 < self._entries[number].rank <= rank

    def cluster_of(self, number: int) -> str:
        """Return the cluster that an entry is of."""
        return self._entries[number].cluster

    def place_of(self, number: int) -> tuple[int, int]:
        """Return the position, and the number of the last record, before an entry on offer, or the one that comes next."""
        return self._before(number), self.begin_seq(number)

    def size_of(self, number: int) -> int:
        """Return how many bytes an entry takes."""
        return self._entries[number].size

    def rest(self) -> None:
        """Keep nothing decoded, since nobody reads."""
        self._decoded.clear()

    def _limit_bytes(self, before_ms: int) -> int:
        """Return how much may be kept now, by how long it took to fill what is; `before_ms` is when the read before came."""
        bytes_max, flood_bytes = self._bytes_max, min(FLOOD_BYTES, self._bytes_max)
        if self.size > (flood_bytes if self._is_flood else bytes_max):
            # Of a read that is larger than what is kept in a flood, nothing older is there to compare with.
            filled_ms = self._newest_ms - min(before_ms, self._entries[self.first].received_ms)
            self._is_flood = filled_ms * bytes_max < FLOOD_MS * min(self.size, bytes_max)
        return flood_bytes if self._is_flood else bytes_max

    def _search(self, key: Callable[[Entry], int], value: int) -> int:
        """Return the number of the first entry on offer whose key is not below a value; `end` where there is none."""
        offered = range(self._offered, self.end)
        return self._offered + bisect_left(offered, value, key=lambda number: key(self._entries[number]))

    def _behind_record(self, seq: int, older: Place | None) -> Start:
        """Return where a reader begins that has everything up to a record of this run."""
        if seq > self.seq:
            return self._refused(NOT_YET)
        if seq >= self._offered_seq:
            number = self._search(lambda entry: entry.begin_seq, seq)
            if self.begin_seq(number) == seq:
                return self._found(number, self._before(number))
        return self._refused(TOO_OLD, older)

    def _before(self, number: int) -> int:
        """Return the position behind which an entry on offer is."""
        return self._entries[number - 1].position if number > self._offered else self.offered_position

    def _found(self, number: int, position: int) -> Start:
        return Start(number, position, True, "", self.begin_seq(number))

    def _refused(self, reason: str, older: Place | Asked | int | None = None) -> Start:
        return Start(self.end, self.position, False, reason, self.seq, older)

    def _forget(self) -> None:
        bytes_max = max(self._limit, HELD_BYTES if self._readers else 0)
        while self.size > bytes_max or self.is_amid(self.first):
            self._forget_first()

    def _offer_from(self, number: int, position: int, at_ms: int, seq: int) -> None:
        for passed in range(self._offered, number):
            entry = self._entries[passed]
            self._offered_bytes -= entry.size
            self.upstream.forget(entry.cluster, entry.rank, entry.after)
        self._offered = number
        self.offered_position = position
        self.offered_ms = at_ms
        self._offered_seq = seq

    def _offer_next(self) -> None:
        """Offer the oldest entry no longer."""
        oldest = self._entries[self._offered]
        self._offer_from(self._offered + 1, oldest.position, oldest.received_ms + 1, oldest.seq)

    def is_amid(self, number: int) -> bool:
        """Return whether an entry is not the first of its batch, so that the archive has no place for it."""
        return number < self.end and not self._entries[number].begins_batch

    def _forget_first(self) -> None:
        self.size -= self._entries.pop(self.first).size
        self._decoded.pop(self.first, None)
        self.first += 1

    def _forget_outage(self, outage: Outage) -> None:
        """Forget the oldest gap, and offer nothing that has it behind it: who asks is told of every gap."""
        self._outages.forget_oldest()
        while self._offered < self.end and (
            self.offered_position <= outage.position or self.is_amid(self._offered)
        ):
            self._offer_next()

    def __repr__(self) -> str:
        return f"HotLog({self.told(self.position, self.seq)}, {len(self._entries)} reads, {self.size} bytes)"
