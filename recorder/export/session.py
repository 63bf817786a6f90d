"""One export: which segments are due, how their files get their names, and the totals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from recorder.archive.disk import Disk
from recorder.archive.place import HERE
from recorder.archive.recorded_segment import Segment
from recorder.archive.workers import in_processes
from recorder.errors import ArchiveError, DestinationRefused
from recorder.export.layout import Layout
from recorder.export.ledger import Key, LedgerFile
from recorder.export.segment_files import SegmentTask, write_files
from recorder.export.tree import Written, by_type
from recorder.progress import Progress
from recorder.tables.sealed import Incomplete, Sealed, open_sealed

LIVE: Final = "live"
REPLAY: Final = "replay"
"""Of a run that may have recorded a replay, so that its events did not happen when they say."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which segments are exported, and which of their types."""

    types: frozenset[str] = frozenset()
    """Those of the tree; empty for all."""
    start_ms: int = 0
    end_ms: int = 1 << 62

    def takes(self, segment: Segment) -> bool:
        """Return whether a segment may have records of this time."""
        return segment.may_have(self.start_ms, self.end_ms)

    def types_of(self, counts: Mapping[str, int]) -> set[str]:
        """Return which types of the tree are chosen of a segment with these counts."""
        found = set(by_type(counts))
        return found & self.types if self.types else found


class Tree(Protocol):
    """Where files of segments get their names, and what is known of those that have them. What fails is `RecorderError`."""

    layout: Layout
    unfinished: Path
    """Where files stand until they get their names."""

    @property
    def place(self) -> str:
        """Where it is, for words."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever exported to it."""

    def done(self, run_id: str, first_seq: int, sha256: str) -> Collection[str]:
        """Return the types of a segment that are in the tree."""

    def was_gone(self, run_id: str, first_seq: int, sha256: str) -> bool:
        """Return whether retention had deleted a segment before the first export."""

    def add_gone(self, keys: list[Key]) -> None:
        """Note which segments retention had deleted before the first export."""

    def publish(self, segment: Segment, written: list[Written]) -> list[LedgerFile]:
        """Put files of a segment under their names, and note them: then they are there for good. Return those that were new.

        Records that the tree has from other segments are left out, as those of an archive that was compacted. Raise
        `DestinationRefused` where it has only some of them.
        """


class Joined(NamedTuple):
    """Files of folders that were joined into one each."""

    folders: int = 0
    files: int = 0
    """Those that others took the place of."""
    rows: int = 0


class Finish(Protocol):
    """Makes something of the files of a day, behind the segments of an export."""

    def run(self, is_due: Callable[[str], bool] = ..., report: Progress | None = None) -> Joined:
        """Do what is due, folder by folder."""


@dataclass(slots=True)
class Exported:
    """What was done, and what is wrong."""

    place: str
    """Where the tree is."""
    segments: int = 0
    files: int = 0
    records: int = 0
    line_bytes: int = 0
    """Of the segments, before compression."""
    file_bytes: int = 0
    segments_before: int = 0
    """Those that were exported already."""
    lost: int = 0
    """Records that retention deleted before they were exported."""
    joined: Joined | None = None
    """What became of files that were joined, if that was asked for."""
    problems: list[str] = field(default_factory=list)
    """What of the archive the tree is without."""
    notes: list[str] = field(default_factory=list)


class Export:
    """Puts what is new of an archive into a tree. What was put there stays, whatever happens next."""

    def __init__(self, tree: Tree, choice: Choice, *, jobs: int = 1, disk: Disk | None = None) -> None:
        self._tree = tree
        self._choice = choice
        self._jobs = jobs
        self._disk = disk or Disk()

    @property
    def place(self) -> str:
        """Where the tree is."""
        return self._tree.place

    @property
    def layout(self) -> Layout:
        """How it is laid out."""
        return self._tree.layout

    def run(
        self,
        sealed: Sealed,
        report: Progress | None = None,
        on_segment: Callable[[Segment, list[LedgerFile]], None] | None = None,
        *,
        is_partial: bool = False,
    ) -> Exported:
        """Export what is sealed and has not been. Raise `Incomplete` where files are damaged or missing, unless that may be.

        `on_segment` is called with each segment that is done. Raise `ArchiveError` where the tree cannot be written, and
        `NoRoom` where the disk is full.
        """
        found = Exported(self._tree.place, problems=list(sealed.problems), notes=list(sealed.notes))
        if found.problems and not is_partial:
            raise _incomplete(found.problems)
        self._count_lost(sealed, found)
        tasks = self._tasks(sealed, found)
        total = sum(task.segment.size_bytes for task in tasks)

        def progress(done: int) -> None:
            if report is not None:
                report(min(done, total), total)

        with closing(self._results(tasks, progress)) as results:
            for task, result in results:
                if isinstance(result, str):
                    found.problems.append(result)
                    if not is_partial:
                        raise _incomplete(found.problems)
                    continue
                files = self._tree.publish(task.segment, result)
                if not files:
                    found.segments_before += 1
                    continue
                found.segments += 1
                found.line_bytes += task.segment.size_bytes
                found.files += len(files)
                found.records += sum(file.rows for file in files)
                found.file_bytes += sum(file.bytes for file in files)
                if on_segment is not None:
                    on_segment(task.segment, files)
        return found

    def _tasks(self, sealed: Sealed, found: Exported) -> list[SegmentTask]:
        tasks, layout = [], self._tree.layout
        taken: set[Key] = set()
        for recording in sealed.recordings:
            for segment in recording.segments:
                key = segment.run_id, segment.first_seq, segment.sha256
                # Of an archive and a copy of it, each is taken once.
                if not segment.sha256 or key in taken or not self._choice.takes(segment):
                    continue
                taken.add(key)
                chosen = self._choice.types_of(segment.counts)
                types = chosen - set(self._tree.done(*key))
                run = recording.known_runs.get(segment.run_id)
                source = REPLAY if run is not None and run.is_shifted else LIVE
                if types:
                    tasks.append(
                        SegmentTask(segment, frozenset(types), source, layout.day_of, self._tree.unfinished)
                    )
                elif chosen:
                    found.segments_before += 1
        return tasks

    def _results(
        self, tasks: list[SegmentTask], progress: Callable[[int], None]
    ) -> Generator[tuple[SegmentTask, list[Written] | str], None, None]:
        """Yield what comes of each task. A file that is open, since it may grow, and a bucket belong to this process."""
        elsewhere: list[SegmentTask] = []
        here: list[SegmentTask] = []
        for task in tasks:
            is_plain = task.segment.held is None and task.segment.place is HERE
            (elsewhere if self._jobs > 1 and is_plain else here).append(task)
        what = "exported a segment"
        yield from in_processes(elsewhere, _write_or_say, self._jobs, progress, what=what)
        before = sum(task.segment.size_bytes for task in elsewhere)
        work = partial(_write_or_say, disk=self._disk)
        yield from in_processes(here, work, 1, lambda done: progress(before + done), what=what)

    def _count_lost(self, sealed: Sealed, found: Exported) -> None:
        """Count what retention deleted since the first export, and before the records were exported."""
        deleted = [entry for recording in sealed.recordings for entry in recording.deleted]
        if deleted and self._tree.is_new:
            self._tree.add_gone([(entry.run_id, entry.first_seq, entry.sha256) for entry in deleted])
        for entry in deleted:
            key = entry.run_id, entry.first_seq, entry.sha256
            if not self._tree.was_gone(*key):
                chosen = self._choice.types_of(entry.counts) - set(self._tree.done(*key))
                found.lost += sum(by_type(entry.counts)[kind] for kind in chosen)
        if found.lost:
            found.notes.append(
                f"{found.lost:,} records were deleted by retention before they were exported; keep them for longer, "
                "or export more often"
            )


def open_all(paths: Iterable[Path]) -> Sealed:
    """Return what the manifests of several paths have sealed. Raise `ArchiveError` where one has none."""
    found = Sealed([])
    for path in dict.fromkeys(paths):
        sealed = open_sealed(path)
        found.recordings += sealed.recordings
        found.problems += sealed.problems
        found.notes += sealed.notes
    return found


def refuse_inside(folder: Path, archive: Path) -> None:
    """Raise `DestinationRefused` where a tree would stand within the folder of an archive, whose files are its own."""
    within = archive.parent if archive.suffix == ".ndjson" else archive
    if folder.resolve().is_relative_to(within.resolve()):
        raise DestinationRefused(
            f"{folder} is inside the archive's folder {within}; name a folder outside it"
        )


def _write_or_say(
    task: SegmentTask, on_read: Callable[[bytes], None], disk: Disk | None = None
) -> list[Written] | str:
    """Return the files of a segment, or what is wrong with it."""
    try:
        return write_files(task, on_read, disk)
    except ArchiveError as error:
        return str(error)


def _incomplete(problems: list[str]) -> Incomplete:
    return Incomplete("\n".join([*problems, "--partial exports the rest; `recorder verify` says more"]))
