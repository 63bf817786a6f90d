"""The thread that writes: it wakes when it is woken, and shows when only the kernel can let it go."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from pathlib import Path

import pytest
from waiting import eventually_sync

from recorder.sinks.worker import WorkerThread, run_blocking

FAR_SECS = 3600.0


def spawn_that_opens(path: Path) -> None:
    """Start a program whose first act is to open `path`; return once it has.

    posix_spawn(3) lets its caller sleep without interruption until the new process runs its program, and the new
    process opens the file before that.
    """
    libc = ctypes.CDLL(None)
    actions = ctypes.create_string_buffer(256)
    assert libc.posix_spawn_file_actions_init(actions) == 0
    assert libc.posix_spawn_file_actions_addopen(actions, 0, os.fsencode(path), os.O_RDONLY, 0) == 0
    arguments = (ctypes.c_char_p * 2)(b"true", None)
    environment = (ctypes.c_char_p * 1)(None)
    pid = ctypes.c_int()
    assert libc.posix_spawn(ctypes.byref(pid), b"/bin/true", actions, None, arguments, environment) == 0
    os.waitpid(pid.value, 0)


def test_a_thread_that_the_kernel_holds_is_seen(tmp_path: Path) -> None:
    """In uninterruptible sleep it is held; before, afterwards and in any other wait it is not."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker = WorkerThread("test")
    assert not worker.is_held_by_kernel
    held, over = threading.Event(), threading.Event()

    async def work() -> None:
        held.wait(FAR_SECS)
        spawn_that_opens(fifo)
        over.set()
        await worker.wait(FAR_SECS)

    worker.start(work)
    try:
        assert not worker.is_held_by_kernel
        held.set()
        eventually_sync(lambda: worker.is_held_by_kernel, "uninterruptible sleep", 5)
        assert not over.is_set()
    finally:
        held.set()
        os.close(os.open(fifo, os.O_WRONLY))  # nothing else ends that sleep
    assert over.wait(30)
    assert not worker.is_held_by_kernel
    worker.wake()
    eventually_sync(lambda: not worker.is_held_by_kernel, "the end of the thread")


def test_a_wake_ends_the_next_wait_and_one_only() -> None:
    """What woke it before a wait ends that wait at once, all together."""
    worker = WorkerThread("test")
    worker.wake()
    worker.wake()
    run_blocking(worker.wait(FAR_SECS))
    begun_ns = worker.monotonic_ns()
    run_blocking(worker.wait(0.05))
    assert worker.monotonic_ns() - begun_ns >= 50_000_000


def test_blocking_work_that_suspends_is_our_mistake() -> None:
    """A coroutine that awaits the loop cannot run on a thread, and says so instead of being left half done."""
    with pytest.raises(AssertionError, match="suspended"):
        run_blocking(asyncio.sleep(0))
