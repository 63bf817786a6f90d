"""Reads files of the archive back, plain or compressed; what is not whole is an error, never a shorter answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from recorder.archive.codec import codec_of, decode
from recorder.errors import ArchiveError, Unreadable

_READ_BYTES: Final = 1 << 18
_READ_COMPRESSED_BYTES: Final = 1 << 15
"""A block of well compressed lines is many times as large once it is decoded."""
_LINE_START: Final = b'{"'
"""Begins every line of an archive."""
LINE_BYTES_MAX: Final = 128 << 20
"""Twice the largest frame that is taken from an exchange."""
NO_LINE_BYTES_MAX: Final = 1 << 20
"""So much is kept of what begins like no line of ours: after a power loss, zero bytes may go on for gigabytes."""

Opener = Callable[[Path], BinaryIO]


class Content:
    """Size and checksum of bytes that pass by."""

    def __init__(self) -> None:
        self.bytes = 0
        self._digest = hashlib.sha256()

    def add(self, block: bytes) -> None:
        """Take the next block."""
        self.bytes += len(block)
        self._digest.update(block)

    @property
    def sha256(self) -> str:
        """The checksum of all blocks, in hex."""
        return self._digest.hexdigest()


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading."""
    return open(path, "rb")


def read_blocks(
    path: Path,
    opener: Opener = open_file,
    *,
    codec: str = "",
    on_read: Callable[[bytes], object] | None = None,
) -> Iterator[bytes]:
    """Yield the plain content of a file in blocks; its name tells the codec, unless `codec` does.

    `on_read` gets each block as it lies on disk. Raise `Unreadable` where the file cannot be read, and `ArchiveError`
    where it is not exactly one whole compressed frame.
    """
    codec = codec or codec_of(path)
    yield from decode(codec, _raw_blocks(path, codec, opener, on_read), str(path))


def pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a plain content cut behind each line end; a line that goes over several blocks comes in several pieces."""
    for block in blocks:
        yield from BytesIO(block)


def line_bytes_max(begin: bytes) -> int:
    """Return how long a line that begins so may be, of those that the archive consists of."""
    return LINE_BYTES_MAX if begin.startswith(_LINE_START) else NO_LINE_BYTES_MAX


def lines(blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of the plain content of the file `name`, each with its line end; only the last one may have none.

    Raise `ArchiveError` for a line that is longer than any that the archive has.
    """
    parts: list[bytes] = []
    size = 0
    for piece in pieces(blocks):
        parts.append(piece)
        size += len(piece)
        if size > NO_LINE_BYTES_MAX and size > line_bytes_max(parts[0]):
            raise ArchiveError(f"{name}: a line is longer than any of an archive, {size:,} bytes at least")
        if piece.endswith(b"\n"):
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            size = 0
    if parts:
        yield b"".join(parts)


def open_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a plain, `.gz` or `.zst` file, each with its line end.

    Raise `ArchiveError` at the place where the file turns out to be damaged, cut off, torn, or followed by
    anything; every line before it has been yielded by then.
    """
    for line in lines(read_blocks(Path(path)), str(path)):
        if not line.endswith(b"\n"):
            raise ArchiveError(f"{path}: the last line is torn after {len(line)} bytes")
        yield line


def _raw_blocks(
    path: Path, codec: str, opener: Opener, on_read: Callable[[bytes], object] | None
) -> Iterator[bytes]:
    size = _READ_BYTES if codec == "none" else _READ_COMPRESSED_BYTES
    try:
        with opener(path) as file:
            while block := file.read(size):
                if on_read:
                    on_read(block)
                yield block
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror or error}") from error
