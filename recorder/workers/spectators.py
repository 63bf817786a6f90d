"""The clients of a replay that workers serve: what is said to all of them, and how much they have yet to take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from recorder.servers.serving import Serving
from recorder.servers.spectators import FINISH_SECS_MAX, Spectators
from recorder.sources.replay.announcements import Audience
from recorder.workers.pool import WorkerPool
from recorder.workers.replay_messages import Finish, Finished, Look, Replied, Say, Stand
from recorder.workers.worker import Worker

_LOOK_SECS: Final = 0.2
"""Time between two looks at whether a worker that has not answered is still there."""


class RemoteSpectators:
    """What a replay knows of its clients at workers. A worker that ends is waited for no longer."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        pool.replied = self._take
        self._looks = 0
        self._stands: dict[Worker, float] = {}
        """The answers to the last look."""
        self._finished: set[Worker] = set()
        self._changed = asyncio.Event()

    @property
    def subscribed(self) -> int:
        """How many clients have subscribed to something, a second ago at most."""
        return self._pool.subscribed

    @property
    def fullest(self) -> float:
        """How much the slowest client had not taken at the last look, as a share of what it may leave."""
        return max(self._stands.values(), default=0.0)

    async def look(self) -> None:
        """Wait until every worker has passed on what it was fed, and has said how its clients stand."""
        self._looks += 1
        self._stands = {}
        await self._answered(self._pool.tell(Look(self._looks)), lambda worker: worker in self._stands)

    def say(self, payload: bytes) -> None:
        """Send every client that has subscribed a status."""
        self._pool.tell(Say(payload))

    async def finish(self, words: str) -> None:
        """Let every client take what is pending, and close it with 1000; a client that does not read is cut at last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * FINISH_SECS_MAX):
                await self._answered(self._pool.tell(Finish(words)), lambda worker: worker in self._finished)

    async def _answered(self, workers: tuple[Worker, ...], has_answered: Callable[[Worker], bool]) -> None:
        while any(worker.is_ready and not has_answered(worker) for worker in workers):
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECS):
                    await self._changed.wait()

    def _take(self, worker: Worker, reply: Replied) -> None:
        match reply:
            case Stand(number, fullest) if number == self._looks:
                self._stands[worker] = fullest
            case Finished():
                self._finished.add(worker)
        self._changed.set()

    def __repr__(self) -> str:
        return f"RemoteSpectators({self.subscribed} subscribed)"


def spectators_of(serving: Serving | WorkerPool | None) -> Audience | None:
    """Return those that a replay is for; None where nobody is served."""
    if isinstance(serving, WorkerPool):
        return RemoteSpectators(serving)
    return Spectators(serving) if serving is not None else None
