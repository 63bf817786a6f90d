"""The lock file: whose archive it is, how far the manifest goes, whether an fsync is in doubt, room for a full disk."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from recorder.archive.disk import Disk, reason_of
from recorder.archive.doubt import NOTE_BYTES, SyncDoubt, encode_note
from recorder.archive.manifest import Manifest
from recorder.archive.manifest_checkpoint import (
    CHECKPOINT_BYTES,
    NO_CHECKPOINT,
    ManifestCheckpoint,
    read_checkpoint,
)
from recorder.archive.policy import FileNames
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.log import get_logger

log = get_logger("polygon_archive")


_OWNER_BYTES: Final = 11
"""Equally long for every process, so that what stands behind is found after a kill at any moment."""
_NOTE_AT: Final = _OWNER_BYTES + CHECKPOINT_BYTES
_RESERVE_BEGIN: Final = _NOTE_AT + NOTE_BYTES
_RESERVE_BYTES: Final = 1 << 18
"""Room for some hundred lines of the manifest."""


class ArchiveLock:
    """Makes sure that one recorder at a time writes to an archive; the kernel lets go of it with the process."""

    def __init__(self, names: FileNames, disk: Disk) -> None:
        self._names = names
        self._disk = disk
        self._fd: int | None = None

    def take(self, manifest: Manifest, doubt: SyncDoubt) -> ManifestCheckpoint | None:
        """Own the archive from here on; return how far the manifest went when it was owned before.

        From now on the manifest notes here how far it goes, and `doubt` whether an fsync may have failed. Raise
        `ArchiveConfigError` where another recorder owns the archive, and `OSError`.
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
        boot_id = self._disk.boot_id()
        try:
            with self._disk.open_read(self._names.lock) as file:
                inherited = file.read(_RESERVE_BEGIN)[_NOTE_AT:] == encode_note(boot_id)
        except OSError:
            inherited = True
        # In one write, and before what stands behind it is cut off: a kill leaves the old note or the new one.
        head = (b"%d" % os.getpid()).ljust(_OWNER_BYTES - 1) + b"\n" + NO_CHECKPOINT
        self._disk.write_at(self._fd, head + encode_note(boot_id if inherited else ""), 0)
        self._disk.truncate(self._fd, _RESERVE_BEGIN)
        manifest.keep_checkpoint(self._fd, _OWNER_BYTES)
        doubt.keep(self._fd, _NOTE_AT, inherited=inherited)
        return checkpoint

    def fill_reserve(self) -> None:
        """Fill the lock file up behind the checkpoint, as far as the disk has room, for `spend_reserve`."""
        with suppress(OSError):
            fd, size = self._fd, 0 if self._fd is None else self._disk.stat_open(self._fd).st_size
            missing = _RESERVE_BEGIN + _RESERVE_BYTES - size
            if fd is not None and size >= _RESERVE_BEGIN and missing > 0:
                self._disk.write_at(fd, b" " * missing, size)

    def spend_reserve(self) -> bool:
        """Make room on a full disk for the lines that say what is about to be deleted; return whether there was any."""
        if self._fd is None:
            return False
        try:
            if self._disk.stat_open(self._fd).st_size <= _RESERVE_BEGIN:
                return False
            self._disk.truncate(self._fd, _RESERVE_BEGIN)
        except OSError as error:
            log.warning("archive_reserve_not_freed", reason=reason_of(error))
            return False
        return True

    def release(self) -> None:
        """Let go of the archive, if it was taken."""
        if self._fd is not None:
            self.spend_reserve()
            fd, self._fd = self._fd, None
            with suppress(OSError):
                self._disk.close(fd)
