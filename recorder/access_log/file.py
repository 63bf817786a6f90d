"""The file of the access log: appended to, rotated, compressed, and deleted when it is old. Every call may block."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import Final

from recorder.access_log.record import decode
from recorder.archive.codec import compressed_path
from recorder.archive.compression import Job, compress_file
from recorder.archive.disk import Disk, identity, reason_of
from recorder.archive.layout import TMP_SUFFIX, ArchiveFile, free_rotated_path, parse
from recorder.errors import ArchiveError, ConfigError
from recorder.log import get_logger
from recorder.settings import AccessLogSettings

_FIRST_LINE_BYTES: Final = 1 << 20

log = get_logger("polygon_clients")


class AccessFile:
    """One file for one recorder, which the lock on it makes sure of.

    Names and codecs of rotated files are those of the archive: `access.20260131T000000000Z.jsonl.gz`, stamped with the
    time of the first line. A write that fails halfway leaves no half of a line behind, or has the next one begin anew.
    Methods raise OSError where the file system refuses.
    """

    def __init__(self, settings: AccessLogSettings, disk: Disk) -> None:
        self.path = Path(settings.dest or "").absolute()
        self._settings = settings
        self._rotate_ns = settings.rotate_secs * 1_000_000_000
        self._disk = disk
        self._fd: int | None = None
        self._size = 0
        self._begun_ns = 0
        """From when its first line counts; 0 while it has none."""
        self._is_torn = False
        self.has_rotated = True
        """Whether there may be something to tidy up."""

    def open(self) -> None:
        """Open the file for appending. Raise BlockingIOError while another recorder writes to it."""
        self._disk.make_folder(self.path.parent)
        fd = self._disk.open_append(self.path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._disk.stat_open(fd).st_size
            self._begun_ns, self._is_torn = self._look()
            self._disk.sync_folder(self.path.parent)
        except BaseException:
            self._disk.close(fd)
            raise
        self._fd = fd

    def _look(self) -> tuple[int, bool]:
        """Return from when the first line of the file counts, and whether its last one was cut off by a crash."""
        if not self._size:
            return 0, False
        with self._disk.open_read(self.path) as file:
            first = file.readline(_FIRST_LINE_BYTES)
            file.seek(-1, 2)
            is_torn = file.read(1) != b"\n"
            try:
                return int(decode(first).begun.timestamp() * 1000) * 1_000_000, is_torn
            except ArchiveError:
                return self._disk.stat_open(file.fileno()).st_mtime_ns, is_torn

    def write(self, lines: bytes, begun_ns: int) -> None:
        """Append whole lines, which count from `begun_ns` on; rotate before that where it is due."""
        if identity(self._disk.stat(self.path)) != self._identity():
            self.reopen()  # somebody has moved or deleted it
        if self._size and self._is_due(len(lines), begun_ns):
            self.rotate()
        fd = self._open_fd()
        try:
            self._disk.write_all(fd, b"\n" + lines if self._is_torn else lines)
        except OSError:
            self._is_torn = True
            with suppress(OSError):
                self._disk.truncate(fd, self._size)
                self._is_torn = False
            raise
        self._size += len(lines) + self._is_torn
        self._is_torn = False
        self._begun_ns = self._begun_ns or begun_ns

    def _is_due(self, size: int, begun_ns: int) -> bool:
        largest = self._settings.max_bytes
        if largest is not None and self._size + size > largest:
            return True
        # Lines of the period before that come late, as those of a worker may, stay in the present file.
        return bool(self._rotate_ns) and begun_ns // self._rotate_ns > self._begun_ns // self._rotate_ns

    def rotate(self) -> None:
        """Seal the file under a name of its own, and begin the next one."""
        self.sync()
        sealed = free_rotated_path(self.path, self._begun_ns // 1_000_000, self._disk)
        self.close()
        self._disk.rename(self.path, sealed)
        self.open()
        self.has_rotated = True
        log.info("access_log_rotated", file=str(sealed))

    def reopen(self) -> None:
        """Close the file and open what has its name now."""
        self.close()
        self.open()

    def sync(self) -> None:
        """Make durable what was written."""
        self._disk.sync(self._open_fd())

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._disk.close(fd)

    def tidy(self, now_ns: int) -> None:
        """Compress rotated files and delete those that are too old or too many. What fails is logged, and tried again."""
        self.has_rotated = False
        try:
            self._compress_all(self._rotated())
            self._delete_old(self._rotated(), now_ns)
        except (OSError, ArchiveError) as error:
            words = reason_of(error) if isinstance(error, OSError) else str(error)
            log.warning("access_log_not_tidied", error=words)

    def _rotated(self) -> list[ArchiveFile]:
        """Return the rotated files, the oldest first."""
        found = map(parse, self._disk.list_files(self.path.parent, deep=False))
        mine = [file for file in found if file.rotated and file.active == self.path]
        return sorted(mine, key=lambda file: file.age_key)

    def _compress_all(self, rotated: list[ArchiveFile]) -> None:
        codec = self._settings.compression
        for file in rotated:
            if file.temporary:
                self._disk.unlink(file.path)  # what a crash has left
            elif file.codec == "none" and codec != "none":
                target = compressed_path(file.path, codec)
                temporary = target.with_name(target.name + TMP_SUFFIX)
                compress_file(Job(file.path, temporary, codec), self._disk)
                self._disk.rename(temporary, target)
                self._disk.sync_folder(target.parent)
                self._disk.unlink(file.path)

    def _delete_old(self, rotated: list[ArchiveFile], now_ns: int) -> None:
        known = [(file.path, stat) for file in rotated if (stat := self._disk.stat(file.path)) is not None]
        total = sum(stat.st_size for _, stat in known)
        largest, oldest_secs = self._settings.retain_bytes, self._settings.retain_secs
        for path, stat in known:
            is_old = oldest_secs is not None and stat.st_mtime_ns < now_ns - oldest_secs * 1_000_000_000
            if is_old or (largest is not None and total > largest):
                self._disk.unlink(path)
                total -= stat.st_size
                log.info("access_log_deleted", file=str(path), because="old" if is_old else "size")

    def _identity(self) -> tuple[int, int] | None:
        return identity(self._disk.stat_open(self._open_fd()))

    def _open_fd(self) -> int:
        if self._fd is None:
            self.open()
        assert self._fd is not None
        return self._fd

    def __repr__(self) -> str:
        return f"AccessFile({self.path}, {self._size} bytes)"


def refused(path: Path, error: OSError) -> ConfigError:
    """Return the error for a file that cannot be written to at the start."""
    if isinstance(error, BlockingIOError):
        return ConfigError(
            f"ACCESS_LOG_DEST: {path}: another recorder writes to it; each recorder needs a file of its own"
        )
    return ConfigError(
        f"ACCESS_LOG_DEST: {path}: {error.strerror or error}; name a file that the recorder's user may write to"
    )
