"""One archive under verification: what its manifest leads to expect, file by file, and what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from recorder.archive.catalogue import Entry
from recorder.archive.chain import ManifestCheck
from recorder.archive.check import Result, Task, check_file
from recorder.archive.codec import SUFFIXES, codec_of
from recorder.archive.disk import identity
from recorder.archive.findings import Report
from recorder.archive.holes import Holes
from recorder.archive.layout import is_rejects, parse
from recorder.archive.whereabouts import Whereabouts, list_files

_LOOKS_MAX: Final = 10
"""A file changes its name twice in its life, and may be deleted; each look finds it unless it just did so again."""


class Audit:
    """One archive: a manifest, and the files that it speaks of or that bear its name.

    `tasks` says what is to be read, `settle` takes what was found in each file, in any order, and `finish` judges the
    whole. A recorder may write to the archive meanwhile: what it adds after the beginning is left alone, and files that
    it renames, compresses or deletes are followed.
    """

    def __init__(self, manifest: Path, report: Report) -> None:
        """Read the manifest and find the files. Raises `ArchiveError` if that cannot be done."""
        self._folder = manifest.parent
        self._report = report
        # Both before the manifest is read, so that a recorder at work can only have added to it.
        self._manifest = ManifestCheck(manifest, report)
        before = list_files(self._folder, deep=True)
        self._catalogue = self._manifest.read()
        self._unfinished = self._manifest.unfinished
        self._files = Whereabouts(
            manifest, self._catalogue, before, is_unfinished=self._unfinished is not None
        )
        self._holes = Holes(report)
        for drop in self._manifest.drops:
            self._holes.explain_drop(drop)
        for entries in self._files.moved_away:
            self._note(
                f"{entries[-1].file} was moved away by another program, with {_records_of(entries)} records"
            )
            self._explain(entries)
        self._missed: list[Task] = []
        """Files that were not in their place, of an archive without end: they may just have changed their names."""
        for name, entries in self._files.missing:
            if self._unfinished:
                self._missed.append(self._task(self._folder / name, entries))
            else:
                self._tell_missing(name, entries)

    def tasks(self) -> Iterator[Task]:
        """Yield every file that is to be read."""
        for name, paths in self._files.known.items():
            yield self._task(paths[0], self._catalogue.files[name])
        for path, entries in self._files.followed.items():
            yield Task(path, entries, None, rejects=is_rejects(path))
        for paths in self._files.others.values():
            for path in paths:
                yield self._task(path, [])

    def owns(self, path: Path) -> bool:
        """Tell by its name whether a file belongs to the archive."""
        return self._files.owns(path)

    def settle(self, task: Task, result: Result) -> None:
        """Take what was found in a file."""
        found = result
        if result.vanished:
            again = self._look_again(task)
            if again is None:
                return
            found = again
        report = found.report
        if task.path in self._files.followed:
            report.notes.append(f"was {task.entries[-1].file} until another program moved it")
        elif task.entries:
            for double in self._files.known[self._files.name(task.path)][1:]:
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
        self._explain(self._catalogue.deleted)
        for task in self._missed:
            result = self._look_again(task)
            if result:
                self._accept(result)
        live = self._manifest.live
        unwritten = self._holes.judge(self._catalogue.runs, self._unfinished if live else None)
        if live:
            late = (
                f"; {unwritten} records of the last moments are not in their files yet" if unwritten else ""
            )
            self._note(
                f"{self._folder} is being recorded to, and was checked as it was at the beginning{late}"
            )

    def _tell_missing(self, name: str, entries: list[Entry]) -> None:
        self._problem(f"{name} is missing, with {_records_of(entries)} records")

    def _accept(self, result: Result) -> None:
        self._holes.add(result.runs)
        rejects = result.report.kind == "rejects"
        (self._report.rejects if rejects else self._report.files).append(result.report)

    def _task(self, path: Path, entries: list[Entry]) -> Task:
        """Say how a file is to be read."""
        sealed = parse(path).rotated and (not entries or entries[-1].file == self._files.name(path))
        state = self._files.states.get(path)
        growing = self._unfinished is not None and not parse(path).rotated and state is not None
        compressed = self._catalogue.compressed.get(self._files.name(path))
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
            now = self._manifest.read_again()
            meant = task
            path = self._files.find_renamed(task)
            if path is None:
                plain = self._folder / self._files.new_name(task, now)
                variants = [plain, *(plain.with_name(plain.name + suffix) for suffix in SUFFIXES.values())]
                path = next((variant for variant in variants if variant.exists()), None)
                meant = replace(task, identity=None, compressed=None)
                deleted = [entry for entry in now.deleted if entry.file == self._files.name(plain)]
                if path is None and deleted:
                    self._explain(deleted)
                    return None
            if path is not None:
                result = check_file(replace(meant, path=path))
                if not result.vanished:
                    return result
        self._tell_missing(self._files.name(task.path), task.entries)
        return None

    def _explain(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._holes.explain_segment(entry)

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)


def _records_of(entries: list[Entry]) -> int:
    return sum(entry.records for entry in entries)
