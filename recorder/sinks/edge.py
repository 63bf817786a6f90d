"""An edge: a bounded queue with one writer thread behind it, so that a slow disk or pipe never holds up the loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from recorder.ledger import SinkStats
from recorder.loop import in_thread
from recorder.sinks.strand import Strand, ThreadStrand

_MERGE_BYTES_MAX = 1024 * 1024
"""Batches that wait are merged up to this size, so that a short stall fills memory by bytes, not by batches."""
_LINGER_SECS = 0.002
"""The thread lets so much time pass between two turns: at high load it is woken hundreds of times a second, not
thousands, and each turn writes more."""
_FINISH_SECS_MAX = 1.0
"""Of the time for closing so much, but at most a quarter, is kept for the target's own end."""
_CLOSE_GRACE_SECS = 0.5
"""The least time that is kept for it, beyond the time for closing where that is short."""

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Target(Protocol[T_contra]):
    """What the thread writes to. Every method is called from that thread alone."""

    @property
    def failure(self) -> str:
        """Why nothing can be written now; empty while it can. Meanwhile no more is handed over."""

    @property
    def bytes_done(self) -> int:
        """Bytes handed over and no longer in memory."""

    def write(self, item: T_contra) -> None:
        """Take one item; may keep it until a later `tick`. Never raises for what the outside does."""

    def tick(self) -> float:
        """Do what is due; give the seconds until something is due again."""


class Edge(Generic[T]):
    """Takes items on the loop, writes them on a thread of its own, in order.

    What waits is limited in bytes and in (merged) batches; past either limit `offer` says no and the caller drops
    and counts. `close` drains within a deadline; items that are left then are given to `given_up`, and calls are made.
    """

    def __init__(
        self,
        name: str,
        target: Target[T],
        books: SinkStats,
        *,
        batches_max: int,
        bytes_max: int,
        wake_records: int,
        given_up: Callable[[T], None],
        strand: Strand | None = None,
    ) -> None:
        """`wake_records`: so many waiting records wake the thread; fewer wait for its next turn.

        `strand` is what works in the thread's place in a simulation.
        """
        self.name = name
        self._target = target
        self._books = books
        books.pending_bytes_max = bytes_max
        self._batches_max = batches_max
        self._bytes_max = bytes_max
        self._wake_records = wake_records
        self._given_up = given_up
        self._lock = threading.Lock()
        self._waiting: deque[list[T] | Callable[[], None]] = deque()
        self._merging: list[T] | None = None
        self._merging_bytes = 0
        self._urgent: list[Callable[[], None]] = []
        self._records_waiting = 0
        self._bytes_offered = 0
        self._strand = strand or ThreadStrand(name)
        self._asleep = False
        self._close_deadline_ns: int | None = None
        self.hung = False
        """Whether `close` has left the thread behind in a call that did not return."""
        self._finish: Callable[[], None] | None = None
        self._released = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Future[None] | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory: waiting for the thread, or taken by the target and not written yet."""
        return max(0, self._bytes_offered - self._target.bytes_done)

    @property
    def stuck_secs(self) -> float:
        """How long the thread has been in one call; 0 while it waits for work, and while the kernel holds it.

        One that waits in the kernel for a disk cannot be killed either: a new process would not help it.
        """
        began_ns = self._books.busy_since_ns
        if not began_ns or self._strand.is_held_by_kernel:
            return 0.0
        return (self._strand.monotonic_ns() - began_ns) / 1e9

    def start(self) -> None:
        """Start the thread; to be called on the loop, and again after `close`."""
        self._loop = asyncio.get_running_loop()
        self._done = self._loop.create_future()
        self._close_deadline_ns = self._finish = None
        self._released = False
        self._strand.start(self._work)

    def offer(self, item: T, size: int, records: int) -> bool:
        """Hand over an item of `size` bytes with so many records; False if it does not fit."""
        books = self._books
        pending = self._bytes_offered - self._target.bytes_done + size
        if pending > self._bytes_max:
            return False
        with self._lock:
            if self._merging is not None and self._merging_bytes + size <= _MERGE_BYTES_MAX:
                self._merging.append(item)
                self._merging_bytes += size
            elif len(self._waiting) >= self._batches_max:
                return False
            else:
                self._merging = [item]
                self._merging_bytes = size
                self._waiting.append(self._merging)
            self._bytes_offered += size
            self._records_waiting += records
            wake = self._asleep and self._records_waiting >= self._wake_records
            if wake:
                self._asleep = False
            books.pending_batches = len(self._waiting)
        if wake:
            self._strand.ring()
        books.pending_bytes = pending
        if pending > books.pending_bytes_peak:
            books.pending_bytes_peak = pending
        return True

    def call(self, command: Callable[[], None]) -> None:
        """Have the thread call something, behind all that was offered before."""
        with self._lock:
            self._waiting.append(command)
            self._merging = None
        self._strand.ring()

    def call_soon(self, command: Callable[[], None]) -> None:
        """Have the thread call something before it writes anything more, even while the target fails."""
        with self._lock:
            self._urgent.append(command)
        self._strand.ring()

    @property
    def is_started(self) -> bool:
        """Whether the thread was ever started."""
        return self._done is not None

    @property
    def failed(self) -> bool:
        """Whether a defect has ended the thread."""
        done = self._done
        return done is not None and done.done() and not done.cancelled() and done.exception() is not None

    async def wait(self) -> None:
        """Return when the thread has ended; raise what ended it, if that was a defect."""
        assert self._done is not None
        await asyncio.shield(self._done)

    async def close(self, timeout_secs: float, finish: Callable[[], None]) -> None:
        """Write what waits, give up the rest, call `finish` on the thread, and end it: all within `timeout_secs`.

        A thread that hangs in the kernel beyond that is left behind, which `hung` tells: the process must end. Where a
        defect has ended the thread, which `wait` has raised, another one gives up what waits and calls `finish`.
        """
        if self.failed:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(timeout_secs, _CLOSE_GRACE_SECS)):
                    await in_thread(self.name, lambda: self._release(finish))
            return
        self._finish = finish
        writing_secs = timeout_secs - min(_FINISH_SECS_MAX, timeout_secs / 4)
        self._close_deadline_ns = self._strand.monotonic_ns() + int(writing_secs * 1e9)
        self._strand.ring()
        assert self._done is not None
        try:
            async with asyncio.timeout(max(timeout_secs, writing_secs + _CLOSE_GRACE_SECS)):
                await self.wait()
        except TimeoutError:
            self.hung = True
            self._books.failure = self._books.failure or "hung: the last write has not returned"

    def _release(self, finish: Callable[[], None]) -> None:
        """Do what a thread that failed has left; what it held is released once, what waits is given up each time."""
        self._give_up()
        if not self._released:
            self._released = True
            finish()
        with self._lock:
            self._bytes_offered = self._target.bytes_done
        self._books.pending_bytes = self._books.pending_batches = self._books.busy_since_ns = 0

    def _work(self) -> None:
        failed: BaseException | None = None
        try:
            self._serve()
        except BaseException as error:  # handed to who awaits `wait`
            failed = error
        loop, done = self._loop, self._done
        assert loop is not None
        assert done is not None

        def resolve() -> None:
            if done.done():
                return
            if failed is None:
                done.set_result(None)
            else:
                done.set_exception(failed)

        try:
            loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            return  # the loop is closed: this thread was given up

    def _serve(self) -> None:
        target = self._target
        while True:
            closing = self._close_deadline_ns is not None
            self._turn()
            self._begin_call()
            due_secs = target.tick()
            # Offers note what is pending as it grows; when none come, nobody else would note that it is gone.
            self._books.pending_bytes = self.pending_bytes
            self._books.pending_batches = len(self._waiting)
            if closing:
                if not self._waiting and not target.failure:
                    break
                if self._is_too_late():
                    break
                due_secs = min(due_secs, 0.05)
            self._books.busy_since_ns = 0
            self._sleep(due_secs)
        self._begin_call()
        self._give_up()
        if self._finish is not None:
            self._finish()

    def _turn(self) -> None:
        """Run urgent commands, then take all that waits, unless the target cannot write."""
        with self._lock:
            urgent, self._urgent = self._urgent, []
        for command in urgent:
            self._begin_call()
            command()
        target = self._target
        for _ in range(len(self._waiting)):  # what comes meanwhile waits for the next turn, behind `tick`
            if target.failure or self._is_too_late():
                break
            with self._lock:
                entry = self._waiting.popleft()
                if entry is self._merging:
                    self._merging = None
            if isinstance(entry, list):
                self._write(entry)
            else:
                self._begin_call()
                entry()

    def _write(self, items: list[T]) -> None:
        for place, item in enumerate(items):
            if self._is_too_late():
                with self._lock:
                    self._waiting.appendleft(items[place:])
                return
            self._begin_call()
            try:
                self._target.write(item)
            except Exception:
                for lost in items[place:]:
                    self._given_up(lost)
                raise

    def _is_too_late(self) -> bool:
        deadline_ns = self._close_deadline_ns
        return deadline_ns is not None and self._strand.monotonic_ns() >= deadline_ns

    def _begin_call(self) -> None:
        self._books.busy_since_ns = self._strand.monotonic_ns()

    def _sleep(self, due_secs: float) -> None:
        if self._close_deadline_ns is None:
            self._strand.pause(min(_LINGER_SECS, due_secs))
        with self._lock:
            self._records_waiting = 0
            self._asleep = True
            if self._urgent or (self._waiting and not self._target.failure):
                self._asleep = False
                return
        self._strand.wait(max(0.0, due_secs))
        self._asleep = False

    def _give_up(self) -> None:
        with self._lock:
            entries, self._waiting = self._waiting, deque()
            self._merging = None
        for entry in entries:
            if isinstance(entry, list):
                for item in entry:
                    self._given_up(item)
            else:
                entry()

    def __repr__(self) -> str:
        return f"Edge({self.name}, waiting={len(self._waiting)}, pending_bytes={self.pending_bytes})"
