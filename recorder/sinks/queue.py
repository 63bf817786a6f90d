"""The queue in front of a sink's target: bounded, written once for targets that block and for targets that await."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, NamedTuple, TypeVar

from recorder.ledger import SinkStats
from recorder.sinks.target import Item, Target
from recorder.sinks.worker import Work, Worker

MERGE_BYTES_MAX: Final = 1024 * 1024
"""Batches that wait are merged up to this size, so that a short stall fills memory by bytes, not by batches."""
_LINGER_SECS: Final = 0.002
"""The worker lets this time pass between two turns: at high load it is woken hundreds of times a second, not
thousands, and each turn writes more."""
_FINISH_SECS_MAX: Final = 1.0
"""A quarter of the closing time, but at most this, is reserved for closing the target itself."""
_CLOSE_GRACE_SECS: Final = 0.5
"""The least time that is kept for it, beyond the time for closing where that is short."""
_INTERRUPT_SECS: Final = 0.1
"""How long an interrupted target may take to notice. A thread cannot be interrupted and does not need it."""


T = TypeVar("T", bound=Item)


class QueueLimits(NamedTuple):
    """Limits of a queue; past them the newest item is dropped."""

    batches_max: int | None
    """Merged batches; None: bytes alone count."""
    bytes_max: int
    wake_records: int = 1
    """The number of waiting records for which the worker takes a turn; fewer wait until its target is due."""


class _Merged(Generic[T]):
    """Items that were offered one after another and are taken together."""

    __slots__ = ("items", "records", "size")

    def __init__(self) -> None:
        self.items: list[T] = []
        self.records = 0
        self.size = 0


def writing_ends_ns(now_ns: int, deadline_ns: int) -> int:
    """Return when a queue that is closed now stops writing, so that the target can be closed by the deadline."""
    timeout_secs = max(0.0, (deadline_ns - now_ns) / 1e9)
    return now_ns + int((timeout_secs - min(_FINISH_SECS_MAX, timeout_secs / 4)) * 1e9)


class SinkQueue(Generic[T]):
    """Takes items on the loop and hands them to a target in order, on the worker that the target needs.

    `offer` never waits: what does not fit is refused, and the caller drops and counts it. A target that hangs or fails
    costs memory up to the limits and nothing else. `close` drains by a deadline. Items that are left then are handed to
    `given_up`, and so are those that a defect of the target leaves; `call` is served all the same.
    """

    def __init__(
        self,
        name: str,
        target: Target[T],
        worker: Worker,
        stats: SinkStats,
        limits: QueueLimits,
        given_up: Callable[[T], None],
    ) -> None:
        self.name = name
        self._target = target
        self._worker = worker
        self._stats = stats
        self._limits = limits
        self._given_up = given_up
        stats.pending_bytes_max = limits.bytes_max
        self._lock = threading.Lock()
        self._waiting: deque[_Merged[T] | Callable[[], None]] = deque()
        self._merging: _Merged[T] | None = None
        """The last of `_waiting`, if small items may still join it."""
        self._urgent: list[Callable[[], None]] = []
        self._records_waiting = 0
        """All records in `_waiting`."""
        self._bytes_offered = 0
        self._asleep = False
        self._is_open = False
        """Whether the target is open, also where a defect has ended the worker."""
        self._is_releasing = False
        self._write_until_ns: int | None = None
        """Set by `close`: when writing ends."""
        self._close_by_ns = 0
        self.failed = False
        """Whether a defect has ended the worker since `open`."""
        self.hung = False
        """Whether `close` has left the worker behind in a call that did not return."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory: waiting for the worker, or taken by the target and not written yet."""
        return max(0, self._bytes_offered - self._target.bytes_done)

    @property
    def bytes_done(self) -> int:
        """Bytes that were offered and are in memory no longer, over all."""
        return self._target.bytes_done

    @property
    def is_writing(self) -> bool:
        """Whether the target takes items: it is open and does not fail."""
        return self._is_open and not self.failed and not self._target.failure

    @property
    def busy_ns(self) -> int:
        """How long the worker has been in one call; 0 while it waits for work."""
        began_ns = self._stats.busy_since_ns
        return self._worker.monotonic_ns() - began_ns if began_ns else 0

    @property
    def stuck_secs(self) -> float:
        """How long the worker has been in one call; 0 while it waits for work, and while the kernel holds it.

        A thread that waits in the kernel for a disk cannot be killed either, so a new process would not help it.
        """
        return 0.0 if self._worker.is_held_by_kernel else self.busy_ns / 1e9

    def offer(self, item: T, records: int) -> bool:
        """Hand over an item with this number of records; return False if it does not fit."""
        stats = self._stats
        size = item.size
        pending = self._bytes_offered - self._target.bytes_done + size
        if pending > self._limits.bytes_max:
            return False
        with self._lock:
            merging = self._merging
            if merging is None or merging.size + size > MERGE_BYTES_MAX:
                batches_max = self._limits.batches_max
                if batches_max is not None and len(self._waiting) >= batches_max:
                    return False
                merging = self._merging = _Merged()
                self._waiting.append(merging)
            merging.items.append(item)
            merging.size += size
            merging.records += records
            self._bytes_offered += size
            self._records_waiting += records
            wake = (
                self._asleep
                and self._records_waiting >= self._limits.wake_records
                and not self._target.failure
            )
            if wake:
                self._asleep = False
            stats.pending_batches = len(self._waiting)
        if wake:
            self._worker.wake()
        stats.pending_bytes = pending
        if pending > stats.pending_bytes_peak:
            stats.pending_bytes_peak = pending
        return True

    def call(self, command: Callable[[], None]) -> None:
        """Have the worker call something after all that was offered before."""
        with self._lock:
            self._waiting.append(command)
            self._merging = None
        self._worker.wake()

    def call_soon(self, command: Callable[[], None]) -> None:
        """Have the worker call something before it writes anything more, even while the target fails."""
        with self._lock:
            self._urgent.append(command)
        self._worker.wake()

    def hurry(self) -> None:
        """Have the worker take what waits now, however little it is."""
        with self._lock:
            wake, self._asleep = self._asleep, False
        if wake:
            self._worker.wake()

    @property
    def is_opening(self) -> bool:
        """Whether the worker is still opening the target."""
        return self._opened is not None and not self._opened.done()

    async def open(self) -> None:
        """Start the worker and have it open the target; return once that is done, and raise what it raised.

        What is offered before or after a `close` waits within the limits.
        """
        self._write_until_ns = None
        self.failed = False
        self._start(self._live)
        assert self._opened is not None
        await asyncio.shield(self._opened)

    async def wait(self) -> None:
        """Return when the worker has ended after `close`; raise what ended it, if that was a defect."""
        assert self._ended is not None
        await asyncio.shield(self._ended)

    async def close(self, deadline_ns: int) -> None:
        """Write what waits, give up the rest, close the target, end the worker: all by `deadline_ns`.

        A thread that hangs in the kernel beyond that is left behind, which `hung` says: the process must end.
        """
        ended = self._ended
        if ended is None or (ended.done() and not self._is_open and not self._waiting):
            return
        now_ns = self._worker.monotonic_ns()
        self._close_by_ns = deadline_ns
        self._write_until_ns = writing_ends_ns(now_ns, deadline_ns)
        writing_secs = (self._write_until_ns - now_ns) / 1e9
        finish_secs = max(0.0, (deadline_ns - self._write_until_ns) / 1e9)
        if ended.done():
            # A defect has ended the worker, or items came after `close`: another worker releases what is left.
            ended = self._start(self._release)
        self._worker.wake()
        await asyncio.wait([ended], timeout=writing_secs)
        if not self._is_releasing:
            self._worker.interrupt()
        await asyncio.wait([ended], timeout=max(finish_secs, _CLOSE_GRACE_SECS))
        if not ended.done():
            self._worker.interrupt()
            await asyncio.wait([ended], timeout=_INTERRUPT_SECS)
        if not ended.done() and self._is_open:
            self.hung = True
            self._stats.failure = self._stats.failure or "hung: the last write has not returned"

    def _start(self, work: Work) -> asyncio.Future[None]:
        loop = self._loop = asyncio.get_running_loop()
        opened = self._opened = loop.create_future()
        ended = self._ended = loop.create_future()
        self._worker.start(lambda: self._until_end(work, opened, ended))
        return ended

    async def _until_end(self, work: Work, opened: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        """Work, and say how it ended."""
        failure: BaseException | None = None
        try:
            await work()
        except asyncio.CancelledError:
            pass  # `close` has interrupted the target at its deadline
        except BaseException as error:  # handed to those who await the worker
            failure = error
            self.failed = True
        if failure is not None and not self._is_open:
            self._resolve(opened, failure)
            failure = None
        self._resolve(ended, failure)

    def _resolve(self, future: asyncio.Future[None], failure: BaseException | None = None) -> None:
        """Set a future on the loop, from whichever thread this is."""

        def resolve() -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)

        loop = self._loop
        assert loop is not None
        with suppress(RuntimeError):  # the loop is closed: this worker was left behind
            loop.call_soon_threadsafe(resolve)

    async def _live(self) -> None:
        """Open the target, serve it until `close`, release it."""
        assert self._opened is not None
        await self._target.open()
        self._is_open = True
        self._is_releasing = False
        self._resolve(self._opened)
        try:
            await self._serve()
        except asyncio.CancelledError:
            if self._write_until_ns is None:
                raise
        await self._release()

    async def _serve(self) -> None:
        target = self._target
        while True:
            closing = self._write_until_ns is not None
            all_taken = await self._turn()
            self._begin_call()
            due_secs = await target.tick()
            # Offers note what is pending as it grows; when none come, nobody else would note that it is gone.
            self._stats.pending_bytes = self.pending_bytes
            self._stats.pending_batches = len(self._waiting)
            if closing:
                if not self._waiting and not target.failure:
                    return
                if self._is_too_late():
                    return
                due_secs = min(due_secs, 0.05)
            self._stats.busy_since_ns = 0
            await self._sleep(due_secs, 0 if closing or not all_taken else self._limits.wake_records)

    async def _turn(self) -> bool:
        """Run urgent commands, then take all that waits; return False if the target, or the time, has not allowed it."""
        with self._lock:
            urgent, self._urgent = self._urgent, []
        for command in urgent:
            self._begin_call()
            command()
        target = self._target
        for _ in range(len(self._waiting)):  # what comes meanwhile waits for the next turn, behind `tick`
            if target.failure or self._is_too_late():
                return False
            with self._lock:
                entry = self._waiting.popleft()
                if entry is self._merging:
                    self._merging = None
                if isinstance(entry, _Merged):
                    self._records_waiting -= entry.records
            if isinstance(entry, _Merged):
                await self._write(entry)
            else:
                self._begin_call()
                entry()
        return True

    async def _write(self, merged: _Merged[T]) -> None:
        items = merged.items
        for place, item in enumerate(items):
            if self._is_too_late():
                merged.items = items[place:]
                with self._lock:
                    self._waiting.appendleft(merged)
                return
            self._begin_call()
            try:
                await self._target.write(item)
            except BaseException:
                # A defect, or the deadline in the middle of a write: nobody knows how much of the item arrived.
                for lost in items[place:]:
                    self._given_up(lost)
                raise

    def _is_too_late(self) -> bool:
        until_ns = self._write_until_ns
        return until_ns is not None and self._worker.monotonic_ns() >= until_ns

    def _begin_call(self) -> None:
        self._stats.busy_since_ns = self._worker.monotonic_ns()

    async def _sleep(self, due_secs: float, enough: int) -> None:
        """Let time pass until so many records wait, there is a command, or the target is due."""
        if self._write_until_ns is None:
            linger_secs = min(_LINGER_SECS, due_secs)
            due_secs -= linger_secs
            await self._worker.pause(linger_secs)
        with self._lock:
            can_write = bool(self._waiting) and not self._target.failure
            if self._urgent or (can_write and self._records_waiting >= enough):
                return
            self._asleep = True
        await self._worker.wait(max(0.0, due_secs))
        self._asleep = False

    async def _release(self) -> None:
        """Abandon what waits, and close the target if it is open."""
        self._is_releasing = True
        self._begin_call()
        self._give_up()
        if self._is_open:
            await self._target.close(self._close_by_ns)
            self._is_open = False
        with self._lock:
            self._bytes_offered = self._target.bytes_done
        stats = self._stats
        stats.pending_bytes = stats.pending_batches = stats.busy_since_ns = 0

    def _give_up(self) -> None:
        with self._lock:
            entries, self._waiting = self._waiting, deque()
            self._merging = None
            self._records_waiting = 0
        for entry in entries:
            if isinstance(entry, _Merged):
                for item in entry.items:
                    self._given_up(item)
            else:
                entry()

    def __repr__(self) -> str:
        return f"SinkQueue({self.name}, waiting={len(self._waiting)}, pending_bytes={self.pending_bytes})"
