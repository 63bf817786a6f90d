"""A recorder, a client of it that reads when it is told, and all that was published: no sockets, a clock of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from resuming import Follower, Recorder
from serving import event, frame_of

PENDING_MAX = 4000
"""Bytes that a client may leave unread: some forty events."""


class Scene:
    """A recorder, a client of it that reads when it is told, and all that was published."""

    def __init__(
        self,
        topics: tuple[str, ...],
        port: str = "filtered",
        *,
        pending_max: int = PENDING_MAX,
        **wishes: Any,
    ) -> None:
        self.recorder = Recorder(2**20)
        self.client = Follower(self.recorder, port, *topics, pending_max=pending_max)
        self.client.connect(**{"positions": False, **wishes})
        self.client.take()
        self.published: list[bytes] = []
        self.positions: dict[bytes, int] = {}
        """Each event's position: that of its read."""

    def publish(self, drawn: list[tuple[str, str]]) -> None:
        """Pass one read of these channels and symbols on."""
        made = []
        for channel, symbol in drawn:
            more = {"T": symbol} if channel == "LULD" else {}
            made.append(event(channel, symbol, len(self.published) + len(made), **more))
        self.recorder.publish(frame_of(*made))
        self.published += made
        self.positions |= dict.fromkeys(made, self.recorder.log.position)

    def do(self, steps: list[Any]) -> None:
        """Live through some steps."""
        for step, drawn in steps:
            if step == "publish":
                self.publish(drawn)
            elif step == "take":
                self.client.take(drawn)
            else:
                self.recorder.pacer.step()

    def finish(self) -> None:
        """Read everything, until nothing more comes."""
        for _ in range(1000):
            self.client.take()
            self.recorder.pacer.step()
            if not self.client.transport.written:
                return
        raise AssertionError("it never ends")

    def due(self, topics: Iterable[str]) -> list[bytes]:
        """Return all that has been published of some topics."""
        return self.recorder.stream(0, 2**40, self.client.port, "stocks", topics)

    @property
    def got(self) -> list[bytes]:
        """The events that have come, in order."""
        return self.client.loose

    def accounts(self, kind: str) -> list[dict[str, Any]]:
        """Return the statuses that say what was left out."""
        return [status for status in self.client.statuses if status["status"] == kind]


def in_a_loop(live: Callable[[], None]) -> None:
    """Run something where clients can be made."""

    async def run() -> None:
        live()

    asyncio.run(run())


def kind_of(one: bytes) -> tuple[str, str]:
    """Return channel and symbol of an event."""
    fields = json.loads(one)
    return fields["ev"], fields["sym"]
