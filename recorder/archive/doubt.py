"""Whether an fsync may have failed of which the manifest does not know, noted where it outlives the process."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk, reason_of
from recorder.log import get_logger

_BOOT_CHARS: Final = 36
_NOTE: Final = re.compile(rb"unsynced (.{36})\n")
NOTE_BYTES: Final = 46
_NO_NOTE: Final = b" " * (NOTE_BYTES - 1) + b"\n"

log = get_logger("polygon_archive")


class SyncDoubt:
    """Notes in the lock file that an fsync is under way, or has failed, until the manifest says what is not durable.

    Linux takes pages for clean that it could not write. A later fsync succeeds then, and does not write them. A start
    that takes over what a killed run has left would call it durable. So the note is there before each fsync: the process
    may be killed right behind it. It names the boot, since after another one everything was read from the device.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._at: tuple[int, int] | None = None
        """Descriptor and offset of the note."""
        self._lock = threading.Lock()
        self._noted = False
        self._under_way = 0
        self._failed: set[Path] = set()
        self._told: set[Path] = set()
        """Those of which the manifest has a line, which need not be durable yet."""
        self.inherited = False
        """Whether the run or the start before this one left the note."""

    def keep(self, fd: int, offset: int, *, inherited: bool) -> None:
        """Keep the note in an open file from now on; `inherited`: it is there already."""
        self._at = (fd, offset)
        self._noted = self.inherited = inherited

    def release(self) -> None:
        """Leave the note as it is: its file is about to be closed."""
        self._at = None

    @contextmanager
    def syncing(self, path: Path) -> Iterator[None]:
        """Hold the note while a file is made durable, and on if that fails."""
        with self._lock:
            self._under_way += 1
            self._write()
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._lock:
                self._under_way -= 1
                if failed:
                    self._failed.add(path)
                    self._told.discard(path)
                self._write()

    def told(self, path: Path) -> None:
        """The manifest has got a line on what this file held, durable or not."""
        with self._lock:
            if path in self._failed:
                self._told.add(path)

    def settle(self) -> None:
        """Take the note away, if all that failed was told: the manifest is durable, and the archive is repaired."""
        with self._lock:
            self._failed -= self._told
            self._told.clear()
            self.inherited = False
            self._write()

    def _write(self) -> None:
        """Write the note, or blanks over it, where that has changed."""
        noted = bool(self._under_way or self._failed or self.inherited)
        if noted == self._noted or self._at is None:
            return
        fd, offset = self._at
        try:
            self._disk.write_at(fd, encode_note(self._disk.boot_id()) if noted else _NO_NOTE, offset)
        except OSError as error:
            log.warning("archive_lock_file_not_written", reason=reason_of(error))
            return
        self._noted = noted


def encode_note(boot_id: str) -> bytes:
    """Return the line of the lock file; empty: without a note. All are equally long."""
    if not boot_id:
        return _NO_NOTE
    return b"unsynced %b\n" % boot_id.encode().ljust(_BOOT_CHARS)[:_BOOT_CHARS]


def is_note(line: bytes) -> bool:
    """Return whether a line of the lock file is such a note, of whichever boot."""
    return _NOTE.fullmatch(line) is not None
