"""An archive as it is read: its runs and their segments, and the records in the order in which they came."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from recorder.archive.codec import SUFFIXES, codec_of, compressed_path, plain_path
from recorder.archive.disk import Disk
from recorder.archive.findings import Drop, Report
from recorder.archive.gaps import Gap
from recorder.archive.layout import is_rejects, parse
from recorder.archive.locator import FileLocator, Located
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.manifest_index import UNKNOWN_RUN, Entry, ManifestIndex, first_bytes, first_record
from recorder.archive.reader import open_file, read_blocks
from recorder.archive.record import UNREADABLE
from recorder.archive.recorded import manifests_of
from recorder.errors import ArchiveError

_MOVES_MAX: Final = 3
"""A file under compression changes its name once; it is looked for so often."""
_NEVER_MS: Final = 1 << 62
_seq_of: Final = attrgetter("seq")


class RecordedEvent(msgspec.Struct, gc=False):
    """One record, less what all records of its writer have in common."""

    ingest_ts: int
    """Unix ms: when the bytes were read from the socket."""
    type: str
    symbol: str
    feed: str
    """The cluster."""
    ts: int
    """Unix ms: when it happened; 0 if the event has no time."""
    payload: msgspec.Raw
    """The event, byte for byte."""
    seq: int


@dataclass(frozen=True, slots=True)
class Segment:
    """What one run wrote into one file, where that file is now."""

    path: Path
    run_id: str
    active: Path
    """The active file that it was written to."""
    offset: int
    size_bytes: int
    """Plain content of the segment; of one that is not sealed, what there is of it now."""
    sha256: str
    """Of the plain content; empty where the manifest does not have it yet."""
    first_seq: int
    last_seq: int
    """0 where the manifest does not have it yet."""
    first_ingest_ms: int
    last_ingest_ms: int
    """0 where the manifest does not have it yet."""
    counts: Mapping[str, int]
    """Records by type; empty where the manifest does not have it yet."""

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines, many at once.

        Raise `ArchiveError` where the file cannot be read, is damaged, or is not the one that was written; for a sealed
        segment at its end at the latest.
        """
        digest = hashlib.sha256() if self.sha256 else None
        count = 0
        rest = b""
        for block in self._content():
            if digest is not None:
                digest.update(block)
            count += len(block)
            border = block.rfind(b"\n") + 1
            if border:
                yield rest + block[:border] if rest else block[:border]
                rest = block[border:]
            else:
                rest += block
        if count < self.size_bytes:
            # Also of a file that is still written to: another one has its name by now.
            raise ArchiveError(f"{self.path}: {self.size_bytes - count:,} bytes are missing")
        if digest is None:
            return  # what stands behind the last line end is still being written
        if digest.hexdigest() != self.sha256 or rest:
            raise ArchiveError(
                f"{self.path}: the segment at {self.offset} is not what was written; see `recorder verify`"
            )

    def _content(self) -> Iterator[bytes]:
        for attempt in range(_MOVES_MAX):
            path = self._form()
            is_plain = codec_of(path) == "none"
            blocks = read_blocks(path, self._open_at if is_plain else open_file)
            try:
                first = next(blocks, b"")
            except ArchiveError:
                # Between the look and the reading it may have been compressed.
                if attempt + 1 < _MOVES_MAX and not path.exists():
                    continue
                raise
            whole = _chained(first, blocks)
            yield from first_bytes(whole if is_plain else _behind(whole, self.offset), self.size_bytes)
            return

    def _form(self) -> Path:
        """Return the name that the file has by now."""
        plain = plain_path(self.path)
        forms = [self.path, plain, *(compressed_path(plain, codec) for codec in SUFFIXES)]
        return next((form for form in forms if form.exists()), self.path)

    def _open_at(self, path: Path) -> BinaryIO:
        file = open_file(path)
        file.seek(self.offset)
        return file


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
        return min((segment.first_ingest_ms for segment in self.segments), default=_NEVER_MS)

    def events(self, *, start_ms: int = 0, end_ms: int = _NEVER_MS) -> Iterator[list[RecordedEvent]]:
        """Yield the records in order, many at once: those that came from `start_ms` on and before `end_ms`.

        What the manifest rules out is not read. Raise `ArchiveError` for a file that cannot be read or was altered.
        """
        streams: dict[Path, list[Segment]] = {}
        for segment in self.segments:
            is_over = bool(segment.last_ingest_ms) and segment.last_ingest_ms < start_ms
            if not is_over and segment.first_ingest_ms < end_ms:
                streams.setdefault(segment.active, []).append(segment)
        blocks = _merged([_decoded(segments) for segments in streams.values()])
        if not start_ms and end_ms == _NEVER_MS:
            yield from blocks
            return
        for block in blocks:
            chosen = [event for event in block if start_ms <= event.ingest_ts < end_ms]
            if chosen:
                yield chosen
            elif block[0].ingest_ts >= end_ms:
                return


class Recording:
    """One archive, read at the moment at which this is made; a recorder may be at work on it.

    `problems` says what is wrong or missing, `notes` what is worth knowing; nobody who reads on can say that he was
    not told.
    """

    def __init__(self, manifest: Path) -> None:
        """Read a manifest, and find the files that it speaks of. Raise `ArchiveError`."""
        report = Report()
        self.manifest = manifest
        self.runs: list[RecordedRun] = []
        """In their order; those whose records are gone or never were are left out."""
        try:
            check = ManifestCheck(manifest, report, is_live=False)
            index = check.read()
            locator = FileLocator(manifest, index)
            if check.is_live:
                located = locator.locate_sealed()
            else:
                located = locator.locate(is_unfinished=check.unfinished is not None)
        except OSError as error:
            raise ArchiveError(f"cannot read {manifest}: {error.strerror or error}") from error
        self.is_live = check.is_live
        self.gaps: list[Gap] = report.gaps
        self.drops: list[Drop] = report.drops
        self.problems = report.problems
        self.notes = report.notes
        self._note_what_is_gone(index, located)
        self._sessions_of = frozenset(index.opened_by)
        runs: dict[str, RecordedRun] = {
            run_id: RecordedRun(run_id, sessions_of=frozenset(run.clusters))
            for run_id, run in index.runs.items()
        }
        for segment in _segments(index, located, check.unfinished or UNKNOWN_RUN):
            runs.setdefault(segment.run_id, RecordedRun(segment.run_id)).segments.append(segment)
        for run in runs.values():
            run.segments.sort(key=lambda segment: segment.first_seq)
            if run.segments:
                self.runs.append(run)

    @property
    def segments(self) -> list[Segment]:
        """All of them, run by run."""
        return [segment for run in self.runs for segment in run.segments]

    def clusters(self, *, start_ms: int = 0, end_ms: int = _NEVER_MS) -> set[str]:
        """Return the clusters that were followed.

        A run of which the manifest has no session, as one that was killed early, has those with which its records begin in
        this time. So has the run that is played first, where that is not from its beginning. Raise `ArchiveError` where
        these cannot be read.
        """
        found = set(self._sessions_of)
        is_begun = not start_ms
        for run in self.runs:
            if not (run.sessions_of and is_begun):
                first = next(run.events(start_ms=start_ms, end_ms=end_ms), [])
                is_begun = is_begun or bool(first)
                found |= {event.feed for event in first}
        return found

    def events(self, *, start_ms: int = 0, end_ms: int = _NEVER_MS) -> Iterator[list[RecordedEvent]]:
        """Yield the records of all runs in order, many at once; see `RecordedRun.events`."""
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


def _segments(index: ManifestIndex, located: Located, tail_run: str) -> Iterator[Segment]:
    """Yield the segments of all files, and what stands behind the last one in files that may still grow."""
    files = [(paths[0], index.files[name]) for name, paths in located.known.items()]
    files += located.followed.items()
    files += [(path, []) for paths in located.unknown.values() for path in paths]
    disk = Disk()
    for path, entries in files:
        if is_rejects(path):
            continue
        active = parse(path).active
        for entry in entries:
            if entry.records:
                yield _sealed(path, active, entry)
        state = disk.stat(path)
        end = entries[-1].end if entries else 0
        is_named = bool(entries) and parse(path).rotated and entries[-1].file == path.name
        if state is None or is_named or codec_of(path) != "none" or state.st_size <= end:
            continue
        if tail := _unsealed(path, active, tail_run, end, state.st_size - end):
            yield tail


def _sealed(path: Path, active: Path, entry: Entry) -> Segment:
    return Segment(
        path,
        entry.run_id,
        active,
        entry.offset,
        entry.bytes,
        entry.sha256,
        entry.first_seq,
        entry.last_seq,
        entry.first_ingest_ts,
        entry.last_ingest_ts,
        entry.counts,
    )


def _unsealed(path: Path, active: Path, run_id: str, offset: int, size_bytes: int) -> Segment | None:
    """Return what stands behind the last segment of a file; None where that is no record."""

    def open_at(path: Path) -> BinaryIO:
        file = open_file(path)
        file.seek(offset)
        return file

    first = first_record(path, open_at)
    if first is None:
        return None
    return Segment(path, run_id, active, offset, size_bytes, "", first.seq, 0, first.ingest_ts, 0, {})


def _decoded(segments: Iterable[Segment]) -> Iterator[list[RecordedEvent]]:
    """Yield the records of segments that stand behind one another. Raise `ArchiveError`."""
    decode = msgspec.json.Decoder(RecordedEvent).decode_lines
    last_seq = 0
    for segment in segments:
        for block in segment.blocks():
            try:
                events = decode(block)
            except UNREADABLE as error:
                raise ArchiveError(f"{segment.path}: a line is no record: {error}") from error
            if events[0].seq <= last_seq:
                raise ArchiveError(f"{segment.path}: seq {events[0].seq} comes after {last_seq}")
            last_seq = events[-1].seq
            yield events


def _merged(streams: list[Iterator[list[RecordedEvent]]]) -> Iterator[list[RecordedEvent]]:
    """Yield the records of several files by their `seq`, many at once."""
    if len(streams) == 1:
        yield from streams[0]
        return
    waiting: dict[int, list[RecordedEvent]] = {}
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
        until_seq = min(block[-1].seq for block in waiting.values())
        ready: list[RecordedEvent] = []
        for number, block in list(waiting.items()):
            end = bisect_right(block, until_seq, key=_seq_of)
            ready += block[:end]
            if end == len(block):
                del waiting[number]
            else:
                waiting[number] = block[end:]
        ready.sort(key=_seq_of)
        yield ready


def _chained(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def _behind(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the blocks without their first `count` bytes."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))


def _count(entries: Iterable[Entry]) -> int:
    return sum(entry.records for entry in entries)
