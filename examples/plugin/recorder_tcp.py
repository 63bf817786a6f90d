"""A sink and a source of another package, over TCP: records out as lines, frames in as lines.

`pip install` of this folder makes `SINK=tcp` and `SOURCE=tcp` known to the recorder. The sink sends each record to
`TCP_SINK_ADDRESS`; the source reads frames, which are JSON arrays of events, from `TCP_SOURCE_ADDRESS` (`host:port`).
Both connect again when the other side is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from recorder.bus import Batch
from recorder.errors import ConfigError
from recorder.polygon.rows import Rows
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, LoopSink, SinkContext
from recorder.sinks.target import LinesItem
from recorder.sources.source import SourceContext

CONNECT_SECS = 2.0
RETRY_SECS = 0.2
FRAME_BYTES_MAX = 1 << 20


class TcpTarget:
    """One connection to the server. While there is none, `failure` says why, and the queue keeps what comes."""

    def __init__(self, host: str, port: int, drops: Drops) -> None:
        self._host, self._port = host, port
        self._drops = drops
        self._writer: asyncio.StreamWriter | None = None
        self.failure = "not connected yet"
        self.bytes_done = 0

    async def open(self) -> None:
        """Connect. A server that is not there yet is no reason not to start."""
        await self._connect()

    async def write(self, item: LinesItem) -> None:
        """Send the lines; they count as recorded once the kernel has them."""
        assert self._writer is not None, "the queue writes nothing while there is a failure"
        try:
            self._writer.write(item.data)
            await self._writer.drain()
        except OSError as error:
            # Nobody knows how much arrived, so the whole batch counts as dropped.
            await self._disconnect(str(error))
            self._drops.add(item.cluster, item.counts, "the connection broke")
            self._drops.warn("records are dropped: the connection broke", error=str(error))
        else:
            self._drops.stats.note_recorded(item.cluster, item.counts)
            self._drops.stats.bytes_written += item.size
        finally:
            self.bytes_done += item.size

    async def tick(self) -> float:
        """Notice a server that is gone, and connect again."""
        if self._writer is not None and self._writer.is_closing():
            await self._disconnect("the server is gone")
        if self._writer is None:
            await self._connect()
        return RETRY_SECS

    async def close(self, deadline_ns: int) -> None:
        """Hang up; what was sent arrives before the end of the connection does."""
        await self._disconnect("closed", max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9))

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECS):
                _, self._writer = await asyncio.open_connection(self._host, self._port)
            self._set_failure("")
        except OSError as error:  # TimeoutError is one, too
            self._set_failure(f"cannot connect to {self._host}:{self._port}: {error}")

    async def _disconnect(self, reason: str, secs: float = 0.0) -> None:
        writer, self._writer = self._writer, None
        self._set_failure(reason)
        if writer is not None:
            writer.close()
            try:
                async with asyncio.timeout(secs):
                    await writer.wait_closed()
            except OSError:  # TimeoutError is one, too
                writer.transport.abort()

    def _set_failure(self, failure: str) -> None:
        self.failure = self._drops.stats.failure = failure


class TcpSink(LoopSink[LinesItem]):
    """Sends records to a TCP server."""

    full = "records are dropped: the server of TCP_SINK_ADDRESS is too slow"
    full_reason = "the TCP server is too slow"

    def __init__(self, host: str, port: int, drops: Drops, limits: QueueLimits) -> None:
        super().__init__("tcp", TcpTarget(host, port, drops), drops, limits)

    def item_of(self, batch: Batch, rows: Rows) -> LinesItem | None:
        """Return the lines of a batch, as the archive has them."""
        return LinesItem(rows.cluster, rows.counts, batch.lines) if rows else None


def make_sink(context: SinkContext) -> TcpSink:
    """Return the sink; the entry point of `recorder.sinks`."""
    host, port = address_of(context.environ, "TCP_SINK_ADDRESS")
    return TcpSink(host, port, context.drops(), QueueLimits(batches_max=1000, bytes_max=64 << 20))


class TcpSource:
    """Reads frames from a TCP server. Each connection is a session; the time between two of them is a gap."""

    def __init__(self, host: str, port: int, context: SourceContext) -> None:
        self.name = f"tcp {context.cluster}"
        self._host, self._port = host, port
        self._context = context

    async def open(self) -> None:
        """Do nothing: a server that is not there is tried again by `run`."""

    async def run(self) -> None:
        """Follow the server until cancelled."""
        stats = self._context.stats
        while True:
            stats.state = "connecting"
            try:
                async with asyncio.timeout(CONNECT_SECS):
                    reader, writer = await asyncio.open_connection(
                        self._host, self._port, limit=FRAME_BYTES_MAX
                    )
            except OSError as error:
                stats.reason = str(error)
            else:
                stats.connected = True
                try:
                    await self._follow(reader)
                finally:
                    writer.transport.abort()
            await self._context.clock.sleep(RETRY_SECS)

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        """Pass on what one connection brings."""
        session, reason = self._context.session(), "disconnected"
        session.open()
        try:
            while frame := await reader.readline():
                session.publish([frame.rstrip()])
        except (OSError, ValueError) as error:  # ValueError: a frame that is too long
            reason = type(error).__name__
        except asyncio.CancelledError:
            reason = "shutdown"
            raise
        finally:
            session.close(reason)

    async def close(self, deadline_ns: int) -> None:
        """Do nothing: `run` lets go of its connection when it is cancelled."""


def make_source(context: SourceContext) -> TcpSource:
    """Return the source of one cluster; the entry point of `recorder.sources`."""
    host, port = address_of(context.environ, "TCP_SOURCE_ADDRESS")
    return TcpSource(host, port, context)


def address_of(environ: Mapping[str, str], variable: str) -> tuple[str, int]:
    """Return host and port. Raise ConfigError where the variable does not name them."""
    host, _, port = environ.get(variable, "").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{variable}: must be host:port, such as 127.0.0.1:9000")
    return host, int(port)
