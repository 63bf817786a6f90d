"""An archive as it is read: its runs and their segments, and the records in the order in which they came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recorder.archive.codec import codec_of
from recorder.archive.continuity import Break, Floor, floor_of
from recorder.archive.cutting import RecordedEvent, Records, cut, decoded, events_of, last_seq, merged
from recorder.archive.disk import Disk
from recorder.archive.findings import Drop, Report
from recorder.archive.gaps import Gap
from recorder.archive.layout import kind_of, parse
from recorder.archive.locator import FileLocator, Located
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.manifest_index import (
    NEVER_MS,
    UNKNOWN_RUN,
    Entry,
    ManifestIndex,
    Run,
)
from recorder.archive.recorded import manifests_of
from recorder.archive.recorded_segment import Packed, Segment, sealed, unsealed
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
            is_over = bool(segment.last_ingest_ms) and segment.last_ingest_ms < start_ms
            is_over = is_over or 0 < segment.last_seq < first_seq
            if not is_over and segment.first_ingest_ms < end_ms:
                streams.setdefault(segment.active, []).append(segment)

        if first_seq:
            for segments in streams.values():
                segments[:] = [segment.without(lambda header: header.seq < first_seq) for segment in segments]
        blocks = _merged(
            [_chained(segments, first_seq, read or read_segment) for segments in streams.values()]
        )
        if not start_ms and end_ms == NEVER_MS:
            yield from blocks
            return
        for block in blocks:
            chosen = block.between(start_ms, end_ms)
            if len(chosen):
                yield chosen
            elif block.first[1] >= end_ms:
                return

    def events(self, *, start_ms: int = 0, end_ms: int = NEVER_MS) -> Iterator[list[RecordedEvent]]:
        """Yield what `records` does, an object for each."""
        for records in self.records(start_ms=start_ms, end_ms=end_ms, read=_read_decoded):
            yield events_of(records)

    def first_since(self, since_ms: int) -> int | None:
        """Return the number of the first record that came from a time on, Unix ms; None if none has. Raise `ArchiveError`.

        Where the clock was set back, what came later is behind it all the same.
        """
        later = [
            segment.without(lambda header: header.ingest_ts < since_ms)
            for segment in self.segments
            if not segment.last_ingest_ms or segment.last_ingest_ms >= since_ms
        ]
        first = next(RecordedRun(self.run_id, later).records(start_ms=since_ms), None)
        return first.first[0] if first is not None else None

    def last_seq(self) -> int:
        """Return the number of the last record; 0 where there is none. Raise `ArchiveError`."""
        found = max((segment.last_seq for segment in self.segments), default=0)
        for segment in self.segments:
            if not segment.last_seq:
                for block in read_segment(segment.without(lambda header: True), 0):
                    found = max(found, block.last[0])
        return found


@dataclass(frozen=True, slots=True)
class ReadManifest:
    """A manifest as it was read at one moment. Recordings of an archive that is live can share it."""

    check: ManifestCheck
    index: ManifestIndex
    report: Report

    @classmethod
    def of(cls, manifest: Path, *, is_live: bool = False) -> ReadManifest:
        """Read a manifest. Raise `ArchiveError`.

        `is_live` says that a recorder is at work; otherwise the lock file tells.
        """
        report = Report()
        try:
            check = ManifestCheck(manifest, report, is_live=is_live)
            return cls(check, check.read(), report)
        except OSError as error:
            raise ArchiveError(f"cannot read {manifest}: {error.strerror or error}") from error


class Recording:
    """One archive, read at the moment at which this is made; a recorder may be at work on it.

    `problems` says what is wrong or missing, `notes` what is worth knowing; nobody who reads on can say that he was
    not told.
    """

    def __init__(self, manifest: Path, read: ReadManifest | None = None) -> None:
        """Read a manifest, unless it has been `read`, and find the files that it speaks of. Raise `ArchiveError`."""
        read = read or ReadManifest.of(manifest)
        check, index, report = read.check, read.index, read.report
        self.manifest = manifest
        self.runs: list[RecordedRun] = []
        """In their order; those whose records are gone or never were are left out."""
        try:
            locator = FileLocator(manifest, index)
            if check.is_live:
                located = locator.locate_sealed()
            else:
                located = locator.locate(is_unfinished=check.unfinished is not None)
        except OSError as error:
            raise ArchiveError(f"cannot read {manifest}: {error.strerror or error}") from error
        self.is_live = check.is_live
        self.is_shifted = bool(index.shifted)
        """Whether it may be the recording of a replay whose events did not happen when they say."""
        self.gaps: list[Gap] = report.gaps
        self.drops: list[Drop] = report.drops
        self.doubts = tuple(report.problems)
        """What is wrong with the manifest itself."""
        self.problems = list(report.problems)
        self.notes = list(report.notes)
        self._note_what_is_gone(index, located)
        self._index = index
        self._located = located
        self._sessions_of = frozenset(index.opened_by)
        runs: dict[str, RecordedRun] = {
            run_id: RecordedRun(run_id, sessions_of=frozenset(run.clusters))
            for run_id, run in index.runs.items()
        }
        tails = _Tails(index, check.unfinished, is_live=check.is_live)
        for segment in _segments(index, located, tails):
            runs.setdefault(segment.run_id, RecordedRun(segment.run_id)).segments.append(segment)
        self.problems += tails.foreign
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
    def known_runs(self) -> Mapping[str, Run]:
        """What the manifest has of the same runs."""
        return self._index.runs

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

    def _note_what_is_gone(self, index: ManifestIndex, located: Located) -> None:
        for entry in index.damaged:
            self.problems.append(
                f"{entry.file or self.manifest.name} had lost its end when a run began to write"
            )
        for name, entries in located.missing:
            self.problems.append(f"{name} is missing, with {_count(entries):,} records")
        for entries in located.moved_away:
            self.notes.append(f"{entries[-1].file} was moved away, with {_count(entries):,} records")
        if deleted := _count(index.deleted):
            self.notes.append(f"{deleted:,} records were deleted by retention")

    def __repr__(self) -> str:
        return f"Recording({self.manifest}, {len(self.runs)} runs, {len(self.problems)} problems)"


def open_recordings(path: Path) -> list[Recording]:
    """Return the archives that a path means: a folder, a manifest, or an active file's name (`NDJSON_DEST`).

    Raise `ArchiveError` where there is none.
    """
    return [Recording(manifest) for manifest in manifests_of(path)]


class _Tails:
    """What stands behind the last segments, and in files that the manifest does not know: only a run's own is played."""

    def __init__(self, index: ManifestIndex, unfinished: str | None, *, is_live: bool) -> None:
        self._is_live = is_live
        self._unfinished = unfinished
        run = index.runs.get(unfinished or "")
        self._started_ms = run.started_ms if run is not None else 0
        self.foreign: list[str] = []
        """What is left out, and why."""

    def find(self, path: Path, active: Path, begin: int, size_bytes: int) -> Segment | None:
        """Return what a run that was killed, or is at work, has written from a place in a file on; None for nothing."""
        is_packed = codec_of(path) != "none"
        if self._is_live:
            # A file may have been moved or compressed since the manifest was read.
            run_id = self._unfinished or UNKNOWN_RUN
            return None if is_packed else unsealed(path, active, run_id, begin, size_bytes)
        if self._unfinished is None or is_packed:
            what = f"{size_bytes:,} bytes at the end of {path.name} are" if begin else f"{path.name} is"
            self.foreign.append(f"{what} left out: not in the manifest; see `recorder verify`")
            return None
        tail = unsealed(path, active, self._unfinished, begin, size_bytes)
        if tail is not None and not begin and tail.first_ingest_ms < self._started_ms:
            self.foreign.append(
                f"{path.name} is left out: its records are older than the run that was killed; see `recorder verify`"
            )
            return None
        return tail


def _segments(index: ManifestIndex, located: Located, tails: _Tails) -> Iterator[Segment]:
    """Yield the segments of all files, and what stands behind the last one in files that may still grow."""
    files = [(paths[0], index.files[name]) for name, paths in located.known.items()]
    files += located.followed.items()
    files += [(path, []) for paths in located.unknown.values() for path in paths]
    disk = Disk()
    for path, entries in files:
        if kind_of(path) != "records":
            continue
        active = parse(path).active
        for entry in entries:
            if entry.records:
                yield sealed(path, active, entry, _packed(index, entry) if len(entries) == 1 else None)
        state = disk.stat(path)
        end = entries[-1].end if entries else 0
        is_named = bool(entries) and parse(path).rotated and entries[-1].file == path.name
        is_packed = bool(entries) and codec_of(path) != "none"
        if state is None or is_named or is_packed or state.st_size <= end:
            continue
        if tail := tails.find(path, active, end, state.st_size - end):
            yield tail


def _packed(index: ManifestIndex, entry: Entry) -> Packed | None:
    """Return what is noted of the compressed form of a file that is this one segment."""
    noted = index.compressed.get(entry.file)
    return Packed(noted.codec, noted.sha256) if noted is not None and noted.sha256 else None


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


def _chained(segments: Iterable[Segment], first_seq: int, read: ReadSegment) -> Iterator[Records]:
    """Yield the records, from a number on, of segments that stand behind one another. Raise `ArchiveError`."""
    before = 0
    for segment in segments:
        for records in read(segment, first_seq):
            if not len(records):
                continue
            if records.first[0] <= before:
                raise ArchiveError(f"{segment.path}: seq {records.first[0]} comes after {before}")
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


def _count(entries: Iterable[Entry]) -> int:
    return sum(entry.records for entry in entries)
