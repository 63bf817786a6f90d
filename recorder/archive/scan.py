"""What stands in a file behind its last segment: records run by run, damaged lines, a torn end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from recorder.archive.codec import codec_of
from recorder.archive.disk import Disk
from recorder.archive.manifest_index import Entry, first_bytes, sha256_of
from recorder.archive.reader import NO_LINE_BYTES_MAX, line_bytes_max, pieces, read_blocks
from recorder.archive.record import UNREADABLE, RecordHeader, Summary, summarise

_RECORD_START: Final = b'{"ingest_ts":'
_FOREIGN_BYTES: Final = 1 << 20
"""So much at the beginning of a file shows whether this program wrote it."""
_SUM_UP_LINES: Final = 10_000
_SUM_UP_BYTES: Final = 1 << 22
_DECODER: Final = msgspec.json.Decoder(RecordHeader)


class Line(NamedTuple):
    """One line, or what stands behind the last line end."""

    kept: bytes
    """All of it, unless it is longer than any line of ours; then its beginning."""
    bytes: int
    """How long it is, line end included."""
    has_end: bool

    @property
    def is_whole(self) -> bool:
        """Whether it has a line end, and all of it was kept."""
        return self.has_end and len(self.kept) == self.bytes


@dataclass(slots=True)
class Scan:
    """What stands in a file behind its last segment."""

    segments: list[tuple[Summary, str]] = field(default_factory=list)
    """Summary and checksum of the good lines, run by run: a sequence number that falls begins another run."""
    damaged: int = 0
    """Lines that are no records."""
    torn: Line | None = None
    """What stands behind the last line end."""


def holds_segment(segment: Entry, path: Path, disk: Disk) -> bool:
    """Return whether a segment stands in a file where it says. Raise `ArchiveError` for a file that is damaged."""
    content = first_bytes(blocks_of(path, disk, segment.offset), segment.bytes)
    return sha256_of(content) == segment.sha256


def is_foreign(path: Path, disk: Disk) -> bool:
    """Return whether there is nothing in the first lines of a file that this program could have written."""
    found = False
    for line in read_lines(first_bytes(blocks_of(path, disk), _FOREIGN_BYTES)):
        # What a power loss leaves may end in zeros anywhere, also within the first bytes of a record.
        begin = line.kept.partition(b"\0")[0]
        if begin.startswith(_RECORD_START) or _RECORD_START.startswith(begin) or header_of(line):
            return False
        found = True
    return found


def header_of(line: Line) -> RecordHeader | None:
    """Return what a record says of itself; None for a line that is no record."""
    if not line.is_whole:
        return None
    try:
        line.kept.decode()
        return _DECODER.decode(line.kept)
    except UNREADABLE:
        return None


def read_lines(blocks: Iterable[bytes]) -> Iterator[Line]:
    """Yield the lines of a content, however damaged it is. Memory is bounded whatever stands there."""
    parts: list[bytes] = []
    kept = size = 0
    for piece in pieces(blocks):
        size += len(piece)
        if kept < NO_LINE_BYTES_MAX or size <= line_bytes_max(parts[0]):
            parts.append(piece)
            kept += len(piece)
        if piece.endswith(b"\n"):
            yield Line(parts[0] if len(parts) == 1 else b"".join(parts), size, has_end=True)
            parts.clear()
            kept = size = 0
    if size:
        yield Line(b"".join(parts), size, has_end=False)


def blocks_of(path: Path, disk: Disk, offset: int = 0) -> Iterator[bytes]:
    """Yield the plain content of a file from an offset on."""
    if codec_of(path) != "none":
        skipped = 0
        for block in read_blocks(path, disk.open_read):
            rest = block[max(0, offset - skipped) :]
            skipped += len(block)
            if rest:
                yield rest
        return

    def open_at(path: Path) -> BinaryIO:
        file = disk.open_read(path)
        file.seek(offset)
        return file

    yield from read_blocks(path, open_at)


def scan_lines(path: Path, offset: int, disk: Disk) -> Scan:
    """Read what stands behind `offset`."""
    scan = Scan()
    waiting: list[bytes] = []
    waiting_bytes = last_seq = 0
    summary, digest = Summary.of_segment(), hashlib.sha256()

    def sum_up(*, end: bool) -> None:
        nonlocal summary, digest, waiting_bytes
        if waiting:
            data = b"".join(waiting)
            waiting.clear()
            waiting_bytes = 0
            digest.update(data)
            summary.add(summarise(data))
        if end and summary.records:
            scan.segments.append((summary, digest.hexdigest()))
            summary, digest = Summary.of_segment(), hashlib.sha256()

    for line in read_lines(blocks_of(path, disk, offset)):
        header = header_of(line)
        if header is None:
            if line.has_end:
                scan.damaged += 1
            else:
                scan.torn = line
            continue
        # Runs count from 1, so a number that does not rise was written by another run.
        if header.seq <= last_seq:
            sum_up(end=True)
        last_seq = header.seq
        waiting.append(line.kept)
        waiting_bytes += line.bytes
        if len(waiting) >= _SUM_UP_LINES or waiting_bytes >= _SUM_UP_BYTES:
            sum_up(end=False)
    sum_up(end=True)
    return scan
