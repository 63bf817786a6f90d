"""Waits for a server that is away or has no room, and says so: at first, once a minute, and when it is back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from recorder.backoff import Backoff
from recorder.clickhouse.server import Away
from recorder.errors import RecorderError
from recorder.log import RateLimited, get_logger

T = TypeVar("T")

_BACKOFF_SECS: Final = 1.0
_BACKOFF_SECS_MAX: Final = 30.0
_WARN_SECS: Final = 60.0

log = get_logger("polygon_archive")


class GaveUp(RecorderError):
    """The server was away for longer than the limit, or this program was told to stop meanwhile."""


class Patience:
    """One for all that is asked of a server, so that all of it waits as long as the server is away."""

    def __init__(self, stopping: asyncio.Event, secs_max: float | None) -> None:
        """Without `secs_max` it waits until `stopping`."""
        self._stopping = stopping
        self._secs_max = secs_max
        self._backoff = Backoff(_BACKOFF_SECS, _BACKOFF_SECS_MAX, random.uniform)
        self._warnings = RateLimited(_WARN_SECS)
        self._since_ns: int | None = None
        self.retries = 0
        self.waited_secs = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether the server is away."""
        return self._since_ns is not None

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` does, once the server does it. Raise `GaveUp`, or what `call` raises besides `Away`."""
        while True:
            try:
                found = await call()
            except Away as error:
                await self.pause(error)
            else:
                self.ease()
                return found

    async def pause(self, error: Away) -> None:
        """Wait a while. Raise `GaveUp` after too long a wait, or if the program is stopping."""
        now_ns = time.monotonic_ns()
        if self._since_ns is None:
            self._since_ns = now_ns
        self.retries += 1
        away_secs = (now_ns - self._since_ns) / 1e9
        if self._warnings.ready(now_ns) is not None:
            left = {} if self._secs_max is None else {"secs_left": round(self._secs_max - away_secs)}
            log.warning("clickhouse_away", reason=str(error), secs=round(away_secs), **left)
        if self._stopping.is_set():
            raise GaveUp(f"{error}; the archive keeps unsent records, and the next start continues there")
        if self._secs_max is not None and away_secs >= self._secs_max:
            raise GaveUp(
                f"{error}; that has lasted {away_secs:.0f} s (--wait): the archive keeps unsent records; the next start "
                "continues there"
            )
        secs = self._backoff.next_secs()
        if self._secs_max is not None:
            secs = min(secs, self._secs_max)
        try:
            await asyncio.wait_for(self._stopping.wait(), secs)
        except TimeoutError:
            self.waited_secs += secs

    def ease(self) -> None:
        """The server has done what it was asked for."""
        if self._since_ns is not None:
            secs = (time.monotonic_ns() - self._since_ns) / 1e9
            log.info("clickhouse_back", secs=round(secs, 1))
            self._since_ns = None
            self._warnings = RateLimited(_WARN_SECS)
        self._backoff.reset()
