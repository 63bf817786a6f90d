"""What every market of a simulated exchange has: its subscribers, and the time since it opened."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import inf
from typing import Final, Generic, TypeVar

from recorder.clock import Clock
from recorder.polygon.clusters import CLUSTERS
from recorder.simulator.audience import Audiences, Subscriber
from recorder.simulator.settings import SimulatorSettings

_FLOOD_PENDING_BYTES: Final = 1024 * 1024
_FLOOD_POLL_SECS: Final = 0.001

S = TypeVar("S")


class Market(ABC, Generic[S]):
    """What plays on one cluster: one stream for all its subscribers. `run` works until cancelled."""

    def __init__(self, cluster: str, settings: SimulatorSettings, clock: Clock) -> None:
        self.cluster = cluster
        self.events_played = 0
        """Events that were played while there was a subscriber, whether it got them or not."""
        self._settings = settings
        self._clock = clock
        self._audiences: Audiences[S] = Audiences()
        self._opened_ms = 0
        """Event time at which the market opened."""
        self._opened_ns = 0
        """The same moment on the monotonic clock."""
        self._due_secs = inf
        """When, after the opening, what is played next is due; infinite while nothing waits for its time."""

    @property
    def channels(self) -> frozenset[str]:
        """What can be subscribed to."""
        return frozenset(CLUSTERS[self.cluster].channels)

    def place(self, subscriber: Subscriber, topics: Iterable[str], venue: str) -> None:
        """Send a subscriber exactly these topics from now on; without any it leaves."""
        self._audiences.place(subscriber, topics, venue)

    @abstractmethod
    async def run(self) -> None:
        """Play until cancelled."""

    def _open(self) -> None:
        wall_ms = self._clock.wall_ns() // 1_000_000
        self._opened_ms = wall_ms if self._settings.start_ms is None else self._settings.start_ms
        self._opened_ns = self._clock.monotonic_ns()

    def _open_secs(self) -> float:
        """Return how long the market has been open."""
        return (self._clock.monotonic_ns() - self._opened_ns) / 1e9

    async def _wait_until(self, due_secs: float) -> None:
        """Wait until what comes next is due. Play it before anything else is awaited."""
        self._due_secs = due_secs
        await self._clock.sleep(max(0.0, due_secs - self._open_secs()))
        self._due_secs = inf

    async def caught_up(self) -> None:
        """Return once everything has been played that is due by now.

        An exchange that was held up must not answer a ping in front of what it should have sent before.
        """
        now_secs = self._open_secs()
        while self._due_secs <= now_secs:  # noqa: ASYNC110 - an event for each time something is played costs more
            await asyncio.sleep(0)  # what is due is played in the next turns of the loop

    async def _let_drain(self) -> None:
        """Let the loop run, and wait until no subscriber has much pending: that is the pace of a flood."""
        mark = min(_FLOOD_PENDING_BYTES, self._settings.pending_bytes_max // 4)
        await asyncio.sleep(0)
        while self._audiences.pending_bytes() > mark:
            await self._clock.sleep(_FLOOD_POLL_SECS)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.cluster}, played={self.events_played}, subscribers={len(self._audiences)})"
