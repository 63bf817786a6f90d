"""One cluster of a replay, as the bus and the supervisor see it."""

from __future__ import annotations

import asyncio

from recorder.sources.bus_session import BusSession


class ReplaySource:
    """One cluster of a replay. What is played, and when, is the player's."""

    def __init__(self, cluster: str, session: BusSession) -> None:
        self.name = cluster
        self.session = session

    async def open(self) -> None:
        """Do nothing: the player opens the session with the first read."""

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    async def close(self, deadline_ns: int) -> None:
        """End the session."""
        self.session.close("shutdown")

    def __repr__(self) -> str:
        return f"ReplaySource({self.name})"
