"""Takes out of an archive's files what is no record, and keeps it in the reject file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from recorder.archive.context import ArchiveContext
from recorder.archive.layout import TMP_SUFFIX
from recorder.archive.manifest_index import first_bytes
from recorder.archive.scan import Line, blocks_of, header_of, read_lines
from recorder.log import get_logger
from recorder.records import reject_line

log = get_logger("polygon_archive")

_TORN: Final = "torn line after a crash"
_DAMAGED: Final = "damaged line after a crash"


class Repair:
    """Changes the bytes of files, where a crash left what no reader should meet.

    What a method has done is durable when it returns. After a kill before that, the next start finds the damage or its
    repair, each of them whole, and at worst a line twice in the reject file. Each method raises `OSError` where the disk
    refuses.
    """

    def __init__(self, context: ArchiveContext) -> None:
        self._rejects = context.names.rejects
        self._disk = context.disk
        self._doubt = context.doubt
        self._clock = context.clock
        self._stats = context.stats

    def keep(self, line: Line, reason: str, path: Path) -> None:
        """Put what is cut off into the reject file.

        Zero bytes at the end, which a power loss leaves, are counted and not kept. Of a line that is longer than any of
        ours the beginning is kept.
        """
        kept = line.kept.rstrip(b"\0\n")
        zeros = len(line.kept.rstrip(b"\n")) - len(kept)
        if len(line.kept) < line.bytes:
            reason = f"{reason} (the beginning of {line.bytes} bytes)"
        elif zeros:
            reason = f"{reason} ({zeros} zero bytes behind it)"
        log.warning("archive_line_cut", path=str(path), bytes=line.bytes, reason=reason)
        ms = self._clock.wall_ns() // 1_000_000
        with self._doubt.syncing(self._rejects):
            self._disk.append_durably(self._rejects, reject_line(ms, "", reason, kept))
        self._stats.rejects_written += 1

    def cut(self, path: Path, size_bytes: int, torn: Line) -> None:
        """Take the torn line off the end of a file of `size_bytes`."""
        # Kept first: a kill between the two leaves the line in both places, never in none.
        self.keep(torn, _TORN, path)
        fd = self._disk.open_append(path)
        try:
            self._disk.truncate(fd, size_bytes - torn.bytes)
            with self._doubt.syncing(path):
                self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def rewrite(self, path: Path, offset: int) -> None:
        """Leave out what is no record behind `offset`, in a new file that takes the place of the old one as a whole.

        Lines in the middle of a file cannot be taken out in place: a kill meanwhile would leave half a repair.
        """
        temporary = path.with_name(path.name + TMP_SUFFIX)
        fd = self._disk.create(temporary)
        try:
            if offset:
                for block in first_bytes(blocks_of(path, self._disk), offset):
                    self._disk.write_all(fd, block)
            for line in read_lines(blocks_of(path, self._disk, offset)):
                if header_of(line):
                    self._disk.write_all(fd, line.kept)
                else:
                    self.keep(line, _DAMAGED, path)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, path)
        self._disk.sync_folder(path.parent)
