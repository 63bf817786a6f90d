"""Topics on demand: clients on one side, the exchange on the other, and between them what both agree on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import WSMsgType, web
from exchange import make_app, shake_hands, status
from fakes import FakeClock
from feeds import simulator
from serving import LIMITS, SERVERS, TOKEN, Peer, Ports, bar_settings, event, frame_of
from waiting import eventually

from recorder.clock import Clock, SystemClock
from recorder.servers.access import Access, Rules
from recorder.servers.demand import OnDemandTopics
from recorder.servers.past.hotlog import HotLog
from recorder.servers.serving import Serving
from recorder.servers.tokens import Tokens
from recorder.settings import ClientLimits, DemandSettings, ServersSettings, UpstreamSettings
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.stats import FeedStats


class NotingSource:
    """A source that notes what is asked of it."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, list[str]]] = []

    def subscribe(self, topics: Iterable[str]) -> None:
        """Note a wish."""
        self.notes.append(("want", list(topics)))

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Note a release."""
        self.notes.append(("release", list(topics)))

    def ask_time(self) -> None:
        """Note nothing: time is no topic."""


class Exchange:
    """A scripted exchange that acknowledges every request and keeps them all."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.socket: web.WebSocketResponse | None = None
        self.sessions = 0

    async def __call__(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        """Serve one connection."""
        self.requests.append(("subscribe", ",".join(await shake_hands(socket))))
        self.sessions += 1
        self.socket = socket
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                asked = json.loads(message.data)
                for topic in asked["params"].split(","):
                    await socket.send_str(status("success", f"{asked['action']}d to: {topic}"))
                self.requests.append((asked["action"], asked["params"]))

    async def send(self, *events: bytes) -> None:
        """Send a frame."""
        assert self.socket is not None
        await self.socket.send_bytes(frame_of(*events))


class GatedClock(SystemClock):
    """A clock on which the wait before the next attempt lasts until the test opens the gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def sleep(self, seconds: float) -> None:  # type: ignore[override]
        """Wait for the gate."""
        await self.gate.wait()


class Recorder:
    """The feed of one cluster, the ports that it serves, and the demand between them."""

    def __init__(self, ports: Ports, feed: Feed) -> None:
        self.ports = ports
        self.feed = feed
        self.stats = feed.stats

    async def client(self, *topics: str, port: str = "filtered") -> Peer:
        """Connect a client that holds `topics`."""
        return await self.ports.client(port, *topics)

    async def asks_for(self, count: int) -> None:
        """Wait until that many topics are subscribed upstream and acknowledged."""

        def fact() -> bool:
            return (self.stats.topics_wanted, self.stats.topics_acknowledged) == (count, count)

        await eventually(fact, f"{count} topics upstream, {self.stats}")


@asynccontextmanager
async def recorder(port: int, *topics: str, feed_clock: Clock | None = None) -> AsyncIterator[Recorder]:
    """Run a recorder that is subscribed to `topics` in any case, and gives others back at once."""
    clock = SystemClock()
    settings = UpstreamSettings.model_construct(
        cluster="stocks",
        url=f"ws://127.0.0.1:{port}/stocks",
        api_key="KEY-0123456789",
        topics=topics,
        backoff_initial_secs=0.01,
        backoff_max_secs=0.05,
        read_timeout_secs=60.0,
        heartbeat_interval_secs=0,
        channel_cap=1024,
    )
    async with aiohttp.ClientSession() as session:
        sources: dict[str, Feed] = {}
        servers = ServersSettings.model_construct(
            **{**SERVERS, "limits": ClientLimits.model_construct(**LIMITS)}
        )
        log = HotLog("run", servers.resume_bytes, ["stocks"], 0)
        serving = Serving(
            servers,
            bar_settings(),
            DemandSettings(enabled=True, release_delay_secs=0.0),
            {"stocks": topics},
            sources,  # type: ignore[arg-type]
            Access.of_this_process(Rules(Tokens([f"me:{TOKEN}"]), servers, None), clock),
            clock,
            log,
        )
        ports = Ports(serving, ["stocks"], session, "", clock, log)
        feed = sources["stocks"] = Feed(
            FeedContext(settings, ports.bus, FeedStats("stocks", (), ()), feed_clock or clock)
        )
        await serving.start()
        tasks = [asyncio.create_task(work) for work in (serving.run(), feed.run())]
        try:
            await eventually(lambda: feed.stats.subscribed, "a session")
            yield Recorder(ports, feed)
        finally:
            await ports.disconnect()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await serving.close(5.0)


@asynccontextmanager
async def scripted(exchange: Exchange) -> AsyncIterator[int]:
    """Run a scripted exchange; return its port."""
    runner = web.AppRunner(make_app(exchange), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def symbol_that_trades(parts: Recorder) -> str:
    """Return a symbol that trades, as a client learns of one."""
    client = await parts.client("T.*")
    trade = (await client.receive())[0]
    await client.ws.close()
    await parts.asks_for(1)
    return str(trade["sym"])


async def test_what_a_client_asks_for_is_asked_of_the_exchange() -> None:
    """One symbol is subscribed; a client wants another, and gets its events; when it has left, it is given back."""
    exchange = Exchange()
    async with scripted(exchange) as port, recorder(port, "T.AAPL") as parts:
        client = await parts.client("T.XYZ")
        await parts.asks_for(2)
        await exchange.send(event("T", "AAPL", 1), event("T", "XYZ", 2))
        assert await client.raw() == frame_of(event("T", "XYZ", 2))
        await client.ws.close()
        await parts.asks_for(1)
        await eventually(lambda: len(exchange.requests) == 3, "all three requests")
        assert exchange.requests == [
            ("subscribe", "T.AAPL"),
            ("subscribe", "T.XYZ"),
            ("unsubscribe", "T.XYZ"),
        ]


async def test_clients_share_a_topic_upstream() -> None:
    """However many want it, on whichever port, it is asked for once, and given back when the last has left."""
    exchange = Exchange()
    async with scripted(exchange) as port, recorder(port, "T.AAPL") as parts:
        first = await parts.client("T.XYZ", "T.AAPL")
        second = await parts.client("T.XYZ", "100Ms.XYZ")
        third = await parts.client("100Ms.XYZ", port="bars")
        await parts.asks_for(2)
        await first.ws.close()
        await second.unsubscribe("T.XYZ", "100Ms.XYZ")
        await third.ws.close()
        await parts.asks_for(1)
        await eventually(lambda: len(exchange.requests) == 3, "all three requests")
        assert exchange.requests[1:] == [("subscribe", "T.XYZ"), ("unsubscribe", "T.XYZ")]


async def test_what_comes_in_any_case_is_not_asked_for() -> None:
    """Topics of the settings, their symbols where a whole channel is one, and `*` cost no request."""
    exchange = Exchange()
    async with scripted(exchange) as port, recorder(port, "T.*", "Q.AAPL") as parts:
        client = await parts.client("*", "T.XYZ", "Q.AAPL", "100Ms.XYZ", "Q.XYZ")
        await parts.asks_for(3)
        await client.ws.close()
        await parts.asks_for(2)
        await eventually(lambda: len(exchange.requests) == 3, "all three requests")
        assert exchange.requests == [
            ("subscribe", "T.*,Q.AAPL"),
            ("subscribe", "Q.XYZ"),
            ("unsubscribe", "Q.XYZ"),
        ]


async def test_a_reconnect_restores_what_clients_want() -> None:
    """After a connection that was cut (1006) the client goes on getting its symbol, on the same connection of its own."""
    async with simulator("close:code=1006,after=300") as exchange, recorder(exchange.port, "Q.AAPL") as parts:
        symbol = await symbol_that_trades(parts)
        client = await parts.client(f"T.{symbol}")
        await eventually(lambda: parts.stats.sessions == 2, "a second session")
        await parts.asks_for(2)
        assert parts.stats.ended_by == {"disconnected": 1}
        assert parts.stats.gaps == 1
        opened_ms = parts.stats.last_event_ms
        while (await client.receive())[-1]["t"] <= opened_ms:
            pass
        assert parts.ports.stats("filtered").clients_total == 2
        await client.ws.close()
        await parts.asks_for(1)


async def test_wishes_while_disconnected_count_for_the_next_session() -> None:
    """What clients ask for, and give back, between two sessions is right from the first request of the next."""
    exchange = Exchange()
    clock = GatedClock()
    async with scripted(exchange) as port, recorder(port, "T.AAPL", feed_clock=clock) as parts:
        leaver = await parts.client("T.OLD")
        await parts.asks_for(2)
        exchange.requests.clear()
        assert exchange.socket is not None
        await exchange.socket.close()
        await eventually(lambda: parts.stats.state == "waiting", "the end of the session")
        await parts.client("T.NEW")
        await eventually(lambda: parts.stats.topics_wanted == 3, "the new wish")
        assert parts.stats.topics_acknowledged == 0
        await leaver.ws.close()
        await eventually(lambda: parts.stats.topics_wanted == 2, "the release")
        clock.gate.set()
        await eventually(lambda: exchange.sessions == 2, "a second session")
        await parts.asks_for(2)
        assert exchange.requests == [("subscribe", "T.AAPL,T.NEW")]


def demand_of(
    delay_secs: float, *fixed: str, cluster: str = "stocks"
) -> tuple[OnDemandTopics, NotingSource, FakeClock]:
    """Make a demand with its source and its clock."""
    source, clock = NotingSource(), FakeClock()
    settings = DemandSettings(enabled=True, release_delay_secs=delay_secs)
    return OnDemandTopics(settings, {cluster: source}, {cluster: frozenset(fixed)}, clock), source, clock


def passing(demand: OnDemandTopics, clock: FakeClock) -> Callable[[float], None]:
    """Return a function that lets time pass and runs what is due."""

    def passed(seconds: float) -> None:
        clock.advance(seconds)
        demand.release_due()

    return passed


def test_the_last_client_counts() -> None:
    """A topic that several hold, or one holds twice, is given back once each of them has given it back."""
    demand, source, clock = demand_of(0)
    passed = passing(demand, clock)
    demand.subscribe("stocks", ["T.XYZ", "T.XYZ"])
    demand.subscribe("stocks", ["T.XYZ"])
    for _ in range(2):
        demand.unsubscribe("stocks", ["T.XYZ"])
        passed(100)
    assert source.notes == [("want", ["T.XYZ"])]
    demand.unsubscribe("stocks", ["T.XYZ"])
    passed(0)
    assert source.notes[1:] == [("release", ["T.XYZ"])]


def test_a_topic_is_kept_for_a_while_after_its_last_client() -> None:
    """A client that returns within UNSUBSCRIBE_DELAY_SECS costs nothing upstream; the delay restarts when it leaves."""
    demand, source, clock = demand_of(30)
    passed = passing(demand, clock)
    demand.subscribe("stocks", ["T.XYZ"])
    demand.unsubscribe("stocks", ["T.XYZ"])
    passed(29)
    demand.subscribe("stocks", ["T.XYZ"])
    passed(60)
    demand.unsubscribe("stocks", ["T.XYZ"])
    passed(29)
    assert source.notes == [("want", ["T.XYZ"])]
    passed(1)
    assert source.notes == [("want", ["T.XYZ"]), ("release", ["T.XYZ"])]
    demand.subscribe("stocks", ["T.XYZ"])
    assert source.notes[2:] == [("want", ["T.XYZ"])]


def test_pairs_are_asked_for_as_the_exchange_spells_them() -> None:
    """Clients may write `EUR/USD`; the exchange is asked for `EUR-USD`, once for both spellings."""
    demand, source, clock = demand_of(0, "C.GBP-USD", cluster="forex")
    demand.subscribe("forex", ["C.EUR/USD"])
    demand.subscribe("forex", ["C.EUR-USD", "C.GBP/USD"])
    demand.unsubscribe("forex", ["C.EUR/USD"])
    passing(demand, clock)(1)
    assert source.notes == [("want", ["C.EUR-USD"])]
    demand.unsubscribe("forex", ["C.EUR-USD", "C.GBP/USD"])
    passing(demand, clock)(1)
    assert source.notes[1:] == [("release", ["C.EUR-USD"])]
