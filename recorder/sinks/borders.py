"""PURE. Which record each position of another recorder's stream is, as batches go by."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

from recorder.archive.record import Reached
from recorder.bus import Batch
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows


class Borders:
    """The positions of the streams that a recorder follows, against the numbers that the stage gives records."""

    def __init__(self) -> None:
        self.followed: set[str] = set()
        """Clusters of which a position is known, in this run or by the archive."""
        self.seq = 0
        """The number of the last record."""

    def of(self, batch: Batch, rows: Rows) -> Sequence[Reached]:
        """Return the ends of the reads of a batch, whose records are `rows`; to be asked of each batch."""
        begin_seq = self.seq
        if len(rows):
            self.seq = rows.seqs[-1]
        marks = batch.marks
        if not marks:
            # Behind it nobody can go on: what it brought would come again.
            is_lost = batch.cluster in self.followed and len(rows)
            return (Reached("", len(rows), self.seq),) if is_lost else ()
        self.followed.add(batch.cluster)
        if len(marks) == 1 and marks[0].frames == len(batch.frames):
            return (Reached(marks[0].after, len(rows), self.seq),)
        return tuple(self._inner(batch, rows, begin_seq))

    def _inner(self, batch: Batch, rows: Rows, begin_seq: int) -> Iterator[Reached]:
        begins = [0, *(mark.frames for mark in batch.marks), len(batch.frames)]
        reads = [batch.frames[begin:end] for begin, end in pairwise(begins)]
        events = 0
        seq = begin_seq
        counts = _events_of(batch, reads)
        for mark, count in zip((*batch.marks, None), counts, strict=True):
            events += count
            before, seq = seq, begin_seq + _recorded(batch.rows, rows, events)
            if mark is not None:
                yield Reached(mark.after, seq - before, seq)
            elif seq > before:
                yield Reached("", seq - before, seq)


def _events_of(batch: Batch, reads: Sequence[Sequence[bytes]]) -> list[int]:
    """Return how many events each read brought."""
    counts = [sum(frame.count(b"{") for frame in read) for read in reads]
    rows = batch.rows
    # Each event has a brace at least. So where there are no more of these in all, there are none in any read.
    if sum(counts) != len(rows) or rows.statuses or rows.rejects:
        decoder = Decoder(batch.cluster)
        counts = [len(decoder.decode(read)) for read in reads]
    return counts


def _recorded(rows: Rows, recorded: Rows, events: int) -> int:
    """Return how many of the first events of a batch are records."""
    if recorded is rows or not events:
        return events
    return bisect_right(recorded.positions, rows.positions[0] + events - 1)
