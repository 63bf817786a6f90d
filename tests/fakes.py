"""Fakes with the real interface."""

from __future__ import annotations

import asyncio

from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus, Consumer, SessionChange, Watermark
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.polygon.topics import parse_pattern
from recorder.sinks.stage import Stage


class FakeClock:
    """A clock that stands still until it is told; sleeping takes no time but moves it."""

    def __init__(self, wall_ns: int = 1_795_237_802_335_000_000) -> None:
        self.now_ns = wall_ns
        self.mono_ns = 1_000_000_000
        self.slept: list[float] = []

    def wall_ns(self) -> int:
        return self.now_ns

    def monotonic_ns(self) -> int:
        return self.mono_ns

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.now_ns += int(seconds * 1e9)
        self.mono_ns += int(seconds * 1e9)


class CollectingConsumer:
    """A consumer that keeps all it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.changes: list[SessionChange] = []
        self.watermarks: list[Watermark] = []
        self.arrivals: list[Batch | Watermark] = []
        """Batches and watermarks in the order in which they came."""

    def accept(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.arrivals.append(batch)

    def advance(self, watermark: Watermark) -> None:
        self.watermarks.append(watermark)
        self.arrivals.append(watermark)

    def session_changed(self, change: SessionChange) -> None:
        self.changes.append(change)

    @property
    def frames(self) -> list[bytes]:
        """All data frames, in order."""
        return [frame for batch in self.batches for frame in batch.data_frames]


def batch_of(
    *frames: bytes,
    cluster: str = "stocks",
    received_ns: int = 1_795_237_802_335_000_000,
    read_ns: int = 1_000_000_000,
) -> Batch:
    """Return a batch as a source would make it."""
    return Batch(cluster, received_ns, list(frames), Decoder(cluster), read_ns=read_ns)


def recording_bus(ledger: Ledger, *sinks: Consumer, include: tuple[str, ...] = ()) -> Bus:
    """Return a bus that makes records of everything, or of what some patterns include, and has these sinks."""
    bus = Bus()
    bus.stage = Stage(Selection([parse_pattern(text) for text in include], 1), ledger, "h", "0")
    for sink in sinks:
        bus.attach(sink)
    return bus
