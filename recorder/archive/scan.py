"""What stands in a file behind its last segment: records run by run, damaged lines, a torn end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from recorder.archive.catalogue import Entry, first_bytes, sha256_of
from recorder.archive.codec import codec_of
from recorder.archive.disk import Disk
from recorder.archive.reader import lines, read_blocks
from recorder.archive.record import UNREADABLE, RecordHeader, Summary, summarise

_RECORD_START: Final = b'{"ingest_ts":'
_STRETCH_LINES: Final = 10_000
_DECODER: Final = msgspec.json.Decoder(RecordHeader)


@dataclass(slots=True)
class Scan:
    """What stands in a file behind its last segment."""

    stretches: list[tuple[Summary, str]] = field(default_factory=list)
    """Summary and checksum of the good lines, run by run: a sequence number that falls begins another run."""
    bad: list[bytes] = field(default_factory=list)
    """Whole lines that are no records."""
    torn: bytes = b""
    """Bytes behind the last line end."""
    foreign: bool = False
    """Whether there is nothing in it that we could have written."""


def _blocks_of(path: Path, disk: Disk, offset: int = 0) -> Iterator[bytes]:
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


def holds_segment(segment: Entry, path: Path, disk: Disk) -> bool:
    """Tell whether a segment stands in a file where it says. Raises `ArchiveError` for a file that is damaged."""
    content = first_bytes(_blocks_of(path, disk, segment.offset), segment.bytes)
    return sha256_of(content) == segment.sha256


def lines_of(path: Path, disk: Disk, offset: int = 0) -> Iterator[bytes]:
    """Yield the lines of a file from an offset on; the last one may have no end."""
    return lines(_blocks_of(path, disk, offset))


def scan_lines(path: Path, offset: int, disk: Disk) -> Scan:
    """Read what stands behind `offset`."""
    scan = Scan()
    stretch: list[bytes] = []
    summary, digest = Summary(), hashlib.sha256()
    last_seq = 0

    def settle(*, end: bool) -> None:
        nonlocal summary, digest
        if stretch:
            data = b"".join(stretch)
            stretch.clear()
            digest.update(data)
            summary.add(summarise(data))
        if end and summary.records:
            scan.stretches.append((summary, digest.hexdigest()))
            summary, digest = Summary(), hashlib.sha256()

    for line in lines_of(path, disk, offset):
        if not line.endswith(b"\n"):
            scan.torn = line
            break
        try:
            line.decode()
            header = _DECODER.decode(line)
        except UNREADABLE:
            scan.bad.append(line)
            continue
        if header.seq <= last_seq:
            settle(end=True)
        last_seq = header.seq
        stretch.append(line)
        if len(stretch) >= _STRETCH_LINES:
            settle(end=False)
    settle(end=True)
    rest = [*scan.bad, *filter(None, [scan.torn])]
    # What a power loss leaves may end in zeros anywhere, also within the first bytes of a record.
    begins = [line.partition(b"\0")[0] for line in rest]
    ours = any(begin.startswith(_RECORD_START) or _RECORD_START.startswith(begin) for begin in begins)
    scan.foreign = bool(rest) and not offset and not scan.stretches and not ours
    return scan
