"""What bars of the past are made from in memory: the reads of the hot log, and how far time had come between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from recorder.bars import Progress
from recorder.polygon.clusters import CLUSTERS
from recorder.servers.past.hotlog import HotLog


class Moment(NamedTuple):
    """What a bar maker was given at a time: a read, or a watermark alone."""

    number: int
    """Of the entry of the log; of a watermark, of the entry that comes next."""
    ns: int
    """When it was read, or until when everything has come, by the clock of `Batch.read_ns`."""
    is_watermark: bool
    before: Progress
    """How far time had come before it. Of a later piece of a batch, behind the batch: that is no less right."""


class BarMemory:
    """The moments of one cluster whose reads the hot log still has, by numbers of their own."""

    def __init__(self, cluster: str, log: HotLog) -> None:
        self.trade_channel = CLUSTERS[cluster].trade_channel
        self.cluster = cluster
        self.log = log
        self._moments: dict[int, Moment] = {}
        self._first = 0
        self.end = 0
        """Number of the next moment."""
        self._seen = log.end
        """Entries before this one have been looked at."""
        self._begin_ms = 0
        """Time of the first trade; 0 before it."""
        self._waiting_ms = 0
        """The newest time of the trades that came before time began."""
        self._is_whole = True
        """Whether nothing has been forgotten."""

    def take(self, before: Progress, behind: Progress, read_ns: int, times_ms: Sequence[int]) -> None:
        """Note that a batch with trades of these times was given to the bar maker."""
        log = self.log
        if not before.newest_ms:
            self._begin_ms = self._begin_ms or times_ms[0]
            self._waiting_ms = max(self._waiting_ms, *times_ms)
        end = self.end
        for number in range(max(self._seen, log.first), log.end):
            # In a worker, several entries are one batch, and those of other clusters stand between them.
            if log.cluster_of(number) == self.cluster:
                self._add(Moment(number, read_ns, False, before))
                before = behind
        self._seen = log.end
        if self.end == end:
            # The log keeps nothing now: what was noted before does not lead to what comes.
            self._moments.clear()
            self._first = end
            self._is_whole = False
        while self._first < self.end and self._moments[self._first].number < log.first:
            del self._moments[self._first]
            self._first += 1
            self._is_whole = False

    def pass_over(self) -> None:
        """Note that a batch had no trades."""
        self._seen = self.log.end

    def let_time_pass(self, before: Progress, until_ns: int) -> None:
        """Note a watermark."""
        self._add(Moment(self.log.end, until_ns, True, before))

    def start_over(self) -> None:
        """Forget all moments: what comes may be older than what came."""
        self._moments.clear()
        self._first = self.end
        self._begin_ms = self._waiting_ms = 0
        self._is_whole = True
        self._seen = self.log.end

    def moment(self, number: int) -> Moment | None:
        """Return a moment; None where it is forgotten."""
        return self._moments.get(number)

    def behind_entry(self, number: int) -> int:
        """Return the number of the first moment that is not before an entry of the log."""
        kept = range(self._first, self.end)
        return self._first + bisect_left(kept, number, key=lambda moment: self._moments[moment].number)

    def kept_from_ms(self, present: Progress) -> int:
        """Return the Unix ms from which on every window can be made whole, `present` being how far time has come."""
        first = self.behind_entry(self.log.offered_number)
        before = self._moments[first].before if first < self.end else present
        if before.newest_ms:
            return before.newest_ms + 1
        if not self._is_whole or first > self._first:
            return max(present.newest_ms, self._waiting_ms) + 1
        # What came since the beginning is all that there is.
        return min(self._begin_ms or self.log.offered_ms, self.log.offered_ms)

    def is_whole(self, present: Progress) -> bool:
        """Whether nothing has been forgotten since the beginning."""
        first = self.behind_entry(self.log.offered_number)
        return self._is_whole and first == self._first and not self.before(first, present).newest_ms

    def start(self, begin_ms: int, present: Progress) -> tuple[int, Progress] | None:
        """Return from which moment on, and how far time had come, a maker finds whole all windows that begin at a time or
        later; None where not all is kept."""
        if begin_ms < self.kept_from_ms(present):
            return None
        offered = range(self.behind_entry(self.log.offered_number), self.end)
        found = bisect_left(offered, begin_ms, key=lambda number: self._moments[number].before.newest_ms)
        if present.newest_ms < begin_ms:
            return self.end, present
        number = max(offered.start + found - 1, offered.start)
        if not self.before(number, present).newest_ms:
            # The first trades wait in the maker until time begins: they are part of no progress.
            number = offered.start
        return number, self.before(number, present)

    def before(self, number: int, present: Progress) -> Progress:
        """Return how far time had come before a moment that is kept, or has yet to come."""
        return self._moments[number].before if number < self.end else present

    def _add(self, moment: Moment) -> None:
        self._moments[self.end] = moment
        self.end += 1

    def __repr__(self) -> str:
        return f"BarMemory({self.cluster}, {len(self._moments)} moments)"
