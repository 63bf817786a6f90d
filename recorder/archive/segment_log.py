"""Keeps account of what active files write: counts of records, and a line in the manifest for each closed segment."""

from __future__ import annotations

from typing import Final

from recorder.archive.context import ArchiveContext
from recorder.archive.entries import SIDE_CLOSED, SideKind, segment_fields, side_fields
from recorder.archive.housekeeping import Housekeeping
from recorder.archive.record import Summary, summarise
from recorder.archive.segment import Segment
from recorder.archive.stats import ClosedSegment
from recorder.ledger import SinkStats
from recorder.log import get_logger
from recorder.stats import with_newest

log = get_logger("polygon_archive")


class RecordLog:
    """Keeps account of files of records; what was rotated goes on to housekeeping.

    A segment without records gets a line only where its file was renamed or opened again.
    """

    def __init__(self, context: ArchiveContext, housekeeping: Housekeeping, sink_stats: SinkStats) -> None:
        self.bytes_written = 0
        self._names = context.names
        self._manifest = context.manifest
        self._clock = context.clock
        self._stats = context.stats
        self._sink_stats = sink_stats
        self._housekeeping = housekeeping

    def sum_up(self, data: bytes) -> Summary:
        """Return what whole lines amount to."""
        return summarise(data)

    def written(self, cluster: str, summary: Summary) -> None:
        """Count records that were handed to the operating system."""
        self._sink_stats.recorded.add(cluster, summary.counts)
        self._sink_stats.bytes_written += summary.bytes
        self.bytes_written += summary.bytes

    def closed(self, segment: Segment) -> None:
        """Put a segment on record."""
        if not _is_notable(segment):
            return
        self._stats.rotations[segment.reason] += 1
        name = self._names.relative(segment.path)
        summary = segment.summary
        facts = ClosedSegment(
            name, summary.records, summary.bytes, self._clock.wall_ns() // 1_000_000, segment.reason
        )
        self._stats.recent = with_newest(self._stats.recent, facts)
        was = self._names.relative(segment.was) if segment.was else ""
        fields = segment_fields(
            name, summary, segment.sha256, segment.reason, segment.offset, was, durable=segment.durable
        )
        self._manifest.append("segment_closed", **fields)
        log.info("archive_segment_closed", file=name, records=summary.records, reason=segment.reason)
        if segment.was:
            self._housekeeping.add(segment.path, "" if segment.offset else segment.sha256)


class SideLog:
    """Keeps account of a file beside those of records. Its segments are not compressed."""

    def __init__(self, context: ArchiveContext, housekeeping: Housekeeping, kind: SideKind) -> None:
        self.bytes_written = 0
        self._kind: Final = kind
        self._names = context.names
        self._manifest = context.manifest
        self._stats = context.stats
        self._housekeeping = housekeeping

    def sum_up(self, data: bytes) -> Summary:
        """Return what whole lines amount to: how many they are."""
        return Summary(records=data.count(b"\n"), bytes=len(data))

    def written(self, cluster: str, summary: Summary) -> None:
        """Count lines that were handed to the operating system."""
        if self._kind == "rejects":
            self._stats.rejects_written += summary.records
        self.bytes_written += summary.bytes

    def closed(self, segment: Segment) -> None:
        """Put a segment on record."""
        if not _is_notable(segment):
            return
        name = self._names.relative(segment.path)
        was = self._names.relative(segment.was) if segment.was else ""
        fields = side_fields(
            name,
            segment.summary,
            segment.sha256,
            segment.reason,
            segment.offset,
            was,
            durable=segment.durable,
        )
        self._manifest.append(SIDE_CLOSED[self._kind], **fields)
        if self._kind == "rejects":
            log.info("archive_rejects_closed", path=str(segment.path), reason=segment.reason)
        if segment.was:
            self._housekeeping.add_side(segment.path, "" if segment.offset else segment.sha256)


def _is_notable(segment: Segment) -> bool:
    return bool(segment.summary.records or segment.was or segment.reason == "reopen")
