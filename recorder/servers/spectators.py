"""The clients of a replay, over all ports: who is there, who is behind, and what is said to all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from recorder.servers.client import Client
from recorder.servers.serving import Serving

FINISH_SECS_MAX: Final = 30.0
"""How long clients may take to read what is pending at the end."""


class Spectators:
    """What a replay knows of its clients."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    @property
    def subscribed(self) -> int:
        """How many clients have subscribed to something."""
        return sum(1 for _ in self._subscribed())

    @property
    def fullest(self) -> float:
        """How much the slowest client has not taken yet, as a share of what it may leave; 1 while one reads the past."""
        if self._serving.resumes.is_reading:
            return 1.0
        return max((client.fullness for client in self._clients()), default=0.0)

    async def look(self) -> None:
        """Do nothing: what is known of the clients is of this moment."""

    def say(self, payload: bytes) -> None:
        """Send every client that has subscribed a status, behind all that is held back for a time."""
        self._serving.pacer.flush()
        for client in list(self._subscribed()):
            try:
                client.say(payload)
            except Exception as error:
                # The defect of one connection must not cost the others what they are told.
                client.fail(error)

    async def finish(self, words: str) -> None:
        """Let every client take what is pending, and close it with 1000; a client that does not read is cut at last."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECS_MAX):
                await self._serving.resumes.caught_up()
                await self._serving.pacer.caught_up()
        for client in list(self._clients()):
            client.close(1000, words, "shutdown", FINISH_SECS_MAX)
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECS_MAX):
                await asyncio.gather(*(hub.emptied() for hub in self._serving.hubs.values()))

    def _clients(self) -> Iterator[Client]:
        for hub in self._serving.hubs.values():
            yield from hub.clients

    def _subscribed(self) -> Iterator[Client]:
        return (client for client in self._clients() if client.session.topics)

    def __repr__(self) -> str:
        return f"Spectators({self.subscribed} subscribed)"
