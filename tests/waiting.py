"""Waiting for facts, never for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

DEADLINE_SECS = 30.0
"""Far beyond what any fact takes; a test that reaches it has failed."""
_RESTS: Final = 4
"""Times as long as a look took, the next one waits: who asks a process without a pause takes a core from what it does."""
_REST_SECS_MAX: Final = 0.2


async def eventually(
    fact: Callable[[], T], what: str = "", deadline_secs: float = DEADLINE_SECS, every_secs: float = 0.005
) -> T:
    """Return the first true value of `fact`, looking again and again; fail once the deadline has passed.

    The looks are `every_secs` apart, by the loop's clock; the deadline is one of the machine's.
    """
    deadline = time.monotonic() + deadline_secs
    while not (found := fact()):
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what or fact}")
        await asyncio.sleep(every_secs)
    return found


def eventually_sync(
    fact: Callable[[], T], what: str = "", deadline_secs: float = DEADLINE_SECS, every_secs: float = 0.005
) -> T:
    """The same without an event loop. What costs something to look at is looked at less often."""
    deadline = time.monotonic() + deadline_secs
    begun = time.monotonic()
    while not (found := fact()):
        ended = time.monotonic()
        if ended > deadline:
            raise AssertionError(f"never happened: {what or fact}")
        time.sleep(max(every_secs, min(_RESTS * (ended - begun), _REST_SECS_MAX)))
        begun = time.monotonic()
    return found


def another_second() -> None:
    """Wait until names that end in the second are new ones, also by time(2), whose clock is a tick behind."""
    second = int(time.time())
    eventually_sync(lambda: time.time() > second + 1.02, "another second")


def lasting(secs: float) -> None:
    """Let what a test has done to a program last: the dose of a trial, where its length is the fault itself."""
    time.sleep(secs)
