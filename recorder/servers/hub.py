"""One port's listener: takes connections, looks after the clients, and tells all of them when it closes."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Iterable
from contextlib import suppress
from heapq import nlargest
from typing import Final

from aiohttp import hdrs, web

from recorder.addresses import joined, why_unusable
from recorder.descriptors import OwnSocket, fd_budget, raise_limit
from recorder.errors import ConfigError
from recorder.log import get_logger
from recorder.polygon.clusters import CLUSTERS_HEADER, is_cluster_path
from recorder.polygon.control import MAY_BE_SHIFTED
from recorder.polygon.server import ServerSession
from recorder.servers.access import Access
from recorder.servers.browser_guard import refuse_browser
from recorder.servers.client import Client, Peer
from recorder.servers.conversation import Conversation, TokenName
from recorder.servers.frame_guard import FrameGuard, PendingConnections
from recorder.servers.past.resumes import Resumes
from recorder.servers.port import Port
from recorder.servers.sockets import make_web_socket, set_user_timeout
from recorder.servers.stats import ClientStats, ServerStats
from recorder.settings import ServersSettings

RETRY_SECS: Final = 5
"""After how long a client that is refused while the recorder drains may ask here again; another recorder takes it now."""
HANDSHAKE_SECS: Final = 9.0
"""How long a connection may stand without a whole request, a second of rounding aside; aiohttp's own is an hour."""
POLL_SECS: Final = 1.0
_POLL_CLIENTS: Final = 500
"""Clients that are polled before the loop may do anything else."""
BACKLOG: Final = 1024
"""Connections that the kernel holds until they are accepted."""
_PORT_VARIABLES: Final = {
    "firehose": "FIREHOSE_PORT",
    "filtered": "FILTERED_PROXY_PORT",
    "bars": "AGGREGATOR_PORT",
}
_HEALTH_PATHS: Final = ("/health",)

log = get_logger("polygon_clients")


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
        access: Access,
        stats: ServerStats,
        resumes: Resumes,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._port = port
        self._settings = settings
        self._clusters = frozenset(clusters)
        self._offer = {CLUSTERS_HEADER: ",".join(sorted(self._clusters))}
        self._access = access
        self._stats = stats
        self._resumes = resumes
        self._rng = rng or random.Random()
        self.clients: dict[Client, None] = {}
        self._accepted = 0
        self._closing = False
        self.refuses_new = False
        """Whether new clients are sent elsewhere."""
        self._empty = asyncio.Event()
        self._pending = PendingConnections(stats.refused)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
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
        """Open connections: clients, and those that have not asked yet."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    def describe(self, clients_max: int) -> list[ClientStats]:
        """Return up to `clients_max` clients in the order in which they came; of more, those that leave most unread."""
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

        :raises ConfigError: the address cannot be used.
        """
        self._closing = False
        raise_limit(self._access.rules.servers.limits.clients_max)
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
            # Once it has listened anywhere, it listens there again: clients know the number.
            await self._listen_on(self._settings.host, self._address[1])

    async def _listen_on(self, host: str, number: int) -> None:
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._make_guard, host, number, ssl=self._access.tls.listening, backlog=BACKLOG
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

    async def adopt(self, connection: OwnSocket) -> None:
        """Serve a connection that was accepted elsewhere; return once its TLS handshake, if any, is over."""
        if self._closing or self._runner is None:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._make_guard, connection, ssl=self._access.tls.listening)
        except OSError as error:  # what a client does in its handshake is no concern of the others
            connection.close()
            log.debug("tls_handshake_failed", port=self._port.name, error=str(error))

    def rules_changed(self) -> int:
        """Hold connected clients to rules that have changed; return how many were closed because their token is gone.

        Limits count from the next message of each client on, but for the size of messages, which was agreed on when it
        connected.
        """
        rules = self._access.rules
        limits = rules.servers.limits
        raise_limit(limits.clients_max)
        self._port.topics_max = limits.subscriptions_max
        names = rules.tokens.names
        removed = 0
        for client in list(self.clients):
            client.limits = limits
            client.session.policy.topics_max = limits.subscriptions_max
            if not client.token_hash or client.closing:
                continue
            client.name = names.get(client.token_hash, client.name)
            if client.token_hash not in names:
                client.close(1008, "this token is no longer valid", "token_removed")
                removed += 1
        return removed

    async def run(self) -> None:
        """Check the clients at intervals until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(POLL_SECS)
            now = loop.time()
            clients_end = fd_budget().clients_end
            lag_max = 0.0
            pending_max = 0
            for place, client in enumerate(list(self.clients)):
                if client.descriptor >= clients_end:  # the limit was lowered
                    client.close(1013, "this recorder may open fewer files now", "files")
                try:
                    lag_max = max(lag_max, client.poll(now))
                except Exception as error:  # one connection's defect must not cost the others their pings
                    client.fail(error)
                pending_max = max(pending_max, client.pending_bytes)
                if place % _POLL_CLIENTS == _POLL_CLIENTS - 1:
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
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_secs):
                await self.emptied()
        for client in list(self.clients):
            client.ended()
        runner, self._runner = self._runner, None
        await runner.cleanup()

    async def emptied(self) -> None:
        """Wait until no client is left."""
        if self.clients:
            self._empty.clear()
            await self._empty.wait()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refuse(request)
        if refusal is None:
            return await self._converse(request, _cluster_of(request))
        if refusal.status != web.HTTPOk.status_code:
            log.debug(
                "handshake_refused",
                port=self._port.name,
                address=request.remote,
                path=request.path,
                status=refusal.status,
                reason=(refusal.text or "").strip(),
            )
        return refusal

    def _refuse(self, request: web.Request) -> web.Response | None:
        """Return the answer to a request that becomes no WebSocket; None if it may become one."""
        refusal = refuse_browser(request, self._access.rules.servers, self._stats)
        if refusal is not None:
            return refusal
        if request.path in _HEALTH_PATHS:
            return web.Response(text="OK", headers=self._offer)
        path = request.path.strip("/")
        if path and (not is_cluster_path(path) or _cluster_of(request) not in self._clusters):
            known = ", ".join(sorted(self._clusters))
            return web.Response(
                status=404,
                text=f"no such path; this recorder has / and the clusters {known}\n",
                headers=self._offer,
            )
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=426, text="this is a WebSocket\n", headers={"Upgrade": "websocket"})
        if self._closing or self.refuses_new:
            self._stats.refused["draining"] += 1
            return web.Response(
                status=503,
                text="restarting: connect again, and another recorder may answer\n",
                headers={hdrs.RETRY_AFTER: str(RETRY_SECS), hdrs.CONNECTION: "close"},
            )
        return None

    async def _converse(self, request: web.Request, cluster: str) -> web.StreamResponse:
        """Serve one client until either side ends it."""
        limits = self._access.rules.servers.limits
        ws = make_web_socket(limits.message_bytes_max, compression=self._settings.compression)
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        set_user_timeout(transport, limits.ping_interval_secs)
        self._accepted += 1
        self._stats.clients_total += 1
        token_name = TokenName(self._access)
        peer = Peer(
            self._accepted,
            request.remote or "unknown",
            request.headers.get("User-Agent", ""),
            cluster,
            int(ws.compress) if self._settings.compression else 0,
        )
        notice = MAY_BE_SHIFTED if self._access.rules.servers.allow_shifted else None
        session = ServerSession(self._port.policy(cluster, token_name), notice)
        client = Client(peer, session, transport, limits, self._stats, self._rng)
        conversation = Conversation(self._port, client, token_name, self._access, self._stats, self._resumes)
        self.clients[client] = None
        self._stats.clients = len(self.clients)
        try:
            await conversation.begin()
            await conversation.listen(ws)
        finally:
            del self.clients[client]
            self._stats.clients = len(self.clients)
            if not self.clients:
                self._empty.set()
            conversation.end()
        return ws

    def __repr__(self) -> str:
        return f"Hub({self._port.name}, {self.address}, {len(self.clients)} clients)"


def _cluster_of(request: web.Request) -> str:
    """Return the cluster that a path names; empty where it names none."""
    return request.path.strip("/").partition("/")[0]


def address_refused(name: str, host: str, number: int, error: OSError) -> ConfigError:
    """Return the error for an address on which nothing can listen."""
    if error.errno == errno.EADDRINUSE:
        why = "is in use by another program: stop that, or choose another port"
        return ConfigError(f"{_PORT_VARIABLES[name]}: {host}:{number} {why}")
    return ConfigError(
        f"BIND_HOST, {_PORT_VARIABLES[name]}: {host}:{number} cannot be used: {why_unusable(error)}; "
        "take an address of this machine, and a port from 1024 on"
    )
