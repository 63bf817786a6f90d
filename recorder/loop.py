"""The event loop: uvloop where it exists, one way to run a coroutine to its end, and one to wait for a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop, the fastest one available; return its result."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def done_elsewhere(start: Callable[[Callable[[], object]], None]) -> asyncio.Future[None]:
    """Call `start` with what another thread is to call once it is done; return the future that is done then."""
    running = asyncio.get_running_loop()
    done: asyncio.Future[None] = running.create_future()
    start(lambda: running.call_soon_threadsafe(done.set_result, None))
    return done


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, or None for asyncio's own where uvloop does not exist."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
