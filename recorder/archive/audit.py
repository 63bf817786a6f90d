"""Checks one archive: what its manifest leads to expect, file by file, against what is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from recorder.archive.check import Result, Task
from recorder.archive.codec import codec_of
from recorder.archive.findings import Report
from recorder.archive.gone import notes_of_copy, records_of
from recorder.archive.holes import Holes
from recorder.archive.layout import parse
from recorder.archive.locator import FileLocator, Located
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.manifest_index import UNKNOWN_RUN, Entry
from recorder.archive.place import HERE, Place
from recorder.errors import ArchiveError

_NAMES_MAX: Final = 5
"""Files that a note names; the rest is counted."""


class Audit:
    """One archive: a manifest, and the files that it speaks of or that have its name.

    `tasks` are the files to read, `add` takes what was found in each, in any order, and `finish` reports on the whole.

    Where a recorder is at work, what the manifest has sealed is checked, and what may change at any moment is named in
    a note. Where one begins to work meanwhile, `began_to_move` says so, and everything found is void: the archive is to
    be checked again, as one that moves.
    """

    def __init__(self, manifest: Path, report: Report, *, is_live: bool = False, place: Place = HERE) -> None:
        """Read the manifest and find the files. Raise `ArchiveError` or `OSError` where that cannot be done.

        `is_live` says that a recorder may be at work, whatever the lock file says.
        """
        self._folder = manifest.parent
        self._path = manifest
        self._place = place
        self._report = report
        self._manifest = ManifestCheck(manifest, report, is_live=is_live, place=place)
        self._index = self._manifest.read()
        self._unfinished = self._manifest.unfinished
        self._is_live = self._manifest.is_live
        self._locator = FileLocator(manifest, self._index, place=place)
        self._files = self._locate()
        self._holes = Holes(report)
        for drop in self._manifest.drops:
            self._holes.explain_drop(drop)
        self._unchecked: list[str] = []
        """Of an archive that moves: files that were sealed, moved or deleted since the manifest was read."""
        self._vanished: list[tuple[str, list[Entry]]] = []
        """Of an archive that moves: sealed files that were gone when they were to be read."""
        for entries in self._files.moved_away:
            self._moved_away(entries)
        for name, entries in self._files.missing:
            self._missing(name, entries)

    @property
    def began_to_move(self) -> bool:
        """Whether a recorder has begun to work since the audit began."""
        return self._manifest.began_to_move

    def tasks(self) -> Iterator[Task]:
        """Yield every file that is to be read."""
        for name, paths in self._files.known.items():
            yield self._task(paths[0], self._index.files[name])
        for path, entries in self._files.followed.items():
            yield Task(path, entries, None, is_live=self._is_live, place=self._place)
        for paths in self._files.unknown.values():
            for path in paths:
                yield self._task(path, [])

    def owns(self, path: Path) -> bool:
        """Return whether a file belongs to the archive, by its name."""
        return self._locator.owns(path)

    def add(self, task: Task, result: Result) -> None:
        """Add what was found in a file."""
        report, name = result.report, self._locator.name(task.path)
        if result.vanished:
            self._add_vanished(task)
            return
        if task.path in self._files.followed:
            report.notes.append(f"was {task.entries[-1].file} until another program moved it")
        elif task.entries and not self._is_live:
            for double in self._files.known[name][1:]:
                text = f"{double.name} stands beside it"
                if self._unfinished:
                    report.notes.append(f"{text}; the next start removes one of them")
                else:
                    report.add_problem(text)
        elif not task.entries and task.tail_run is None and report.bytes and self._is_on_record(task):
            report.add_problem("the manifest does not know the file")
        if report.is_unread:
            self._explain(task.entries)  # nobody knows what is in it, so none of its numbers is missed
        self._holes.add(result.runs)
        self._report.files_of(task.kind).append(report)

    def finish(self) -> None:
        """Report what no file alone can show, once all of them are added."""
        for entry in self._index.damaged:
            text = f"had lost its end when a run began to write: {entry.bytes} bytes were left"
            if entry.kind == "manifest_damaged":
                # Every file was put on record again; what else the lines said, as of gaps, is gone.
                self._note(f"the manifest {text}")
            else:
                self._problem(f"{entry.file} {text}")
        self._explain(self._index.deleted)
        self._explain_vanished()
        for _, entries in self._files.not_copied:
            self._explain(entries)
        for note in notes_of_copy(self._files, self._path):
            self._note(note)
        is_open = self._is_live or self._place.is_copy
        unsealed = self._holes.check(self._index.runs, self._unfinished if is_open else None)
        if self._is_live:
            self._note_moving(unsealed)

    def _locate(self) -> Located:
        try:
            if self._place.is_copy:
                return self._locator.locate_copied()
            if self._is_live:
                return self._locator.locate_sealed()
            return self._locator.locate(is_unfinished=self._unfinished is not None)
        except (ArchiveError, OSError):
            if self.began_to_move:
                return Located()
            raise

    def _add_vanished(self, task: Task) -> None:
        name = self._locator.name(task.path)
        if task.path in self._files.followed:
            self._moved_away(task.entries)
        elif task.is_growing:
            self._unchecked.append(name)
            self._explain(task.entries)
        elif self._is_live:
            self._vanished.append((name, task.entries))
        else:
            self._missing(name, task.entries)

    def _explain_vanished(self) -> None:
        """Report sealed files that are gone, unless retention has deleted them, which it notes before it does so."""
        if not self._vanished:
            return
        now = self._manifest.read_again()
        deleted = {entry.file for entry in now.deleted}
        for name, entries in self._vanished:
            if name in deleted:
                self._unchecked.append(name)
                self._explain(entries)
            else:
                self._missing(name, entries)

    def _note_moving(self, unsealed: int) -> None:
        text = f"{self._folder} is being recorded to: what was sealed when verify began was checked"
        if unsealed:
            text += f"; {unsealed:,} earlier records of the run at work are not sealed yet"
        if self._unchecked:
            names = sorted(self._unchecked)
            more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
            text += f"; not checked, because they changed meanwhile: {', '.join(names[:_NAMES_MAX])}{more}"
        self._note(text)

    def _moved_away(self, entries: list[Entry]) -> None:
        if self._is_live and entries[-1].reason != "reopen":
            self._unchecked.append(entries[-1].file)
        else:
            records = records_of(entries)
            self._note(f"{entries[-1].file} was moved away by another program, with {records} records")
        self._explain(entries)

    def _missing(self, name: str, entries: list[Entry]) -> None:
        self._problem(f"{name} is missing, with {records_of(entries)} records")

    def _task(self, path: Path, entries: list[Entry]) -> Task:
        """Return how a file is to be read."""
        name = self._locator.name(path)
        is_sealed = bool(entries) and parse(path).rotated and entries[-1].file == name
        tail_run = self._unfinished or (UNKNOWN_RUN if self._is_live else None)
        compressed = self._index.compressed.get(name)
        if self._place.is_copy and name in self._index.uploaded:
            compressed = self._index.uploaded[name]
        elif compressed and not self._is_live and compressed.codec != codec_of(path):
            compressed = None
        return Task(path, entries, None if is_sealed else tail_run, compressed, self._is_live, self._place)

    def _is_on_record(self, task: Task) -> bool:
        """Return whether the manifest should know a file."""
        return task.kind != "rejects" or self._index.covers_rejects

    def _explain(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._holes.explain_segment(entry)

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)
