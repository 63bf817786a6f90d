"""One loop for all that waits for a time: values that come at intervals, and slow clients that may have room again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

from recorder.clock import Clock

LOOK_SECS: Final = 0.02
"""Time between two looks at clients that are slow."""
_FOREVER_SECS: Final = 3600.0


class Paced(Protocol):
    """Something that holds values back until they are due."""

    due_ns: int
    """When, on the clock that is monotonic."""

    def send_some(self, now_ns: int) -> bool:
        """Send some of what is due, little enough for a turn of the loop; return whether anything is left to be sent."""

    def send_all(self) -> None:
        """Send everything, due or not: the end has come."""


class Behind(Protocol):
    """A client that is slow."""

    def look(self) -> None:
        """Go on as usual if the client has room again, or is gone."""


class Pacer:
    """Knows who holds something back. Where nobody does, it costs nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holding: dict[Paced, None] = {}
        self._behind: dict[Behind, None] = {}
        self._awake = asyncio.Event()
        self._caught_up = asyncio.Event()
        """Set while no client is behind."""
        self._caught_up.set()

    def hold(self, paced: Paced) -> None:
        """Have something sent once it is due."""
        self._holding[paced] = None
        self._awake.set()

    def release(self, paced: Paced) -> None:
        """Forget something that holds nothing any more."""
        self._holding.pop(paced, None)

    def watch(self, behind: Behind) -> None:
        """Look at a slow client again and again."""
        self._behind[behind] = None
        self._caught_up.clear()
        self._awake.set()

    def leave(self, behind: Behind) -> None:
        """Look at a client no longer."""
        self._behind.pop(behind, None)
        if not self._behind:
            self._caught_up.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._awake.clear()
            wait_secs = self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_secs):
                    await self._awake.wait()

    def step(self) -> float:
        """Send some of what is due, and look at slow clients; return the seconds until there may be more to do."""
        for behind in list(self._behind):
            behind.look()
        now_ns = self._clock.monotonic_ns()
        wait_secs = LOOK_SECS if self._behind else _FOREVER_SECS
        for paced in list(self._holding):
            if paced.due_ns <= now_ns and not paced.send_some(now_ns):
                self._holding.pop(paced, None)
            else:
                wait_secs = min(wait_secs, max(0.0, (paced.due_ns - now_ns) / 1e9))
        return wait_secs

    def flush(self) -> None:
        """Send everything that is held back for a time: the end has come."""
        for paced in list(self._holding):
            paced.send_all()
        self._holding.clear()

    async def caught_up(self) -> None:
        """Wait until no client is behind."""
        await self._caught_up.wait()

    def __repr__(self) -> str:
        return f"Pacer({len(self._holding)} hold something, {len(self._behind)} clients are behind)"
