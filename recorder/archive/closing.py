"""What follows the closing of a segment: its line in the manifest, the stats, and what becomes of a rotated file."""

from __future__ import annotations

from recorder.archive.entries import rejects_fields, segment_fields
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.segment import Segment
from recorder.archive.stats import ArchiveStats, ClosedSegment
from recorder.archive.upkeep import Upkeep
from recorder.clock import Clock
from recorder.log import get_logger
from recorder.stats import with_newest

log = get_logger("polygon_archive")


class Closing:
    """Is told of every segment that an active file has closed.

    One without records is worth a line only where its file was renamed or opened again.
    """

    def __init__(
        self, names: FileNames, *, manifest: Manifest, upkeep: Upkeep, clock: Clock, stats: ArchiveStats
    ) -> None:
        self._names = names
        self._manifest = manifest
        self._upkeep = upkeep
        self._clock = clock
        self._stats = stats

    def records_closed(self, segment: Segment) -> None:
        """Put a segment of records on record; the file of one that was rotated goes on to upkeep."""
        if not _is_notable(segment):
            return
        self._stats.rotations[segment.reason] += 1
        name = self._names.relative(segment.path)
        facts = ClosedSegment(
            name,
            segment.summary.records,
            segment.summary.bytes,
            self._clock.wall_ns() // 1_000_000,
            segment.reason,
        )
        self._stats.recent = with_newest(self._stats.recent, facts)
        self._manifest.append(
            "segment_closed",
            **segment_fields(
                name,
                segment.summary,
                segment.sha256,
                segment.reason,
                segment.offset,
                self._was(segment),
                durable=segment.durable,
            ),
        )
        log.info("archive_segment_closed", file=name, records=segment.summary.records, reason=segment.reason)
        if segment.was:
            self._upkeep.add(segment.path, "" if segment.offset else segment.sha256)

    def rejects_closed(self, segment: Segment) -> None:
        """The same for a segment of the reject file, which is not compressed."""
        if not _is_notable(segment):
            return
        self._manifest.append(
            "rejects_closed",
            **rejects_fields(
                self._names.relative(segment.path),
                segment.summary,
                segment.sha256,
                segment.reason,
                segment.offset,
                self._was(segment),
                durable=segment.durable,
            ),
        )
        log.info("archive_rejects_closed", path=str(segment.path), reason=segment.reason)
        if segment.was:
            self._upkeep.add_rejects(segment.path)

    def _was(self, segment: Segment) -> str:
        return self._names.relative(segment.was) if segment.was else ""


def _is_notable(segment: Segment) -> bool:
    return bool(segment.summary.records or segment.was or segment.reason == "reopen")
