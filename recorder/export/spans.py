"""Which records of a run a tree has, by their numbers: an archive that was compacted has them in other segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import NamedTuple

from recorder.archive.recorded_segment import Segment
from recorder.errors import DestinationRefused
from recorder.export.tree import OTHER, Written, other_channels


class Span(NamedTuple):
    """What a tree has of a segment. A run numbers each record once, and writes those of a kind into one file at a time."""

    first_seq: int
    last_seq: int
    files: dict[str, int]
    """By their names in the tree, how many rows each has."""
    channels: frozenset[str]
    """Those of its types that have no folder of their own. Each of them has a file of the archive of its own."""


def not_there(
    segment: Segment, written: list[Written], spans: Collection[Span], place: str
) -> tuple[list[Written], list[str]]:
    """Return the files of a segment whose records a tree does not have, and the names of those that have the others.

    What the tree has is deleted. Raise `DestinationRefused` where it has only some of the records of a feed and type, and
    `OSError`.
    """
    counts: Counter[str] = Counter()
    for one in written:
        counts[_kind(f"{one.partition.folder}/")] += one.rows
    holders = {kind: _holders(segment, kind, rows, spans, place) for kind, rows in counts.items()}
    new = [one for one in written if not holders[_kind(f"{one.partition.folder}/")]]
    for one in written:
        if one not in new:
            one.temporary.unlink()
    return new, sorted({name for names in holders.values() for name in names})


def _holders(segment: Segment, kind: str, rows: int, spans: Iterable[Span], place: str) -> set[str]:
    """Return the files that have all records of a kind in a segment; none where the tree has none of them."""
    found: dict[str, int] = {}
    channels = other_channels(segment.counts)
    for span in spans:
        if kind.endswith(f"={OTHER}") and span.channels.isdisjoint(channels):
            continue
        of_kind = {name: count for name, count in span.files.items() if _kind(name) == kind}
        if of_kind and span.first_seq <= segment.first_seq and segment.last_seq <= span.last_seq:
            return set(of_kind)
        if span.first_seq <= segment.last_seq and segment.first_seq <= span.last_seq:
            found |= of_kind
    count = sum(found.values())
    if count not in (0, rows):
        raise DestinationRefused(
            f"{place} has {count:,} of the {rows:,} records of {kind} that {segment.path} has, from files of before "
            "`recorder compact`: export the archive as it was before, or export to a new folder"
        )
    return set(found)


def _kind(name: str) -> str:
    """Return the folders of feed and type of a file."""
    return "/".join(name.split("/")[-4:-2])
