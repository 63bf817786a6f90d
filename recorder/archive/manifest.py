"""The ledger of the archive: append-only, chained, fsynced line by line; it outlives a failing disk in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from recorder.archive.disk import NO_SPACE, Disk, identity, reason_of
from recorder.archive.doubt import SyncDoubt
from recorder.archive.layout import TMP_SUFFIX
from recorder.archive.manifest_checkpoint import ManifestCheckpoint
from recorder.archive.manifest_index import NO_PREVIOUS, ManifestIndex, first_bytes, read_manifest, with_sum
from recorder.archive.reader import lines, read_blocks
from recorder.archive.stats import ArchiveStats
from recorder.clock import Clock
from recorder.log import get_logger

log = get_logger("polygon_archive")

_BLOCK_BYTES: Final = 1 << 20
_RENEW_SECS: Final = 1.0
"""A disk whose fsync keeps failing is given a new copy of the manifest so often, at most."""


class Manifest:
    """Appends lines, from any thread, in the order of the calls.

    Each is durable when `append` returns, unless the disk fails: then it waits in memory, in its place, and is
    written by the next `append` or `flush` that can. After a failed fsync the file is not trusted any more: a new one
    with the same lines takes its place. Nothing here raises `OSError` but `open`.
    """

    def __init__(
        self, path: Path, *, run_id: str, disk: Disk, doubt: SyncDoubt, clock: Clock, stats: ArchiveStats
    ) -> None:
        self.path = path
        self.failure = ""
        self.is_full = False
        """Whether the disk had no room for the last line."""
        self._run_id = run_id
        self._disk = disk
        self._doubt = doubt
        self._clock = clock
        self._stats = stats
        self._lock = threading.Lock()
        self._pending: deque[bytes] = deque()
        self._torn = 0
        """Bytes of the first pending line that are in the file already."""
        self._previous = NO_PREVIOUS
        self._fd: int | None = None
        self._size = 0
        self._durable_bytes = 0
        self._unsynced: list[bytes] = []
        """Lines that are handed over, behind the durable bytes, and not known to be durable."""
        self._distrusted = False
        """Whether an fsync failed: the kernel may have dropped what it had taken, and would not say so again."""
        self._renew_due_ns = 0
        self._closed = False
        self._doubtful = False
        """Whether a write failed, so that the file may be longer than was reported, or not be ours any more."""
        self._checkpoint_at: tuple[int, int] | None = None
        """Descriptor and offset of where it is noted how far the manifest goes."""

    def open(self, checkpoint: ManifestCheckpoint | None = None) -> tuple[ManifestIndex, bytes]:
        """Read what is there and make ready to append; gives what it says and the torn last line that was cut off.

        `checkpoint` is how far the manifest has to go; that it does not is noted in it for good. Raise `OSError` or
        `ArchiveError`.
        """
        fd = self._disk.open_append(self.path)
        try:
            present = _Lines(self.path, self._disk, checkpoint)
            index = ManifestIndex()
            for entry in read_manifest(iter(present), self._warn):
                index.add(entry)
            if present.torn:
                self._disk.truncate(fd, present.size)
                with self._doubt.syncing(self.path):
                    self._disk.sync(fd)
            if not present.size:
                self._disk.sync_folder(self.path.parent)
            if self._disk.stat(self._temporary):
                self._disk.unlink(self._temporary)
        except BaseException:
            self._disk.close(fd)
            raise
        if present.last:
            self._previous = hashlib.sha256(present.last.rstrip(b"\n")).hexdigest()
        self._fd = fd
        self._size = self._durable_bytes = present.size
        self._distrusted = self._doubt.inherited
        if checkpoint and not checkpoint.reached:
            log.error(
                "manifest_cut", path=str(self.path), bytes=present.size, bytes_expected=checkpoint.size_bytes
            )
        if checkpoint and not checkpoint.reached and present.size:
            # Who takes the manifest away as a whole begins a new archive.
            self.append(
                "manifest_damaged",
                file=self.path.name,
                bytes=present.size,
                bytes_expected=checkpoint.size_bytes,
            )
        return index, present.torn

    def keep_checkpoint(self, fd: int, offset: int) -> None:
        """Note in an open file, from now on, how far the manifest goes."""
        self._checkpoint_at = (fd, offset)

    @property
    def durable_bytes(self) -> int:
        """How much of the file is durable: whole lines, which no later failure takes back."""
        with self._lock:
            return self._durable_bytes

    def append(self, kind: str, *, run_id: str = "", **fields: Any) -> None:
        """Add a line; `run_id` names another run than this one."""
        with self._lock:
            if self._closed:
                log.warning("manifest_line_too_late", kind=kind)
                return
            now_ms = self._clock.wall_ns() // 1_000_000
            self._chain({"kind": kind, "run_id": run_id or self._run_id, "ts": now_ms, **fields})
            self._write()

    def append_copies(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add lines of another manifest, as they are but for their place in the chain; they become durable together."""
        with self._lock:
            for line in lines:
                self._chain(line)
            self._write()

    def _chain(self, line: Mapping[str, Any]) -> None:
        # The standard library's encoder has no limit for integers; times are what the vendor sends.
        line = {**line, "prev": self._previous}
        data = with_sum(json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":")).encode())
        self._previous = hashlib.sha256(data).hexdigest()
        self._pending.append(data + b"\n")

    def flush(self) -> bool:
        """Write what waits, and see to it that the file is still under its name; tells whether all is durable."""
        with self._lock:
            if not self._pending and self._fd is not None:
                try:
                    self._reopen_if_moved()
                except OSError as error:
                    self._failed(error)
            self._write()
            return not (self._pending or self._unsynced)

    def close(self) -> None:
        """Close the file; lines that the disk did not take are lost, which is logged."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._write()
            if self._pending:
                log.error("manifest_lines_lost", lines=len(self._pending), reason=self.failure)
                self._pending.clear()
                self._cut_torn()
            if self._unsynced:
                log.error("manifest_lines_not_durable", lines=len(self._unsynced), reason=self.failure)
            if self._fd is not None:
                self._close()

    def _write(self) -> None:
        if not (self._pending or self._unsynced):
            return
        try:
            if self._doubtful:
                self._mend()
            if self._fd is None:
                self._fd = self._disk.open_append(self.path)
                self._size = self._durable_bytes = self._disk.stat_open(self._fd).st_size
            while self._pending:
                line = memoryview(self._pending[0])
                while self._torn < len(line):
                    count = self._disk.write(self._fd, line[self._torn :])
                    self._torn += count
                    self._size += count
                self._unsynced.append(self._pending.popleft())
                self._torn = 0
        except OSError as error:
            self._doubtful = True
            self._failed(error)
            return
        try:
            if self._distrusted:
                if not self._renew():
                    return
            else:
                with self._doubt.syncing(self.path):
                    self._disk.sync(self._fd)
        except OSError as error:
            self._distrusted = True
            self._stats.fsync_errors += 1
            self._failed(error)
            return
        self._unsynced.clear()
        self._durable_bytes = self._size
        self.failure = ""
        self.is_full = False
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        if self._checkpoint_at is None:
            return
        fd, offset = self._checkpoint_at
        try:
            # Not synced: what a power loss leaves of it says less than the manifest, never more.
            self._disk.write_at(fd, ManifestCheckpoint(self._size, self._previous).encode(), offset)
        except OSError as error:
            log.warning("manifest_checkpoint_not_written", reason=reason_of(error))

    @property
    def _temporary(self) -> Path:
        return self.path.with_name(self.path.name + TMP_SUFFIX)

    def _renew(self) -> bool:
        """Put a new, durable file in the place of the distrusted one, unless it is too early. Raise `OSError`."""
        now = self._clock.monotonic_ns()
        if now < self._renew_due_ns:
            return False
        self._renew_due_ns = now + int(_RENEW_SECS * 1e9)
        if self._disk.stat(self._temporary):
            self._disk.unlink(self._temporary)
        fd = self._disk.open_append(self._temporary)
        try:
            # What is not durable comes from memory: what the distrusted file reads as may not be what was written.
            with self._disk.open_read(self.path) as file:
                for block in first_bytes(iter(lambda: file.read(_BLOCK_BYTES), b""), self._durable_bytes):
                    self._disk.write_all(fd, block)
            for line in self._unsynced:
                self._disk.write_all(fd, line)
            self._disk.sync(fd)
            self._disk.rename(self._temporary, self.path)
        except BaseException:
            self._disk.close(fd)
            raise
        self._close()
        self._fd = fd
        self._disk.sync_folder(self.path.parent)
        self._distrusted = False
        self._doubt.told(self.path)
        log.warning("manifest_renewed", path=str(self.path), after=self.failure)
        return True

    def _mend(self) -> None:
        """After a failure: go on in the same file, behind exactly what was reported as written, or in a new one."""
        self._reopen_if_moved()
        if self._fd is not None and self._disk.stat_open(self._fd).st_size > self._size:
            self._disk.truncate(self._fd, self._size)
        self._doubtful = False

    def _reopen_if_moved(self) -> None:
        if self._fd is None:
            return
        if identity(self._disk.stat(self.path)) != identity(self._disk.stat_open(self._fd)):
            log.warning("manifest_vanished", path=str(self.path))
            self._stats.vanished += 1
            self._cut_torn()
            self._close()
            # The lines are where the file went; nobody can make them durable from here.
            self._unsynced.clear()
            self._distrusted = False
            self._doubt.told(self.path)

    def _cut_torn(self) -> None:
        if self._torn and self._fd is not None:
            try:
                self._disk.truncate(self._fd, self._size - self._torn)
            except OSError as error:
                log.warning("manifest_line_left_torn", reason=reason_of(error))
        self._torn = 0

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                self._disk.close(fd)
            except OSError as error:
                self._failed(error)

    def _failed(self, error: OSError) -> None:
        self._stats.manifest_errors += 1
        if not self.failure:
            log.error("manifest_not_written", path=str(self.path), reason=reason_of(error))
        self.failure = f"cannot write {self.path}: {reason_of(error)}"
        self.is_full = error.errno in NO_SPACE

    def _warn(self, number: int, what: str) -> None:
        log.warning("manifest_damaged", path=str(self.path), line=number, problem=what)


class _Lines:
    """Yields the whole lines of a manifest; afterwards knows their size, the last one, and what was torn."""

    def __init__(self, path: Path, disk: Disk, checkpoint: ManifestCheckpoint | None) -> None:
        self._lines = lines(read_blocks(path, disk.open_read), str(path))
        self.size = 0
        self.last = b""
        self.torn = b""
        self._checkpoint = checkpoint

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            if line.endswith(b"\n"):
                self.size += len(line)
                self.last = line
                if self._checkpoint:
                    self._checkpoint.add(line)
                yield line
            else:
                self.torn = line
