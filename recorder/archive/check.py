"""Checks one file of records: each line against the schema, each segment against what the manifest says of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from recorder.archive.catalogue import UNKNOWN_RUN, Entry, first_bytes
from recorder.archive.disk import identity
from recorder.archive.findings import FileReport
from recorder.archive.reader import Content, open_file, read_blocks
from recorder.archive.sequence import RunCheck
from recorder.archive.stretch import RejectStretch, Stretch
from recorder.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class Task:
    """One file to check, and what the manifest says of it."""

    path: Path
    entries: list[Entry]
    """The segments that it has."""
    tail_run: str | None
    """Who wrote what stands behind them, killed or at it still; None says that nothing may stand there."""
    rejects: bool = False
    compressed: Entry | None = None
    """What was noted of the compressed file as such."""
    identity: tuple[int, int] | None = None
    """Of the file that is meant, where another one may get its name meanwhile."""
    size_bytes: int | None = None
    """No more than that of its content is read: what it had when the archive was looked at."""


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
    disk.
    """
    path = str(task.path)
    result = Result(FileReport(path, "rejects" if task.rejects else "records", segments=len(task.entries)))
    report = result.report
    digest, on_disk = hashlib.sha256(), Content()
    noted = task.compressed if task.size_bytes is None else None
    blocks = _Blocks(_content(task, *filter(None, [on_read, on_disk.add if noted else None])))
    make = RejectStretch if task.rejects else Stretch
    lines_before = 0

    def run_of(run_id: str) -> RunCheck:
        return result.runs.setdefault(run_id, RunCheck(run_id))

    try:
        for entry in task.entries:
            # The first segment's checksum is the file's until there.
            own = hashlib.sha256() if blocks.count else None
            stretch = make(report, run_of(entry.run_id), lines_before)
            for block in blocks.take(entry.bytes):
                digest.update(block)
                if own:
                    own.update(block)
                stretch.feed(block)
            stretch.end()
            stretch.compare(entry, (own or digest).hexdigest())
            lines_before += stretch.lines
        tail = make(report, run_of(task.tail_run or UNKNOWN_RUN), lines_before, vouched=False)
        for block in blocks.rest():
            digest.update(block)
            tail.feed(block)
        if tail.bytes:
            _judge_tail(tail, report, known=bool(task.entries), expected=task.tail_run is not None)
        if noted and (on_disk.bytes != noted.bytes or noted.sha256 not in (on_disk.sha256, "")):
            report.add_problem("the compressed file is not the one that was written")
    except ArchiveError as error:
        report.add_problem(str(error))
    except _Vanished:
        return Result(report, vanished=True)
    report.bytes = blocks.count
    report.sha256 = digest.hexdigest()
    for run in result.runs.values():
        run.sequence.settle()
    return result


def _content(task: Task, *on_read: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield the content that is meant. Raises `_Vanished` where another file, or none, is found under the name."""

    def open_meant(path: Path) -> BinaryIO:
        try:
            file = open_file(path)
        except FileNotFoundError:
            raise _Vanished from None
        if task.identity and identity(os.fstat(file.fileno())) != task.identity:
            file.close()
            raise _Vanished
        return file

    def tell(block: bytes) -> None:
        for told in on_read:
            told(block)

    blocks = read_blocks(task.path, open_meant, on_read=tell)
    return blocks if task.size_bytes is None else first_bytes(blocks, task.size_bytes)


def holds_segments(path: Path, entries: list[Entry]) -> bool:
    """Tell whether a file consists of exactly these segments."""
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


def _judge_tail(tail: Stretch, report: FileReport, *, known: bool, expected: bool) -> None:
    if tail.rest:
        text = f"the last line is torn after {len(tail.rest)} bytes"
        if expected:
            report.notes.append(f"{text}; the next start cuts it")
        else:
            report.add_problem(text)
        tail.rest = b""
    tail.end()
    if expected and tail.summary.records:
        report.notes.append(f"{tail.summary.records} records are not in the manifest yet")
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
