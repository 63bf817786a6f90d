"""The event loop: uvloop where it exists, one way to run a coroutine to its end, one way to call what blocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop, the fastest one available; return its result."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def in_thread(name: str, work: Callable[[], T]) -> asyncio.Future[T]:
    """Call what blocks on a daemon thread of its own; return the future of its result.

    Unlike the threads of an executor, this one keeps no process from ending. Cancelling the future leaves the thread to
    its work.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # raised again where the result is awaited
            failure = error

        def resolve() -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(failure)

        try:
            loop.call_soon_threadsafe(resolve)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    threading.Thread(target=call, name=name, daemon=True).start()
    return future


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, or None for asyncio's own where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
