"""A sink of a stream with its bus and books, which tests feed and see off."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from fakes import recording_bus
from sink_benches import in_secs, numbered
from waiting import eventually

from recorder.ledger import Ledger

S = TypeVar("S")


class SinkRecording(Generic[S]):
    """A sink with its bus and books."""

    def __init__(self, make_sink: Callable[[Ledger], S], include: tuple[str, ...] = ()) -> None:
        self.ledger = Ledger()
        self.sink = make_sink(self.ledger)
        self.bus = recording_bus(self.ledger, self.sink, include=include)
        self.count = 0

    def publish(self, count: int = 10) -> None:
        """Put the next events on the bus."""
        batch = numbered(self.count, count)
        batch.received_ns = time.time_ns()
        self.bus.publish(batch)
        self.count += count

    async def stored(self) -> None:
        """Wait until all is acknowledged."""
        await eventually(lambda: self.sink.queue.pending_bytes == 0, "all acknowledged")


R = TypeVar("R", bound=SinkRecording[Any])


@asynccontextmanager
async def at_work(made: R, name: str, close_secs: float = 5) -> AsyncIterator[R]:
    """Yield a sink that runs; close it, and see that its books balance. `name` is what it is called there."""
    await made.sink.open()
    try:
        yield made
    finally:
        await made.sink.close(in_secs(close_secs))
    await made.sink.run()
    assert made.ledger.differences(name) == {}
