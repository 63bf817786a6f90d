"""Blocks of sealed segments as they were cut: what one reader has read, the others need not decompress and cut again."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Literal, NamedTuple, get_args

from recorder.archive.cutting import DecodedRecords, Records, cut, last_seq
from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.errors import ArchiveError

_MARKS_MAX: Final = 20_000
"""Places of blocks that are remembered, a few hundred bytes each."""
_RECORD_BYTES: Final = 64
"""What a record takes besides its line."""
_OBJECT_BYTES: Final = 512
"""The same of one that is an object."""

BlockSource = Literal["disk", "memory"]
BLOCK_SOURCES: Final[tuple[BlockSource, ...]] = get_args(BlockSource)
Key = tuple[str, int]
"""The checksum of a segment, and how many of its bytes stand before a block."""


class _Block(NamedTuple):
    records: Records | None
    """None where all of them stand before what is wanted."""
    end: int
    """Bytes of the segment up to there."""
    size: int
    """Bytes of memory."""


class _Mark(NamedTuple):
    """Where in a segment a block begins, and which numbers it has."""

    first_seq: int
    last_seq: int
    begin: int


class BlockCache:
    """Shared by all who read one archive in this process, on any thread; bounded by bytes.

    Readers that are near each other share one decompression: the file that one has open is read on by whoever first needs
    what comes next. There are no more open files than readers.
    """

    def __init__(self, bytes_max: int, proofs: Proofs) -> None:
        self._bytes_max = bytes_max
        self._proofs = proofs
        self._changed = threading.Condition()
        self._blocks: OrderedDict[Key, _Block] = OrderedDict()
        self.size_bytes = 0
        """What is kept."""
        self._marks: dict[str, list[_Mark]] = {}
        self._marks_count = 0
        self._loading: set[Key] = set()
        self._streams: OrderedDict[Key, Iterator[bytes]] = OrderedDict()
        """Files that are open, by the block that each would yield next."""
        self._readers = 0

    @property
    def open_files(self) -> int:
        """How many files somebody will read on."""
        return len(self._streams)

    def records(self, segment: Segment, first_seq: int, sources: Counter[BlockSource]) -> Iterator[Records]:
        """Yield the records of a sealed segment from the block on that has a number; `sources` counts where blocks are from.

        Nothing is yielded before the file has proven to be what was written. Raise `ArchiveError`.
        """
        with self._changed:
            self._readers += 1
        try:
            at = self._begin(segment, first_seq)
            while at < segment.size_bytes:
                block = self._block(segment, at, first_seq, sources)
                at = block.end
                if block.records is not None and len(block.records):
                    yield block.records
        finally:
            with self._changed:
                self._readers -= 1
                self._close_streams(self._readers)

    def clear(self) -> None:
        """Let go of everything, since nobody reads."""
        with self._changed:
            self._blocks.clear()
            self._marks.clear()
            self.size_bytes = self._marks_count = 0
            self._close_streams(0)

    def _begin(self, segment: Segment, first_seq: int) -> int:
        """Return where the block begins that has a number, or one before it that is known."""
        if first_seq <= segment.first_seq:
            return 0
        with self._changed:
            marks = self._marks.get(segment.sha256, [])
            place = bisect_right(marks, first_seq, key=_first_seq_of) - 1
            mark = marks[place] if place >= 0 else _Mark(0, 0, 0)
        if mark.last_seq >= first_seq:
            return mark.begin
        return max(mark.begin, segment.bytes_before(lambda header: header.seq < first_seq))

    def _block(self, segment: Segment, at: int, first_seq: int, sources: Counter[BlockSource]) -> _Block:
        key = segment.sha256, at
        with self._changed:
            self._changed.wait_for(lambda: key not in self._loading)
            block = self._blocks.get(key)
            if block is not None:
                self._blocks.move_to_end(key)
                sources["memory"] += 1
                return block
            self._loading.add(key)
            stream = self._streams.pop(key, None)
        try:
            if stream is None:
                stream = segment.blocks(self._proofs, at)
            block = self._read(segment, stream, at, first_seq)
        except BaseException:
            with self._changed:
                self._loading.discard(key)
                self._changed.notify_all()
            raise
        sources["disk"] += 1
        with self._changed:
            self._loading.discard(key)
            self._keep(key, block)
            self._streams[segment.sha256, block.end] = stream
            self._close_streams(self._readers)
            self._changed.notify_all()
        return block

    def _read(self, segment: Segment, stream: Iterator[bytes], at: int, first_seq: int) -> _Block:
        data = next(stream, b"")
        if not data:
            raise ArchiveError(f"{segment.path}: it ends {segment.size_bytes - at:,} bytes too early")
        end = at + len(data)
        name = str(segment.path)
        if last_seq(data, name) < first_seq:
            return _Block(None, end, 0)
        records = cut(data, name)
        each = _OBJECT_BYTES if isinstance(records, DecodedRecords) else _RECORD_BYTES
        return _Block(records, end, len(data) + each * len(records))

    def _keep(self, key: Key, block: _Block) -> None:
        """Remember a block; those that were used least recently go."""
        if block.records is None or not len(block.records):
            return
        if self._marks_count >= _MARKS_MAX:
            self._marks.clear()
            self._marks_count = 0
        sha256, begin = key
        marks = self._marks.setdefault(sha256, [])
        mark = _Mark(block.records.first[0], block.records.last[0], begin)
        if mark not in marks[bisect_left(marks, mark) :][:1]:
            insort(marks, mark)
            self._marks_count += 1
        self._blocks[key] = block
        self.size_bytes += block.size
        while self.size_bytes > self._bytes_max:
            _, gone = self._blocks.popitem(last=False)
            self.size_bytes -= gone.size

    def _close_streams(self, count: int) -> None:
        """Close files that are open beyond this many, those first that were read least recently."""
        while len(self._streams) > count:
            self._streams.popitem(last=False)

    def __repr__(self) -> str:
        return f"BlockCache({len(self._blocks)} blocks, {self.size_bytes:,} bytes, {self.open_files} files)"


_first_seq_of: Final = attrgetter("first_seq")
