"""The brake at work: a source that is faster than the disk, the archive, and clients beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from archives import archive_settings
from exchange import make_app, shake_hands
from fakes import recording_bus
from sink_benches import GatedDisk, in_secs
from waiting import eventually

from recorder.archive.context import ArchiveContext
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, Bus, SessionChange
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.market_hours.hours import ClusterHours
from recorder.settings import UpstreamSettings
from recorder.sinks.archive import ArchiveSink
from recorder.sinks.brake import Brake
from recorder.sinks.queue import QueueLimits
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.stats import FeedStats

STALL_NS_MAX = 2_000_000_000
BUFFER_BYTES = 8_000_000
FRAME = b"[" + b",".join([b'{"ev":"T","sym":"AAPL","p":150.2500,"s":1,"t":1760375617662}'] * 100) + b"]"
FRAME_EVENTS = 100
FLOOD_FRAMES = 3000
"""Their records are many times what the buffer holds."""


class SlowDisk(GatedDisk):
    """A disk whose writes take a while, and that works."""

    WRITE_SECS = 0.01

    def write(self, fd: int, data: Any) -> int:
        time.sleep(self.WRITE_SECS)
        return super().write(fd, data)


class Counter:
    """A consumer that counts the data frames that it gets."""

    def __init__(self) -> None:
        self.frames = 0

    def accept(self, batch: Batch) -> None:
        self.frames += len(batch.data_frames)

    def session_changed(self, change: SessionChange) -> None:
        pass


class Scene:
    """A feed, the archive, and a consumer beside it, on one bus."""

    def __init__(self, folder: Path, disk: GatedDisk, port: int) -> None:
        settings = archive_settings(folder / "polygon.ndjson", buffer_bytes=BUFFER_BYTES)
        ledger = Ledger()
        clock = SystemClock()
        context = ArchiveContext.create(settings, run_id="run", clock=clock, stats=ArchiveStats(), disk=disk)
        shedding = LoadShedding()
        self.disk = disk
        self.sink = ArchiveSink(
            context, ArchiveWriter(context, ledger.sink("ndjson"), shedding, {}), shedding, ledger
        )
        # A thread of a busy machine may not get its turn for longer than a disk of ours may hang.
        limits = QueueLimits(settings.channel_cap, settings.buffer_bytes)
        self.sink.brake = Brake(self.sink.queue, limits, clock.monotonic_ns, STALL_NS_MAX)
        self.beside = Counter()
        self.bus: Bus = recording_bus(ledger, self.sink, self.beside)
        self.stats = FeedStats("stocks", (0.1, 1), (0.1, 1))
        upstream = UpstreamSettings.model_construct(
            cluster="stocks",
            url=f"ws://127.0.0.1:{port}/stocks",
            api_key="KEY-0123456789",
            topics=("T.*",),
            backoff_initial_secs=1.0,
            backoff_max_secs=8.0,
            read_timeout_secs=60.0,
            heartbeat_interval_secs=0,
            channel_cap=1024,
        )
        self.feed = Feed(FeedContext(upstream, self.bus, self.stats, clock, ClusterHours()))

    @property
    def dropped(self) -> int:
        """Records that the archive has dropped."""
        return sum(self.sink.stats.dropped.values())

    @property
    def recorded(self) -> int:
        """Records that the archive has written."""
        return sum(self.sink.stats.recorded.values())


@asynccontextmanager
async def flooding(folder: Path, disk: GatedDisk) -> AsyncIterator[Scene]:
    """Let an exchange send as fast as it can, and record it."""

    async def flood(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        for _ in range(FLOOD_FRAMES):
            await socket.send_frame(FRAME, WSMsgType.TEXT)
        async for _ in socket:
            pass

    runner = web.AppRunner(make_app(flood), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scene = Scene(folder, disk, runner.addresses[0][1])
    await scene.sink.open()
    task = asyncio.create_task(scene.feed.run())
    try:
        yield scene
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        disk.gate.set()
        await scene.sink.close(in_secs(20))
        await runner.cleanup()


async def test_a_flood_waits_for_a_disk_that_works(tmp_path: Path) -> None:
    """A loop that outruns the writer stops reading, and no record is dropped; its pauses are counted."""
    async with flooding(tmp_path / "a", SlowDisk()) as scene:
        await eventually(lambda: scene.beside.frames == FLOOD_FRAMES)
        await eventually(lambda: scene.recorded == FLOOD_FRAMES * FRAME_EVENTS)
        assert scene.dropped == 0
        assert scene.stats.reading_pauses > 1
        assert scene.stats.reading_paused_secs > 0
        assert scene.stats.sessions == 1
        assert scene.sink.stats.pending_bytes_peak < BUFFER_BYTES


async def test_without_a_brake_the_flood_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the test before is too slow for that flood: it is the brake that saves the records."""
    monkeypatch.setattr(Bus, "may_read", lambda bus: True)
    async with flooding(tmp_path / "a", SlowDisk()) as scene:
        await eventually(lambda: scene.beside.frames == FLOOD_FRAMES)
        assert scene.dropped > 0
        assert not scene.stats.reading_pauses


async def test_a_disk_that_hangs_stops_no_client(tmp_path: Path) -> None:
    """While no write returns, what others get is all that the exchange sends; the archive drops what does not fit."""
    disk = GatedDisk()
    async with flooding(tmp_path / "a", disk) as scene:
        await eventually(lambda: scene.recorded)
        disk.gate.clear()
        await eventually(lambda: scene.beside.frames == FLOOD_FRAMES)
        assert scene.dropped > 0
        assert scene.sink.stats.pending_bytes_peak <= BUFFER_BYTES
        assert scene.stats.sessions == 1
        disk.gate.set()
        await eventually(lambda: scene.recorded + scene.dropped == FLOOD_FRAMES * FRAME_EVENTS)
