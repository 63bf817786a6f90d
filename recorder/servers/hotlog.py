"""The hot log: the reads of the last moments in memory, found by their position, for clients that missed some."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from recorder.archive.onward import Place
from recorder.bus import Batch, SessionChange, SessionOpened
from recorder.polygon.events import Decoder
from recorder.servers.outage import Outage

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
_DECODED_MAX: Final = 16
"""Batches that stay decoded for the next reader: those that read together are that close to each other."""
GAPS_MAX: Final = 256
"""Gaps that are remembered; of more, everything before the oldest is forgotten."""
HELD_BYTES: Final = 16 << 20
"""What is kept while somebody reads the archive, however small the log: what comes is in the file a flush later."""
_TOKEN: Final = re.compile(r"(.{1,64}?):(?:([0-9]{1,18})|([0-9]{0,18}):([0-9]{1,18}))", re.DOTALL)
"""A position as clients have it: the run, frames, and behind them records, where there is an archive. What begins in the
archive has no frames."""


class Origin(NamedTuple):
    """What positions are of: the run that has the connection to the exchange, and its archive."""

    epoch: str
    """Names the run; the archive knows it by this, too."""
    manifest: Path | None = None
    """That of the archive; None where there is none."""
    seq: Callable[[], int] = lambda: 0
    """Returns the number of the last record that has been made."""


class Entry(NamedTuple):
    """One read of a cluster's socket."""

    position: int
    """That of its last frame."""
    cluster: str
    frames: Sequence[bytes]
    received_ns: int
    received_ms: int
    """The same, but never earlier than that of an entry before: wall clocks are set back."""
    size: int
    begin_seq: int
    """The number of the last record before it."""
    seq: int
    """That of its last record."""


class Start(NamedTuple):
    """Where a reader begins, and whether that is what was asked for."""

    number: int
    """Of the first entry that it reads."""
    position: int
    """The one behind which that is."""
    recovered: bool
    """Whether everything that was asked for follows."""
    reason: str
    """Why not; empty if it does."""
    seq: int = 0
    """The number of the last record before it, where there is an archive."""
    older: Place | int | None = None
    """What to ask the archive for instead: what came behind a place, or from a time on, Unix ms. None: it is of no use."""


class HotLog:
    """What was received last, an entry for each read, up to a number of bytes.

    A position is the number of frames that the run had received, over all clusters. It is told as `EPOCH:N`, where the
    epoch names the run of the recorder that has the connection to the exchange; where that has an archive, as
    `EPOCH:N:SEQ`, by which the position is found there, too. Frames are kept as they came: nothing is copied, and nothing
    is decoded unless somebody reads. Entries have numbers of their own, from 0, for readers.

    In a flood that fills the memory within `FLOOD_MS` only `FLOOD_BYTES` are kept, until it is over.
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
    ) -> None:
        """`now_ms` is when the log begins, Unix ms, and `position` where. `manifest` is that of the run's archive."""
        self.epoch = epoch
        self.manifest = manifest
        self._bytes_max = bytes_max
        self._is_flood = False
        self._limit = bytes_max
        """What is kept now, unless somebody needs more."""
        self._decoders = {cluster: Decoder(cluster) for cluster in clusters}
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
        self._outages: deque[Outage] = deque()
        self._open: dict[str, Outage] = {}
        """Those that last, by cluster."""

    @property
    def reached(self) -> tuple[int, int]:
        """The position up to which everything has been received, and the number of the last record then."""
        return self.position, self.seq

    def begin(self, position: int, now_ms: int, seq: int = 0) -> None:
        """Begin behind a position, with nothing before it."""
        self._offer_from(self.end, position, now_ms, seq)
        while self._entries:
            self._forget_first()
        self.position = position
        self.seq = seq
        self.settled = self.reached
        self._newest_ms = now_ms

    def append(
        self, cluster: str, frames: Sequence[bytes], received_ns: int, position: int, seq: int = 0
    ) -> None:
        """Keep a read, whose last frame has this position, and whose last record this number."""
        self.position = position
        begin_seq, self.seq = self.seq, seq
        self._newest_ms = received_ms = max(self._newest_ms, received_ns // 1_000_000)
        if not (self._bytes_max or self._readers):
            self._offer_from(self.end, position, received_ms + 1, seq)
            return
        size = sum(map(len, frames)) + _FRAME_BYTES * len(frames) + _ENTRY_BYTES
        self._entries[self.end] = Entry(
            position, cluster, frames, received_ns, received_ms, size, begin_seq, seq
        )
        self.end += 1
        self.size += size
        self._offered_bytes += size
        limit = self._limit = self._limit_bytes()
        offered_bytes_max = limit * _OFFERED_PARTS[0] // _OFFERED_PARTS[1]
        while self._offered_bytes > offered_bytes_max:
            oldest = self._entries[self._offered]
            self._offer_from(self._offered + 1, oldest.position, oldest.received_ms + 1, oldest.seq)
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
        at_ms = change.at_ns // 1_000_000
        if isinstance(change, SessionOpened):
            outage = self._open.pop(change.cluster, None)
            if outage is not None:
                self._close_outage(outage, at_ms)
        elif change.cluster not in self._open:
            from_ms = change.last_received_ns // 1_000_000 or at_ms
            self._open[change.cluster] = Outage(change.cluster, from_ms, None, change.reason, self.position)
        while self._outages and (
            len(self._outages) > GAPS_MAX or self._outages[0].position < self.offered_position
        ):
            self._forget_outage()

    def after(self, text: str) -> Start:
        """Return where a reader begins that has everything up to a position, as it was told."""
        token = _TOKEN.fullmatch(text)
        if token is None:
            return self._refused(f"{text[:60]!r} is no position: take one from a status named position")
        epoch, frames, frames_before_seq, seq = token.groups()
        older = Place(epoch, int(seq)) if seq and self.manifest is not None else None
        if epoch != self.epoch:
            reason = "the position is of another recorder, or from before this one was started"
            return self._refused(reason, older)
        digits = frames or frames_before_seq
        if not digits:
            return self._behind_record(int(seq), older)
        position = int(digits)
        if position > self.position:
            return self._refused("this recorder has not come as far as the position")
        if position < self.offered_position:
            return self._refused("the position is older than what is kept (RESUME_BUFFER_BYTES)", older)
        number = self._search(lambda entry: entry.position, position)
        if position == self.offered_position:
            return self._found(self._offered, position)
        if number == self.end or self._entries[number].position != position:
            return self._refused("this recorder has told nobody this position")
        return self._found(number + 1, position)

    def since(self, since_ms: int, now_ms: int) -> Start:
        """Return where a reader begins that wants what was received from a time on, Unix ms, that millisecond included."""
        if since_ms > now_ms:
            return self._refused("since is a time that has not come yet")
        if since_ms < self.offered_ms:
            reason = f"what is kept was received from {self.offered_ms} on (RESUME_BUFFER_BYTES)"
            return self._refused(reason, since_ms if self.manifest is not None else None)
        number = self._search(lambda entry: entry.received_ms, since_ms)
        before = self._entries[number - 1].position if number > self._offered else self.offered_position
        return self._found(number, before)

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

    @staticmethod
    def told_place(place: Place) -> str:
        """Return a place in the archive as clients are told."""
        return f"{place.run_id}::{place.seq}"

    @property
    def available_from(self) -> str:
        """The oldest position behind which everything is offered, as clients are told."""
        return self.told(self.offered_position, self._offered_seq)

    def outages(self, position: int, cluster: str) -> list[Outage]:
        """Return the gaps behind a position in a cluster (`""`: in all), oldest first."""
        every = [*(one for one in self._outages if one.position >= position), *self._open.values()]
        return [one for one in every if cluster in ("", one.cluster)]

    def batch(self, number: int) -> Batch:
        """Return an entry as the batch that it was. Raise KeyError where it is forgotten, or not there yet."""
        batch = self._decoded.get(number)
        if batch is None:
            entry = self._entries[number]
            decoder = self._decoders[entry.cluster]
            batch = Batch(entry.cluster, entry.received_ns, entry.frames, decoder, read_ns=0)
            self._decoded[number] = batch
            if len(self._decoded) > _DECODED_MAX:
                self._decoded.popitem(last=False)
        return batch

    def size_of(self, number: int) -> int:
        """Return how many bytes an entry takes."""
        return self._entries[number].size

    def rest(self) -> None:
        """Keep nothing decoded, since nobody reads."""
        self._decoded.clear()

    def _limit_bytes(self) -> int:
        """Return how much may be kept now, by how long it took to fill what is."""
        bytes_max, flood_bytes = self._bytes_max, min(FLOOD_BYTES, self._bytes_max)
        if self.size > (flood_bytes if self._is_flood else bytes_max):
            filled_ms = self._newest_ms - self._entries[self.first].received_ms
            self._is_flood = filled_ms * bytes_max < FLOOD_MS * min(self.size, bytes_max)
        return flood_bytes if self._is_flood else bytes_max

    def _search(self, key: Callable[[Entry], int], value: int) -> int:
        """Return the number of the first entry on offer whose key is not below a value; `end` where there is none."""
        offered = range(self._offered, self.end)
        return self._offered + bisect_left(offered, value, key=lambda number: key(self._entries[number]))

    def _behind_record(self, seq: int, older: Place | None) -> Start:
        """Return where a reader begins that has everything up to a record of this run."""
        if seq > self.seq:
            return self._refused("this recorder has not come as far as the position")
        if seq >= self._offered_seq:
            number = self._search(lambda entry: entry.begin_seq, seq)
            if self.begin_seq(number) == seq:
                before = self._entries[number - 1].position if number > self._offered else None
                return self._found(number, self.offered_position if before is None else before)
        return self._refused("the position is older than what is kept (RESUME_BUFFER_BYTES)", older)

    def _found(self, number: int, position: int) -> Start:
        return Start(number, position, True, "", self.begin_seq(number))

    def _refused(self, reason: str, older: Place | int | None = None) -> Start:
        return Start(self.end, self.position, False, reason, self.seq, older)

    def _forget(self) -> None:
        bytes_max = max(self._limit, HELD_BYTES if self._readers else 0)
        while self.size > bytes_max:
            self._forget_first()

    def _offer_from(self, number: int, position: int, at_ms: int, seq: int) -> None:
        for passed in range(self._offered, number):
            self._offered_bytes -= self._entries[passed].size
        self._offered = number
        self.offered_position = position
        self.offered_ms = at_ms
        self._offered_seq = seq

    def _forget_first(self) -> None:
        self.size -= self._entries.pop(self.first).size
        self._decoded.pop(self.first, None)
        self.first += 1

    def _close_outage(self, outage: Outage, at_ms: int) -> None:
        """Keep an outage that is over; with the one before, where the session between them has brought nothing."""
        from_ms = outage.from_ms
        for before in reversed(self._outages):
            if before.cluster == outage.cluster:
                if before.to_ms is not None and from_ms <= before.to_ms:
                    from_ms = before.from_ms
                    self._outages.remove(before)
                break
        self._outages.append(Outage(outage.cluster, from_ms, at_ms, outage.reason, self.position))

    def _forget_outage(self) -> None:
        """Forget the oldest gap, and offer nothing that has it behind it: who asks is told of every gap."""
        position = self._outages.popleft().position
        while self._offered < self.end and self.offered_position <= position:
            oldest = self._entries[self._offered]
            self._offer_from(self._offered + 1, oldest.position, oldest.received_ms + 1, oldest.seq)

    def __repr__(self) -> str:
        return f"HotLog({self.told(self.position, self.seq)}, {len(self._entries)} reads, {self.size} bytes)"


class Numbering:
    """A consumer of the bus: numbers what is received, and keeps it in the log. It must come before the ports."""

    def __init__(self, log: HotLog, seq: Callable[[], int] = lambda: 0) -> None:
        """`seq` returns the number of the last record that has been made, where there is an archive."""
        self._log = log
        self._seq = seq

    def accept(self, batch: Batch) -> None:
        """Keep a batch; its bytes are there anyway."""
        log = self._log
        log.settled = log.reached
        position = log.position + len(batch.frames)
        log.append(batch.cluster, batch.frames, batch.received_ns, position, self._seq())

    def session_changed(self, change: SessionChange) -> None:
        """Remember when there was no connection."""
        self._log.session_changed(change)

    def is_awaited(self) -> bool:
        """A log waits for nothing."""
        return False

    def __repr__(self) -> str:
        return f"Numbering({self._log!r})"
