"""The work of compressing one file, wherever it is done: read, compressed, made durable, read back and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from recorder.archive.codec import encoder
from recorder.archive.disk import Disk
from recorder.archive.reader import Content, read_blocks
from recorder.errors import ArchiveError


class Job(NamedTuple):
    """One file to compress."""

    plain: Path
    temporary: Path
    """Where the compressed form is written."""
    codec: str
    sha256: str = ""
    """The checksum of the plain file, where one is known for the whole of it."""


class OnDisk(NamedTuple):
    """A file as it lies on disk."""

    bytes: int
    sha256: str


Compress = Callable[[Job], OnDisk]
"""Does a job and returns what was written; raises `OSError` or `ArchiveError`, and half a file may lie there then."""


def compress_file(job: Job, disk: Disk) -> OnDisk:
    """Write the compressed form of a plain file and prove it; memory is bounded whatever the size.

    Raise `OSError`, and `ArchiveError` where a file is not what it should be; then half a file may lie there.
    """
    before = disk.stat(job.plain)
    if before is None:
        raise ArchiveError(f"{job.plain} was removed by another program before it was compressed")
    written = Content()
    compressor = encoder(job.codec, before.st_size)
    fd = disk.create(job.temporary)
    try:
        for block in read_blocks(job.plain, disk.open_read, codec="none"):
            written.add(block)
            if written.bytes > before.st_size:
                break
            disk.write_all(fd, compressor.compress(block))
        if written.bytes != before.st_size:
            raise ArchiveError(f"{job.plain} changed while it was compressed")
        disk.write_all(fd, compressor.flush())
        disk.sync(fd)
    finally:
        disk.close(fd)
    if job.sha256 and written.sha256 != job.sha256:
        raise ArchiveError(f"{job.plain} does not have the checksum that it was written with")
    read_back, on_disk = Content(), Content()
    for block in read_blocks(job.temporary, disk.open_read, codec=job.codec, on_read=on_disk.add):
        read_back.add(block)
    if (read_back.bytes, read_back.sha256) != (written.bytes, written.sha256):
        raise ArchiveError(f"{job.temporary} does not read back as what went in")
    disk.set_mtime(job.temporary, before.st_mtime_ns)
    return OnDisk(on_disk.bytes, on_disk.sha256)
