"""Time, passed in: parts ask their clock, so that tests and replays can own it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where a part gets the time from."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump in either direction."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some point; never goes back. For durations and deadlines."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clocks."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.monotonic_ns)
    sleep = staticmethod(asyncio.sleep)

    def __repr__(self) -> str:
        return "SystemClock()"
