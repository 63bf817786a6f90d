"""How far the manifest goes, noted in the lock file: tells when lines were cut off its end."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recorder.archive.doubt import NOTE_BYTES, is_note
from recorder.archive.reader import Opener, open_file
from recorder.errors import ArchiveError, Unreadable

LOCK_SUFFIX: Final = ".lock"
_CHECKPOINT: Final = re.compile(rb"manifest (\d{20}) ([0-9a-f]{64})\n")
CHECKPOINT_BYTES: Final = 95
NO_CHECKPOINT: Final = b" " * (CHECKPOINT_BYTES - 1) + b"\n"
"""Stands in its place before the manifest has a line."""
_READ_BYTES: Final = 4096


@dataclass(slots=True)
class ManifestCheckpoint:
    """The end of a manifest as its recorder knew it; `reached` once the lines that were added had that end."""

    size_bytes: int
    sha256: str
    """Of the last line, less its line end."""
    reached: bool = False
    _seen_bytes: int = 0

    def add(self, line: bytes) -> None:
        """Take the next line of the manifest."""
        self._seen_bytes += len(line)
        if self._seen_bytes == self.size_bytes:
            self.reached = hashlib.sha256(line.rstrip(b"\n")).hexdigest() == self.sha256

    def encode(self) -> bytes:
        """Return the line of the lock file. All are equally long, so that one is written over the other."""
        return b"manifest %020d %b\n" % (self.size_bytes, self.sha256.encode())


def read_checkpoint(lock: Path, opener: Opener = open_file) -> ManifestCheckpoint | None:
    """Return what a lock file says of the manifest; None where it is missing, old, or was never finished.

    Raise `ArchiveError` where it was altered.
    """
    try:
        with opener(lock) as file:
            data = file.read(_READ_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"cannot read {lock}: {error.strerror or error}") from error
    rest = data.partition(b"\n")[2]
    if len(rest) < CHECKPOINT_BYTES or rest[:CHECKPOINT_BYTES] == NO_CHECKPOINT:
        return None
    match = _CHECKPOINT.fullmatch(rest[:CHECKPOINT_BYTES])
    note, room = rest[CHECKPOINT_BYTES:][:NOTE_BYTES], rest[CHECKPOINT_BYTES + NOTE_BYTES :]
    # What stands behind the note is room that the recorder keeps for a full disk.
    if match is None or (note.strip(b" \0\n") and not is_note(note)) or room.strip(b" \0"):
        raise ArchiveError(f"{lock}: what it says of the manifest was altered")
    return ManifestCheckpoint(int(match[1]), match[2].decode())
