"""One port: handshake, requests, pings and the end of every client; what it is sent is its port's business."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from heapq import nlargest
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from recorder.addresses import joined
from recorder.descriptors import fd_budget, raise_limit
from recorder.errors import ConfigError
from recorder.log import get_logger
from recorder.polygon import control
from recorder.polygon.clusters import is_cluster_path
from recorder.polygon.rows import Status
from recorder.polygon.server import Action, Close, Policy, Send, ServerSession, Subscribe, Unsubscribe
from recorder.servers.admission import Admission
from recorder.servers.client import Client
from recorder.servers.frame_guard import FrameGuard, PendingConnections
from recorder.servers.sockets import answer_to_close, make_web_socket, set_user_timeout
from recorder.servers.stats import ClientStats, ServerStats
from recorder.servers.tls import make_context
from recorder.servers.tokens import Guard, Tokens
from recorder.settings import ServersSettings

HANDSHAKE_SECS: Final = 9.0
"""How long a connection may stand without a whole request, a second of rounding aside; aiohttp's own is an hour."""
LOOK_SECS: Final = 1.0
_LOOK_CLIENTS: Final = 500
"""Clients that are looked at without letting the loop do anything else."""
BACKLOG: Final = 1024
"""Connections that the kernel holds until they are accepted."""
_HEALTH_PATHS: Final = ("/health",)
_ERROR: Final = b'[{"ev":"status","status":"error"'

log = get_logger("polygon_clients")


class Port(Protocol):
    """What the ports differ in."""

    name: str

    def policy(self, cluster: str, refuse_key: KeyCheck) -> Policy:
        """Give what a client of `cluster` (`""`: all) may ask for."""

    def greets(self, cluster: str) -> bool:
        """Tell whether a client of `cluster` is greeted."""

    def subscribe(self, client: Client, topics: tuple[str, ...], since_ms: int | None) -> None:
        """From the next pass on, the client gets these."""

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        """From the next pass on, the client no longer gets these."""

    def ping(self, client: Client, payload: bytes) -> None:
        """The client has sent a ping, to be answered behind everything that was sent to it before."""

    def forget(self, client: Client) -> None:
        """The client is gone."""


class KeyCheck(Protocol):
    """Gives the status that refuses a token, None if it is good."""

    def __call__(self, token: str) -> Status | None: ...


class Hub:
    """Listens for the clients of one port. Nothing a client does can end it, or reach another client.

    Limits: connections, per token and in all; message size; requests a second; time to authenticate; pending bytes.
    `close` tells every client 1012, since official clients stop for good on 1000 and 1001.
    """

    def __init__(
        self,
        port: Port,
        number: int,
        settings: ServersSettings,
        clusters: Iterable[str],
        tokens: Tokens,
        guard: Guard,
        admission: Admission,
        stats: ServerStats,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._port = port
        self._number = number
        self._settings = settings
        self._clusters = frozenset(clusters)
        self._tokens = tokens
        self._guard = guard
        self._admission = admission
        self._stats = stats
        self._rng = rng or random.Random()
        self.clients: dict[Client, None] = {}
        self._accepted = 0
        self._closing = False
        self._empty = asyncio.Event()
        self._pending = PendingConnections(stats.refused)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._tls: ssl.SSLContext | None = None
        self._address: tuple[str, int] = (settings.host, number)

    @property
    def name(self) -> str:
        """The port's name: `firehose`, `filtered` or `bars`."""
        return self._port.name

    @property
    def address(self) -> str:
        """Where the port listens, as `host:port`."""
        return joined(*self._address)

    @property
    def connections(self) -> int:
        """How many connections stand, clients and those that are none yet."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    def describe(self, clients_max: int) -> list[ClientStats]:
        """Give so many clients, those that leave most unread if there are more, in the order in which they came."""
        chosen: Iterable[Client] = self.clients
        if len(self.clients) > clients_max:
            worst = nlargest(
                clients_max, self.clients, key=lambda client: (client.lag_secs, client.pending_bytes)
            )
            chosen = sorted(worst, key=lambda client: client.number)
        now = asyncio.get_running_loop().time()
        return [client.describe(self._port.name, now) for client in chosen]

    async def open(self, *, listen: bool = True) -> None:
        """Be ready for clients, and listen for them unless `adopt` brings them.

        :raises ConfigError: the address or the certificate cannot be used.
        """
        settings = self._settings
        self._closing = False
        raise_limit(settings.limits.clients_max)
        self._tls = make_context(settings.tls_cert_file, settings.tls_key_file)
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=HANDSHAKE_SECS,
            shutdown_timeout=0.1,
            handler_cancellation=True,
        )
        await runner.setup()
        self._runner = runner
        if listen:
            await self._listen_on(settings.host, self._number)

    async def _listen_on(self, host: str, number: int) -> None:
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._make_guard, host, number, ssl=self._tls, backlog=BACKLOG
            )
        except OSError as error:
            if self._runner is not None:
                await self._runner.cleanup()
                self._runner = None
            raise address_refused(self._port.name, host, number, error) from error
        self._address = self._listener.sockets[0].getsockname()[:2]

    def _make_guard(self) -> FrameGuard:
        make_protocol = self._runner.server if self._runner is not None else None
        if make_protocol is None:
            raise AssertionError("connections come only while the runner is set up")
        return FrameGuard(make_protocol(), self._pending)

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere; return once its TLS handshake, if any, is over."""
        if self._closing or self._runner is None:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._make_guard, connection, ssl=self._tls)
        except OSError as error:  # what a client does in its handshake is no concern of the others
            connection.close()
            log.debug("no TLS handshake", port=self._port.name, error=str(error))

    async def run(self) -> None:
        """Look after the clients until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECS)
            now = loop.time()
            clients_end = fd_budget().clients_end
            lag_max = 0.0
            pending_max = 0
            for place, client in enumerate(list(self.clients)):
                if client.descriptor >= clients_end:  # the limit was lowered
                    client.close(1013, "this recorder may open fewer files now", "files")
                try:
                    lag_max = max(lag_max, client.look(now))
                except Exception as error:  # one connection's defect must not cost the others their pings
                    client.fail(error)
                pending_max = max(pending_max, client.pending_bytes)
                if place % _LOOK_CLIENTS == _LOOK_CLIENTS - 1:
                    await asyncio.sleep(0)
            self._stats.lag_secs_max = lag_max
            self._stats.pending_bytes_max = pending_max

    async def close(self, deadline_ns: int) -> None:
        """Stop listening; let what is pending go out until the deadline; tell every client that we restart."""
        self._closing = True
        if self._runner is None:
            return
        # The time of a loop is that of the monotonic clock.
        timeout_secs = max(0.0, deadline_ns / 1e9 - asyncio.get_running_loop().time())
        if self._listener is not None:
            self._listener.close()
        for client in list(self.clients):
            client.close(1012, "restarting", "shutdown", timeout_secs)
        if self.clients:
            self._empty.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_secs):
                    await self._empty.wait()
        for client in list(self.clients):
            client.ended()
        runner, self._runner = self._runner, None
        await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/")
        refusal = self._refuse_browser(request)
        if refusal is not None:
            return refusal
        if request.path in _HEALTH_PATHS:
            return web.Response(text="OK")
        cluster = path.partition("/")[0]
        if path and (not is_cluster_path(path) or cluster not in self._clusters):
            known = ", ".join(sorted(self._clusters))
            return web.Response(
                status=404, text=f"no such path; this recorder has / and the clusters {known}\n"
            )
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=426, text="this is a WebSocket\n", headers={"Upgrade": "websocket"})
        if self._closing:
            return web.Response(status=503, text="restarting\n")
        return await self._converse(request, cluster)

    async def _converse(self, request: web.Request, cluster: str) -> web.StreamResponse:
        """Serve one client until either side ends it."""
        limits = self._settings.limits
        ws = make_web_socket(limits.message_bytes_max, compression=self._settings.compression)
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        set_user_timeout(transport, limits.ping_interval_secs)
        self._accepted += 1
        self._stats.clients_total += 1
        check = _Check(self._tokens)
        session = ServerSession(self._port.policy(cluster, check))
        address = request.remote or "unknown"
        agent = request.headers.get("User-Agent", "")
        window_bits = int(ws.compress) if self._settings.compression else 0
        client = Client(
            self._accepted,
            address,
            agent,
            cluster,
            session,
            transport,
            limits,
            self._stats,
            window_bits,
            self._rng,
        )
        self.clients[client] = None
        self._stats.clients = len(self.clients)
        try:
            if client.frame_guard is not None:
                client.frame_guard.opened(client.close)
            if not await self._admission.enter(self._port.name):
                self._turn_away(client, 1013, "full", "this recorder has as many clients as it may have")
            elif self._port.greets(cluster):
                self._perform(client, session.greet())
            await self._listen(client, ws, check)
        finally:
            self._leave(client)
        return ws

    async def _listen(self, client: Client, ws: web.WebSocketResponse[bool], check: _Check) -> None:
        """Take requests until the connection ends."""
        while True:
            message = await ws.receive()
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                if client.closing:
                    continue
                if not client.may_request(len(message.data)):
                    client.close(1008, "too many requests", "too_many_requests")
                    continue
                await self._take(client, message.data, check)
            elif kind is WSMsgType.PING:
                if client.may_request(0):
                    self._port.ping(client, bytes(message.data))
                else:
                    client.close(1008, "too many pings", "too_many_requests")
            elif kind is WSMsgType.PONG:
                client.pong_at = asyncio.get_running_loop().time()
                if not client.may_request(0):
                    client.close(1008, "too many pongs", "too_many_requests")
            elif kind is WSMsgType.CLOSE:
                if not client.closing:
                    code = int(message.data or 1000)
                    client.reason = f"closed {code}"
                    await ws.close(code=answer_to_close(code))
                return
            else:
                if kind is WSMsgType.ERROR and not client.closing:
                    client.reason = f"protocol error: {message.data}"
                return

    async def _take(self, client: Client, data: str | bytes, check: _Check) -> None:
        stats = self._stats
        stats.requests += 1
        session = client.session
        before = session.authenticated
        if not before:
            # Guesses wait, also those on other connections from the same address.
            delay_secs = self._guard.delay_secs(client.address)
            if delay_secs:
                await asyncio.sleep(delay_secs)
                if client.closing:
                    return
        actions = session.receive(data)
        if session.authenticated and not before:
            await self._admit(client, check.name)
            if client.closing:
                return
        elif session.closed:
            stats.auth_failures += 1
            self._guard.failed(client.address)
            log.warning("client refused", port=self._port.name, address=client.address)
        self._perform(client, actions)

    async def _admit(self, client: Client, name: str) -> None:
        """An authenticated client counts for its token."""
        client.name = name
        if client.frame_guard is not None:
            client.frame_guard.authenticated()
        self._stats.clients_authenticated += 1
        if not await self._admission.admit(self._port.name, name):
            self._turn_away(
                client, 1008, "too_many_for_token", "this token has as many clients as it may have"
            )
            return
        log.info(
            "client joined", port=self._port.name, token=name, address=client.address, cluster=client.cluster
        )

    def _turn_away(
        self, client: Client, code: int, reason: Literal["full", "too_many_for_token"], words: str
    ) -> None:
        self._stats.refused[reason] += 1
        client.say(control.encode_status(Status(control.MAX_CONNECTIONS.status, words)))
        client.close(code, words, reason)

    def _perform(self, client: Client, actions: list[Action]) -> None:
        """Carry out what the session decided, in order; answers that follow each other are one write."""
        answers: list[bytes] = []
        for action in actions:
            if isinstance(action, Send):
                if action.frame.startswith(_ERROR):
                    self._stats.bad_requests += 1
                answers.append(action.frame)
                continue
            if answers:
                client.say(*answers)
                answers = []
            match action:
                case Close(code, reason):
                    client.close(code, reason, "auth_failed")
                case Subscribe(topics, since_ms):
                    self._stats.subscriptions += len(topics)
                    self._port.subscribe(client, topics, since_ms)
                case Unsubscribe(topics):
                    self._stats.subscriptions -= len(topics)
                    self._port.unsubscribe(client, topics)
        if answers:
            client.say(*answers)

    def _leave(self, client: Client) -> None:
        del self.clients[client]
        if not self.clients:
            self._empty.set()
        client.ended()
        stats = self._stats
        stats.clients = len(self.clients)
        stats.subscriptions -= len(client.session.topics)
        if client.name:
            stats.clients_authenticated -= 1
        self._admission.leave(self._port.name, client.name)
        self._port.forget(client)
        topics = list(client.session.topics)
        log.info(
            "client left",
            port=self._port.name,
            token=client.name or None,
            address=client.address,
            reason=client.reason,
            secs=round(asyncio.get_running_loop().time() - client.joined_at, 1),
            topics=topics[:20],
            topics_count=len(topics),
            events=client.events_sent,
            bytes=client.bytes_sent,
        )

    def _refuse_browser(self, request: web.Request) -> web.Response | None:
        """Refuse a page from elsewhere, and a name that is not ours (DNS rebinding)."""
        settings = self._settings
        host = _name_of(f"//{request.headers.get('Host', '')}")
        own = {"localhost", "127.0.0.1", "::1", settings.host.lower(), socket.gethostname().lower(), ""}
        if request.transport is not None:
            own.add(str(request.transport.get_extra_info("sockname")[0]))
        if host not in own and host not in {name.lower() for name in settings.allowed_hosts}:
            self._stats.refused["host"] += 1
            return web.Response(
                status=421, text=f"this recorder is not {host}; ALLOWED_HOSTS names what it is\n"
            )
        origin = request.headers.get("Origin")
        if origin is not None and origin not in settings.allowed_origins and _name_of(origin) != host:
            self._stats.refused["origin"] += 1
            return web.Response(
                status=403, text=f"pages of {origin} may not connect; ALLOWED_ORIGINS names who may\n"
            )
        return None

    def __repr__(self) -> str:
        return f"Hub({self._port.name}, {self.address}, {len(self.clients)} clients)"


class _Check:
    """Checks the token of one client and remembers the name of a good one."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.name = ""

    def __call__(self, token: str) -> Status | None:
        name = self._tokens.check(token)
        if name is None:
            return control.AUTH_FAILED
        self.name = name
        return None


def address_refused(name: str, host: str, number: int, error: OSError) -> ConfigError:
    """Give the error for an address on which one cannot listen."""
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
    return ConfigError(f"{name}: {host}:{number} {why}")


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return "?"
