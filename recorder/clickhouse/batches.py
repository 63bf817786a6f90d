"""Makes inserts from records: rows of one table, run, cluster and day, in the order of `seq`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from recorder.archive.cutting import Records
from recorder.clickhouse.reading import Block
from recorder.clickhouse.schema import codes_of, columns, table_of

if TYPE_CHECKING:
    import pyarrow

ROWS_MAX: Final = 100_000
"""Rows of an insert."""
_INSERT_BYTES_MAX: Final = 32 << 20
"""Payloads of an insert, about."""
_PENDING_BYTES_MAX: Final = 128 << 20
"""Of all streams together: beyond it, the fullest one is sent though it has room."""
_DAY_MS: Final = 86_400_000


class Stream(NamedTuple):
    """The records of one run and cluster in one table, in the order of `seq`, file after file."""

    table: str
    run_id: str
    feed: str


class Batch(NamedTuple):
    """Rows of one insert. They are of one day, hence one partition, so the server has all of them or none."""

    stream: Stream
    parts: tuple[Records, ...]

    @property
    def rows(self) -> int:
        """How many they are."""
        return sum(map(len, self.parts))

    @property
    def last_seq(self) -> int:
        """The number of the last one."""
        return self.parts[-1].last[0]

    @property
    def last_ingest_ms(self) -> int:
        """When the last one came, Unix ms."""
        return self.parts[-1].last[1]

    def behind(self, seq: int) -> Batch | None:
        """Return the rows after a `seq`, or None if there are none."""
        parts = [part for part in self.parts if part.last[0] > seq]
        if not parts:
            return None
        parts[0] = parts[0].part(parts[0].place_of(seq + 1), len(parts[0]))
        return self._replace(parts=tuple(parts))

    def first(self, rows: int) -> Batch:
        """Return the first ones."""
        parts: list[Records] = []
        for part in self.parts:
            if rows <= 0:
                break
            parts.append(part.part(0, min(rows, len(part))))
            rows -= len(part)
        return self._replace(parts=tuple(parts))

    def encoded(self) -> bytes:
        """Return the rows as a stream of Arrow, compressed. Raise `PackageMissing` without pyarrow."""
        from recorder.library import arrow

        blocks = [(self.stream.run_id, part) for part in self.parts]
        return _as_stream(arrow.table(blocks, codes_of(self.stream.table)))


def column_list(table: str) -> str:
    """Return the names of the columns of a batch, as SQL has them."""
    return ", ".join(f"`{column.name}`" for column in columns(table))


@dataclass(slots=True)
class _Waiting:
    """Records of one stream that have no batch yet."""

    day: int
    since_ns: int
    parts: list[Records] = field(default_factory=list)
    rows: int = 0
    size_bytes: int = 0


class Batches:
    """Sorts blocks into streams, and makes batches of them: full ones, and others on demand.

    A record whose `seq` is not after the last one of its stream is there already, and is left out.
    """

    def __init__(self, last_seq: Callable[[Stream], int], rows_max: int = ROWS_MAX) -> None:
        """`last_seq` is asked once for each stream."""
        self._last_seq = last_seq
        self._rows_max = rows_max
        self._ends: dict[Stream, int] = {}
        self._waiting: dict[Stream, _Waiting] = {}
        self._ready: deque[Batch] = deque()
        self._pending_bytes = 0

    def add(self, block: Block) -> None:
        """Take records."""
        for day, feed, table, records in _sorted_out(block.records):
            stream = Stream(table, block.run_id, feed)
            end = self._ends.get(stream)
            if end is None:
                end = self._last_seq(stream)
            if records.last[0] > end:
                self._put(stream, day, records.part(records.place_of(end + 1), len(records)))
                end = records.last[0]
            self._ends[stream] = end

    def next(self) -> Batch | None:
        """Return the next full batch."""
        return self._ready.popleft() if self._ready else None

    def finish(self, older_than_secs: float = 0.0) -> None:
        """Make batches of the waiting records, however few."""
        until_ns = time.monotonic_ns() - int(older_than_secs * 1e9)
        for stream in [stream for stream, one in self._waiting.items() if one.since_ns <= until_ns]:
            self._close(stream)

    def _put(self, stream: Stream, day: int, records: Records) -> None:
        one = self._waiting.get(stream)
        if one is not None and one.day != day:
            self._close(stream)
            one = None
        while len(records):
            if one is None:
                one = self._waiting[stream] = _Waiting(day, time.monotonic_ns())
            part = records.part(0, min(len(records), self._rows_max - one.rows))
            records = records.part(len(part), len(records))
            size_bytes = part.payload_bytes(0, len(part))
            one.parts.append(part)
            one.rows += len(part)
            one.size_bytes += size_bytes
            self._pending_bytes += size_bytes
            if one.rows >= self._rows_max or one.size_bytes >= _INSERT_BYTES_MAX:
                self._close(stream)
                one = None
        if self._pending_bytes > _PENDING_BYTES_MAX:
            self._close(max(self._waiting, key=lambda stream: self._waiting[stream].size_bytes))

    def _close(self, stream: Stream) -> None:
        one = self._waiting.pop(stream)
        self._pending_bytes -= one.size_bytes
        self._ready.append(Batch(stream, tuple(one.parts)))

    def __repr__(self) -> str:
        return f"Batches({len(self._ready)} ready, {len(self._waiting)} wait)"


def _as_stream(table: pyarrow.Table) -> bytes:
    import pyarrow

    data = pyarrow.BufferOutputStream()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(data, table.schema, options=options) as writer:
        writer.write_table(table)
    found: bytes = data.getvalue().to_pybytes()
    return found


def _sorted_out(records: Records) -> Iterator[tuple[int, str, str, Records]]:
    """Yield the day since 1970 (UTC, of receipt), cluster and table of records; those of one stream in their order."""
    begin = 0
    for end, day, feeds in _days(records):
        part = records if (begin, end) == (0, len(records)) else records.part(begin, end)
        tables = [table_of(code) for code, _ in part.names()]
        if len(set(tables)) == 1 and len({feed for _, feed in feeds}) == 1:
            yield day, feeds[0][1], tables[0], part
        else:
            places: dict[tuple[str, str], list[int]] = {}
            first = 0
            for stop, feed in feeds:
                for place in range(first, stop - begin):
                    places.setdefault((feed, tables[place]), []).append(place)
                first = stop - begin
            for (feed, table), chosen in places.items():
                yield day, feed, table, part.pick(chosen)
        begin = end


def _days(records: Records) -> Iterator[tuple[int, int, list[tuple[int, str]]]]:
    """Yield where a stretch of one day ends, that day, and where within it each read ends, with its cluster."""
    feeds: list[tuple[int, str]] = []
    before = -1
    for end, ingest_ms, feed in records.reads():
        day = ingest_ms // _DAY_MS
        if feeds and day != before:
            yield feeds[-1][0], before, feeds
            feeds = []
        before = day
        feeds.append((end, feed))
    if feeds:
        yield feeds[-1][0], before, feeds
