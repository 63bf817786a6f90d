"""Compression of sealed files: one frame a file; reading refuses whatever is not exactly one whole frame."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

import zstandard
from isal import isal_zlib

from recorder.errors import ArchiveError

SUFFIXES: Final = {"gzip": ".gz", "zstd": ".zst"}
"""What each codec adds to the name of the plain file."""

_ZSTD_LEVEL: Final = 3
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""Begins a frame of content (RFC 8878, section 3.1.1); frames of metadata, which readers skip, begin otherwise."""
_GZIP_LEVEL: Final = 2
_GZIP_WBITS: Final = 31
"""zlib's way of saying: with gzip header and trailer."""


class Encoder(Protocol):
    """Compresses one file, piece by piece."""

    def compress(self, data: bytes, /) -> bytes:
        """Take a piece; return what is ready."""

    def flush(self) -> bytes:
        """End the frame; return the rest."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def codec_of(path: Path) -> str:
    """Return how a file is compressed, by its name: `none`, `gzip` or `zstd`."""
    for codec, suffix in SUFFIXES.items():
        if path.name.endswith(suffix):
            return codec
    return "none"


def plain_path(path: Path) -> Path:
    """Return the name that a file had before it was compressed."""
    return path if codec_of(path) == "none" else path.with_suffix("")


def compressed_path(plain: Path, codec: str) -> Path:
    """Return the name that a plain file gets by compression."""
    return plain.with_name(plain.name + SUFFIXES[codec])


def encoder(codec: str, size_bytes: int) -> Encoder:
    """Return an encoder for a file of `size_bytes`: one frame, with checksum and, for zstd, the content's size.

    No metadata frames: Polars fails on them.
    """
    if codec == "zstd":
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True, write_content_size=True)
        return compressor.compressobj(size=size_bytes)
    compressed: Encoder = isal_zlib.compressobj(level=_GZIP_LEVEL, wbits=_GZIP_WBITS)
    return compressed


def decode(codec: str, blocks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the plain content of a file given in blocks.

    Raise `ArchiveError` for damage, truncation, bytes behind the frame and a file without a frame; the libraries'
    own readers end silently on some of these.
    """
    if codec == "none":
        yield from blocks
        return
    zstd = codec == "zstd"
    decoder: _Decoder = (
        zstandard.ZstdDecompressor().decompressobj() if zstd else zlib.decompressobj(wbits=_GZIP_WBITS)
    )
    begin = b""
    for block in blocks:
        if zstd and len(begin) < len(_ZSTD_MAGIC):
            begin = (begin + block)[: len(_ZSTD_MAGIC)]
            if not begin.startswith(_ZSTD_MAGIC[: len(begin)]):
                raise ArchiveError(f"{name}: the file does not begin with a frame of content")
        if decoder.eof:
            raise ArchiveError(f"{name}: there are bytes behind the end of the compressed content")
        try:
            data = decoder.decompress(block)
        except (zlib.error, zstandard.ZstdError) as error:
            raise ArchiveError(f"{name}: the compressed content is damaged: {error}") from error
        if data:
            yield data
        if decoder.unused_data:
            raise ArchiveError(f"{name}: there are bytes behind the end of the compressed content")
    if not decoder.eof:
        raise ArchiveError(f"{name}: the compressed content ends in the middle")
