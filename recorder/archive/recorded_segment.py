"""One segment of an archive as it is read: whole lines of one run in one file, wherever that file is by now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from recorder.archive.codec import SUFFIXES, codec_of, compressed_path, plain_path
from recorder.archive.manifest_index import Entry, first_bytes, first_record
from recorder.archive.narrowing import bytes_before
from recorder.archive.reader import open_file, read_blocks
from recorder.archive.record import RecordHeader
from recorder.errors import ArchiveError

_MOVES_MAX: Final = 3
"""A file under compression changes its name once; it is looked for so often."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one run wrote into one file, where that file is now."""

    path: Path
    run_id: str
    active: Path
    """The active file that it was written to."""
    offset: int
    size_bytes: int
    """Plain content of the segment; of one that is not sealed, what there is of it now."""
    sha256: str
    """Of the plain content; empty where the manifest does not have it yet."""
    first_seq: int
    last_seq: int
    """0 where the manifest does not have it yet."""
    first_ingest_ms: int
    last_ingest_ms: int
    """0 where the manifest does not have it yet."""
    counts: Mapping[str, int]
    """Records by type; empty where the manifest does not have it yet."""

    def exists(self) -> bool:
        """Return whether there is a file under any of its names."""
        return self._form().exists()

    def blocks(self, *, is_checked: bool = False) -> Iterator[bytes]:
        """Yield whole lines, many at once.

        Raise `ArchiveError` where the file cannot be read, is damaged, or is not the one that was written; for a sealed
        segment at its end at the latest, unless it `is_checked` already.
        """
        digest = hashlib.sha256() if self.sha256 and not is_checked else None
        count = 0
        rest = b""
        for block in self._content():
            if digest is not None:
                digest.update(block)
            count += len(block)
            border = block.rfind(b"\n") + 1
            if border:
                yield rest + block[:border] if rest else block[:border]
                rest = block[border:]
            else:
                rest += block
        if count < self.size_bytes:
            # Also of a file that is still written to: another one has its name by now.
            raise ArchiveError(f"{self.path}: {self.size_bytes - count:,} bytes are missing")
        if digest is None:
            return  # what stands behind the last line end is still being written
        if digest.hexdigest() != self.sha256 or rest:
            raise ArchiveError(
                f"{self.path}: the segment at {self.offset} is not what was written; see `recorder verify`"
            )

    def without(self, is_before: Callable[[RecordHeader], bool]) -> Segment:
        """Return the segment less the lines at its beginning that are `is_before`, as far as these are easily left out.

        Only where there is no checksum that all of its lines would be needed for.
        """
        if self.sha256 or codec_of(self.path) != "none":
            return self
        try:
            with open_file(self.path) as file:
                count = bytes_before(file, self.offset, self.size_bytes, is_before)
        except OSError:
            return self  # who reads it is told
        return replace(self, offset=self.offset + count, size_bytes=self.size_bytes - count)

    def _content(self) -> Iterator[bytes]:
        for attempt in range(_MOVES_MAX):
            path = self._form()
            is_plain = codec_of(path) == "none"
            blocks = read_blocks(path, self._open_at if is_plain else open_file)
            try:
                first = next(blocks, b"")
            except ArchiveError:
                # Between the look and the reading it may have been compressed.
                if attempt + 1 < _MOVES_MAX and not path.exists():
                    continue
                raise
            whole = _chained(first, blocks)
            yield from first_bytes(whole if is_plain else _behind(whole, self.offset), self.size_bytes)
            return

    def _form(self) -> Path:
        """Return the name that the file has by now."""
        plain = plain_path(self.path)
        forms = [self.path, plain, *(compressed_path(plain, codec) for codec in SUFFIXES)]
        return next((form for form in forms if form.exists()), self.path)

    def _open_at(self, path: Path) -> BinaryIO:
        file = open_file(path)
        file.seek(self.offset)
        return file


def sealed(path: Path, active: Path, entry: Entry) -> Segment:
    return Segment(
        path,
        entry.run_id,
        active,
        entry.offset,
        entry.bytes,
        entry.sha256,
        entry.first_seq,
        entry.last_seq,
        entry.first_ingest_ts,
        entry.last_ingest_ts,
        entry.counts,
    )


def unsealed(path: Path, active: Path, run_id: str, offset: int, size_bytes: int) -> Segment | None:
    """Return what stands behind the last segment of a file; None where that is no record."""

    def open_at(path: Path) -> BinaryIO:
        file = open_file(path)
        file.seek(offset)
        return file

    first = first_record(path, open_at)
    if first is None:
        return None
    return Segment(path, run_id, active, offset, size_bytes, "", first.seq, 0, first.ingest_ts, 0, {})


def _chained(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def _behind(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the blocks without their first `count` bytes."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))
