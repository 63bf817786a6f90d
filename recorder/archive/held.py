"""A file that stays open since it was looked at: what it had then can be read, whatever becomes of its name."""

from __future__ import annotations

import os
import weakref
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


_BEGIN_BYTES: Final = 256
"""A file that begins with these bytes of a record still begins with that record: they have its number."""


class HeldFile:
    """An open file. Any number of readers may read it at once, each from a place of its own."""

    def __init__(self, path: Path) -> None:
        """Open the file of this name. Raise `OSError`."""
        self.path: Final = path
        self.descriptor: Final = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        self.size_bytes: Final = os.fstat(self.descriptor).st_size
        """How large it was when it was opened."""
        self._begin: Final = os.pread(self.descriptor, min(self.size_bytes, _BEGIN_BYTES), 0)

    @property
    def was_cut(self) -> bool:
        """Whether another program has cut the file, so that it may have other lines by now."""
        return (
            os.fstat(self.descriptor).st_size < self.size_bytes
            or os.pread(self.descriptor, len(self._begin), 0) != self._begin
        )

    def open(self, path: Path | None = None) -> BinaryIO:
        """Return a reader of the file from its beginning on. It is an `Opener`: the name has no say."""
        return BufferedReader(_Reader(self))

    def __reduce__(self) -> NoReturn:
        # What arrives in another process closes a descriptor there that is another file's.
        raise TypeError(f"{self.path} is held by this process alone: hand another one its name")

    def __repr__(self) -> str:
        return f"HeldFile({self.path}, {self.size_bytes:,} bytes)"


class _Reader(RawIOBase):
    """Reads a held file, which stays open for as long as this has it; others who read it do not move its place."""

    def __init__(self, held: HeldFile) -> None:
        self._held = held
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._held.descriptor

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        self._at = offset + (os.fstat(self._held.descriptor).st_size if base is None else base)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        count = os.preadv(self._held.descriptor, [buffer], self._at)
        self._at += count
        return count
