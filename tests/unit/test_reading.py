"""When a socket is left alone for a moment, so that the frames of a millisecond share a pass."""

from __future__ import annotations

import asyncio

import pytest
from fakes import CollectingConsumer, FakeClock
from waiting import eventually

from recorder.bus import Batch, Bus, SessionChange
from recorder.settings import UpstreamSettings
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.reading import REST_BYTES_MAX, Reading
from recorder.sources.stats import FeedStats

US = 1_000


class Transport(asyncio.ReadTransport):
    """A transport that notes whether it is read, and refuses to be told once it is closed, as uvloop's does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self._ensure_alive()
        self.reads = False

    def resume_reading(self) -> None:
        self._ensure_alive()
        self.reads = True

    def _ensure_alive(self) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")


class Store:
    """A consumer that may be awaited, and may have enough."""

    def __init__(self) -> None:
        self.awaited = False
        self.takes = True

    def accept(self, batch: Batch) -> None:
        """Nothing is published here."""

    def session_changed(self, change: SessionChange) -> None:
        """No session begins here."""

    def is_awaited(self) -> bool:
        return self.awaited

    def may_read(self) -> bool:
        return self.takes


class Scene:
    """The reading of one connection, with one consumer."""

    def __init__(self) -> None:
        self.store = Store()
        self.bus = Bus()
        self.bus.attach(self.store)
        self.transport = Transport()
        settings = UpstreamSettings.model_construct(cluster="stocks")
        context = FeedContext(settings, self.bus, FeedStats("stocks", (1,), (1,)), FakeClock())
        self.reading = Reading(context, self.transport)
        self.now_ns = 7_000_000_000
        self.reading.rest(self.now_ns, 1, 100)
        assert self.transport.reads, "nothing is known of the pace before the second read"

    def passed(self, after_us: int, frames: int = 1, size_bytes: int = 1000) -> bool:
        """Let a pass follow the last one; return whether the socket is left alone."""
        self.now_ns += after_us * US
        self.reading.rest(self.now_ns, frames, size_bytes)
        return not self.transport.reads


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_frames_that_come_densely_share_a_pass(scene: Scene) -> None:
    """Closer than a millisecond, on the average of a read, they wait; and are read again without being asked."""
    assert not scene.passed(1000)
    assert scene.passed(999)
    await eventually(lambda: scene.transport.reads, "reading again")
    assert scene.passed(1999, frames=2)
    await eventually(lambda: scene.transport.reads, "reading again")
    assert not scene.passed(2000, frames=2)


async def test_nothing_waits_where_somebody_waits_for_it(scene: Scene) -> None:
    """A client makes the socket be read at once, from the next pass on; so does a consumer that nothing is known of."""
    scene.store.awaited = True
    assert not scene.passed(200)
    scene.store.awaited = False
    assert scene.passed(200)
    await eventually(lambda: scene.transport.reads, "reading again")
    scene.bus.attach(CollectingConsumer())
    assert not scene.passed(200)


async def test_a_large_read_is_followed_by_the_next_at_once(scene: Scene) -> None:
    """A flood is not slowed down: its reads are full."""
    assert not scene.passed(200, frames=600, size_bytes=REST_BYTES_MAX + 1)
    assert scene.passed(200, frames=500, size_bytes=REST_BYTES_MAX)


async def test_the_brake_holds_on_where_a_rest_is_over(scene: Scene) -> None:
    """Reading goes on when both reasons are gone, whichever goes first."""
    assert scene.passed(200)
    scene.store.takes = False
    scene.reading.look()
    await eventually(lambda: repr(scene.reading) == "Reading(brake)", "the end of the rest")
    assert not scene.transport.reads
    scene.store.takes = True
    await eventually(lambda: scene.transport.reads, "reading again")


async def test_a_connection_that_ends_amid_a_rest_is_left_alone(scene: Scene) -> None:
    """A closed transport is told nothing, by the end of the rest neither; one that still closes is read to its end."""
    assert scene.passed(200)
    scene.reading.end()
    assert scene.transport.reads
    assert scene.passed(200)
    scene.transport.closed = True
    await eventually(lambda: repr(scene.reading) == "Reading(on)", "the end of the rest")
    scene.passed(200)
    scene.reading.end()
