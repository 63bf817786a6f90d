"""What an archive is at one moment, also while a recorder is at work: its manifest, and segments that fit together.

A recorder renames a file first, and says so in the manifest after that. So files that may still grow are opened before
the manifest is read for the last time: what was renamed by then is in the manifest, or among the files, and what is
renamed later stays open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from recorder.archive.codec import codec_of
from recorder.archive.findings import Report
from recorder.archive.held import HeldFile
from recorder.archive.layout import ArchiveFile, active_name, kind_of, kind_of_active, parse
from recorder.archive.locator import FileLocator, Located
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.manifest_index import NEVER_MS, UNKNOWN_RUN, Entry, ManifestIndex, Run, first_record
from recorder.archive.place import HERE, Place
from recorder.archive.record import RecordHeader
from recorder.archive.recorded_segment import Packed, Segment, sealed, unsealed
from recorder.archive.set_back import CLOCK_RACE_MS
from recorder.errors import ArchiveError

_LOOKS_MAX: Final = 10
"""An archive that changes while it is looked at is looked at again, so often at most."""


@dataclass(frozen=True, slots=True)
class ReadManifest:
    """A manifest as it was read at one moment. Recordings of an archive that is live can share it."""

    check: ManifestCheck
    index: ManifestIndex
    report: Report

    @classmethod
    def of(cls, manifest: Path, *, is_live: bool = False, place: Place = HERE) -> ReadManifest:
        """Read a manifest. Raise `ArchiveError`.

        `is_live` says that a recorder is at work; otherwise the lock file tells.
        """
        report = Report()
        try:
            check = ManifestCheck(manifest, report, is_live=is_live, place=place)
            return cls(check, check.read(), report)
        except OSError as error:
            raise ArchiveError(f"cannot read {manifest}: {error.strerror or error}") from error


@dataclass(slots=True)
class Look:
    """What was found."""

    read: ReadManifest
    index: ManifestIndex
    """What the manifest says, with the names that the files have by now."""
    located: Located
    segments: list[Segment]
    foreign: list[str]
    """What is left out of files, and why."""


class _Moved(Exception):
    """A file was renamed since the folder was listed, and the manifest does not say so yet."""


@dataclass(slots=True)
class _Folder:
    """The files of an archive at one moment, those open that may still grow."""

    files: list[Path] = field(default_factory=list)
    held: dict[Path, HeldFile] = field(default_factory=dict)


def look_at(manifest: Path, read: ReadManifest | None = None, place: Place = HERE) -> Look:
    """Look at an archive, with its manifest as it was `read` where the caller sees to it that it has not grown since.

    Raise `ArchiveError`.
    """
    try:
        if place.is_copy:
            return _look_at_copy(manifest, place)
        if read is not None:
            return _look(manifest, read, _list(manifest, read.index), is_last=True)
        found = ReadManifest.of(manifest)
        for left in reversed(range(_LOOKS_MAX)):
            folder = _list(manifest, found.index)
            is_older = found.check.has_changed or found.check.began_to_move
            if is_older:
                # What was renamed before the folder was listed is in the manifest by now, or in the folder.
                is_live = found.check.is_live or found.check.began_to_move
                found = ReadManifest.of(manifest, is_live=is_live)
            try:
                look = _look(manifest, found, folder, is_last=not left)
            except (_Moved, FileNotFoundError):
                continue
            if not (is_older and look.located.moved_away and left):
                return look
    except OSError as error:
        raise ArchiveError(f"cannot read {error.filename or manifest}: {error.strerror or error}") from error
    raise ArchiveError(f"{manifest.parent} changes faster than it can be looked at; try again")


def _look_at_copy(manifest: Path, place: Place) -> Look:
    """Look at what was put to another place, where nothing is renamed."""
    read = ReadManifest.of(manifest, place=place)
    index = read.index
    located = FileLocator(manifest, index, place=place).locate_copied()
    segments = [
        sealed(
            path, parse(path).active, entry, _packed(index, entry, path) if is_alone else None, place=place
        )
        for name, (path, *_) in located.known.items()
        if kind_of(path) == "records"
        for is_alone in [len(index.files[name]) == 1]
        for entry in index.files[name]
        if entry.records
    ]
    return Look(read, index, located, _with_set_backs(index, segments), [])


def _list(manifest: Path, index: ManifestIndex) -> _Folder:
    """List the files, and open those that may grow; one that is renamed meanwhile is there under its new name, too.

    Raise `ArchiveError` or `OSError`.
    """
    for _ in range(_LOOKS_MAX):
        locator = FileLocator(manifest, index)
        folder = _Folder(locator.files)
        try:
            for path in locator.files:
                is_sealed = codec_of(path) != "none" or active_name(path.name) != path.name
                if not is_sealed and locator.owns(path):
                    folder.held[path] = HeldFile(path)
        except FileNotFoundError:
            continue
        if locator.list_again() == folder.files:
            break
    return folder


def _look(manifest: Path, read: ReadManifest, folder: _Folder, *, is_last: bool) -> Look:
    """Put together what was found. Raise `_Moved` where it does not fit, unless this is the last try."""
    check = read.check
    # Whoever shares the manifest must not see what files are called by now.
    index = replace(read.index, files=dict(read.index.files)) if check.is_live else read.index
    locator = FileLocator(manifest, index, folder.files)
    located = locator.locate_live() if check.is_live else locator.locate(is_unfinished=bool(check.unfinished))
    segments = _Segments(locator, index, folder, check, is_last=is_last)
    found = _with_set_backs(index, list(segments.of(located)))
    return Look(read, index, located, found, segments.foreign)


def _with_set_backs(index: ManifestIndex, segments: list[Segment]) -> list[Segment]:
    """Return the segments, each with how much the times of its run may be out of order."""
    damaged_ms = max((one.ts for one in index.damaged if one.kind == "manifest_damaged"), default=0)
    edges: dict[str, list[tuple[int, int]]] = {}
    for one in segments:
        edges.setdefault(one.run_id, []).append((one.first_seq, one.first_ingest_ms))
        if one.last_seq:
            edges[one.run_id].append((one.last_seq, one.last_ingest_ms))
    found_ms: dict[str, int] = {}
    for run_id, times in edges.items():
        run = index.runs.get(run_id)
        noted_ms = CLOCK_RACE_MS + (run.set_back_ms if run is not None else 0)
        latest_ms = seen_ms = 0
        for _, at_ms in sorted(times):
            latest_ms = max(latest_ms, at_ms)
            seen_ms = max(seen_ms, latest_ms - at_ms)
        # Older versions did not note it, and a manifest may have lost the line.
        is_noted = seen_ms <= noted_ms and run is not None and run.started_ms >= damaged_ms
        found_ms[run_id] = noted_ms if is_noted else NEVER_MS
    return [replace(one, set_back_ms=found_ms[one.run_id]) for one in segments]


class _Segments:
    """The segments of all files, and what stands behind the last one in files that may still grow."""

    def __init__(
        self,
        locator: FileLocator,
        index: ManifestIndex,
        folder: _Folder,
        check: ManifestCheck,
        *,
        is_last: bool,
    ) -> None:
        self._locator = locator
        self._index = index
        self._folder = folder
        self._is_live = check.is_live
        self._unfinished = check.unfinished
        self._is_last = is_last
        run = index.runs.get(check.unfinished or "")
        self._began_ms = _begin_of(run) if run is not None else 0
        self.foreign: list[str] = []

    def of(self, located: Located) -> Iterator[Segment]:
        """Yield them, file by file. Raise `_Moved` or `OSError`."""
        files = [(paths[0], self._index.files[name]) for name, paths in located.known.items()]
        files += located.followed.items()
        files += [(path, []) for paths in located.unknown.values() for path in paths]
        for path, entries in files:
            file = parse(path)
            if kind_of_active(file.active) == "records":
                yield from self._of_file(file, entries)

    def _of_file(self, file: ArchiveFile, entries: list[Entry]) -> Iterator[Segment]:
        path, active = file.path, file.active
        held = self._hold(file, entries)
        if held is not None and self._is_live and not file.rotated:
            first = first_record(path, held.open)
            if any(entry.bytes for entry in entries) and not _begins(entries, first):
                self._moved(f"{path.name} is not the file of which the manifest speaks")
                held = None
            elif not entries and self._is_on_record(active, first):
                return
        for entry in entries:
            if entry.records:
                packed = _packed(self._index, entry, path) if len(entries) == 1 else None
                yield sealed(path, active, entry, packed, held)
        end = entries[-1].end if entries else 0
        if held is not None and held.size_bytes > end:
            if tail := self._tail(held, active, end):
                yield tail
        elif not entries and file.codec != "none":
            self.foreign.append(f"{path.name} is left out: not in the manifest; see `recorder verify`")

    def _hold(self, file: ArchiveFile, entries: list[Entry]) -> HeldFile | None:
        """Return the file, open, if it may still grow or change its name; None if the manifest has all of it."""
        if file.codec != "none":
            return None
        if entries and file.rotated and entries[-1].file == self._locator.name(file.path):
            return None
        return self._folder.held.get(file.path) or HeldFile(file.path)

    def _is_on_record(self, active: Path, first: RecordHeader | None) -> bool:
        """Return whether a file that was open, and begins so, has another name by now, under which the manifest has it."""
        index = self._index
        if any(_begins(entries, first) for entries in index.moved):
            self._moved(f"{active.name} was moved while the archive was looked at")
        return any(
            _begins(entries, first)
            for entries in [*index.files.values(), *index.doomed.values()]
            if entries and self._locator.active(entries[-1].file) == active
        )

    def _tail(self, held: HeldFile, active: Path, begin: int) -> Segment | None:
        """Return what a run that was killed, or is at work, has written from a place in a file on; None for nothing."""
        name, size_bytes = held.path.name, held.size_bytes - begin
        if self._unfinished is None and not self._is_live:
            what = f"{size_bytes:,} bytes at the end of {name} are" if begin else f"{name} is"
            self.foreign.append(f"{what} left out: not in the manifest; see `recorder verify`")
            return None
        tail = unsealed(held, active, self._unfinished or UNKNOWN_RUN, begin, size_bytes)
        is_certain = begin or (self._is_live and not parse(held.path).rotated)
        if tail is not None and not is_certain and tail.first_ingest_ms < self._began_ms:
            run = "is at work" if self._is_live else "was killed"
            self.foreign.append(
                f"{name} is left out: its records are older than the run that {run}; see `recorder verify`"
            )
            return None
        return tail

    def _moved(self, what: str) -> None:
        if not self._is_last:
            raise _Moved
        self.foreign.append(f"{what}; see `recorder verify`")


def _begin_of(run: Run) -> int:
    """Return before when no record of a run came, Unix ms, by its own clock."""
    return run.started_ms - (run.set_back_ms + CLOCK_RACE_MS if run.set_back_ms else 0)


def _begins(entries: list[Entry], first: RecordHeader | None) -> bool:
    """Return whether a file that begins with this record is the one of these segments."""
    entry = next((entry for entry in entries if entry.bytes), None)
    if entry is None or first is None:
        return False
    return (first.seq, first.ingest_ts) == (entry.first_seq, entry.first_ingest_ts)


def _packed(index: ManifestIndex, entry: Entry, path: Path) -> Packed | None:
    """Return what is noted of a file that is this one segment, as it lies there."""
    noted, uploaded = index.compressed.get(entry.file), index.uploaded.get(entry.file)
    if uploaded is not None and uploaded.object.endswith(path.name):
        return Packed(codec_of(path), uploaded.sha256)
    return Packed(noted.codec, noted.sha256) if noted is not None and noted.sha256 else None
