"""Checks one file of records: each line against the schema, each segment against what the manifest says of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from recorder.archive.codec import SUFFIXES, codec_of, compressed_path, plain_path
from recorder.archive.findings import FileReport
from recorder.archive.layout import Kind, kind_of, parse
from recorder.archive.manifest_index import UNKNOWN_RUN, Entry, begins_with, first_bytes, sha256_of
from recorder.archive.place import HERE, Place
from recorder.archive.reader import Content, read_blocks
from recorder.archive.segment_checker import CHECKERS, SegmentChecker
from recorder.archive.sequence import RunCheck
from recorder.errors import ArchiveError, Unreadable


@dataclass(frozen=True, slots=True)
class Task:
    """One file to check, and what the manifest says of it."""

    path: Path
    entries: list[Entry]
    """The segments that it has."""
    tail_run: str | None
    """The run that wrote what stands behind them, killed or still at work; None says that nothing may stand there."""
    compressed: Entry | None = None
    """What was noted of the compressed file, or of the object, as such."""
    is_live: bool = False
    """Whether a recorder is at work: it may compress or delete the file, or put another one under the name."""
    place: Place = HERE
    """Where the file is."""

    @property
    def kind(self) -> Kind:
        """What its lines are."""
        return kind_of(self.path)

    def is_noted(self, path: Path) -> bool:
        """Return whether `compressed` speaks of the file under this name."""
        noted = self.compressed
        if noted is None:
            return False
        return noted.object.endswith(path.name) if noted.object else noted.codec == codec_of(path)

    @property
    def is_growing(self) -> bool:
        """Whether a recorder may be writing to it."""
        return self.is_live and not parse(self.path).rotated and codec_of(self.path) == "none"


@dataclass(slots=True)
class Result:
    """What was found in one file."""

    report: FileReport
    runs: dict[str, RunCheck] = field(default_factory=dict)
    vanished: bool = False
    """Whether the file was not there any more, so that nothing was read."""


class _Vanished(Exception):
    """The file that is meant does not stand under its name any more."""


def check_file(task: Task, on_read: Callable[[bytes], object] | None = None) -> Result:
    """Read a file, plain or compressed, with the segments that it has.

    Without entries and tail run, the file is one that no manifest speaks of. `on_read` gets each block as it lies on
    disk. A file that is compressed meanwhile is read in its other form.
    """
    for path in _forms(task):
        try:
            return _check(task, path, on_read)
        except _Vanished:
            continue
    return Result(_report_of(task, task.path), vanished=True)


def holds_segments(path: Path, entries: list[Entry]) -> bool:
    """Return whether a file consists of exactly these segments."""
    blocks = _Blocks(read_blocks(path))
    try:
        for entry in entries:
            digest = hashlib.sha256()
            for block in blocks.take(entry.bytes):
                digest.update(block)
            if digest.hexdigest() != entry.sha256:
                return False
        return not any(blocks.rest())
    except ArchiveError:
        return False


def _forms(task: Task) -> list[Path]:
    """Return the names that a file may have by now: compression keeps the plain file until the other is in its place."""
    if not task.entries or task.is_growing or task.place.is_copy:
        return [task.path]
    plain = plain_path(task.path)
    forms = [task.path, plain, *(compressed_path(plain, codec) for codec in SUFFIXES)]
    return list(dict.fromkeys(forms))


def _report_of(task: Task, path: Path) -> FileReport:
    return FileReport(str(path), task.kind, segments=len(task.entries))


def _check(task: Task, path: Path, on_read: Callable[[bytes], object] | None) -> Result:
    """Check a file under the name that it has now. Raise `_Vanished` where another file, or none, has that name."""
    result = Result(_report_of(task, path))
    report = result.report
    digest, on_disk = hashlib.sha256(), Content()
    noted = task.compressed if task.compressed and task.is_noted(path) else None
    blocks = _Blocks(_content(task, path, *filter(None, [on_read, on_disk.add if noted else None])))
    make = CHECKERS[task.kind]
    lines_before = 0

    def run_of(run_id: str) -> RunCheck:
        return result.runs.setdefault(run_id, RunCheck(run_id))

    try:
        for entry in task.entries:
            # The first segment's checksum is the file's until there.
            own = hashlib.sha256() if blocks.count else None
            segment = make(report, run_of(entry.run_id), lines_before, entry)
            for block in blocks.take(entry.bytes):
                digest.update(block)
                if own:
                    own.update(block)
                segment.feed(block)
            segment.end()
            segment.compare(entry, (own or digest).hexdigest())
            lines_before += segment.lines
        # Whatever runs have written behind the segments by now: their numbers are compared once they are sealed.
        tail_run = UNKNOWN_RUN if task.is_live else task.tail_run or UNKNOWN_RUN
        tail_report = _report_of(task, path) if task.is_growing else report
        tail = make(tail_report, run_of(tail_run), lines_before, None)
        for block in blocks.rest():
            digest.update(block)
            tail.feed(block)
        if tail.bytes:
            _check_tail(tail, tail_report, known=bool(task.entries), expected=task.tail_run is not None)
        if tail_report is not report:
            report.add(tail.summary)
            report.notes += [*tail_report.notes, *tail_report.problems]
        if noted and (on_disk.bytes != noted.bytes or noted.sha256 not in (on_disk.sha256, "")):
            report.add_problem(
                f"the {'object' if task.place.is_copy else 'compressed file'} is not the one that was written"
            )
    except ArchiveError as error:
        report.add_problem(str(error))
        report.is_unread = isinstance(error, Unreadable)
    report.bytes = blocks.count
    report.sha256 = digest.hexdigest()
    for run in result.runs.values():
        run.sequence.settle()
    return result


def _content(task: Task, path: Path, *on_read: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield the content of a file; of one that grows, what it has now."""

    def open_meant(path: Path) -> BinaryIO:
        try:
            return task.place.open_once(path)
        except FileNotFoundError:
            raise _Vanished from None

    def report_read(block: bytes) -> None:
        for listener in on_read:
            listener(block)

    if not task.is_growing:
        return read_blocks(path, open_meant, on_read=report_read)
    file = open_meant(path)
    if not _is_meant(task, file):
        file.close()
        raise _Vanished
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    return first_bytes(read_blocks(path, lambda _: file, on_read=report_read), size)


def _is_meant(task: Task, file: BinaryIO) -> bool:
    """Return whether a file that was opened by its name is still the one that has the first segment."""
    first = next((entry for entry in task.entries if entry.bytes), None)
    if first is None:
        return True

    def reopen(_: Path) -> BinaryIO:
        return open(os.dup(file.fileno()), "rb")

    if task.kind != "records":
        return sha256_of(first_bytes(read_blocks(task.path, reopen), first.bytes)) == first.sha256
    # A record is written once, so no other file begins with it.
    return begins_with(first, task.path, reopen)


def _check_tail(tail: SegmentChecker, report: FileReport, *, known: bool, expected: bool) -> None:
    if tail.rest_bytes:
        text = f"the last line is torn after {tail.rest_bytes} bytes"
        if expected:
            report.notes.append(f"{text}; the next start cuts it")
        else:
            report.add_problem(text)
        tail.drop_rest()
    tail.end()
    if expected and tail.summary.records:
        what = "records" if report.kind == "records" else f"lines of {report.kind}"
        report.notes.append(f"{tail.summary.records} {what} are not in the manifest yet")
    elif known and tail.lines:
        report.add_problem(f"{tail.lines} lines behind the last segment are not in the manifest")


class _Blocks:
    """Blocks, cut where it is asked for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.count = 0

    def take(self, count: int) -> Iterator[bytes]:
        """Yield blocks of `count` bytes together, or fewer where there are no more."""
        while count > 0:
            block = self._rest or next(self._blocks, b"")
            if not block:
                return
            self._rest = block[count:]
            block = block[:count]
            count -= len(block)
            self.count += len(block)
            yield block

    def rest(self) -> Iterator[bytes]:
        """Yield everything that is left."""
        if self._rest:
            self.count += len(self._rest)
            yield self._rest
            self._rest = b""
        for block in self._blocks:
            self.count += len(block)
            yield block
