"""How far time has come, from the exchange's pong to the bars of the last tier: nothing may overtake what it speaks of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import WSMsgType, web
from exchange import make_app, shake_hands
from fakes import CollectingConsumer
from serving import TOKEN, Peer, event, frame_of, in_production_loop, serving
from waiting import DEADLINE_SECS, eventually

from recorder.bus import Batch, Bus, SessionClosed, SessionOpened, Watermark
from recorder.clock import SystemClock
from recorder.frames import TIME_PING
from recorder.settings import UpstreamSettings
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.stats import FeedStats

START = frame_of(*[event("T", "CLOCK", 0)] * 3)
EARLY, LATE = (frame_of(event("T", "AAPL", number)) for number in (110, 190))


class Source:
    """What ports ask for the time; its feed comes later, or a test answers."""

    def __init__(self) -> None:
        self.asked = 0
        self.feed: Feed | None = None

    def ask_time(self) -> None:
        self.asked += 1
        if self.feed is not None:
            self.feed.ask_time()


class Exchange:
    """Sends what it is told, and lets pongs and frames wait while it is stalled."""

    def __init__(self) -> None:
        self.socket: web.WebSocketResponse | None = None
        self.is_stalled = False
        self.pings: list[bytes] = []
        self._held: list[tuple[int, bytes]] = []

    async def __call__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        self.socket = socket
        async for message in socket:
            if message.type is WSMsgType.PING:
                self.pings.append(message.data)
                await self._send(WSMsgType.PONG, message.data)

    async def send(self, frame: bytes) -> None:
        await self._send(WSMsgType.TEXT, frame)

    async def _send(self, kind: int, content: bytes) -> None:
        self._held.append((kind, content))
        if not self.is_stalled:
            await self.go_on()

    async def go_on(self) -> None:
        """Let everything out that waits, in order."""
        self.is_stalled = False
        assert self.socket is not None
        held, self._held = self._held, []
        for kind, content in held:
            await self.socket.send_frame(content, kind)  # type: ignore[arg-type]


@asynccontextmanager
async def listening(exchange: Exchange) -> AsyncIterator[str]:
    """Run an exchange; yield its URL."""
    runner = web.AppRunner(make_app(exchange, autoping=False), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/stocks"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def following(url: str, bus: Bus, **changes: Any) -> AsyncIterator[Feed]:
    """Run a feed that puts what it reads on a bus."""
    settings = UpstreamSettings.model_construct(
        cluster="stocks",
        url=url,
        api_key=TOKEN,
        backoff_max_secs=8.0,
        read_timeout_secs=60.0,
        heartbeat_interval_secs=0,
        channel_cap=1024,
        **{"topics": ("T.*",), "backoff_initial_secs": 1.0, **changes},
    )
    stats = FeedStats("stocks", (0.1, 1), (0.1, 1))
    feed = Feed(FeedContext(settings, bus, stats, SystemClock()))
    task = asyncio.create_task(feed.run())
    try:
        await eventually(lambda: stats.subscribed, "a session")
        yield feed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def next_message(peer: Peer) -> tuple[WSMsgType, bytes]:
    """Return what a client gets next, pongs included."""
    message = await asyncio.wait_for(peer.ws.receive(), DEADLINE_SECS)
    data = message.data
    return message.type, data if isinstance(data, bytes) else data.encode()


@in_production_loop
async def test_a_stalled_exchange_makes_no_bar_short() -> None:
    """From the exchange to a client of the bars: what was on its way is in its bar, and silence closes it then."""
    exchange, source = Exchange(), Source()
    async with (
        listening(exchange) as url,
        serving(sources={"stocks": source}) as ports,
        following(url, ports.bus) as source.feed,
    ):
        peer = await ports.client("bars", "100Ms.AAPL")
        await exchange.send(START)
        await exchange.send(EARLY)
        exchange.is_stalled = True
        await exchange.send(LATE)
        await eventually(lambda: exchange.pings, "the window waits for nothing but time")
        await exchange.go_on()
        [bar] = await peer.receive()
        assert (bar["n"], bar["e"] - bar["s"]) == (2, 100)


@in_production_loop
async def test_another_recorder_is_told_the_time_of_the_exchange() -> None:
    """Its question is answered once the exchange has answered, behind all that came before; any other ping at once."""
    source = Source()
    async with serving(sources={"stocks": source}) as ports:
        peer = await ports.client("firehose", "*", path="/stocks", autoping=False)
        await peer.ws.ping(TIME_PING + b"1")
        await eventually(lambda: source.asked, "the question")
        before_ns = SystemClock.monotonic_ns()
        ports.bus.advance(Watermark("stocks", before_ns - 10**9))
        await peer.ws.ping(b"alive")
        assert await next_message(peer) == (WSMsgType.PONG, b"alive")
        ports.publish(EARLY)
        ports.bus.advance(Watermark("stocks", before_ns))
        assert await next_message(peer) == (WSMsgType.TEXT, EARLY)
        assert await next_message(peer) == (WSMsgType.PONG, TIME_PING + b"1")


@in_production_loop
async def test_who_follows_all_clusters_is_told_the_time_of_all() -> None:
    """The pong waits for the last exchange; a question of a client that leaves, or gets nothing, waits for none."""
    sources = {"stocks": Source(), "crypto": Source()}
    async with serving(("stocks", "crypto"), sources=sources) as ports:
        peer = await ports.client("firehose", "*", path="/", autoping=False)
        await peer.ws.ping(TIME_PING + b"1")
        await eventually(lambda: all(source.asked for source in sources.values()), "the question")
        now_ns = SystemClock.monotonic_ns()
        ports.bus.advance(Watermark("crypto", now_ns))
        await peer.ws.ping(b"alive")
        assert await next_message(peer) == (WSMsgType.PONG, b"alive")
        ports.bus.advance(Watermark("stocks", now_ns))
        assert await next_message(peer) == (WSMsgType.PONG, TIME_PING + b"1")
        await peer.ws.ping(TIME_PING + b"2")
        await eventually(lambda: sources["stocks"].asked == 2, "another question")
        await peer.unsubscribe("*")
        ports.bus.advance(Watermark("stocks", SystemClock.monotonic_ns()))
        await peer.ws.ping(TIME_PING + b"3")
        assert await next_message(peer) == (WSMsgType.PONG, TIME_PING + b"3")


@in_production_loop
async def test_a_stall_behind_another_recorder_stops_time_too() -> None:
    """The second tier's time is the exchange's: it does not pass while trades are on their way to the first."""
    exchange, source, second = Exchange(), Source(), CollectingConsumer()
    bus = Bus()
    bus.attach(second)
    async with (
        listening(exchange) as url,
        serving(sources={"stocks": source}) as ports,
        following(url, ports.bus) as source.feed,
        following(ports.url("firehose", "/stocks"), bus, topics=("*",), firehose=True) as feed,
    ):
        await exchange.send(EARLY)
        await eventually(lambda: any(EARLY in batch.frames for batch in second.batches), "the first trade")
        exchange.is_stalled = True
        await exchange.send(LATE)
        feed.ask_time()
        await eventually(lambda: exchange.pings, "the question arrives")
        assert not second.watermarks
        await exchange.go_on()
        await eventually(lambda: second.watermarks, "the answer")
        assert [frame for batch in second.batches for frame in batch.frames if b"AAPL" in frame] == [
            EARLY,
            LATE,
        ]
        [*_, batch, watermark] = second.arrivals
        assert isinstance(batch, Batch)
        assert isinstance(watermark, Watermark)


@in_production_loop
async def test_a_cut_between_recorders_makes_no_bar_short() -> None:
    """Time stands still for the tier that was cut, however soon it would pass else: what it missed is in its bar."""
    source, changes = Source(), CollectingConsumer()
    async with serving() as first, serving(sources={"stocks": source}) as second:
        second.bus.attach(changes)
        url = first.url("firehose", "/stocks")
        wishes = {"topics": ("*",), "firehose": True, "silence_max_ms": 20, "backoff_initial_secs": 0.5}
        async with following(url, second.bus, **wishes) as source.feed:
            peer = await second.client("bars", "100Ms.AAPL")
            first.publish(START)
            first.publish(EARLY)
            await eventually(lambda: changes.frames == [START, EARLY], "what came before the cut")
            for client in list(first.hub("firehose").clients):
                client.ended()
            first.publish(LATE)
            [bar] = await peer.receive()
            assert bar["n"] == 2
            assert changes.frames == [START, EARLY, LATE]
            kinds = [type(change) for change in changes.changes]
            assert kinds == [SessionOpened, SessionClosed, SessionOpened]
            assert changes.changes[-1].resumed == 1  # type: ignore[union-attr]
            assert (source.feed.stats.resumes, source.feed.stats.gaps) == (1, 0)
