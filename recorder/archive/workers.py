"""Reads files in several processes, which say how far they are and end when they are told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, TypeVar

from recorder.archive.check import Result, Task, check_file
from recorder.archive.codec import codec_of
from recorder.errors import ArchiveError

Progress = Callable[[int, int], None]
"""Called with the bytes of files that are done, and of all files."""

OnRead = Callable[[bytes], None]
"""Called with each block that was read."""
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_ALONE_BYTES: Final = 96 << 20
"""Fewer bytes of lines are checked before a second process would have gained anything."""
_FAR_ALONE_MAX: Final = 16
"""More files than these, where each one is waited for because it is elsewhere, are worth a second process."""
_COMPRESSED_TIMES: Final = 8
"""How much larger than on disk the lines of a compressed file are taken to be."""
_POLL_SECS: Final = 0.1


class _Stopped(Exception):
    """The main process wants no more results."""


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_files(
    tasks: list[Task], jobs: int, progress: Progress | None
) -> Generator[tuple[Task, Result], None, None]:
    """Yield the result of each task, in the order in which they end. Raise `ArchiveError` where a process dies."""
    sizes = {task.path: _size(task) for task in tasks}
    work = {
        path: size * (1 if codec_of(path) == "none" else _COMPRESSED_TIMES) for path, size in sizes.items()
    }
    total = sum(sizes.values())

    def report(done: int) -> None:
        if progress:
            progress(min(done, total), total)

    is_far = len(tasks) > _FAR_ALONE_MAX and any(task.place.is_copy for task in tasks)
    few = sum(work.values()) <= _ALONE_BYTES and not is_far
    # The longest first, so that no core is left with one of them at the end.
    ordered = tasks if few or jobs <= 1 else sorted(tasks, key=lambda task: -work[task.path])
    yield from in_processes(ordered, check_file, 1 if few else jobs, report, what="verified files")
    report(total)


def _size(task: Task) -> int:
    try:
        return task.place.size_bytes(task.path) or 0
    except OSError:
        return 0


def in_processes(
    tasks: Sequence[_Task],
    work: Callable[[_Task, OnRead], _Result],
    jobs: int,
    report: Callable[[int], None],
    *,
    what: str,
) -> Generator[tuple[_Task, _Result], None, None]:
    """Yield what `work` makes of each task, in the order in which they end; a single one, or one job, is done here.

    `work` is a function of a module. It calls what it gets beside the task with each block that it has read; `report` is
    called with the bytes of all of them. `what` is what the processes do, for words. What `work` raises is raised here, and
    `ArchiveError` where a process dies.
    """
    if jobs <= 1 or len(tasks) <= 1:
        yield from _here(tasks, work, report)
    else:
        yield from _elsewhere(tasks, work, jobs, report, what)


def _here(
    tasks: Sequence[_Task], work: Callable[[_Task, OnRead], _Result], report: Callable[[int], None]
) -> Iterator[tuple[_Task, _Result]]:
    done = 0

    def add(block: bytes) -> None:
        nonlocal done
        done += len(block)
        report(done)

    for task in tasks:
        yield task, work(task, add)


def _elsewhere(
    tasks: Sequence[_Task],
    work: Callable[[_Task, OnRead], _Result],
    jobs: int,
    report: Callable[[int], None],
    what: str,
) -> Iterator[tuple[_Task, _Result]]:
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    done = context.Value("Q", 0)
    stop = context.Event()
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), context, _begin, (done, stop))
    try:
        try:
            pending = _submit(pool, tasks, work)
            while pending:
                ended, _ = wait(pending, _POLL_SECS, FIRST_COMPLETED)
                report(done.value)
                for future in ended:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool:
            # A process that began while the pool broke is not among those that the pool ends, and would be waited for.
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    except (BrokenProcessPool, OSError) as error:
        # A pool that breaks while it is used may say so by its closed pipes.
        raise ArchiveError(
            f"a process that {what} was killed, perhaps for want of memory; try fewer with --jobs"
        ) from error


def _submit(
    pool: ProcessPoolExecutor, tasks: Sequence[_Task], work: Callable[[_Task, OnRead], _Result]
) -> dict[Future[_Result], _Task]:
    # Ctrl-C reaches the whole process group; the workers, which inherit this, leave it to the main process.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_do, work, task): task for task in tasks}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_shared: list[Any] = []
"""In a worker: the counter of bytes done, and the event that says to stop."""


def _begin(done: Any, stop: Any) -> None:
    _shared[:] = [done, stop]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(work: Callable[[_Task, OnRead], _Result], task: _Task) -> _Result:
    done, stop = _shared

    def add(block: bytes) -> None:
        with done.get_lock():
            done.value += len(block)
        if stop.is_set():
            raise _Stopped

    return work(task, add)
