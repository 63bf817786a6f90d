"""The tree of an export: which folder a record belongs to, and what the files are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, tzinfo
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from recorder.archive.cutting import Records, cut
from recorder.archive.recorded_segment import Segment
from recorder.polygon.channels import CHANNELS

DayOf = Callable[[str, int], int]
"""By the feed, and when a record came, Unix ms: the day that it belongs to, in days since 1970."""
OTHER: Final = "other"
"""Stands for every type that has no columns of its own; which one it is stands in a column."""
SORT_COLUMNS: Final = ("symbol", "ts", "ingest_ts", "run_id", "seq")
"""What every type has, and what rows can be sorted by. Equal ones come in the order in which they were recorded."""
DAY_MS: Final = 86_400_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


class Partition(NamedTuple):
    """What all records of a file have in common."""

    feed: str
    type: str
    """A channel's code, or `OTHER`."""
    day: int
    """On which the records came, in days since 1970."""

    @property
    def date(self) -> str:
        """The day as ISO 8601 has it."""
        return datetime.fromtimestamp(self.day * DAY_MS / 1000, UTC).date().isoformat()

    @property
    def folder(self) -> str:
        """The folder, relative to that of the tree. Readers take its names for columns."""
        return f"feed={quote(self.feed, safe='')}/type={self.type}/date={self.date}"


class Written(NamedTuple):
    """A file that is whole and durable, and has yet to get its name."""

    temporary: Path
    partition: Partition
    rows: int
    size_bytes: int


def utc_day(feed: str, at_ms: int) -> int:
    """Return the day in UTC, in days since 1970, whatever the feed."""
    return at_ms // DAY_MS


def day_in(zone: tzinfo, at_ms: int) -> int:
    """Return the day that a time zone has then, in days since 1970."""
    return datetime.fromtimestamp(at_ms / 1000, zone).toordinal() - _EPOCH_DAY


def file_name(segment: Segment) -> str:
    """Return what the files of a segment are called: no other one of the archive has this name."""
    return f"{quote(segment.run_id, safe='')}-{segment.first_seq:012d}.parquet"


def type_of(code: str) -> str:
    """Return the type under which the tree has a record."""
    return code if code in CHANNELS else OTHER


def other_channels(counts: Mapping[str, int]) -> list[str]:
    """Return the types of a manifest's counts that the tree has together."""
    return sorted(code for code, count in counts.items() if count and type_of(code) == OTHER)


def by_type(counts: Mapping[str, int]) -> Counter[str]:
    """Return counts of a manifest, by the types of the tree."""
    found: Counter[str] = Counter()
    for code, count in counts.items():
        if count:
            found[type_of(code)] += count
    return found


def split(
    records: Records, name: str, types: Iterable[str], day_of: DayOf
) -> Iterator[tuple[Partition, Records]]:
    """Yield the records of some types by partition, in their order. `name` is that of the file they are from."""
    wanted = frozenset(types)
    names = records.names()
    reads = [(end, feed, day_of(feed, ingest_ms)) for end, ingest_ms, feed in records.reads()]
    days = {(feed, day) for _, feed, day in reads}
    kinds = {code: type_of(code) for code in {code for code, _ in names}}
    found = set(kinds.values())
    if len(days) == 1 and len(found) == 1:
        if found <= wanted:
            [(feed, day)], [kind] = days, found
            yield Partition(feed, kind, day), records
        return
    places: dict[Partition, list[int]] = {}
    begin = 0
    for end, feed, day in reads:
        own = {kind: places.setdefault(Partition(feed, kind, day), []) for kind in found}
        for place in range(begin, end):
            own[kinds[names[place][0]]].append(place)
        begin = end
    for partition, chosen in places.items():
        if chosen and partition.type in wanted:
            # What is picked keeps all of its block in memory, which for rare records is a thousand times their own size.
            yield partition, cut(records.pick(chosen).lines(), name)
