"""The servers in this process, on the loop they run on in production, and clients that connect to them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import aiohttp
from waiting import DEADLINE_SECS

from recorder import loop
from recorder.bus import Batch, Bus, Watermark
from recorder.clock import Clock, SystemClock
from recorder.polygon.events import Decoder
from recorder.servers.access import Access, Rules
from recorder.servers.hub import Hub
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.serving import Serving
from recorder.servers.stats import ServerStats
from recorder.settings import BarSettings, ClientLimits, DemandSettings, ServersSettings

TOKEN: Final = "good"
OTHER_TOKEN: Final = "other"

LIMITS: Final[dict[str, Any]] = {
    "clients_max": 1000,
    "clients_per_token_max": None,
    "pending_bytes_max": 2**24,
    "message_bytes_max": 2**16,
    "subscriptions_max": 10_000,
    "requests_per_sec_max": 50,
    "auth_timeout_secs": 10.0,
    "ping_interval_secs": 20.0,
}
BARS: Final[dict[str, Any]] = {
    "conditions": "all",
    "min_interval_ms": 1,
    "max_interval_ms": 60_000,
    "delay_ms": 20,
    "timer_interval_ms": 10,
    "past_max_secs": 86_400.0,
    "amend_secs": 60.0,
    "amend_bytes": 2**24,
    "aggregator_url": None,
}
SERVERS: Final[dict[str, Any]] = {
    "host": "127.0.0.1",
    "firehose_port": 0,
    "filtered_port": 0,
    "bars_port": 0,
    "compression": False,
    "allowed_origins": (),
    "allowed_hosts": (),
    "resume_bytes": 2**24,
    "tls_cert_file": None,
    "tls_key_file": None,
    "tokens": (f"me:{TOKEN}", f"you:{OTHER_TOKEN}"),
    "tokens_file": None,
}


def in_production_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the loop of `recorder run`, whose transports are not those of asyncio."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        loop.run(test(*arguments, **named))

    return run


def bar_settings(**changes: Any) -> BarSettings:
    """Return the settings of bars; every trade counts."""
    return BarSettings.model_construct(**{**BARS, **changes})


def event(channel: str, symbol: str, number: int, **more: Any) -> bytes:
    """Return an event of stocks, options or futures as the exchange spells it; `number` tells it from others."""
    fields = {
        "ev": channel,
        "sym": symbol,
        "p": 150.25,
        "s": 100,
        "t": 1_790_000_000_000 + number,
        "q": number,
    }
    return json.dumps({**fields, **more}, separators=(",", ":")).encode()


def frame_of(*events: bytes) -> bytes:
    """Return the frame of these events."""
    return b"[" + b",".join(events) + b"]"


class Peer:
    """A client of one port, as a test speaks with it."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self.ws = ws

    async def send(self, **request: Any) -> None:
        """Send a request."""
        await self.ws.send_str(json.dumps(request))

    async def raw(self) -> bytes:
        """Return the payload of the next data frame; fail if the connection ends instead."""
        message = await asyncio.wait_for(self.ws.receive(), DEADLINE_SECS)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return message.data if isinstance(message.data, bytes) else message.data.encode()

    async def receive(self) -> Any:
        """Return the next frame, decoded."""
        return json.loads(await self.raw())

    async def status(self) -> tuple[str, str]:
        """Return the next frame, which must be one status of the vendor's dialect, alone."""
        [status] = await self.receive()
        assert sorted(status) == ["ev", "message", "status"]
        assert status["ev"] == "status"
        return status["status"], status["message"]

    async def authenticate(self, token: str = TOKEN, *, greeted: bool = True) -> Peer:
        """Come as far as a client must before it subscribes."""
        if greeted:
            assert await self.status() == ("connected", "Connected Successfully")
        await self.send(action="auth", params=token)
        assert await self.status() == ("auth_success", "authenticated")
        return self

    async def subscribe(self, *topics: str, **more: Any) -> Peer:
        """Subscribe; every topic must be acknowledged in the vendor's words."""
        await self.send(action="subscribe", params=",".join(topics), **more)
        for topic in topics:
            assert await self.status() == ("success", f"subscribed to: {topic}")
        return self

    async def unsubscribe(self, *topics: str) -> Peer:
        """Unsubscribe from topics."""
        await self.send(action="unsubscribe", params=",".join(topics))
        for topic in topics:
            assert await self.status() == ("success", f"unsubscribed to: {topic}")
        return self

    async def settled(self) -> None:
        """Return when the server has dealt with all that was sent: an odd request is answered in its turn."""
        await self.send(action="nothing")
        while (await self.receive())[0].get("status") != "error":
            pass

    async def events_until(self, last: bytes) -> list[bytes]:
        """Return the events of all frames up to and with the event `last`, byte for byte."""
        events: list[bytes] = []
        while last not in events:
            payload = await self.raw()
            assert payload[:2] == b"[{"
            assert payload[-2:] == b"}]"
            events += [b"{%b}" % body for body in payload[2:-2].split(b"},{")]
        return events

    async def ended(self) -> int | None:
        """Read to the end; return the close code, 1006 where the connection was cut without one."""
        while True:
            message = await asyncio.wait_for(self.ws.receive(), DEADLINE_SECS)
            if message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.ERROR):
                return self.ws.close_code
            if message.type is aiohttp.WSMsgType.CLOSE:
                return int(message.data)


class PromptSource:
    """The source of a cluster, whose exchange answers at once when it is asked for the time."""

    def __init__(self, cluster: str, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self.bus: Bus | None = None

    def subscribe(self, topics: Iterable[str]) -> None:
        """Everything comes in any case."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Everything comes in any case."""

    def ask_time(self) -> None:
        """Answer."""
        if self.bus is not None:
            self.bus.advance(Watermark(self._cluster, self._clock.monotonic_ns()))


class Ports:
    """The ports of a recorder, and the bus that feeds them."""

    def __init__(
        self,
        serving: Serving,
        clusters: Sequence[str],
        session: aiohttp.ClientSession,
        scheme: str,
        clock: Clock,
        log: HotLog,
    ) -> None:
        self._clock = clock
        self.serving = serving
        self.log = log
        self.bus = Bus()
        self.bus.attach(Numbering(log))
        for consumer in serving.consumers:
            self.bus.attach(consumer)
        self.session = session
        self._scheme = scheme
        self._decoders = {cluster: Decoder(cluster) for cluster in clusters}
        self._stack = AsyncExitStack()

    def publish(self, *frames: bytes, cluster: str = "stocks") -> None:
        """Pass one batch on, as a source does. No port may fail in it."""
        decoder = self._decoders[cluster]
        self.bus.publish(
            Batch(
                cluster, 1_790_000_000_000_000_000, list(frames), decoder, read_ns=self._clock.monotonic_ns()
            )
        )
        assert not self.bus.failures

    def hub(self, port: str) -> Hub:
        return self.serving.hubs[port]

    def stats(self, port: str) -> ServerStats:
        return next(stats for stats in self.serving.stats if stats.port == port)

    def address(self, port: str) -> tuple[str, int]:
        """Where a port listens."""
        host, _, number = self.hub(port).address.rpartition(":")
        return host, int(number)

    def url(self, port: str, path: str = "/", scheme: str = "ws") -> str:
        return f"{scheme}{self._scheme}://{self.hub(port).address}{path}"

    async def connect(self, port: str, path: str = "/", **options: Any) -> Peer:
        """Connect a client; it is disconnected at the end of the test."""
        options = {"max_msg_size": 0, "autoping": True, **options}
        ws = await self.session.ws_connect(self.url(port, path), **options)
        self._stack.push_async_callback(ws.close)
        return Peer(ws)

    async def client(
        self, port: str, *topics: str, path: str = "/", token: str = TOKEN, **options: Any
    ) -> Peer:
        """Connect a client that is authenticated and subscribed."""
        peer = await self.connect(port, path, **options)
        await peer.authenticate(token, greeted=port != "firehose" or path != "/")
        return await peer.subscribe(*topics) if topics else peer

    async def disconnect(self) -> None:
        """Close all clients."""
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await self._stack.aclose()


@asynccontextmanager
async def serving(
    clusters: Iterable[str] = ("stocks",),
    *,
    limits: dict[str, Any] | None = None,
    bars: dict[str, Any] | None = None,
    clock: Clock | None = None,
    sources: dict[str, Any] | None = None,
    ssl: Any = True,
    followed: dict[str, tuple[str, ...]] | None = None,
    **servers: Any,
) -> AsyncIterator[Ports]:
    """Run all ports on free numbers. `limits`, `bars` and what else is named change the settings."""
    clusters = tuple(clusters)
    settings = ServersSettings.model_construct(
        **{**SERVERS, "limits": ClientLimits.model_construct(**{**LIMITS, **(limits or {})}), **servers}
    )
    clock = clock or SystemClock()
    log = HotLog("run", settings.resume_bytes, clusters, 0)
    prompt = {cluster: PromptSource(cluster, clock) for cluster in clusters}
    ports = Serving(
        settings,
        bar_settings(**(bars or {})),
        DemandSettings(enabled=False, release_delay_secs=30.0),
        {**dict.fromkeys(clusters, ()), **(followed or {})},
        {**prompt, **(sources or {})},
        Access.of_this_process(Rules.read(settings, ""), clock),
        clock,
        log,
    )
    await ports.start()
    looking = asyncio.create_task(ports.run())
    connector = aiohttp.TCPConnector(ssl=ssl, limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            made = Ports(ports, clusters, session, "s" if servers.get("tls_cert_file") else "", clock, log)
            for source in prompt.values():
                source.bus = made.bus
            try:
                yield made
            finally:
                await made.disconnect()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await ports.close(5.0)
