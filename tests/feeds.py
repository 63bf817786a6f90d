"""What the tests of the feed share: a feed with what came of it, a simulator and a scripted exchange beside it.

All of it works on any loop, and so in virtual time (`in_virtual_time`), where no wait depends on the machine.
"""

from __future__ import annotations

import asyncio
import functools
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from exchange import make_app
from fakes import CollectingConsumer
from simulation.loop import VirtualClock, VirtualLoop
from waiting import eventually

from recorder.bus import Bus
from recorder.clock import Clock, SystemClock
from recorder.market_hours.hours import ClusterHours
from recorder.settings import UpstreamSettings
from recorder.simulator.exchange import Simulator
from recorder.simulator.settings import SimulatorSettings
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.stats import FeedStats

TRADE = b'[{"ev":"T","sym":"AAPL","p":150.2500,"s":1,"t":1760375617662}]'


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop that jumps to its next timer: what takes a minute takes a moment, on any machine."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop, debug=True) as runner:
            runner.run(test(*arguments, **named))

    return run


def clock_of_loop() -> Clock:
    """Return the clock that goes with the loop that runs."""
    loop = asyncio.get_running_loop()
    return VirtualClock(loop) if isinstance(loop, VirtualLoop) else SystemClock()


class UnhurriedClock:
    """The clock of the loop, but waits between attempts are noted and take no time."""

    def __init__(self) -> None:
        self._clock = clock_of_loop()
        self.slept: list[float] = []
        self.ahead_secs = 0.0
        """By how much the monotonic clock is ahead of the loop's."""

    def wall_ns(self) -> int:
        return self._clock.wall_ns()

    def monotonic_ns(self) -> int:
        return self._clock.monotonic_ns() + int(self.ahead_secs * 1e9)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class Longest(random.Random):
    """Draws the longest wait there may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Fixture:
    """A running feed and what came of it."""

    def __init__(
        self,
        port: int,
        *,
        rng: random.Random | None = None,
        consumer: CollectingConsumer | None = None,
        **changes: Any,
    ) -> None:
        self.settings = UpstreamSettings.model_construct(
            **{
                "cluster": "stocks",
                "url": f"ws://127.0.0.1:{port}/stocks",
                "api_key": "KEY-0123456789",
                "topics": ("T.*", "Q.*"),
                "backoff_initial_secs": 1.0,
                "backoff_max_secs": 8.0,
                "read_timeout_secs": 60.0,
                "heartbeat_interval_secs": 0,
                "channel_cap": 1024,
                **changes,
            }
        )
        self.stats = FeedStats("stocks", (0.1, 1), (0.1, 1))
        self.consumer = consumer or CollectingConsumer()
        self.clock = UnhurriedClock()
        self.bus = bus = Bus()
        bus.attach(self.consumer)
        self.hours = ClusterHours()
        self.context = FeedContext(self.settings, bus, self.stats, self.clock, self.hours)
        self.feed = Feed(self.context, rng=rng or random.Random(1))

    @property
    def events(self) -> int:
        """Events received."""
        return sum(len(batch.rows) for batch in self.consumer.batches)


@asynccontextmanager
async def running(feed: Feed) -> AsyncIterator[None]:
    """Run a feed for as long as the context lasts."""
    task = asyncio.create_task(feed.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def following(port: int, **changes: Any) -> AsyncIterator[Fixture]:
    """Run a feed; a feed that has ended by itself raises at the end."""
    fixture = Fixture(port, **changes)
    task = asyncio.create_task(fixture.feed.run())
    try:
        yield fixture
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def simulator(*faults: str, **options: Any) -> AsyncIterator[Simulator]:
    """Run a simulator of the stocks cluster in this process."""
    settings = SimulatorSettings(
        port=0,
        clusters=("stocks",),
        symbols=50,
        faults=faults,
        **{"rate": 2000.0, "frame_events": 10, **options},
    )
    exchange = Simulator(settings, clock_of_loop())
    task = asyncio.create_task(exchange.run())
    await eventually(exchange.listening.is_set)
    try:
        yield exchange
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def scripted(
    script: Any, ssl_context: ssl.SSLContext | None = None, *, autoping: bool = True
) -> AsyncIterator[int]:
    """Run a scripted exchange in this process; yield its port."""
    runner = web.AppRunner(make_app(script, autoping=autoping), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Braking(CollectingConsumer):
    """A consumer that has the sources wait while it is full."""

    full = True

    def may_read(self) -> bool:
        return not self.full
