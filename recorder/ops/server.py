"""The ops server on METRICS_ADDR: the live page, and `/health /ready /metrics /status /recorders /events`."""

from __future__ import annotations

import asyncio
import errno
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from recorder import addresses
from recorder.descriptors import fd_budget
from recorder.errors import ConfigError
from recorder.inbound import Inbound, refusal
from recorder.log import RateLimited, get_logger
from recorder.ops.assets import INDEX, Assets
from recorder.ops.live import Live
from recorder.ops.metrics import Exposition
from recorder.ops.neighbours import Neighbours
from recorder.ops.observed import Observed
from recorder.ops.snapshot_builder import take_snapshot
from recorder.settings.sections import OpsSettings
from recorder.version import VERSION

KEEPALIVE_SECS: Final = 9.0
"""How long a connection may stand without a whole request; aiohttp's own default is an hour."""
BODY_BYTES_MAX: Final = 1024
"""Nobody has to send a body here."""
ANSWER_SECS: Final = 10.0
"""How long a client may take to read an answer."""
SHUTDOWN_SECS: Final = 1.0
"""How long answers under way may take when the server stops."""
CONNECTIONS_MAX: Final = 64
"""Connections at a time: twice the pages that may be open at once."""
_TOO_MANY: Final = refusal("this server has as many connections as it may have; come back later")
_WARN_SECS: Final = 10.0
_OPEN_PATHS: Final = frozenset({"/health", "/ready"})
"""Paths that need no token, for load balancers; without a token they answer with a single word."""
_CHALLENGE: Final = 'Basic realm="recorder: any user, a token of AUTH_TOKENS as password", charset="UTF-8"'
_IS_KNOWN: Final = web.RequestKey("is_known", bool)
"""Whether the request may learn everything: it brought a good token, or none is asked for."""

log = get_logger("polygon_clients")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Authorize = Callable[[str, str], Awaitable[bool]]
"""Takes the address that a request came from and the token that it brought."""


class OpsServer:
    """Answers what the recorder is doing. It only reads the parts: no request can change anything, but of a replay.

    Without `authorize` it is for this machine alone: it refuses requests whose `Host` is no loopback name, so that no
    web page in a browser on this machine reads it by DNS rebinding. With it, a request must bring a token, as a bearer
    or as the password of any user; `/health` and `/ready` say one word to everybody. Connections have a limit, and
    leave enough open files to the archive and the exchange. A client that does not read its answer is cut.
    """

    name = "ops"

    def __init__(
        self,
        settings: OpsSettings,
        observed: Observed,
        authorize: Authorize | None = None,
        routes: Iterable[web.RouteDef] = (),
        token: Callable[[], str] = str,
    ) -> None:
        """`routes`: what it answers besides. `token` returns the one with which other recorders are asked."""
        self.settings = settings
        self.observed = observed
        self.live = Live(observed)
        self._exposition = Exposition(self.observed)
        self._assets = Assets()
        self._neighbours = Neighbours(settings.page_recorders, observed, token, lambda: self.address)
        self._authorize = authorize
        self._routes = tuple(routes)
        self._warnings = RateLimited(_WARN_SECS)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._addresses: list[tuple[str, int]] = []

    @property
    def address(self) -> str:
        """Where the server listens, as `host:port`; before `open`, where it will."""
        host, port = self._addresses[0] if self._addresses else (self.settings.host, self.settings.port)
        return addresses.joined(host, port)

    @property
    def port(self) -> int:
        """The port that the server listens on; of use where the settings ask for any free one."""
        return self._addresses[0][1] if self._addresses else self.settings.port

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        server = self._runner.server if self._runner is not None else None
        return len(server.connections) if server is not None else 0

    async def open(self) -> None:
        """Listen.

        :raises ConfigError: the address cannot be used.
        """
        app = web.Application(
            middlewares=[self._guard, _cut_who_does_not_read], client_max_size=BODY_BYTES_MAX
        )
        app.on_response_prepare.append(_set_headers)
        app.router.add_get("/", self._page)
        for name in self._assets.names:
            app.router.add_get(f"/page/{name}", self._page)
        app.router.add_get("/events", self.live.follow)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status)
        app.router.add_get("/recorders", self._neighbours.answer)
        app.router.add_routes(self._routes)
        runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECS,
            shutdown_timeout=SHUTDOWN_SECS,
        )
        await runner.setup()
        make_protocol = runner.server
        if make_protocol is None:
            raise AssertionError("a runner that is set up has a server")
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                lambda: Inbound(make_protocol(), self._refuse_connection),
                self.settings.host or None,
                self.port,  # once it has listened on a port, it listens there again
            )
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(self._refusal(error)) from error
        self.live.open()
        self._runner = runner
        self._addresses = [listening.getsockname()[:2] for listening in self._listener.sockets]

    async def run(self) -> None:
        """Measure and show until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.observed.lag.run(), name="loop lag")
            group.create_task(self.live.run(), name="live")

    async def close(self, deadline_ns: int) -> None:
        """Stop listening and close all connections, within `SHUTDOWN_SECS`."""
        self.live.close()
        if self._listener is not None:
            self._listener.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def _refusal(self, error: OSError) -> str:
        address = f"METRICS_ADDR {addresses.joined(self.settings.host, self.settings.port)}"
        if error.errno == errno.EADDRINUSE:
            return (
                f"{address} is in use by another program: stop that, choose another port, or leave it empty"
            )
        why = addresses.why_unusable(error)
        return f"{address} cannot be used to listen: {why}; take an address of this machine, and a port from 1024 on"

    def _refuse_connection(self, transport: asyncio.Transport) -> bytes | None:
        """Return how to refuse a connection; None lets it in."""
        descriptor: int = transport.get_extra_info("socket").fileno()
        has_files = descriptor < fd_budget().ops_end
        if has_files and self.connections < CONNECTIONS_MAX:
            return None
        suppressed = self._warnings.ready(self.observed.clock.monotonic_ns())
        if suppressed is not None:
            log.warning(
                "metrics_connections_refused",
                reason="too many connections" if has_files else "too many open files",
                connections=self.connections,
                times_since_last_warning=suppressed + 1,
            )
        # Even to be told why costs a file for a moment.
        return _TOO_MANY if has_files else b""

    @web.middleware
    async def _guard(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        """Refuse a request that may not be answered, before anything looks into it."""
        if self._authorize is None:
            if self._is_foreign(request.headers.get("Host", "")):
                raise web.HTTPMisdirectedRequest(text="This server answers to localhost only.\n")
            request[_IS_KNOWN] = True
            return await handler(request)
        token = _token_in(request.headers.get(hdrs.AUTHORIZATION, ""))
        request[_IS_KNOWN] = is_known = bool(token) and await self._authorize(request.remote or "", token)
        if not is_known and request.path not in _OPEN_PATHS:
            raise web.HTTPUnauthorized(
                text="a token of AUTH_TOKENS is needed, as a bearer or as the password of any user\n",
                headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE},
            )
        return await handler(request)

    def _is_foreign(self, host: str) -> bool:
        """Return whether a `Host` header can come from a page that only pretends to be ours."""
        name = addresses.host_in(host)
        # Browsers always send one; plain HTTP/1.0 tools may not.
        return name not in ("", "localhost", "127.0.0.1", "::1", self.settings.host.lower())

    async def _page(self, request: web.Request) -> web.Response:
        return self._assets.answer(request.path.rpartition("/")[2] or INDEX, request)

    async def _health(self, request: web.Request) -> web.Response:
        # That this runs at all is the answer: the loop serves its sockets.
        if request[_IS_KNOWN] and _is_verbose(request):
            return _json(
                {
                    "status": "OK",
                    "version": VERSION,
                    "uptime_secs": round(self.observed.uptime_secs, 3),
                    "loop_lag_secs": round(self.observed.lag.last_secs, 6),
                    "loop_lag_peak_secs": round(self.observed.lag.peak_secs, 6),
                }
            )
        return web.Response(text="OK")

    async def _ready(self, request: web.Request) -> web.Response:
        reasons = self.observed.reasons()
        code = 503 if reasons else 200
        if not request[_IS_KNOWN]:
            return web.Response(text="NOT READY\n" if reasons else "READY", status=code)
        if _is_verbose(request):
            whole = take_snapshot(self.observed)
            return _json(
                {
                    "ready": whole.ready,
                    "reasons": whole.reasons,
                    "warnings": whole.warnings,
                    "notes": whole.notes,
                    "feeds": whole.feeds,
                    "sinks": whole.sinks,
                },
                code,
            )
        if reasons:
            return web.Response(text="\n".join(["NOT READY", *reasons, ""]), status=code)
        omissions = self.observed.omissions
        return web.Response(text="\n".join(["READY", *omissions, ""]) if omissions else "READY", status=code)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = self._exposition.render(",".join(request.headers.getall("Accept", [])))
        response = web.Response(
            body=body, headers={"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        )
        if "gzip" in request.headers.get("Accept-Encoding", "").lower():
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _status(self, request: web.Request) -> web.Response:
        find = request.query.get("find")
        if find is not None:
            self.observed.symbols.watch()
        return _json(take_snapshot(self.observed, find or ""))

    def __repr__(self) -> str:
        state = "listening" if self._runner is not None else "stopped"
        return f"OpsServer({self.address}, {state}, connections={self.connections}, ready={not self.observed.reasons()})"


@web.middleware
async def _cut_who_does_not_read(request: web.Request, handler: Answer) -> web.StreamResponse:
    """Send the answer here, where the time that the client takes to read it can be bounded."""
    transport = request.transport
    response = await handler(request)
    if transport is None or transport.is_closing():
        return response
    # With no buffer in between, sent means handed to the kernel.
    transport.set_write_buffer_limits(0)
    try:
        async with asyncio.timeout(ANSWER_SECS):
            await response.prepare(request)
            await response.write_eof()
    except (TimeoutError, ConnectionError):
        # Closing would wait for the client to read; only this frees the socket now.
        transport.abort()
    return response


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "recorder"
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"


def _is_verbose(request: web.Request) -> bool:
    return request.query.get("verbose", "0").lower() not in ("0", "false", "no", "off")


def _json(content: Any, code: int = 200) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    return web.Response(body=body, status=code, content_type="application/json")


def _token_in(header: str) -> str:
    """Return the token that an `Authorization` header brings; empty if it brings none."""
    scheme, _, value = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user_and_password = b64decode(value.strip(), validate=True).decode()
    except ValueError:
        return ""
    return user_and_password.partition(":")[2]
