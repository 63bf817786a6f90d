"""Compresses sealed files off the writer's thread; a plain file goes only when its content is proven and on record."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from recorder.archive.codec import compressed_path, encoder
from recorder.archive.context import ArchiveContext
from recorder.archive.disk import reason_of
from recorder.archive.layout import TMP_SUFFIX
from recorder.archive.reader import Content, read_blocks
from recorder.errors import ArchiveError
from recorder.log import get_logger

log = get_logger("polygon_archive")

_LEAVE_SECS: Final = 0.5
"""The file at hand is given up between two blocks. That takes this long at most, unless the disk hangs."""
_NICE: Final = 10
"""Compression yields to everything that moves market data."""


class _Abandoned(Exception):
    """Shutdown does not wait any longer."""


class Compressor:
    """Compresses files one after the other: to a temporary name, read back, renamed, noted, the plain one deleted.

    What fails is logged and counted and stays plain; `retry`, or the next start, tries again. What shutdown
    interrupts is left to the next start too.
    """

    def __init__(
        self, codec: str, context: ArchiveContext, finished: Callable[[Path], None] = lambda _: None
    ) -> None:
        """`finished` is called with each compressed file that has taken the place of its plain form."""
        self.codec = codec
        self._finished = finished
        self._folder = context.names.folder
        self._manifest = context.manifest
        self._disk = context.disk
        self._stats = context.stats
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Path, str]] = deque()
        self._failed: list[tuple[Path, str]] = []
        self._current: Path | None = None
        self._litter: list[tuple[Path, Path]] = []
        """Plain files, and what failed attempts have left beside them."""
        self._stopping = False
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, path: Path, sha256: str = "") -> None:
        """Queue a sealed plain file; `sha256` is its checksum, where one is known for the whole of it."""
        with self._changed:
            self._waiting.append((path, sha256))
            self._stats.compress_pending = self._count()
            self._changed.notify_all()

    def retry(self) -> None:
        """Queue again what could not be compressed."""
        with self._changed:
            self._waiting.extend(self._failed)
            self._failed.clear()
            self._stats.compress_pending = self._count()
            self._changed.notify_all()

    def holds(self, path: Path) -> bool:
        """Return whether a file waits for compression or is being compressed."""
        with self._changed:
            return path == self._current or any(path == waiting for waiting, _ in self._waiting)

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="archive-compressor", daemon=True)
        self._thread.start()

    def stop(self, timeout_secs: float) -> None:
        """Finish what is queued if there is time for it, and stop in any case."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(max(0.0, timeout_secs - _LEAVE_SECS))
            if self._thread.is_alive():
                self._abandoned.set()
                self._thread.join(min(_LEAVE_SECS, timeout_secs))
        if self._thread is None or not self._thread.is_alive():
            self._sweep()
        if self._waiting:
            log.info("archive_compression_left", files=len(self._waiting))

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # not a permission that anybody lacks, but not everywhere
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        while self.work(wait=True):
            pass

    def work(self, *, wait: bool = False) -> bool:
        """Compress the next file; `wait` for one if there is none. Return False when there is nothing more to do."""
        with self._changed:
            while wait and not self._waiting and not self._stopping:
                self._changed.wait()
            if not self._waiting or self._abandoned.is_set():
                return False
            path, sha256 = self._waiting.popleft()
            self._current = path
        self._sweep()
        try:
            self.compress(path, sha256)
        except _Abandoned:
            log.info("archive_compression_left", path=str(path))
        except (OSError, ArchiveError) as error:
            self._stats.compress_errors += 1
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            log.error("archive_compression_failed", path=str(path), reason=reason)
            with self._changed:
                self._failed.append((path, sha256))
        finally:
            with self._changed:
                self._current = None
                self._stats.compress_pending = self._count()
        return True

    def compress(self, plain: Path, sha256: str = "") -> None:
        """Put a compressed file in the place of a plain one. Raises `OSError` or `ArchiveError`; then it stays plain."""
        target = compressed_path(plain, self.codec)
        temporary = target.with_name(target.name + TMP_SUFFIX)
        try:
            on_disk = self._make(plain, temporary, sha256)
            self._disk.rename(temporary, target)
            self._disk.sync_folder(target.parent)
            self.finish(plain, target, on_disk)
        except BaseException:
            # While the plain file is there, nothing else may hold its records: readers would meet them twice.
            if self._disk.stat(plain):
                self._litter += [(plain, temporary), (plain, target)]
                self._sweep()
            raise

    def _sweep(self) -> None:
        """Delete what failed attempts have left beside a plain file; what cannot be deleted is tried again later."""
        litter, self._litter = self._litter, []
        for plain, leftover in litter:
            try:
                if self._disk.stat(plain) and self._disk.stat(leftover):
                    self._disk.unlink(leftover)
            except OSError:
                self._litter.append((plain, leftover))

    def finish(self, plain: Path, target: Path, on_disk: Content, *, noted: bool = False) -> None:
        """Note a compressed file that is known to be right, and delete the plain one. Raises `OSError`.

        `on_disk` is the file as it lies there; `noted` says that the manifest has that already.
        """
        before = self._disk.stat(plain)
        if self._disk.stat(target) is None or before is None:
            raise ArchiveError(f"{plain} or {target} was removed by another program")
        name = plain.relative_to(self._folder).as_posix()
        if not noted:
            self._manifest.append(
                "segment_compressed",
                file=name,
                codec=self.codec,
                bytes=on_disk.bytes,
                sha256=on_disk.sha256,
            )
        if not self._manifest.flush():
            # The manifest must not be the only one that does not know where the content is.
            raise ArchiveError(f"the manifest cannot be written; {plain} stays until the next start")
        self._disk.unlink(plain)
        self._stats.compressed += 1
        self._stats.compress_bytes_in += before.st_size
        self._stats.compress_bytes_out += on_disk.bytes
        segment = self._stats.find_closed(name)
        if segment is not None:
            segment.compressed_bytes = on_disk.bytes
        self._finished(target)
        self._disk.sync_folder(plain.parent)

    def _make(self, plain: Path, temporary: Path, sha256: str) -> Content:
        """Write the compressed file and prove it; return size and checksum of what is on disk."""
        before = self._disk.stat(plain)
        if before is None:
            raise ArchiveError(f"{plain} was removed by another program before it was compressed")
        written = Content()
        compress = encoder(self.codec, before.st_size)
        fd = self._disk.create(temporary)
        try:
            for block in self._blocks(plain, "none"):
                written.add(block)
                if written.bytes > before.st_size:
                    break
                self._disk.write_all(fd, compress.compress(block))
            if written.bytes != before.st_size:
                raise ArchiveError(f"{plain} changed while it was compressed")
            self._disk.write_all(fd, compress.flush())
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        if sha256 and written.sha256 != sha256:
            raise ArchiveError(f"{plain} does not have the checksum that it was written with")
        read_back, on_disk = Content(), Content()
        for block in self._blocks(temporary, self.codec, on_disk.add):
            read_back.add(block)
        if (read_back.bytes, read_back.sha256) != (written.bytes, written.sha256):
            raise ArchiveError(f"{temporary} does not read back as what went in")
        self._disk.set_mtime(temporary, before.st_mtime_ns)
        return on_disk

    def _blocks(
        self, path: Path, codec: str, on_read: Callable[[bytes], object] | None = None
    ) -> Iterator[bytes]:
        for block in read_blocks(path, self._disk.open_read, codec=codec, on_read=on_read):
            if self._abandoned.is_set():
                raise _Abandoned
            yield block

    def _count(self) -> int:
        return len(self._waiting) + (self._current is not None)
