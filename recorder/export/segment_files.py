"""The files of one segment: written beside the tree in one pass, checked against the manifest, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from recorder.archive.cutting import cut
from recorder.archive.disk import Disk
from recorder.archive.recorded_segment import Segment
from recorder.errors import ArchiveError
from recorder.export.ledger import failed
from recorder.export.part import Part
from recorder.export.tree import DayOf, Partition, Written, by_type, split

_WAITING_BYTES_MAX: Final = 128 << 20
"""So much of all partitions together is in memory; of more, the largest one is written."""


class SegmentTask(NamedTuple):
    """What is to be made of a segment."""

    segment: Segment
    types: frozenset[str]
    """Those of the tree that are wanted."""
    source: str
    """Where its records are from."""
    day_of: DayOf
    folder: Path
    """Where files stand until they get their names."""


def write_files(
    task: SegmentTask, on_read: Callable[[bytes], None], disk: Disk | None = None
) -> list[Written]:
    """Write the files of a segment, and return them once they are durable. Nothing is left of them where this raises.

    `on_read` gets each block of lines; what it raises ends this. Raise `ArchiveError` where the segment is not what was
    written, or has other records than its manifest says, and `NoRoom` where the disk is full.
    """
    parts: dict[Partition, Part] = {}
    try:
        _write(task, parts, on_read, disk or Disk())
        return [part.finish() for part in parts.values()]
    except BaseException as error:
        for part in parts.values():
            part.discard()
        if isinstance(error, OSError):
            raise failed(task.folder, error) from error
        raise


def _write(
    task: SegmentTask, parts: dict[Partition, Part], on_read: Callable[[bytes], None], disk: Disk
) -> None:
    segment, name = task.segment, str(task.segment.path)
    counts: Counter[str] = Counter()
    for block in segment.blocks():
        on_read(block)
        for partition, records in split(cut(block, name), name, task.types, task.day_of):
            part = parts.get(partition)
            if part is None:
                place = task.folder / f"{segment.sha256[:16]}-{len(parts)}.tmp"
                part = parts[partition] = Part(partition, segment, task.source, place, disk)
            counts[partition.type] += len(records)
            part.add(records)
        while sum(part.waiting_bytes for part in parts.values()) > _WAITING_BYTES_MAX:
            max(parts.values(), key=lambda part: part.waiting_bytes).write_waiting()
    noted = by_type(segment.counts)
    if counts != Counter({kind: noted[kind] for kind in task.types if noted[kind]}):
        found = ", ".join(f"{kind} {counts[kind]:,} of {noted[kind]:,}" for kind in sorted(task.types))
        raise ArchiveError(f"{name}: its records are not those that the manifest counts: {found}")
