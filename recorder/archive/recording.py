"""An archive as it is read: its runs and their segments, and the records in the order in which they came."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recorder.archive.bucket import place_of
from recorder.archive.continuity import Break, Floor, floor_of
from recorder.archive.cutting import RecordedEvent, Records, cut, decoded, events_of, last_seq, merged
from recorder.archive.findings import Drop
from recorder.archive.gaps import Gap
from recorder.archive.gone import absences_of, notes_of, problems_of
from recorder.archive.look import ReadManifest, look_at
from recorder.archive.manifest_index import NEVER_MS, Entry, Run
from recorder.archive.place import HERE, Place
from recorder.archive.record import RecordHeader
from recorder.archive.recorded import manifests_of
from recorder.archive.recorded_segment import Segment, expect
from recorder.errors import ArchiveError

ReadSegment = Callable[[Segment, int], Iterator[Records]]
"""Yields the records of a segment from a number on, at least; what it raises is `ArchiveError`."""


@dataclass(slots=True)
class RecordedRun:
    """The records of one process life, as far as they are still there."""

    run_id: str
    segments: list[Segment] = field(default_factory=list)
    """Those of one active file stand in the order in which they were written."""
    sessions_of: frozenset[str] = frozenset()
    """The clusters of which it had a session, as the manifest has it."""

    @property
    def first_ingest_ms(self) -> int:
        """When its first record came, Unix ms; far in the future where there is none."""
        return min((segment.first_ingest_ms for segment in self.segments), default=NEVER_MS)

    def records(
        self,
        *,
        start_ms: int = 0,
        end_ms: int = NEVER_MS,
        first_seq: int = 0,
        read: ReadSegment | None = None,
    ) -> Iterator[Records]:
        """Yield the records in order, many at once: those from a number on that came from `start_ms` on, before `end_ms`.

        What the manifest rules out is not read. `read` is another way to read a segment. Raise `ArchiveError` for a file
        that cannot be read or was altered, where that is found out.
        """
        streams: dict[Path, list[Segment]] = {}
        for segment in self.segments:
            is_before = 0 < segment.last_seq < first_seq
            if not is_before and segment.may_have(start_ms, end_ms):
                streams.setdefault(segment.active, []).append(segment)

        if first_seq:
            for segments in streams.values():
                segments[:] = [segment.without(lambda header: header.seq < first_seq) for segment in segments]
        expect(sorted(itertools.chain.from_iterable(streams.values()), key=lambda segment: segment.first_seq))
        blocks = _merged(
            [_chained(segments, first_seq, end_ms, read or read_segment) for segments in streams.values()]
        )
        if not start_ms and end_ms == NEVER_MS:
            yield from blocks
            return
        for block in blocks:
            chosen = block.between(start_ms, end_ms)
            if len(chosen):
                yield chosen

    def events(self, *, start_ms: int = 0, end_ms: int = NEVER_MS) -> Iterator[list[RecordedEvent]]:
        """Yield what `records` does, an object for each."""
        for records in self.records(start_ms=start_ms, end_ms=end_ms, read=_read_decoded):
            yield events_of(records)

    def first_since(self, since_ms: int, *, first_seq: int = 0) -> int | None:
        """Return the first number, of these on, whose record came from a time on, Unix ms; None if none has.

        Where the clock was set back, what came later is behind it all the same. Raise `ArchiveError`.
        """
        later: list[Segment] = []
        for segment in self.segments:
            if segment.may_have(since_ms, NEVER_MS):
                surely_ms = since_ms - segment.set_back_ms  # before one that came so early, nothing is wanted
                later.append(segment.without(_came_before(surely_ms)))
        first = next(RecordedRun(self.run_id, later).records(start_ms=since_ms, first_seq=first_seq), None)
        return first.first[0] if first is not None else None

    def last_seq(self) -> int:
        """Return the number of the last record; 0 where there is none. Raise `ArchiveError`."""
        found = max((segment.last_seq for segment in self.segments), default=0)
        for segment in self.segments:
            if not segment.last_seq:
                for block in read_segment(segment.without(lambda header: True), 0):
                    found = max(found, block.last[0])
        return found


class Recording:
    """One archive, read at the moment at which this is made; a recorder may be at work on it.

    `problems` says what is wrong or missing, `notes` what is worth knowing; nobody who reads on can say that he was
    not told.
    """

    def __init__(self, manifest: Path, read: ReadManifest | None = None, place: Place = HERE) -> None:
        """Read a manifest and find the files that it speaks of. Raise `ArchiveError`.

        Who has `read` the manifest sees to it that it has not grown since.
        """
        look = look_at(manifest, read, place)
        index, located = look.index, look.located
        check, report = look.read.check, look.read.report
        self.manifest = manifest
        self.place = place
        self.runs: list[RecordedRun] = []
        """In their order; those whose records are gone or never were are left out."""
        self.absences = list(absences_of(index, located, look.segments)) if place.is_copy else []
        """Of a copy: from when to when it may lack records that were recorded, Unix ms."""
        self.is_live = check.is_live
        self.is_shifted = bool(index.shifted)
        """Whether it may be the recording of a replay whose events did not happen when they say."""
        self.gaps: list[Gap] = report.gaps
        self.drops: list[Drop] = report.drops
        self.doubts = tuple(report.problems)
        """What is wrong with the manifest itself."""
        self.problems = list(report.problems)
        self.notes = list(report.notes)
        self.problems += problems_of(index, located, manifest)
        self.notes += notes_of(index, located, manifest)
        self._index = index
        self._located = located
        self._sessions_of = frozenset(index.opened_by)
        runs: dict[str, RecordedRun] = {
            run_id: RecordedRun(run_id, sessions_of=frozenset(run.clusters))
            for run_id, run in index.runs.items()
        }
        for segment in look.segments:
            runs.setdefault(segment.run_id, RecordedRun(segment.run_id)).segments.append(segment)
        self.problems += look.foreign
        for run in runs.values():
            run.segments.sort(key=lambda segment: segment.first_seq)
            if run.segments:
                self.runs.append(run)

    @property
    def segments(self) -> list[Segment]:
        """All of them, run by run."""
        return [segment for run in self.runs for segment in run.segments]

    @property
    def order(self) -> list[str]:
        """The runs that the manifest knows, also those without a record, in their order."""
        return list(self._index.runs)

    @property
    def deleted(self) -> list[Entry]:
        """The segments that retention deleted."""
        return [entry for entry in self._index.deleted if entry.kind == "segment_closed" and entry.records]

    @property
    def known_runs(self) -> Mapping[str, Run]:
        """What the manifest has of the same runs."""
        return self._index.runs

    @property
    def gone(self) -> list[Entry]:
        """What the manifest has of segments that are not there any more: deleted by retention, moved away, or missing."""
        missing = [entries for _, entries in self._located.missing]
        elsewhere = [entry for entries in (*self._located.moved_away, *missing) for entry in entries]
        return [*self.deleted, *(one for one in elsewhere if one.kind == "segment_closed" and one.records)]

    def run(self, run_id: str) -> RecordedRun:
        """Return a run; one without records where nothing is there of it."""
        return next((run for run in self.runs if run.run_id == run_id), RecordedRun(run_id))

    def has_ended(self, run_id: str) -> bool:
        """Return whether a run ended in order: what it recorded, or dropped, is on record."""
        run = self._index.runs.get(run_id)
        return run is not None and run.ended and all(drop.last_seq for drop in run.drops)

    def floor(self, breaks: Mapping[str, Break], *, has_files: bool = True) -> Floor:
        """Return from where on everything is there. `breaks` is what readers have found, by run.

        Without `has_files` it is taken on trust that the files are there.
        """
        gone = [one for one in self.segments if has_files and not one.exists()]
        return floor_of(self._index, self._located, self.segments, gone, breaks)

    def clusters(self, *, start_ms: int = 0, end_ms: int = NEVER_MS) -> set[str]:
        """Return the clusters that were followed.

        A run of which the manifest has no session, as one that was killed early, has those with which its records begin in
        this time. So has the run that is played first, where that is not from its beginning. Raise `ArchiveError` where
        these cannot be read.
        """
        found = set(self._sessions_of)
        is_begun = not start_ms
        for run in self.runs:
            if not (run.sessions_of and is_begun):
                first = next(run.records(start_ms=start_ms, end_ms=end_ms), None)
                if first is not None:
                    is_begun = True
                    found |= {feed for _, _, feed in first.reads()}
        return found

    def records(
        self, *, start_ms: int = 0, end_ms: int = NEVER_MS, read: ReadSegment | None = None
    ) -> Iterator[Records]:
        """Yield the records of all runs in order, many at once; see `RecordedRun.records`."""
        for run in self.runs:
            yield from run.records(start_ms=start_ms, end_ms=end_ms, read=read)

    def events(self, *, start_ms: int = 0, end_ms: int = NEVER_MS) -> Iterator[list[RecordedEvent]]:
        """Yield what `records` does, an object for each."""
        for run in self.runs:
            yield from run.events(start_ms=start_ms, end_ms=end_ms)

    def __repr__(self) -> str:
        return f"Recording({self.manifest}, {len(self.runs)} runs, {len(self.problems)} problems)"


def open_recordings(path: Path) -> list[Recording]:
    """Return the archives that a path means: a folder, a manifest, or an active file's name (`NDJSON_DEST`).

    The path may be an `ObjectPath`, of a bucket. Raise `ArchiveError` where there is none, and what `place_of` raises.
    """
    place = place_of(path)
    return [Recording(manifest, place=place) for manifest in manifests_of(path, place)]


def read_segment(segment: Segment, first_seq: int) -> Iterator[Records]:
    """Yield the records of a segment from the block on that has a number. Raise `ArchiveError`."""
    name = str(segment.path)
    for block in segment.blocks():
        if first_seq and last_seq(block, name) < first_seq:
            continue
        yield cut(block, name)


def _read_decoded(segment: Segment, first_seq: int) -> Iterator[Records]:
    """Yield the same for those who need an object for each record, which are made at once."""
    for block in segment.blocks():
        yield decoded(block, str(segment.path))


def _came_before(at_ms: int) -> Callable[[RecordHeader], bool]:
    return lambda header: header.ingest_ts < at_ms


def _chained(
    segments: Iterable[Segment], first_seq: int, end_ms: int, read: ReadSegment
) -> Iterator[Records]:
    """Yield the records, from a number on, of segments that stand behind one another. Raise `ArchiveError`.

    A segment is left where nothing behind can have come before `end_ms`.
    """
    before = 0
    for segment in segments:
        for records in read(segment, first_seq):
            if not len(records):
                continue
            if records.first[0] <= before:
                raise ArchiveError(f"{segment.path}: seq {records.first[0]} comes after {before}")
            if records.first[1] >= end_ms + segment.set_back_ms:
                break
            before = records.last[0]
            if records.first[0] < first_seq:
                records = records.part(records.place_of(first_seq), len(records))
            if len(records):
                yield records


def _merged(streams: list[Iterator[Records]]) -> Iterator[Records]:
    """Yield the records of several files by their `seq`, many at once."""
    if len(streams) == 1:
        yield from streams[0]
        return
    waiting: dict[int, Records] = {}
    ended: set[int] = set()
    while True:
        for number, stream in enumerate(streams):
            if number not in ended and number not in waiting:
                block = next(stream, None)
                if block is None:
                    ended.add(number)
                else:
                    waiting[number] = block
        if not waiting:
            return
        # Up to there each file has been read, or has nothing more.
        until_seq = min(block.last[0] for block in waiting.values())
        ready: list[Records] = []
        for number, block in list(waiting.items()):
            end = block.place_of(until_seq + 1)
            if end:
                ready.append(block.part(0, end))
            if end == len(block):
                del waiting[number]
            else:
                waiting[number] = block.part(end, len(block))
        yield merged(ready)
