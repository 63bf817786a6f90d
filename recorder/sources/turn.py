"""Whose turn it is to be connected to the exchange, where two recorders have one key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from recorder.settings import Settings


class Turn:
    """Whether one cluster's feed may be connected. It waits for that before each connection, and hangs up at the end."""

    def __init__(self, *, is_given: bool = True) -> None:
        self._given = asyncio.Event()
        if is_given:
            self._given.set()
        self.on_end: Callable[[], None] | None = None
        """Called when the turn ends."""

    @property
    def is_given(self) -> bool:
        """Whether the feed may be connected."""
        return self._given.is_set()

    def give(self) -> None:
        """Let the feed connect."""
        self._given.set()

    def end(self) -> None:
        """Let the feed hang up, and wait."""
        if self._given.is_set():
            self._given.clear()
            if self.on_end is not None:
                self.on_end()

    async def wait(self) -> None:
        """Return once the feed may connect."""
        await self._given.wait()

    def __repr__(self) -> str:
        return f"Turn(is_given={self.is_given})"


def turns_of(settings: Settings) -> dict[str, Turn]:
    """Return the turn of each cluster whose connection another recorder may have instead; empty where that is nobody's."""
    if "nats" not in settings.sinks or settings.nats.standby != "waiting":
        return {}
    is_active = settings.nats.role == "active"
    return {cluster: Turn(is_given=is_active) for cluster in settings.clusters}
