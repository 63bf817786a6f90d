"""Takes out of an archive's files what is no record, and keeps it in the reject file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk
from recorder.archive.layout import TMP_SUFFIX
from recorder.archive.record import reject_line
from recorder.archive.scan import Scan, lines_of
from recorder.archive.stats import ArchiveStats
from recorder.clock import Clock
from recorder.log import get_logger

log = get_logger("polygon_archive")

_TORN: Final = "torn line after a crash"
_DAMAGED: Final = "damaged line after a crash"


class Mender:
    """Changes the bytes of files, where a crash left what no reader should meet.

    What a method has done is durable when it returns; killed before that, the next start finds the damage, or its
    repair, whole. Each raises `OSError` where the disk will not.
    """

    def __init__(self, rejects: Path, *, disk: Disk, clock: Clock, stats: ArchiveStats) -> None:
        """`rejects` is the file that takes what is cut off."""
        self._rejects = rejects
        self._disk = disk
        self._clock = clock
        self._stats = stats

    def keep(self, data: bytes, reason: str, path: Path) -> None:
        """Put what is cut off into the reject file. Bytes that a power loss left zero are told, not kept."""
        kept = data.rstrip(b"\0\n")
        zeros = len(data.rstrip(b"\n")) - len(kept)
        if zeros:
            reason = f"{reason} ({zeros} zero bytes behind it)"
        log.warning("archive_line_cut", path=str(path), bytes=len(data), reason=reason)
        ms = self._clock.wall_ns() // 1_000_000
        self._disk.append_durably(self._rejects, reject_line(ms, "", reason, kept))
        self._stats.rejects_written += 1

    def cut(self, path: Path, size: int, torn: bytes) -> None:
        """Let a file end at `size`, less the torn line that stands there."""
        self.keep(torn, _TORN, path)
        fd = self._disk.open_append(path)
        try:
            self._disk.truncate(fd, size)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def rewrite(self, path: Path, offset: int, scan: Scan) -> None:
        """Leave out damaged lines behind the last segment, in a new file that takes the place of the old one whole."""
        for line in [*scan.bad, *filter(None, [scan.torn])]:
            self.keep(line, _DAMAGED, path)
        bad = set(scan.bad)
        temporary = path.with_name(path.name + TMP_SUFFIX)
        fd = self._disk.create(temporary)
        try:
            position = 0
            for line in lines_of(path, self._disk):
                if position < offset or (line.endswith(b"\n") and line not in bad):
                    self._disk.write_all(fd, line)
                position += len(line)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(temporary, path)
        self._disk.sync_folder(path.parent)
