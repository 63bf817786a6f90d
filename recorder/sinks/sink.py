"""Sinks: what they are to the bus and to the supervisor, and all that those with a queue have in common."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from recorder.bus import Batch, Consumer, SessionChange
from recorder.clock import Clock
from recorder.ledger import Ledger, SinkStats
from recorder.log import Logger, RateLimited, get_logger
from recorder.part import Part
from recorder.polygon.rows import Rows
from recorder.sinks.queue import QueueLimits, SinkQueue
from recorder.sinks.target import Blocking, BlockingTarget, Item, Target
from recorder.sinks.worker import LoopWorker, Worker, WorkerThread

DEFECT: Final = "the sink has a defect"
"""Why records are dropped that the sink could not even put into its form."""

T = TypeVar("T", bound=Item)


class Sink(Part, Consumer, Protocol):
    """Takes the records of each batch off the bus, and brings them to where they are kept or sent.

    It is a part of its own, and a consumer of its own: a sink that fails costs nobody else anything. `accept` counts
    what it takes as accepted. Later each of these records counts as recorded or as dropped, so that the books balance
    once the sink is closed.
    """

    @property
    def stats(self) -> SinkStats:
        """What the sink counts."""

    @property
    def hung(self) -> bool:
        """Whether `close` has left a call behind that did not return; the books do not balance then."""


class Drops:
    """Counts what a sink drops, on the loop and on the sink's own worker, and warns of it at most once an interval."""

    def __init__(self, stats: SinkStats, clock: Clock, log: Logger, warn_interval_secs: float) -> None:
        self.stats = stats
        self._clock = clock
        self._log = log
        self._warning = RateLimited(warn_interval_secs)
        self._lock = threading.Lock()

    def add(self, cluster: str, counts: Mapping[str, int], reason: str) -> None:
        """Count records, by channel."""
        stats = self.stats
        with self._lock:
            stats.note_drops(self._clock.wall_ns() // 1_000_000, cluster, counts, reason)
            stats.dropped.add(cluster, counts)

    @property
    def total(self) -> int:
        """All records that were dropped in this run."""
        with self._lock:
            return sum(self.stats.dropped.values())

    def warn(self, message: str, **facts: object) -> None:
        """Say that records are dropped, unless that was said a moment ago."""
        suppressed = self._warning.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            self._log.error(
                "records_dropped",
                message=message,
                sink=self.stats.name,
                **facts,
                pending_bytes=self.stats.pending_bytes,
                dropped_total=self.total,
                batches_since_last_warning=suppressed + 1,
            )


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink of another package is made with: the entry point is called with it, once."""

    name: str
    """What SINK calls the sink; its part and its books have this name."""
    ledger: Ledger
    clock: Clock
    environ: Mapping[str, str]
    """Where the sink finds its settings."""

    def drops(self, warn_interval_secs: float = 5.0) -> Drops:
        """Return what counts the records that the sink drops; the sink's `stats` are part of it."""
        log = get_logger("polygon_events")
        return Drops(self.ledger.sink(self.name), self.clock, log, warn_interval_secs)


class QueueSink(ABC, Generic[T]):
    """A sink with a queue in front of its target. What is full drops the newest batch, counted and warned of.

    A subclass says in `item_of` what its target takes. It derives from `ThreadSink` where the target blocks and from
    `LoopSink` where it awaits.
    """

    full: ClassVar[str] = "records are dropped: more waits for the sink than may wait"
    """The warning when the queue is full."""
    full_reason: ClassVar[str] = "too much waits for the sink"
    """Why these records are dropped."""
    late_reason: ClassVar[str] = "not written before the shutdown's deadline"
    """Why records are dropped that are given up."""

    def __init__(
        self, name: str, target: Target[T], worker: Worker, drops: Drops, limits: QueueLimits
    ) -> None:
        self.name = name
        self.drops = drops
        self.stats = drops.stats
        self.queue: SinkQueue[T] = SinkQueue(name, target, worker, self.stats, limits, self.give_up)

    @property
    def hung(self) -> bool:
        """Whether `close` has left a call behind that did not return."""
        return self.queue.hung

    @abstractmethod
    def item_of(self, batch: Batch, rows: Rows) -> T | None:
        """Return what the target takes of the records of a batch; None if there is nothing for it."""

    def chosen(self, batch: Batch) -> Rows | None:
        """Return the records of a batch that the sink takes; None if it takes none."""
        return batch.recorded

    def accept(self, batch: Batch) -> None:
        """Put the records of one batch into the queue, or drop and count them."""
        rows = self.chosen(batch)
        if rows is None:
            return
        self.stats.accepted.add(rows.cluster, rows.counts)
        try:
            item = self.item_of(batch, rows)
        except Exception:
            self.lose(rows)
            raise
        if item is None:
            return
        if self.queue.offer(item, len(rows)):
            self.taken()
        else:
            self.refuse(item)

    def is_awaited(self) -> bool:
        """Return False: records wait for the queue's worker anyway."""
        return False

    def session_changed(self, change: SessionChange) -> None:
        """Do nothing: most sinks know records only."""

    def taken(self) -> None:
        """Do what is due once an item has found room in the queue: here nothing."""

    def lose(self, rows: Rows) -> None:
        """Account for records that could not be put into the target's form."""
        self.drops.add(rows.cluster, rows.counts, DEFECT)

    def refuse(self, item: T) -> None:
        """Account for an item that does not fit into the queue."""
        self.drops.add(item.cluster, item.counts, self.full_reason)
        self.drops.warn(self.full)

    def give_up(self, item: T) -> None:
        """Account, on the worker, for an item that was not written before the deadline or amid a defect."""
        self.drops.add(item.cluster, item.counts, self.late_reason)
        self.stats.given_up += sum(item.counts.values())

    async def open(self) -> None:
        """Have the worker open the target.

        :raises RecorderError: it cannot be had.
        """
        await self.queue.open()

    async def run(self) -> None:
        """Work until closed; raise the defect of the target that ended the worker."""
        await self.queue.wait()

    async def close(self, deadline_ns: int) -> None:
        """Write what is pending, or give it up at the deadline; release the target."""
        await self.queue.close(deadline_ns)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.queue!r})"


class ThreadSink(QueueSink[T]):
    """A sink whose target blocks: a file, a pipe, a library that knows no event loop. It has a thread of its own."""

    def __init__(
        self,
        name: str,
        target: BlockingTarget[T],
        drops: Drops,
        limits: QueueLimits,
        worker: Worker | None = None,
    ) -> None:
        """`worker` is what a simulation puts in the thread's place."""
        super().__init__(name, Blocking(target), worker or WorkerThread(name), drops, limits)


class LoopSink(QueueSink[T]):
    """A sink whose target awaits: a client of a broker that lives on the event loop."""

    def __init__(self, name: str, target: Target[T], drops: Drops, limits: QueueLimits) -> None:
        super().__init__(name, target, LoopWorker(name), drops, limits)
