"""Reads files of the archive back, plain or compressed; what is not whole is an error, never a shorter answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from recorder.archive.codec import codec_of, decode
from recorder.errors import ArchiveError

_READ_BYTES: Final = 1 << 18
_READ_COMPRESSED_BYTES: Final = 1 << 15
"""A block of well compressed lines is many times as large once it is decoded."""

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

    `on_read` gets each block as it lies on disk. Raises `ArchiveError` where the file cannot be read
    or is not exactly one whole compressed frame.
    """
    codec = codec or codec_of(path)
    yield from decode(codec, _raw_blocks(path, codec, opener, on_read), str(path))


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a plain content, each with its line end; only the last one may have none."""
    rest = b""
    for block in blocks:
        for line in BytesIO(rest + block):
            if line.endswith(b"\n"):
                yield line
            else:
                rest = line
                break
        else:
            rest = b""
    if rest:
        yield rest


def open_lines(path: str | Path) -> Iterator[bytes]:
    """Yield the lines of a plain, `.gz` or `.zst` file, each with its line end.

    Raises `ArchiveError` at the place where the file turns out to be damaged, cut off, torn, or followed by
    anything; every line before it has been yielded by then.
    """
    for line in lines(read_blocks(Path(path))):
        if not line.endswith(b"\n"):
            raise ArchiveError(f"{path}: the last line is torn after {len(line)} bytes")
        yield line


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file as objects. Raises `ArchiveError` as `open_lines`, and for a line that is none."""
    for number, line in enumerate(open_lines(path), 1):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ArchiveError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ArchiveError(f"{path}, line {number}: not a JSON object")
        yield record


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
        raise ArchiveError(f"cannot read {path}: {error.strerror or error}") from error
