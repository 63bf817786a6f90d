"""Has sealed files compressed one by one; a plain file goes only when its content is proven and on record."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from recorder.archive.codec import compressed_path
from recorder.archive.compression import Compress, Job, OnDisk, compress_file
from recorder.archive.compression_process import CompressionProcess
from recorder.archive.context import ArchiveContext
from recorder.archive.disk import reason_of
from recorder.archive.layout import TMP_SUFFIX
from recorder.errors import ArchiveError
from recorder.log import get_logger

log = get_logger("polygon_archive")

_LEAVE_SECS: Final = 0.5
"""The process at work is ended, and what it has left is deleted. That takes this long at most, unless the disk hangs."""
RETRY_SECS: Final = 60.0
RETRY_SECS_MAX: Final = 3600.0
"""The waits before a file that could not be compressed is tried again: they double from the first to the last."""


@dataclass(slots=True)
class _Waiting:
    """A sealed plain file that is to be compressed."""

    path: Path
    sha256: str
    due_ns: int = 0
    """When it is tried again, if it has failed (monotonic)."""
    wait_secs: float = RETRY_SECS


class Compressor:
    """Compresses files one after the other: to a temporary name, read back, renamed, noted, the plain one deleted.

    Once started it works in a thread of its own that leaves the work itself to a process; before that, `work` does it.
    What fails is logged and counted, stays plain, and is tried again after waits that grow; `retry` tries it at once.
    What shutdown interrupts is left to the next start.
    """

    def __init__(
        self,
        codec: str,
        context: ArchiveContext,
        finished: Callable[[Path, str], None] = lambda path, sha256: None,
    ) -> None:
        """`finished` is called with each compressed file that has taken the place of its plain form, and its checksum."""
        self.codec = codec
        self.process = CompressionProcess()
        self._finished = finished
        self._folder = context.names.folder
        self._manifest = context.manifest
        self._disk = context.disk
        self._clock = context.clock
        self._stats = context.stats
        self._compress: Compress = partial(compress_file, disk=context.disk)
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._failed: list[_Waiting] = []
        self._current: Path | None = None
        self._litter: list[tuple[Path, Path]] = []
        """Plain files, and what failed attempts have left beside them."""
        self._stopping = False
        self._abandoned = threading.Event()
        """Shutdown does not wait any longer."""
        self._thread: threading.Thread | None = None

    def put(self, path: Path, sha256: str = "") -> None:
        """Queue a sealed plain file; `sha256` is its checksum, where one is known for the whole of it."""
        with self._changed:
            self._waiting.append(_Waiting(path, sha256))
            self._note_change()

    def retry(self) -> None:
        """Queue again what could not be compressed."""
        with self._changed:
            self._waiting.extend(self._failed)
            self._failed.clear()
            self._note_change()

    def holds(self, path: Path) -> bool:
        """Return whether a file waits for compression or is being compressed."""
        with self._changed:
            return path == self._current or any(path == waiting.path for waiting in self._waiting)

    def start(self) -> None:
        """Begin to work, in a thread and a process."""
        self._compress = self.process.compress
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
                self.process.end()
                self._thread.join(min(_LEAVE_SECS, timeout_secs))
        if self._thread is None or not self._thread.is_alive():
            self._sweep()
        if self._waiting:
            log.info("archive_compression_left", files=len(self._waiting))

    def _run(self) -> None:
        with suppress(OSError, ArchiveError):  # it is started when it is needed, then
            self.process.start()
        try:
            while self.work(wait=True):
                pass
        finally:
            self.process.close()

    def work(self, *, wait: bool = False) -> bool:
        """Compress the next file; `wait` for one if there is none. Return False when there is nothing more to do."""
        with self._changed:
            self._take_due()
            while wait and not self._waiting and not self._stopping:
                self._changed.wait(self._due_secs())
                self._take_due()
            if not self._waiting or self._abandoned.is_set():
                return False
            waiting = self._waiting.popleft()
            self._current = waiting.path
        self._sweep()
        try:
            self.compress(waiting.path, waiting.sha256)
        except (OSError, ArchiveError) as error:
            if self._abandoned.is_set():
                log.info("archive_compression_left", path=str(waiting.path))
            else:
                self._fail(waiting, reason_of(error) if isinstance(error, OSError) else str(error))
        finally:
            with self._changed:
                self._current = None
                self._note_change()
        return True

    def compress(self, plain: Path, sha256: str = "") -> None:
        """Put a compressed file in the place of a plain one. Raise `OSError` or `ArchiveError`; then it stays plain."""
        target = compressed_path(plain, self.codec)
        temporary = target.with_name(target.name + TMP_SUFFIX)
        try:
            on_disk = self._compress(Job(plain, temporary, self.codec, sha256))
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

    def finish(self, plain: Path, target: Path, on_disk: OnDisk, *, noted: bool = False) -> None:
        """Note a compressed file that is known to be right, and delete the plain one. Raise `OSError`.

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
        self._finished(target, on_disk.sha256)
        self._disk.sync_folder(plain.parent)

    def _fail(self, waiting: _Waiting, reason: str) -> None:
        """Show that a file could not be compressed, and try it again later, unless somebody has taken it away."""
        self._stats.compress_errors += 1
        retry_secs = None if self._is_gone(waiting.path) else waiting.wait_secs
        log.error("archive_compression_failed", path=str(waiting.path), reason=reason, retry_secs=retry_secs)
        if retry_secs is None:
            return
        waiting.due_ns = self._clock.monotonic_ns() + int(retry_secs * 1e9)
        waiting.wait_secs = min(2 * retry_secs, RETRY_SECS_MAX)
        with self._changed:
            self._failed.append(waiting)

    def _is_gone(self, path: Path) -> bool:
        try:
            return self._disk.stat(path) is None
        except OSError:
            return False

    def _take_due(self) -> None:
        """Queue again what has failed and waited long enough."""
        now_ns = self._clock.monotonic_ns()
        self._waiting.extend(each for each in self._failed if each.due_ns <= now_ns)
        self._failed = [each for each in self._failed if each.due_ns > now_ns]

    def _due_secs(self) -> float | None:
        """Return how long the next file that has failed still waits; None if there is none."""
        if not self._failed:
            return None
        due_ns = min(each.due_ns for each in self._failed)
        return max(0.0, (due_ns - self._clock.monotonic_ns()) / 1e9)

    def _note_change(self) -> None:
        self._stats.compress_pending = len(self._waiting) + (self._current is not None)
        self._changed.notify_all()
