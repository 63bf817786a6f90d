"""The lock file: whose archive it is, and behind that how far the manifest goes."""

from __future__ import annotations

import os
from contextlib import suppress

from recorder.archive.disk import Disk
from recorder.archive.manifest import Manifest
from recorder.archive.manifest_checkpoint import ManifestCheckpoint, read_checkpoint
from recorder.archive.policy import FileNames
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.log import get_logger

log = get_logger("polygon_archive")


class ArchiveLock:
    """Makes sure that one recorder at a time writes to an archive; the kernel lets go of it with the process."""

    def __init__(self, names: FileNames, disk: Disk) -> None:
        self._names = names
        self._disk = disk
        self._fd: int | None = None

    def take(self, manifest: Manifest) -> ManifestCheckpoint | None:
        """Own the archive from here on; gives how far the manifest went when it was owned before.

        From now on the manifest notes here how far it goes. Raises `ArchiveConfigError` where another recorder owns the
        archive, and `OSError`.
        """
        try:
            self._fd = self._disk.lock(self._names.lock)
        except BlockingIOError as error:
            owner = ""
            with suppress(OSError), self._disk.open_read(self._names.lock) as file:
                owner = file.readline(32).decode("ascii", "replace").strip()
            raise ArchiveConfigError(
                f"the archive {self._names.template} is owned by the recorder with pid {owner or 'unknown'};"
                " stop it, or set NDJSON_DEST to another place"
            ) from error
        try:
            checkpoint = read_checkpoint(self._names.lock, self._disk.open_read)
        except ArchiveError as error:
            log.warning("archive_lock_file_damaged", reason=str(error))
            checkpoint = None
        owner_line = b"%d\n" % os.getpid()
        self._disk.truncate(self._fd, 0)
        self._disk.write_all(self._fd, owner_line)
        manifest.keep_checkpoint(self._fd, len(owner_line))
        return checkpoint

    def release(self) -> None:
        """Let go of the archive, if it was taken."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with suppress(OSError):
                self._disk.close(fd)
