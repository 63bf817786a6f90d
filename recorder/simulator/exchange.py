"""The simulated exchange: a server that speaks the vendor's protocol, plays a market, and misbehaves as told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from recorder.addresses import why_unusable
from recorder.clock import Clock, SystemClock
from recorder.errors import ConfigError
from recorder.polygon.clusters import is_cluster_path
from recorder.polygon.control import MAX_CONNECTIONS
from recorder.simulator.connection import Connection, SimulatorStats
from recorder.simulator.faults import Burst, Fault, of_kind, parse_fault
from recorder.simulator.frame_log import FrameLog
from recorder.simulator.market import Market
from recorder.simulator.seeded import SeededMarket
from recorder.simulator.settings import SimulatorSettings
from recorder.simulator.ticks import TickMarket, read_ticks

_LOG_FLUSH_SECS: Final = 0.2
_HANDSHAKE_SECS: Final = 15.0
_SHUTDOWN_SECS: Final = 1.0


class Simulator:
    """A Polygon-compatible exchange on `host:port`, with one market for each cluster.

    `run` raises `ConfigError` where it cannot listen, or cannot use the ticks or the log, before `listening` is set.
    When cancelled it drops its connections and flushes the log.
    """

    def __init__(self, settings: SimulatorSettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock: Clock = clock or SystemClock()
        self.stats = SimulatorStats()
        self.faults: Sequence[Fault] = [parse_fault(text) for text in settings.faults]
        self.log: FrameLog | None = None
        self.listening = asyncio.Event()
        """Set when clients can connect."""
        self.finished = asyncio.Event()
        """Set when all ticks are played; a seeded market has no end."""
        self.port = settings.port
        """The port in use, once it listens."""
        self.markets: dict[str, Market[Any]] = {}
        """By cluster, once it listens."""
        self._connections: dict[Connection, None] = {}
        self._events_left_behind: Counter[str] = Counter()
        """Events that were sent on connections that have ended, by cluster."""
        self._listening_since_ns = 0

    async def run(self) -> None:
        """Listen and play until cancelled."""
        settings = self.settings
        self.markets = await asyncio.to_thread(self._make_markets)
        if settings.log_path is not None:
            self.log = FrameLog(settings.log_path)
        application = web.Application()
        application.router.add_get("/{path:.*}", self._serve)
        runner = web.AppRunner(
            application, access_log=None, keepalive_timeout=_HANDSHAKE_SECS, shutdown_timeout=_SHUTDOWN_SECS
        )
        await runner.setup()
        try:
            await self._listen(runner)
            async with asyncio.TaskGroup() as tasks:
                for market in self.markets.values():
                    tasks.create_task(market.run())
                    if isinstance(market, TickMarket):
                        tasks.create_task(self._note_end(market))
                if self.log is not None:
                    tasks.create_task(self._flush(self.log))
        finally:
            for connection in tuple(self._connections):
                connection.abort()
            await runner.cleanup()
            if self.log is not None:
                self.log.close()

    def cluster_progress(self, cluster: str) -> tuple[int, float]:
        """Return the events sent on a cluster, and the seconds since the exchange began to listen."""
        events = self._events_left_behind[cluster]
        events += sum(c.events_sent for c in self._connections if c.market.cluster == cluster)
        return events, (self.clock.monotonic_ns() - self._listening_since_ns) / 1e9

    def admit(self, connection: Connection) -> None:
        """Note that a key was accepted. One connection too many ends the oldest of the key."""
        most = self.settings.connections_max
        if most is None:
            return
        same = [
            other
            for other in self._connections
            if other.session.authenticated
            and not other.session.closed
            and (other.session.token, other.market) == (connection.session.token, connection.market)
        ]
        for oldest in same[: max(0, len(same) - most)]:
            oldest.dismiss(MAX_CONNECTIONS)

    def _make_markets(self) -> dict[str, Market[Any]]:
        settings = self.settings
        if settings.ticks_path is not None:
            given = settings.clusters[0] if len(settings.clusters) == 1 else None
            ticks = read_ticks(settings.ticks_path, given)
            return {ticks.cluster: TickMarket(ticks, settings, self.clock)}
        bursts = of_kind(self.faults, Burst)
        return {cluster: SeededMarket(cluster, settings, self.clock, bursts) for cluster in settings.clusters}

    async def _listen(self, runner: web.AppRunner) -> None:
        settings = self.settings
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
        except OSError as error:
            raise ConfigError(
                f"simulator: cannot listen on {settings.host}:{settings.port}: {why_unusable(error)}; "
                "--port takes another port, or with 0 a free one"
            ) from error
        self.port = runner.addresses[0][1]
        self._listening_since_ns = self.clock.monotonic_ns()
        self.listening.set()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"].strip("/")
        cluster, _, venue = path.partition("/")
        if not is_cluster_path(path) or cluster not in self.markets:
            raise web.HTTPNotFound
        self.stats.connections += 1
        connection = Connection(self.stats.connections, self.markets[cluster], venue, self)
        self._connections[connection] = None
        self.stats.connections_open += 1
        try:
            return await connection.serve(request)
        finally:
            del self._connections[connection]
            self.stats.connections_open -= 1
            self._events_left_behind[cluster] += connection.events_sent

    async def _note_end(self, market: TickMarket) -> None:
        await market.finished.wait()
        self.finished.set()

    async def _flush(self, log: FrameLog) -> None:
        while True:
            await self.clock.sleep(_LOG_FLUSH_SECS)
            log.flush()

    def __repr__(self) -> str:
        stats = self.stats
        return (
            f"Simulator({self.settings.host}:{self.port}, {', '.join(self.markets)}, "
            f"connections={stats.connections_open}, events_sent={stats.events_sent})"
        )
