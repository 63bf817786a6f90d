"""One archive under verification: what its manifest leads to expect, file by file, and what was found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from recorder.archive.catalogue import (
    Catalogue,
    Entry,
    begins_with,
    goes_on_behind_a_line,
    read_manifest,
    still_there,
)
from recorder.archive.check import Result, Task, check_file, holds_segments
from recorder.archive.codec import SUFFIXES, codec_of, plain_path
from recorder.archive.disk import Disk, identity, is_locked
from recorder.archive.findings import Drop, Gap, Loss, Report
from recorder.archive.head import LOCK_SUFFIX, Head, read_head
from recorder.archive.layout import MANIFEST_ENDING, REJECTS_ENDING, parse
from recorder.archive.reader import lines, open_file, read_blocks
from recorder.archive.sequence import RunCheck
from recorder.errors import ArchiveError

_CRASH_WINDOW_MS: Final = 60_000
"""A killed run may miss records of its last so many milliseconds: flush interval, and time the disk had stalled."""
_LINE_START: Final = b'{"kind":'
_LOOKS_MAX: Final = 10
"""A file changes its name twice in its life, and may be deleted; each look finds it unless it just did so again."""


def holds_records(path: Path) -> bool:
    """Tell by its name whether a file is one of records."""
    name = path.name
    return (
        plain_path(path).suffix == ".ndjson" and not is_rejects(path) and not name.endswith(MANIFEST_ENDING)
    )


def is_rejects(path: Path) -> bool:
    """Tell by its name whether a file is one of rejects."""
    return parse(path).active.name.endswith(REJECTS_ENDING)


class Audit:
    """One archive: a manifest, and the files that it speaks of or that bear its name.

    `tasks` says what is to be read, `settle` takes what was found in each file, in any order, and `finish` judges the
    whole. A recorder may write to the archive meanwhile: what it adds after the beginning is left alone, and files that
    it renames, compresses or deletes are followed.
    """

    def __init__(self, manifest: Path, report: Report) -> None:
        """Read the manifest and find the files. Raises `ArchiveError` if that cannot be done."""
        self._manifest = manifest
        self._folder = manifest.parent
        self._lock = manifest.with_name(manifest.name.removesuffix(MANIFEST_ENDING) + LOCK_SUFFIX)
        self._report = report
        self._catalogue = Catalogue()
        self._runs: dict[str, RunCheck] = {}
        self._explained: dict[str, list[tuple[int, int, int]]] = {}
        """By run: `(first, last, count)` of sequence numbers that need not be found."""
        # Noted before the manifest is read, so that a recorder at work can only have added to it.
        head = self._read_head()
        before = self._list(deep=True)
        self._read_manifest(head)
        last = self._catalogue.last_run
        self._unfinished = None if last is None or last.ended else last.run_id
        """The run that was killed or still writes; what it left undone is no fault of the archive."""
        self._live = self._unfinished is not None and is_locked(self._lock)
        if self._unfinished and not self._live and head is None:
            self._note(
                f"run {self._unfinished} has no end; whether the manifest lost its last lines cannot be told"
            )
        self._others: dict[str, list[Path]] = {}
        """Files of the archive that the manifest does not know, by their plain name."""
        self._known: dict[str, list[Path]] = {}
        self._states: dict[Path, os.stat_result] = {}
        self._find_files(before)
        self._names = {self._name(path) for path in self._found}
        if self._unfinished:
            self._follow_renamed()
        self._missed: list[Task] = []
        """Files of an archive without end that were not where the manifest says."""
        self._followed: dict[Path, list[Entry]] = {}
        """Segments that left with a file that another program moved, by the name that it has now."""
        self._strays_found: dict[tuple[Path, str], list[tuple[Path, int | None]]] = {}
        self._follow_moved()

    def tasks(self) -> Iterator[Task]:
        """Yield every file that is to be read."""
        for name, paths in self._known.items():
            yield self._task(paths[0], self._catalogue.files[name])
        for path, entries in self._followed.items():
            yield Task(path, entries, None, rejects=is_rejects(path))
        for paths in self._others.values():
            for path in paths:
                yield self._task(path, [])

    def owns(self, path: Path) -> bool:
        """Tell by its name whether a file belongs to the archive."""
        file = parse(path)
        if not holds_records(path) and not (is_rejects(path) and file.plain.suffix == ".ndjson"):
            return False
        stem = self._manifest.name.removesuffix(MANIFEST_ENDING)
        return file.active in self._active or (
            path.parent == self._folder
            and file.active.stem not in self._strangers
            and f"{file.active.stem}.".startswith(f"{stem}.")
        )

    def settle(self, task: Task, result: Result) -> None:
        """Take what was found in a file."""
        found = result
        if result.vanished:
            again = self._look_again(task)
            if again is None:
                return
            found = again
        report = found.report
        if task.path in self._followed:
            report.notes.append(f"was {task.entries[-1].file} until another program moved it")
        elif task.entries:
            for double in self._known[self._name(task.path)][1:]:
                text = f"{double.name} stands beside it"
                if self._unfinished:
                    report.notes.append(f"{text}; the next start removes one of them")
                else:
                    report.add_problem(text)
        elif not self._unfinished and report.bytes and self._is_on_record(task):
            report.add_problem("the manifest does not know the file")
        self._accept(found)

    def finish(self) -> None:
        """Judge what no file alone can tell, once all of them are settled."""
        for entry in self._catalogue.damaged:
            text = f"had lost its end when a run began to write: {entry.bytes} bytes were left"
            if entry.kind == "manifest_damaged":
                # Every file was put on record again; what else the lines said, as of gaps, is gone.
                self._note(f"the manifest {text}")
            else:
                self._problem(f"{entry.file} {text}")
        for entry in self._catalogue.deleted:
            self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)
        for task in self._missed:
            result = self._look_again(task)
            if result:
                self._accept(result)
        unwritten = 0
        for run in self._runs.values():
            unwritten += self._check_sequence(run)
        if self._live:
            late = (
                f"; {unwritten} records of the last moments are not in their files yet" if unwritten else ""
            )
            self._note(
                f"{self._folder} is being recorded to, and was checked as it was at the beginning{late}"
            )

    def _tell_missing(self, name: str, entries: list[Entry]) -> None:
        records = sum(entry.records for entry in entries)
        self._problem(f"{name} is missing, with {records} records")

    def _accept(self, result: Result) -> None:
        for run_id, run in result.runs.items():
            self._runs.setdefault(run_id, RunCheck(run_id)).merge(run)
        rejects = result.report.kind == "rejects"
        (self._report.rejects if rejects else self._report.files).append(result.report)

    def _task(self, path: Path, entries: list[Entry]) -> Task:
        """Say how a file is to be read."""
        sealed = parse(path).rotated and (not entries or entries[-1].file == self._name(path))
        state = self._states.get(path)
        growing = self._unfinished is not None and not parse(path).rotated and state is not None
        compressed = self._catalogue.compressed.get(self._name(path))
        return Task(
            path,
            entries,
            tail_run=None if sealed and entries else self._unfinished,
            rejects=is_rejects(path),
            compressed=compressed if compressed and compressed.codec == codec_of(path) else None,
            identity=identity(state) if growing else None,
            size_bytes=state.st_size if growing and state else None,
        )

    def _is_on_record(self, task: Task) -> bool:
        """Tell whether the manifest should know a file."""
        return not task.rejects or self._catalogue.covers_rejects

    def _look_again(self, task: Task) -> Result | None:
        """Find a file that the recorder has renamed, compressed or deleted meanwhile, and check it.

        Gives None for one that is gone; the report says so unless retention has deleted it.
        """
        for _ in range(_LOOKS_MAX):
            now = Catalogue()
            for entry in read_manifest(self._manifest_lines(), lambda number, what: None):
                now.add(entry)
            meant = task
            path = self._find_renamed(task)
            if path is None:
                plain = self._folder / self._new_name(task, now)
                variants = [plain, *(plain.with_name(plain.name + suffix) for suffix in SUFFIXES.values())]
                path = next((variant for variant in variants if variant.exists()), None)
                meant = replace(task, identity=None, compressed=None)
                deleted = [entry for entry in now.deleted if entry.file == self._name(plain)]
                if path is None and deleted:
                    for entry in deleted:
                        self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)
                    return None
            if path is not None:
                result = check_file(replace(meant, path=path))
                if not result.vanished:
                    return result
        self._tell_missing(self._name(task.path), task.entries)
        return None

    def _find_renamed(self, task: Task) -> Path | None:
        """Find an active file under the name that it was rotated to.

        Sealed files keep their names but for the codec, and are not looked for in this way: what they leave when they are
        deleted, their inode, may be another file's by now.
        """
        own = parse(task.path)
        if task.identity is None or own.rotated:
            return None
        disk = Disk()
        for path in self._list(deep=True):
            is_new = path == task.path or self._name(path) not in self._names
            if is_new and parse(path).active == own.active and identity(disk.stat(path)) == task.identity:
                return path
        return None

    def _new_name(self, task: Task, now: Catalogue) -> str:
        """Give the name that a file has by now; of an active one, the first that its name was changed to."""
        name = self._name(task.path)
        if task.identity is None:
            return name
        closed = [entry for entries in now.files.values() for entry in entries] + now.deleted
        names = [entry.file for entry in closed if entry.was == name and entry.file not in self._names]
        return min(names, key=lambda text: parse(Path(text)).age_key, default=name)

    def _read_head(self) -> Head | None:
        for attempt in range(_LOOKS_MAX):
            try:
                return read_head(self._lock)
            except ArchiveError as error:
                # It may be read while it is written.
                if attempt == _LOOKS_MAX - 1:
                    self._problem(str(error))
        return None

    def _read_manifest(self, head: Head | None) -> None:
        def problem(number: int, what: str) -> None:
            self._problem(f"{self._manifest.name}, line {number}: {what}")

        torn: list[bytes] = []
        for entry in read_manifest(self._manifest_lines(head, torn), problem):
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
        if head and not head.reached:
            self._problem(
                f"{self._manifest.name}: its end is not the one that the recorder wrote: lines after it were"
                f" removed, or it was altered ({self._lock.name} says {head.size_bytes} bytes)"
            )
        if torn:
            self._judge_torn(torn[0])

    def _judge_torn(self, torn: bytes) -> None:
        text = f"{self._manifest.name}: the last line is torn"
        begun = torn.startswith(_LINE_START) or _LINE_START.startswith(torn)
        if begun and not goes_on_behind_a_line(torn):
            self._note(f"{text}; the next start cuts it")
        else:
            self._problem(text)

    def _manifest_lines(self, head: Head | None = None, torn: list[bytes] | None = None) -> Iterator[bytes]:
        """Yield the whole lines; what stands behind them goes into `torn`."""
        for line in lines(read_blocks(self._manifest)):
            if not line.endswith(b"\n"):
                if torn is not None:
                    torn.append(line)
                return
            if head:
                head.add(line)
            yield line

    def _list(self, *, deep: bool) -> list[Path]:
        try:
            return sorted(Disk().list_files(self._folder, deep=deep))
        except OSError as error:
            raise ArchiveError(f"cannot read {self._folder}: {error.strerror or error}") from error

    def _find_files(self, before: list[Path]) -> None:
        """Sort out the files there are; one that changed its name during one listing is found by the other."""
        disk, names = Disk(), self._catalogue.files
        deep = any("/" in name for name in names)
        by_identity: dict[tuple[int, int] | None, Path] = {}
        for path in [
            *(path for path in before if deep or path.parent == self._folder),
            *self._list(deep=deep),
        ]:
            state = disk.stat(path)
            if state is not None:
                by_identity[identity(state)] = path
                self._states[path] = state
        self._found = sorted(by_identity.values())
        for path in self._found:
            # Its deletion failed, or was not reached; what it holds is part of the archive until the next start.
            self._catalogue.undo_deletion(self._name(path))
        self._active = {self._folder / parse(Path(name)).active for name in names}
        self._strangers = {
            path.name.removesuffix(MANIFEST_ENDING)
            for path in self._found
            if path.name.endswith(MANIFEST_ENDING) and path != self._manifest
        }
        for path in self._found:
            name = self._name(path)
            if parse(path).temporary:
                continue
            if name in names:
                self._known.setdefault(name, []).append(path)
            elif self.owns(path):
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

    def _follow_moved(self) -> None:
        """Find the files that another program moved, and tell what is not here any more."""
        for name, paths in list(self._known.items()):
            entries = self._catalogue.files[name]
            if self._was_replaced(paths[0], entries):
                self._others[name] = self._known.pop(name)
                self._follow(entries)
        for entries in self._catalogue.moved:
            self._follow(entries)
        for name, entries in self._catalogue.files.items():
            if name in self._known or name in self._others or not any(entry.bytes for entry in entries):
                continue
            if parse(Path(name)).rotated:
                self._miss(name, entries)
            else:
                self._follow(entries, certain=self._unfinished is not None or entries[-1].reason == "reopen")

    def _was_replaced(self, path: Path, entries: list[Entry]) -> bool:
        """Tell whether another file stands under the name of an active one, after which nothing was noted."""
        if parse(path).rotated or begins_with(entries[0], path, open_file):
            return False
        size = path.stat().st_size
        if still_there(entries, path, size, open_file):
            return False
        return bool(size) or entries[-1].reason == "reopen" or self._find_moved(entries) is not None

    def _follow(self, entries: list[Entry], *, certain: bool = True) -> None:
        """Look for the file that these segments are in by now; `certain` says that it was moved, not lost."""
        entries = [entry for entry in entries if entry.bytes]
        if not entries:
            return
        name = entries[-1].file
        path = self._find_moved(entries)
        if path is not None:
            self._followed[path] = entries
            for paths in self._others.values():
                if path in paths:
                    paths.remove(path)
        elif certain:
            records = sum(entry.records for entry in entries)
            self._note(f"{name} was moved away by another program, with {records} records")
            for entry in entries:
                self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)
        else:
            self._miss(name, entries)

    def _miss(self, name: str, entries: list[Entry]) -> None:
        """Take note of a file that is not there; one that is being recorded to may just have changed its name."""
        if self._unfinished:
            self._missed.append(self._task(self._folder / name, entries))
        else:
            self._tell_missing(name, entries)

    def _find_moved(self, entries: list[Entry]) -> Path | None:
        """Look for these segments in the files beside theirs that the manifest does not know."""
        entries = [entry for entry in entries if entry.bytes]
        name = Path(entries[-1].file)
        for path, size in self._strays(name.parent, name.stem):
            if (size is None or size == entries[-1].end) and holds_segments(path, entries):
                return path
        return None

    def _strays(self, folder: Path, stem: str) -> list[tuple[Path, int | None]]:
        """Give the files that the manifest does not know and whose names begin so, each with its size if it is plain.

        Found once: an archive that logrotate has worked on for long has many, and has lost sight of as many.
        """
        found = self._strays_found.get((folder, stem))
        if found is None:
            known = {path for paths in self._known.values() for path in paths}
            found = self._strays_found[folder, stem] = [
                (path, path.stat().st_size if codec_of(path) == "none" else None)
                for path in self._found
                if path.name.startswith(stem) and path.parent == self._folder / folder and path not in known
            ]
        return found

    def _check_sequence(self, run: RunCheck) -> int:
        """Judge the holes of a run; gives how many records are not in their files yet."""
        if run.sequence.doubles:
            self._problem(
                f"run {run.run_id}: {run.sequence.doubles} sequence numbers come twice,"
                f" the first is {run.sequence.first_double}"
            )
        explained = self._explained.get(run.run_id, [])
        allowed = sum(count for _, _, count in explained)
        missing = unwritten = 0
        for first, last in run.sequence.holes():
            rest = list(_without(first, last, explained))
            missing += last - first + 1 - sum(b - a + 1 for a, b in rest)
            for begin, end in rest:
                unwritten += self._judge_hole(run, begin, end)
        if missing > allowed:
            self._problem(
                f"run {run.run_id}: {missing} records are missing where drops and deleted or moved files explain"
                f" {allowed}"
            )
        return unwritten

    def _judge_hole(self, run: RunCheck, first: int, last: int) -> int:
        state = self._catalogue.runs.get(run.run_id)
        killed = state is not None and not state.ended
        if killed and run.time_of(last + 1) >= run.time_of(run.sequence.last) - _CRASH_WINDOW_MS:
            if self._live and run.run_id == self._unfinished:
                return last - first + 1
            self._report.losses.append(Loss(run.run_id, first, last))
            return 0
        what = f"{first}" if first == last else f"{first} to {last}"
        self._problem(f"run {run.run_id}: no record has seq {what}, and no drop explains it")
        return 0

    def _name(self, path: Path) -> str:
        return plain_path(path).relative_to(self._folder).as_posix()

    def _explain(self, run_id: str, first: int, last: int, count: int) -> None:
        if first and last >= first:
            self._explained.setdefault(run_id, []).append((first, last, count))

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

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
