"""Sinks as the supervisor keeps them: opened off the loop, closed by a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from recorder.clock import Clock
from recorder.log import get_logger
from recorder.loop import in_thread
from recorder.sinks.archive import ArchiveSink
from recorder.sinks.edge import Edge

log = get_logger("polygon_archive")


class _Sink(Protocol):
    name: str
    edge: Edge[Any]

    async def run(self) -> None: ...

    async def close(self, reason: str, timeout_secs: float) -> None: ...


class SinkPart:
    """A sink that is not the archive."""

    def __init__(self, sink: _Sink, clock: Clock, acquire: Callable[[], None] = lambda: None) -> None:
        """`acquire` takes what the sink writes to; it returns at once, or raises ConfigError."""
        self.name = sink.name
        self._sink = sink
        self._clock = clock
        self._acquire = acquire

    async def open(self) -> None:
        """Take what the sink writes to.

        :raises ConfigError: it cannot be had.
        """
        self._acquire()

    async def run(self) -> None:
        """Write what comes until closed."""
        await self._sink.run()

    async def close(self, deadline_ns: int) -> None:
        """Write what is pending, or give it up at the deadline."""
        if self._sink.edge.is_started:
            await self._sink.close("", _secs_until(deadline_ns, self._clock))


class ArchivePart:
    """The archive. A repair may take minutes, so that it has a thread of its own until it is open.

    A stop ends the process by its deadline, also amid a repair: the next start begins the repair again.
    """

    def __init__(self, sink: ArchiveSink, clock: Clock) -> None:
        self.name = sink.name
        self.end_reason = "failed"
        """Why the run ends, for the manifest."""
        self._sink = sink
        self._clock = clock
        self._opening: asyncio.Future[None] | None = None
        self._is_running = False

    async def open(self) -> None:
        """Take possession of the archive and finish what a crash left.

        :raises ArchiveConfigError: the place cannot be used.
        """
        self._opening = in_thread("archive start", self._sink.open)
        await asyncio.shield(self._opening)

    async def run(self) -> None:
        """Write what comes until closed."""
        self._is_running = True
        await self._sink.run()

    async def close(self, deadline_ns: int) -> None:
        """Write what is pending, seal the files, end the manifest; what is not done by the deadline is given up."""
        opening, self._opening = self._opening, None
        if opening is None:
            return
        if not self._is_running:
            await self._give_back(opening, deadline_ns)
        elif not self._sink.edge.failed:
            # Behind a defect of the writer the files are left as after a kill, for the next start to look at.
            await self._sink.close(self.end_reason, _secs_until(deadline_ns, self._clock))

    async def _give_back(self, opening: asyncio.Future[None], deadline_ns: int) -> None:
        """Let go of an archive to which nothing was written."""
        if await self._is_done(opening, deadline_ns):
            if opening.cancelled() or opening.exception() is not None:
                return
            closing = in_thread("archive end", lambda: self._sink.give_back(self.end_reason))
            if await self._is_done(closing, deadline_ns):
                closing.result()
                return
        log.warning("the archive was still being repaired; the next start begins that again")

    async def _is_done(self, work: asyncio.Future[None], deadline_ns: int) -> bool:
        done, _ = await asyncio.wait([work], timeout=_secs_until(deadline_ns, self._clock))
        return bool(done)


def _secs_until(deadline_ns: int, clock: Clock) -> float:
    return max(0.0, (deadline_ns - clock.monotonic_ns()) / 1e9)
