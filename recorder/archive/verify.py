"""Re-reads an archive and holds every line, count, checksum and sequence number against what the manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recorder.archive.catalogue import Catalogue, Entry, begins_with, read_manifest, still_there
from recorder.archive.check import FileReport, RunCheck, check_file, holds_segments
from recorder.archive.codec import codec_of, plain_path
from recorder.archive.disk import Disk
from recorder.archive.layout import MANIFEST_ENDING, REJECTS_ENDING, parse
from recorder.archive.reader import lines, open_file, read_blocks
from recorder.errors import ArchiveError

_CRASH_WINDOW_MS: Final = 60_000
"""A killed run may miss records of its last so many milliseconds: flush interval, and time the disk had stalled."""
_LINE_START: Final = b'{"kind":'

Progress = Callable[[int, int], None]
"""Is told `(bytes of files done, bytes of all files)`."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without data of a cluster, between two sessions; Unix ms."""

    cluster: str
    from_ms: int
    to_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Records that were lost against our will, and counted."""

    run_id: str
    cluster: str
    channel: str
    count: int
    reason: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that a killed run had not handed to the disk yet, told by the hole in its sequence numbers."""

    run_id: str
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class Report:
    """What verification found."""

    files: list[FileReport] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with no file in particular: the manifest, missing files, sequence numbers."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the archive is what it says it is."""
        return not self.problems and not any(file.problems for file in self.files)

    @property
    def records(self) -> int:
        """Records in all files."""
        return sum(file.records for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of plain content in all files."""
        return sum(file.bytes for file in self.files)


def verify(paths: Iterable[str | Path], progress: Progress | None = None) -> Report:
    """Check archives. A path is a folder, a manifest, an active file's name (its archive is meant) or any other file.

    Files that no manifest knows are checked line by line. Raises `ArchiveError` for a path that does not exist.
    """
    report = Report()
    archives, singles = _targets([Path(path) for path in paths])
    checks = [_ArchiveCheck(manifest, report) for manifest in archives]
    known = {path for check in checks for path in check.paths}
    singles = [path for path in singles if path not in known]
    meter = _Meter(progress, [*known, *singles])
    for check in checks:
        check.run(meter)
    for path in singles:
        report.files.append(check_file(path, [], RunCheck, tail_run=None, on_read=meter.add))
    _compare_contents(report)
    return report


def _compare_contents(report: Report) -> None:
    """Tell of files that hold the same."""
    seen: dict[str, str] = {}
    for file in report.files:
        if file.records:
            first = seen.setdefault(file.sha256, file.path)
            if first != file.path:
                file.add_problem(f"the file has the same content as {first}")


def _targets(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Give the manifests and the other files that are meant."""
    disk = Disk()
    manifests: dict[Path, None] = {}
    singles: dict[Path, None] = {}
    for path in paths:
        beside = path.parent / f"{path.stem}{MANIFEST_ENDING}"
        if path.is_dir():
            try:
                found = sorted(disk.list_files(path, deep=True))
            except OSError as error:
                raise ArchiveError(f"cannot read {path}: {error.strerror or error}") from error
            manifests.update(dict.fromkeys(file for file in found if file.name.endswith(MANIFEST_ENDING)))
            singles.update(dict.fromkeys(file for file in found if holds_records(file)))
        elif path.name.endswith(MANIFEST_ENDING) and path.exists():
            manifests[path] = None
        elif beside.exists():
            manifests[beside] = None
        elif path.exists():
            singles[path] = None
        else:
            raise ArchiveError(f"{path} does not exist")
    return list(manifests), list(singles)


def holds_records(path: Path) -> bool:
    name = path.name
    rejects = parse(path).active.name.endswith(REJECTS_ENDING)
    return plain_path(path).suffix == ".ndjson" and not rejects and not name.endswith(MANIFEST_ENDING)


class _Meter:
    """Counts the bytes read against the bytes there are."""

    def __init__(self, progress: Progress | None, paths: list[Path]) -> None:
        self._progress = progress
        self._total = sum(path.stat().st_size for path in paths if path.exists())
        self._done = 0

    def add(self, count: int) -> None:
        """Take note of bytes read."""
        self._done += count
        if self._progress:
            self._progress(min(self._done, self._total), self._total)


class _ArchiveCheck:
    """One archive: a manifest, and the files that it speaks of or that bear its name."""

    def __init__(self, manifest: Path, report: Report) -> None:
        """Read the manifest and find the files. Raises `ArchiveError` if it cannot be read."""
        self._manifest = manifest
        self._folder = manifest.parent
        self._report = report
        self._catalogue = Catalogue()
        self._drops: list[Drop] = []
        self._runs: dict[str, RunCheck] = {}
        self._explained: dict[str, list[tuple[int, int, int]]] = {}
        """By run: `(first, last, count)` of sequence numbers that need not be found."""
        self._read_manifest()
        last = self._catalogue.last_run
        self._unfinished = None if last is None or last.ended else last.run_id
        """The run that was killed or still writes; what it left undone is no fault of the archive."""
        self._others: dict[str, list[Path]] = {}
        """Files of the archive that the manifest does not know, by their plain name."""
        self._known: dict[str, list[Path]] = {}
        self._find_files()

    @property
    def paths(self) -> list[Path]:
        """Every file that `run` reads."""
        return [path for paths in (*self._known.values(), *self._others.values()) for path in paths]

    def run(self, meter: _Meter) -> None:
        """Check everything."""
        if self._unfinished:
            self._follow_renamed()
        away = list(self._catalogue.moved)
        for entry in self._catalogue.damaged:
            self._problem(
                f"{entry.file} had lost its end when a run began to write: {entry.bytes} bytes were left"
            )
        for entry in self._catalogue.deleted:
            self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)
        for name, entries in self._catalogue.files.items():
            paths = self._known.get(name, [])
            if paths and self._was_replaced(paths[0], entries):
                self._others[name] = paths
                away.append(entries)
            elif paths:
                self._check(paths, entries, meter)
            elif parse(Path(name)).rotated:
                records = sum(entry.records for entry in entries)
                if records:
                    self._problem(f"{name} is missing, with {records} records")
            elif any(entry.bytes for entry in entries):
                away.append(entries)
        for entries in away:
            self._follow(entries, meter)
        for paths in self._others.values():
            self._check_unknown(paths, meter)
        for run in self._runs.values():
            self._check_sequence(run)

    def _read_manifest(self) -> None:
        torn: list[bytes] = []

        def problem(number: int, what: str) -> None:
            self._problem(f"{self._manifest.name}, line {number}: {what}")

        def whole_lines() -> Iterator[bytes]:
            for line in lines(read_blocks(self._manifest)):
                if line.endswith(b"\n"):
                    yield line
                else:
                    torn.append(line)

        for entry in read_manifest(whole_lines(), problem):
            self._catalogue.add(entry)
            if entry.kind == "gap":
                gap = Gap(entry.cluster, entry.from_ms, entry.to_ms, entry.reason)
                self._report.gaps.append(gap)
            elif entry.kind == "drop":
                drop = Drop(
                    entry.run_id,
                    entry.cluster,
                    entry.channel,
                    entry.count,
                    entry.reason,
                    entry.first_seq,
                    entry.last_seq,
                )
                self._report.drops.append(drop)
                # Rejects, which have no channel, have no sequence numbers.
                self._explain(drop.run_id, drop.first_seq, drop.last_seq, drop.count if drop.channel else 0)
        if torn:
            text = f"{self._manifest.name}: the last line is torn"
            if torn[0].startswith(_LINE_START) or _LINE_START.startswith(torn[0]):
                self._report.notes.append(f"{text}; the next start cuts it")
            else:
                self._problem(text)

    def _find_files(self) -> None:
        names = self._catalogue.files
        active = {parse(Path(name)).active for name in names}
        stem = self._manifest.name.removesuffix(MANIFEST_ENDING)
        try:
            found = Disk().list_files(self._folder, deep=any("/" in name for name in names))
        except OSError as error:
            raise ArchiveError(f"cannot read {self._folder}: {error.strerror or error}") from error
        strangers = {
            path.name.removesuffix(MANIFEST_ENDING)
            for path in found
            if path.name.endswith(MANIFEST_ENDING) and path != self._manifest
        }
        self._found = sorted(found)
        for path in self._found:
            file = parse(path)
            name = self._name(path)
            if file.temporary:
                continue
            if name in names:
                self._known.setdefault(name, []).append(path)
            elif holds_records(path) and (
                file.active.relative_to(self._folder) in active
                or (
                    path.parent == self._folder
                    and file.active.stem not in strangers
                    and f"{file.active.stem}.".startswith(f"{stem}.")
                )
            ):
                self._others.setdefault(name, []).append(path)

    def _follow_renamed(self) -> None:
        """Let segments go with a file that was renamed by rotation, and whose rotation was not noted any more."""
        for name, paths in list(self._others.items()):
            file = parse(paths[0])
            entries = self._catalogue.files.get(file.active.relative_to(self._folder).as_posix(), [])
            if (
                file.rotated
                and entries
                and still_there(entries, file.path, file.path.stat().st_size, open_file)
            ):
                del self._catalogue.files[entries[-1].file]
                self._catalogue.files[name] = entries
                self._known[name] = self._others.pop(name)
                stale = self._known.pop(entries[-1].file, None)
                if stale:
                    self._others[entries[-1].file] = stale

    def _was_replaced(self, path: Path, entries: list[Entry]) -> bool:
        """Tell whether another file stands under the name of an active one, after which nothing was noted."""
        size = path.stat().st_size
        if parse(path).rotated or still_there(entries, path, size, open_file):
            return False
        if size:
            return not begins_with(entries[0], path, open_file)
        return entries[-1].reason == "reopen" or self._find_moved(entries) is not None

    def _check(self, paths: list[Path], entries: list[Entry], meter: _Meter) -> None:
        """Check a file that the manifest knows; its plain form first, where a crash has left both."""
        path = paths[0]
        sealed = parse(path).rotated and entries[-1].file == self._name(path)
        tail_run = None if sealed else self._unfinished
        file = check_file(path, entries, self._run, tail_run=tail_run, on_read=meter.add)
        self._report.files.append(file)
        for double in paths[1:]:
            text = f"{double.name} stands beside it"
            if self._unfinished:
                file.notes.append(f"{text}; the next start removes one of them")
            else:
                file.add_problem(text)

    def _check_unknown(self, paths: list[Path], meter: _Meter) -> None:
        for path in paths:
            file = check_file(path, [], self._run, tail_run=self._unfinished, on_read=meter.add)
            if not self._unfinished and file.bytes:
                file.add_problem("the manifest does not know the file")
            self._report.files.append(file)

    def _follow(self, entries: list[Entry], meter: _Meter) -> None:
        """Check the file that these segments were moved away with, or note that it is not here."""
        entries = [entry for entry in entries if entry.bytes]
        if not entries:
            return
        name = entries[-1].file
        path = self._find_moved(entries)
        if path is None:
            records = sum(entry.records for entry in entries)
            self._report.notes.append(f"{name} was moved away by another program, with {records} records")
            for entry in entries:
                self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)
            return
        for paths in self._others.values():
            if path in paths:
                paths.remove(path)
        file = check_file(path, entries, self._run, tail_run=None, on_read=meter.add)
        file.notes.append(f"was {name} until another program moved it")
        self._report.files.append(file)

    def _find_moved(self, entries: list[Entry]) -> Path | None:
        """Look for these segments in the files beside theirs that the manifest does not know."""
        entries = [entry for entry in entries if entry.bytes]
        name = Path(entries[-1].file)
        known = {path for paths in self._known.values() for path in paths}
        for path in self._found:
            if (
                path in known
                or path.parent != self._folder / name.parent
                or not path.name.startswith(name.stem)
            ):
                continue
            plain = codec_of(path) == "none"
            if (not plain or path.stat().st_size == entries[-1].end) and holds_segments(path, entries):
                return path
        return None

    def _check_sequence(self, run: RunCheck) -> None:
        if run.sequence.doubles:
            self._problem(
                f"run {run.run_id}: {run.sequence.doubles} sequence numbers come twice,"
                f" the first is {run.sequence.first_double}"
            )
        explained = self._explained.get(run.run_id, [])
        allowed = sum(count for _, _, count in explained)
        missing = 0
        for first, last in run.sequence.holes():
            rest = list(_without(first, last, explained))
            missing += last - first + 1 - sum(b - a + 1 for a, b in rest)
            for begin, end in rest:
                self._judge_hole(run, begin, end)
        if missing > allowed:
            self._problem(
                f"run {run.run_id}: {missing} records are missing where drops and deleted or moved files explain"
                f" {allowed}"
            )

    def _judge_hole(self, run: RunCheck, first: int, last: int) -> None:
        state = self._catalogue.runs.get(run.run_id)
        killed = state is not None and not state.ended
        if killed and run.time_of(last + 1) >= run.time_of(run.sequence.last) - _CRASH_WINDOW_MS:
            self._report.losses.append(Loss(run.run_id, first, last))
            return
        what = f"{first}" if first == last else f"{first} to {last}"
        self._problem(f"run {run.run_id}: no record has seq {what}, and no drop explains it")

    def _run(self, run_id: str) -> RunCheck:
        if run_id not in self._runs:
            self._runs[run_id] = RunCheck(run_id)
        return self._runs[run_id]

    def _name(self, path: Path) -> str:
        return plain_path(path).relative_to(self._folder).as_posix()

    def _explain(self, run_id: str, first: int, last: int, count: int) -> None:
        if first and last >= first:
            self._explained.setdefault(run_id, []).append((first, last, count))

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)


def _without(first: int, last: int, others: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a stretch without some others."""
    for begin, end, _ in sorted(others):
        if begin > last:
            break
        if end < first:
            continue
        if begin > first:
            yield first, begin - 1
        first = end + 1
        if first > last:
            return
    if first <= last:
        yield first, last
