"""What the work of a sink's queue runs on: a thread for targets that block, the event loop for those that await."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

Work = Callable[[], Coroutine[Any, Any, None]]


class Worker(Protocol):
    """One line of work beside the bus. `wake` may be called from anywhere, `pause` and `wait` from the work itself."""

    def start(self, work: Work) -> None:
        """Begin to work; a worker whose work has ended can be started again."""

    def wake(self) -> None:
        """End the present `wait`, or the next one."""

    def interrupt(self) -> None:
        """Cancel what the work awaits at the moment, where that is possible."""

    async def pause(self, secs: float) -> None:
        """Let time pass, whatever wakes it."""

    async def wait(self, secs: float) -> None:
        """Return once woken, or after `secs`; everything that woke it until then counts as one."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some point; never goes back."""

    @property
    def is_held_by_kernel(self) -> bool:
        """Whether the work waits for the kernel, in a way that nothing can end."""


def run_blocking(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine whose steps block instead of suspending, as an ordinary call.

    The queue is written once, as a coroutine, for both kinds of targets. Where none of its steps suspends, one `send`
    runs it from its beginning to its end.
    """
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise AssertionError("a step of blocking work suspended")


class WorkerThread:
    """A daemon thread: one that hangs in the kernel does not keep the process from ending."""

    monotonic_ns = staticmethod(time.monotonic_ns)

    def __init__(self, name: str) -> None:
        self._name = name
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, work: Work) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=lambda: run_blocking(work()), name=self._name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """End the present `wait`, or the next one."""
        self._wakes.put(None)

    def interrupt(self) -> None:
        """Do nothing: nobody can end a system call of another thread."""

    async def pause(self, secs: float) -> None:
        """Block for `secs`."""
        time.sleep(secs)  # noqa: ASYNC251  (on a thread of its own, never on a loop)

    async def wait(self, secs: float) -> None:
        """Block until woken, or for `secs`."""
        try:
            self._wakes.get(timeout=secs)
            while True:
                self._wakes.get_nowait()
        except Empty:
            pass

    @property
    def is_held_by_kernel(self) -> bool:
        """Whether the thread is in uninterruptible sleep; False where the system does not say."""
        if self._thread is None:
            return False
        try:
            stat = Path(f"/proc/self/task/{self._thread.native_id}/stat").read_text()
        except OSError:
            return False
        # proc(5): "pid (comm) state …", and the name may hold anything.
        return stat.rpartition(")")[2].split()[0] == "D"

    def __repr__(self) -> str:
        return f"WorkerThread({self._name})"


class LoopWorker:
    """A task on the event loop that starts it."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    is_held_by_kernel = False

    def __init__(self, name: str) -> None:
        self._name = name
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Work) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(work(), name=self._name)

    def wake(self) -> None:
        """End the present `wait`, or the next one. To be called on the loop."""
        self._woken.set()

    def interrupt(self) -> None:
        """Cancel what the task awaits."""
        if self._task is not None:
            self._task.cancel()

    async def pause(self, secs: float) -> None:
        """Sleep."""
        await asyncio.sleep(secs)

    async def wait(self, secs: float) -> None:
        """Sleep until woken, or for `secs`."""
        try:
            async with asyncio.timeout(secs):
                await self._woken.wait()
        except TimeoutError:
            return
        finally:
            self._woken.clear()

    def __repr__(self) -> str:
        return f"LoopWorker({self._name})"
