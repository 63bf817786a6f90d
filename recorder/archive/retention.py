"""Deletes the oldest rotated files of an archive once they are too many or too old; never an active one."""

from __future__ import annotations

from pathlib import Path

from recorder.archive.compressor import Compressor
from recorder.archive.disk import Disk, reason_of
from recorder.archive.layout import ArchiveFile, find_files
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.clock import Clock
from recorder.log import get_logger
from recorder.stats import ArchiveStats

log = get_logger("polygon_archive")


class Retention:
    """Keeps rotated files, compressed or not, below `bytes_max` together, and each younger than `age_max_secs`.

    A file's age counts from its last record. What waits for compression is left alone until it is compressed.
    """

    def __init__(
        self,
        names: FileNames,
        *,
        bytes_max: int | None,
        age_max_secs: int | None,
        manifest: Manifest,
        compressor: Compressor | None,
        disk: Disk,
        clock: Clock,
        stats: ArchiveStats,
    ) -> None:
        self._names = names
        self._bytes_max = bytes_max
        self._age_max_secs = age_max_secs
        self._manifest = manifest
        self._compressor = compressor
        self._disk = disk
        self._clock = clock
        self._stats = stats

    @property
    def enabled(self) -> bool:
        """Whether anything is ever deleted."""
        return self._bytes_max is not None or self._age_max_secs is not None

    def apply(self) -> None:
        """Delete what is past the limits now. What cannot be deleted is logged and tried again the next time."""
        try:
            rotated = [file for file in find_files(self._names, self._disk) if file.rotated]
            states = [(file, self._disk.stat(file.path)) for file in rotated]
        except OSError as error:
            log.warning("archive_retention_failed", reason=reason_of(error))
            return
        present = [(file, state.st_size, state.st_mtime) for file, state in states if state]
        total = sum(size for _, size, _ in present)
        now = self._clock.wall_ns() / 1e9
        for file, size, changed in present:
            too_many = self._bytes_max is not None and total > self._bytes_max
            too_old = self._age_max_secs is not None and now - changed > self._age_max_secs
            if not too_many and not too_old:
                continue
            if file.temporary or self._in_use(file.plain):
                continue
            if self._delete(file, size, "size" if too_many else "age"):
                total -= size

    def _in_use(self, plain: Path) -> bool:
        return self._compressor is not None and self._compressor.holds(plain)

    def _delete(self, file: ArchiveFile, size: int, reason: str) -> bool:
        try:
            self._disk.unlink(file.path)
        except OSError as error:
            log.warning("archive_retention_failed", path=str(file.path), reason=reason_of(error))
            return False
        self._stats.deleted += 1
        log.info("archive_file_deleted", path=str(file.path), bytes=size, reason=reason)
        if file.active != self._names.rejects:
            name = file.plain.relative_to(self._names.folder).as_posix()
            self._manifest.append("segment_deleted", file=name, bytes=size, reason=reason)
        return True
