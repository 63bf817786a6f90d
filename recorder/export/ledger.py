"""What an export has done, in a file beside the tree: each segment once, noted when its files have their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from recorder.archive.disk import NO_SPACE, Disk
from recorder.archive.record import UNREADABLE
from recorder.archive.recorded_segment import Segment
from recorder.errors import DestinationRefused, NoRoom, RecorderError
from recorder.export.layout import Layout
from recorder.export.spans import Span, not_there
from recorder.export.tree import Written, file_name, other_channels

_PREFIX: Final = "_export"
"""Of names that are ours. Readers of such trees pass over what begins with an underscore."""
LEDGER: Final = f"{_PREFIX}.ndjson"
UNFINISHED: Final = f"{_PREFIX}.tmp"
VERSION: Final = 1
"""Of the ledger and of the names in the tree."""
Key = tuple[str, int, str]
"""What a segment is known by: its run, its first number, its checksum."""


class LedgerFile(msgspec.Struct, frozen=True):
    """A file of the tree."""

    file: str
    """Relative to the tree."""
    rows: int
    bytes: int


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of the ledger, of any kind."""

    kind: str
    version: int = 0
    layout: str = ""
    run_id: str = ""
    first_seq: int = 0
    last_seq: int = 0
    sha256: str = ""
    rows: dict[str, int] = {}
    """Of a segment, by type: those that are done."""
    files: list[LedgerFile] = []
    of: list[str] = []
    """Of a file that was made of others, which these were. The line counts where the file is in its place.

    Of what was gone, the segments. Of a segment, files that have records of it already, from other segments.
    """
    order: list[str] = []
    """The columns by which it is sorted."""
    channels: list[str] = []
    """Of a segment, types that are together in one folder."""


class Ledger:
    """Held by one process at a time, from `__enter__` on; what `publish` has returned from is durable."""

    def __init__(self, folder: Path, layout: Layout, disk: Disk) -> None:
        self.folder = folder
        self.unfinished = folder / UNFINISHED
        """Where files stand until they get their names."""
        self.layout = layout
        self._disk = disk
        self._path = folder / LEDGER
        self._fd: int | None = None
        self._size_bytes = 0
        """Of whole lines."""
        self._done: dict[Key, dict[str, int]] = {}
        self._files: dict[str, LedgerFile] = {}
        """Those that are in the tree."""
        self._orders: dict[str, tuple[str, ...]] = {}
        self._made: dict[str, frozenset[str]] = {}
        self._gone: set[str] = set()
        self._spans: dict[str, dict[Key, Span]] = {}
        """By run."""

    def __enter__(self) -> Ledger:
        """Take the tree; make it where it is missing.

        :raises DestinationRefused: the folder is another program's, another process is at work there, or its layout is
            another one.
        :raises NoRoom: the disk is full.
        :raises RecorderError: the folder cannot be read or written.
        """
        try:
            self._open()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise failed(self.folder, error) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)

    def done(self, run_id: str, first_seq: int, sha256: str) -> Mapping[str, int]:
        """Return how many rows of each type of a segment are in the tree."""
        return self._done.get((run_id, first_seq, sha256), {})

    @property
    def place(self) -> str:
        """Where the tree is."""
        return str(self.folder)

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever exported to the tree."""
        return not self._done and not self._gone

    def was_gone(self, run_id: str, first_seq: int, sha256: str) -> bool:
        """Return whether retention had deleted a segment before the first export."""
        return _name_of(run_id, first_seq, sha256) in self._gone

    def add_gone(self, keys: list[Key]) -> None:
        """Note which segments retention had deleted before the first export. Raise as `publish` does."""
        line = _Line("gone", of=[_name_of(*key) for key in keys])
        try:
            self._append(line)
        except OSError as error:
            raise failed(self.folder, error) from error
        self._note(line)

    def folders(self) -> dict[str, list[LedgerFile]]:
        """Return the files of each folder of the tree that has any."""
        found: dict[str, list[LedgerFile]] = {}
        for name in sorted(self._files):
            found.setdefault(name.rpartition("/")[0], []).append(self._files[name])
        return found

    def order_of(self, file: LedgerFile) -> tuple[str, ...]:
        """Return the columns by which a file is sorted that others were joined into; none for any other."""
        return self._orders.get(file.file, ())

    def made_of(self, file: str) -> frozenset[str]:
        """Return the files of which one outside of the folders was made; none where it is not there."""
        return self._made.get(file, frozenset())

    def add_made(self, file: LedgerFile, of: list[LedgerFile]) -> None:
        """Note that a file was made of others, which stay. Raise `OSError`."""
        line = _Line("made", files=[file], of=[one.file for one in of])
        self._append(line)
        self._note(line)

    def add_joined(self, file: LedgerFile, of: list[LedgerFile], order: tuple[str, ...]) -> None:
        """Note that a file is about to take the place of others. Raise `OSError`."""
        line = _Line("joined", files=[file], of=[one.file for one in of], order=list(order))
        self._append(line)
        self._note(line)

    def publish(self, segment: Segment, written: list[Written]) -> list[LedgerFile]:
        """Put files under their names, and note them; a file of the same name is of the same segment, and is replaced.

        Records that the tree has from other segments are left out. Raise `NoRoom` where the disk is full, and
        `RecorderError` where it fails otherwise.
        """
        try:
            return self._publish(segment, written)
        except OSError as error:
            raise failed(self.folder, error) from error

    def _publish(self, segment: Segment, written: list[Written]) -> list[LedgerFile]:
        spans = self._spans.get(segment.run_id, {}).values()
        new, holders = not_there(segment, written, spans, self.place)
        files = []
        for one in new:
            file = f"{self.layout.place}{one.partition.folder}/{file_name(segment)}"
            target = self.folder / file
            self._disk.make_folder(target.parent)
            self._disk.rename(one.temporary, target)
            files.append(LedgerFile(file, one.rows, one.size_bytes))
        for folder in sorted({Path(file.file).parent for file in files}):
            self._disk.sync_folder(self.folder / folder)
        rows: dict[str, int] = {}
        for one in written:
            rows[one.partition.type] = rows.get(one.partition.type, 0) + one.rows
        key = segment.run_id, segment.first_seq, segment.last_seq, segment.sha256
        channels = other_channels(segment.counts)
        line = _Line("segment", 0, "", *key, rows, files, holders, [], channels)
        self._append(line)
        self._note(line)
        return files

    def _open(self) -> None:
        self._refuse_foreign()
        self._disk.make_folder(self.folder)
        try:
            self._fd = self._disk.lock(self._path)
        except BlockingIOError as error:
            raise DestinationRefused(
                f"{self.folder}: another export is at work there; wait until it ends, or name another folder"
            ) from error
        self._read()
        self._disk.make_folder(self.unfinished)
        for left in sorted(self.unfinished.rglob("*"), reverse=True):
            if left.is_dir():
                left.rmdir()
            else:
                self._disk.unlink(left)

    def _refuse_foreign(self) -> None:
        if not self.folder.exists() or self._path.exists():
            return
        if not self.folder.is_dir():
            raise DestinationRefused(
                f"{self.folder} is not a folder; name a new one, or one that an export has made"
            )
        strange = next((one for one in self.folder.iterdir() if not one.name.startswith(_PREFIX)), None)
        if strange is not None:
            raise DestinationRefused(
                f"{self.folder} has {strange.name} and no {LEDGER}: it is not an export; name a new folder, or empty it"
            )

    def _read(self) -> None:
        """Read all lines; what a kill left of the last one goes."""
        with self._disk.open_read(self._path) as file:
            data = file.read()
        self._size_bytes = data.rfind(b"\n") + 1
        try:
            found = _decode_lines(data[: self._size_bytes])
        except UNREADABLE as error:
            raise DestinationRefused(
                f"{self._path} is not the ledger of an export, or was altered: {error}"
            ) from error
        assert self._fd is not None
        if len(data) > self._size_bytes:
            self._disk.truncate(self._fd, self._size_bytes)
        os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
        if not found:
            self._append(_Line("export", VERSION, self.layout.name))
            self._disk.sync_folder(self.folder)
            return
        head, *lines = found
        if head.kind != "export" or head.version != VERSION:
            raise DestinationRefused(f"{self._path} was not written by this version; name another folder")
        if head.layout != self.layout.name:
            raise DestinationRefused(
                f"{self.folder} is an export of the layout {head.layout}; name another folder"
            )
        self._take(lines)

    def _take(self, lines: list[_Line]) -> None:
        """Take the lines that still hold: a file that is gone or altered is made again, with all noted beside it."""
        replaced: set[str] = set()
        found: list[_Line] = []
        for line in reversed(lines):
            if all(file.file in replaced or self._is_there(file) for file in line.files):
                if line.kind == "joined":
                    replaced.update(line.of)
                found.append(line)
        for line in reversed(found):
            if line.kind != "segment" or self._has_files(line):
                self._note(line)

    def _has_files(self, line: _Line) -> bool:
        """Return whether the files that have the records of a segment in the place of its own are there."""
        if not line.of:
            return True
        names = {name for span in self._spans.get(line.run_id, {}).values() for name in span.files}
        return names.issuperset(line.of)

    def _note(self, line: _Line) -> None:
        if line.kind == "gone":
            self._gone.update(line.of)
            return
        if line.kind == "made":
            self._made[line.files[0].file] = frozenset(line.of)
            return
        self._files.update((file.file, file) for file in line.files)
        if line.kind == "joined":
            for name in line.of:
                self._files.pop(name, None)
            self._orders[line.files[0].file] = tuple(line.order)
            return
        key = line.run_id, line.first_seq, line.sha256
        self._done.setdefault(key, {}).update(line.rows)
        spans = self._spans.setdefault(line.run_id, {})
        span = spans.setdefault(key, Span(line.first_seq, line.last_seq, {}, frozenset(line.channels)))
        span.files.update((file.file, file.rows) for file in line.files)

    def _is_there(self, file: LedgerFile) -> bool:
        state = self._disk.stat(self.folder / file.file)
        return state is not None and state.st_size == file.bytes

    def _append(self, line: _Line) -> None:
        assert self._fd is not None
        data = msgspec.json.encode(line) + b"\n"
        try:
            self._disk.write_all(self._fd, data)
            self._disk.sync(self._fd)
        except OSError:
            with suppress(OSError):  # else the next start cuts it
                self._disk.truncate(self._fd, self._size_bytes)
                os.lseek(self._fd, self._size_bytes, os.SEEK_SET)
            raise
        self._size_bytes += len(data)


def _name_of(run_id: str, first_seq: int, sha256: str) -> str:
    return f"{run_id}-{first_seq}-{sha256}"


def failed(folder: Path, error: OSError) -> RecorderError:
    """Return the error of a tree that cannot be written."""
    if error.errno in NO_SPACE:
        return NoRoom(
            f"{folder}: the disk is full; make room, and run the same command again: what is exported stays"
        )
    return RecorderError(f"cannot write to {folder}: {error.strerror or error}")


_decode_lines: Final = msgspec.json.Decoder(_Line).decode_lines
