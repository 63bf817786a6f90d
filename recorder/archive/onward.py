"""Reads on from a place in an archive, through later runs, to what is written at this moment; leaves nothing out unsaid."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from recorder.archive.block_cache import BlockCache, BlockSource
from recorder.archive.continuity import END, Break, Floor
from recorder.archive.cutting import Records
from recorder.archive.gaps import Gap
from recorder.archive.look import ReadManifest
from recorder.archive.manifest_index import NEVER_MS
from recorder.archive.positions import UNKNOWN, Positions, Spot
from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording, read_segment
from recorder.archive.wanted import Asked, Found, Lead, Lost, Piece, Place
from recorder.errors import ArchiveError

BLOCK_BYTES: Final = 1 << 19
"""Payloads that are read at once, about."""
CACHE_BYTES: Final = 32 << 20
"""Blocks of sealed segments that are kept for whoever comes next to them."""
PIECE_RECORDS_MAX: Final = 1000
PIECE_MS_MAX: Final = 100
"""What came within so much time may be one piece: whoever makes bars of it must know when time has passed."""
_LOOKS_MIN: Final = 3
"""A place where it does not go on is looked at so often before it counts as broken: a file may be renamed meanwhile."""
_STUCK_NS: Final = 10_000_000_000
"""Of the run at work, it is also given this time: files by type are written one after the other."""


_PATIENCE_NS: Final = 5_000_000_000
"""How long a position may be one that has yet to be written: as long as the writer may wait, and more."""

NO_RECORD: Final = "the position does not say where it is in the archive"
NOT_WRITTEN: Final = "it has not come as far as the position"


class Shared:
    """What all readers of one archive know: its manifest, what they have read of it, and where it is broken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int], ReadManifest] | None = None
        """The manifest as it was read last, and which file, of which size, that was."""
        self.proofs = Proofs()
        self.cache = BlockCache(CACHE_BYTES, self.proofs)
        self.breaks: dict[str, Break] = {}
        self._positions: Positions | None = None

    def find(self, manifest: Path, asked: Asked) -> dict[str, Spot] | str | None:
        """Return where a position of another recorder is, as `Positions.find_all`. Raise `ArchiveError` or `OSError`."""
        with self._lock:
            self._positions = self._positions or Positions(manifest)
            return self._positions.find_all(*asked)

    def look(self, manifest: Path) -> Recording:
        """Return the archive as it is now. Its manifest, which may be long, is read only where it has grown.

        Raise `ArchiveError` or `OSError`.
        """
        with self._lock:
            state = _state_of(manifest)
            if self._read is None or self._read[0] != state:
                self._read = state, ReadManifest.of(manifest, is_live=True)
            read = self._read[1]
        return Recording(manifest, read)


class Onward:
    """One reader. Each call may wait for the disk; one thread at a time makes them.

    `epoch` names the run at work. `begin` says what there is, `read` yields it: every record once and in order, run after
    run. A hole in the numbers, an altered file, or one that is gone is never passed over: it is `Lost`.
    """

    def __init__(self, manifest: Path, epoch: str, shared: Shared) -> None:
        self.epoch = epoch
        self._manifest = manifest
        self._shared = shared
        self.place = Place(epoch, 0)
        self._blocks: Iterator[tuple[str, Records]] | None = None
        self._view: Recording | None = None
        self._order: list[str] = []
        self._left_out: dict[str, Spot] = {}
        """By cluster, up to where it has been read though the others have not."""
        self._patience_until_ns = 0
        """When a position that is not known yet counts as one that will not be."""
        self._stuck_at: Place | None = None
        self._stuck_ns = 0
        self._looks = 0
        self.sources: Counter[BlockSource] = Counter()
        """Where blocks of sealed segments came from."""

    def begin(self, wanted: Place | Asked | Lead | int, *, partial: bool) -> Found | None:
        """Find what came behind a place or position, or from a time on (Unix ms); with `partial`, or else what there is.

        None: what is told of the position has yet to be written; to be called again in a while.
        """
        try:
            view = self._look()
            floor = view.floor(self._shared.breaks)
            if isinstance(wanted, Lead):
                return self._begin_before(view, floor, wanted, partial=partial)
            if isinstance(wanted, Asked):
                place = self._place_of(view, floor, wanted)
                if place is None:
                    return None
                if isinstance(place, str):
                    return self._unknown(floor, place)
                wanted = place
            reason = self._refuse(view, floor, wanted)
            is_known = isinstance(wanted, int) or wanted.run_id in view.order
            has_any = floor.seq != END
            if reason and not (partial and has_any and is_known):
                return Found(None, False, reason, floor if has_any else None)
            place = Place(floor.run_id, floor.seq) if reason else self._find(view, floor, wanted)
            since_ms = self._time_of(view, place) if reason or isinstance(wanted, Place) else wanted - 1
        except (ArchiveError, OSError) as error:
            return Found(None, False, f"the archive cannot be read: {error}")
        self.place = place
        return Found(place, not reason, reason, floor, self._gaps(view, place, since_ms))

    def _place_of(self, view: Recording, floor: Floor, asked: Asked) -> Place | str | None:
        """Return the place of a position, of this recorder or of the one that it follows; as for `Shared.find`."""
        told, order = asked.told, view.order
        if told.epoch in order:
            if told.record is None:
                return NO_RECORD
            place = Place(told.epoch, told.record)
            return self._never_told(view, floor, place) or place
        found = self._shared.find(self._manifest, asked)
        if found is None:
            now_ns = time.monotonic_ns()
            self._patience_until_ns = self._patience_until_ns or now_ns + _PATIENCE_NS
            return None if now_ns < self._patience_until_ns else NOT_WRITTEN
        if isinstance(found, str):
            return found
        if not all(spot.run_id in order for spot in found.values()):
            return UNKNOWN
        self._left_out = found
        return Place(*min(found.values(), key=lambda spot: (order.index(spot.run_id), spot.seq)))

    def _never_told(self, view: Recording, floor: Floor, place: Place) -> str:
        """Return why a place was told to nobody, where that is certain: its run ended in order before it; else nothing."""
        if place.run_id == self.epoch or not view.has_ended(place.run_id) or self._refuse(view, floor, place):
            return ""
        last_seq = view.run(place.run_id).last_seq()
        if floor.run_id == place.run_id:
            last_seq = max(last_seq, floor.seq)  # what was dropped last had numbers, too
        return f"that run ended with record {last_seq:,}, before the position" if place.seq > last_seq else ""

    @staticmethod
    def _unknown(floor: Floor, reason: str) -> Found:
        return Found(None, False, reason, floor if floor.seq != END else None)

    def _begin_before(self, view: Recording, floor: Floor, wanted: Lead, *, partial: bool) -> Found | None:
        """Find what is wanted with a lead; begin at its lead."""
        behind, since_ms = wanted.behind, wanted.since_ms
        if isinstance(behind, Asked):
            found_place = self._place_of(view, floor, behind)
            if found_place is None:
                return None
            if isinstance(found_place, str):
                return self._unknown(floor, found_place)
            behind, self._left_out = found_place, {}
        reason = self._refuse(view, floor, behind) if behind is not None else ""
        is_known = behind is None or behind.run_id in view.order
        # Where nothing is missing of its run, nothing before that is needed.
        is_of_floor = behind is not None and (behind.run_id, 0) == floor[:2]
        reason = reason or ("" if since_ms >= floor.at_ms or is_of_floor else floor.reason)
        has_any = floor.seq != END
        if not has_any or (reason and not (partial and is_known)):
            return Found(None, False, reason or floor.reason, floor if has_any else None)
        if reason:
            place, from_ms = Place(floor.run_id, floor.seq), 0
        elif behind is None:
            place, from_ms = (
                self._find(view, floor, max(since_ms - wanted.lead_ms, floor.at_ms)),
                since_ms - 1,
            )
        else:
            found = self._find(view, floor, max(since_ms - wanted.lead_ms, floor.at_ms))
            place = min(found, behind, key=lambda one: (view.order.index(one.run_id), one.seq))
            from_ms = self._time_of(view, behind)
        self.place = place
        return Found(place, not reason, reason, floor, self._gaps(view, behind or place, from_ms))

    def read(self) -> list[Piece]:
        """Return what comes next, in order; nothing where no more is written yet. Raise `Lost`."""
        pieces: list[Piece] = []
        size = 0
        while size < BLOCK_BYTES:
            try:
                records = self._next()
            except Lost:
                self.rest()
                raise
            except (ArchiveError, OSError) as error:
                seq, at_ms = self._concerned()
                self.rest()
                if not pieces:
                    self._stuck(str(error), seq, at_ms)
                break
            if records is None:
                self.rest()
                break
            if not len(records):
                break  # behind a hole
            found = list(self._pieces(records))
            pieces += found
            size += sum(piece.size for piece in found)
        return pieces

    def rest(self) -> None:
        """Let go of files; the next `read` takes a new look at the archive."""
        self._blocks = self._view = None

    def _look(self) -> Recording:
        for _ in range(_LOOKS_MIN):
            state = _state_of(self._manifest)
            view = self._shared.look(self._manifest)
            if _state_of(self._manifest) == state:
                break  # else what stands in the files may be less whole than the manifest has said
        if self.epoch not in view.order:
            raise ArchiveError("it is still being repaired after the last run")
        if view.doubts:
            raise ArchiveError(f"{view.doubts[0]}; `recorder verify` says more")
        return view

    def _refuse(self, view: Recording, floor: Floor, wanted: Place | int) -> str:
        """Return why not everything that is asked for is there; empty if it is."""
        if isinstance(wanted, int):
            return "" if wanted >= floor.at_ms else floor.reason
        order = view.order
        if wanted.run_id not in order:
            return "it has no run of that name"
        begin = (order.index(floor.run_id), floor.seq)
        return "" if (order.index(wanted.run_id), wanted.seq) >= begin else floor.reason

    def _find(self, view: Recording, floor: Floor, wanted: Place | int) -> Place:
        if isinstance(wanted, Place):
            return wanted
        for run_id in view.order[view.order.index(floor.run_id) :]:
            # Of what is before the floor, files are missing.
            first_seq = floor.seq + 1 if run_id == floor.run_id and floor.seq else 0
            first = view.run(run_id).first_since(wanted, first_seq=first_seq)
            if first is not None:
                return Place(run_id, first - 1)
        return Place(self.epoch, view.run(self.epoch).last_seq())

    def _time_of(self, view: Recording, place: Place) -> int:
        """Return when the last record up to a place came, Unix ms; 0 where the run has none."""
        if not place.seq or all(gap.run_id != place.run_id for gap in view.gaps):
            return 0
        run = view.run(place.run_id)
        records = next(run.records(first_seq=place.seq, read=self._segment), None)
        if records is not None:
            return records.first[1]
        return max((segment.last_ingest_ms for segment in run.segments), default=0)

    def _gaps(self, view: Recording, place: Place, since_ms: int) -> tuple[Gap, ...]:
        """Return the gaps behind a place, at which it was `since_ms`."""
        order = {run_id: number for number, run_id in enumerate(view.order)}
        own = order[place.run_id]
        return tuple(
            gap
            for gap in view.gaps
            if order.get(gap.run_id, -1) > own or (order.get(gap.run_id, -1) == own and gap.to_ms > since_ms)
        )

    def _next(self) -> Records | None:
        """Return the next records, up to a hole; none where that comes next, and None at the end. Raise `ArchiveError`."""
        if self._blocks is None:
            view = self._view = self._look()
            reason = self._refuse(view, view.floor(self._shared.breaks, has_files=False), self.place)
            if reason:
                raise Lost(reason)  # retention has been faster
            self._order = view.order
            self._blocks = self._records(view)
        run_id, records = next(self._blocks, (self.epoch, None))
        if run_id != self.place.run_id:
            self.place = Place(run_id, 0)
        if records is None:
            return None
        expected = self.place.seq + 1
        count = records.without_hole(expected)
        if count < len(records):
            self.rest()
            if not count:
                seq, ingest_ms = records.first
                self._stuck(
                    f"the records {expected:,} to {seq - 1:,} of run {run_id} are missing",
                    seq - 1,
                    ingest_ms + 1,
                )
            records = records.part(0, count)
        if count:
            self.place = Place(run_id, expected + count - 1)
            self._stuck_at = None
        return records

    def _records(self, view: Recording) -> Iterator[tuple[str, Records]]:
        place = self.place
        for run_id in view.order[view.order.index(place.run_id) :]:
            first_seq = place.seq + 1 if run_id == place.run_id else 1
            for records in view.run(run_id).records(first_seq=first_seq, read=self._segment):
                yield run_id, records

    def _segment(self, segment: Segment, first_seq: int) -> Iterator[Records]:
        if segment.sha256:
            return self._shared.cache.records(segment, first_seq, self.sources)
        return read_segment(segment, first_seq)

    def _concerned(self) -> tuple[int, int]:
        """Return up to where, by number and by time, what cannot be read reaches."""
        segments = self._view.run(self.place.run_id).segments if self._view is not None else []
        for segment in segments:
            if segment.first_seq <= self.place.seq + 1 <= segment.last_seq:
                return segment.last_seq, segment.last_ingest_ms + 1
        return END, NEVER_MS

    def _stuck(self, reason: str, seq: int, at_ms: int) -> None:
        """It does not go on here. Raise `Lost` once that is certain."""
        now_ns = time.monotonic_ns()
        if self._stuck_at != self.place:
            self._stuck_at, self._stuck_ns, self._looks = self.place, now_ns, 0
        self._looks += 1
        patience_ns = _STUCK_NS if self.place.run_id == self.epoch else 0
        if self._looks >= _LOOKS_MIN and now_ns - self._stuck_ns >= patience_ns:
            self._shared.breaks[self.place.run_id] = Break(seq, at_ms, reason)
            raise Lost(reason)

    def _pieces(self, records: Records) -> Iterator[Piece]:
        """Yield the records cut where the cluster changes, and into pieces of a bounded size and time."""
        run_id = self.place.run_id
        number = self._order.index(run_id)
        begin = 0
        reads = records.reads()
        last_ms = reads[0][1] + PIECE_MS_MAX
        for place, (end, _, cluster) in enumerate(reads):
            if place + 1 < len(reads):
                _, next_ms, next_cluster = reads[place + 1]
                if next_cluster == cluster and next_ms <= last_ms:
                    continue
                last_ms = next_ms + PIECE_MS_MAX
            while begin < end:
                part = records.part(begin, min(end, begin + PIECE_RECORDS_MAX))
                piece = Piece(run_id, number, cluster, part.first[0], part.last[1], part)
                begin += len(part)
                if cluster in self._left_out:
                    piece = self._without(piece, self._left_out[cluster])
                if len(piece.records):
                    yield piece

    def _without(self, piece: Piece, place: Spot) -> Piece:
        """Return what of a piece is behind a place."""
        if self._order.index(place.run_id) != piece.run_number:
            is_before = piece.run_number < self._order.index(place.run_id)
            return piece.behind(piece.last_seq) if is_before else piece
        return piece.behind(min(place.seq, piece.last_seq)) if place.seq >= piece.first_seq else piece


def _state_of(manifest: Path) -> tuple[int, int]:
    state = manifest.stat()
    return state.st_ino, state.st_size
