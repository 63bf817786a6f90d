"""A front door before a simulator: TLS, and one misbehaviour for each connection, in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tools import tool

Behaviour = Callable[[StreamReader, StreamWriter], Awaitable[None]]
"""What happens to a connection that was accepted; it is closed afterwards."""

_READ_BYTES = 65536


def certificate(folder: Path, name: str, host: str = "localhost", **environment: str) -> ssl.SSLContext:
    """Make a certificate `NAME.pem` for a host; return the server's side of it."""
    path, key = folder / f"{name}.pem", folder / f"{name}.key"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    names = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
    files = ("-keyout", str(key), "-out", str(path))
    subprocess.run(
        [tool("openssl"), "req", "-x509", *curve, "-days", "30", "-nodes", *names, *files],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key)
    return context


async def reset(reader: StreamReader, writer: StreamWriter) -> None:
    """End it with RST."""
    # Lingering for no time at all makes close() a reset.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hang_up(reader: StreamReader, writer: StreamWriter) -> None:
    """End it once the client has begun to speak."""
    await reader.read(_READ_BYTES)


async def stay_silent(reader: StreamReader, writer: StreamWriter) -> None:
    """Read, and never answer."""
    while await reader.read(_READ_BYTES):
        pass


def answering(answer: bytes) -> Behaviour:
    """Return the behaviour that answers whatever is said first with some bytes."""

    async def behave(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.read(_READ_BYTES)
        writer.write(answer)
        await writer.drain()

    return behave


def over_tls(context: ssl.SSLContext, then: Behaviour) -> Behaviour:
    """Return a behaviour behind a TLS handshake."""

    async def behave(reader: StreamReader, writer: StreamWriter) -> None:
        await writer.start_tls(context)
        await then(reader, writer)

    return behave


def relaying(port: int, bytes_max: int | None = None) -> Behaviour:
    """Return the behaviour of a proxy to a port of this machine; RST follows after `bytes_max` bytes from there."""

    async def behave(reader: StreamReader, writer: StreamWriter) -> None:
        from_upstream, to_upstream = await asyncio.open_connection("127.0.0.1", port)
        up = asyncio.create_task(_copy(reader, to_upstream, None))
        try:
            await _copy(from_upstream, writer, bytes_max)
            await reset(reader, writer)
        finally:
            up.cancel()
            to_upstream.transport.abort()

    return behave


async def _copy(source: StreamReader, sink: StreamWriter, bytes_max: int | None) -> None:
    """Pass on what comes, to its end or to a limit."""
    passed = 0
    while data := await source.read(_READ_BYTES):
        if bytes_max is not None:
            data = data[: bytes_max - passed]
        sink.write(data)
        await sink.drain()
        passed += len(data)
        if passed == bytes_max:
            return


class Front:
    """Behaves as told, one behaviour for each connection in turn; the last one stays."""

    def __init__(self, behaviours: tuple[Behaviour, ...]) -> None:
        self.port = 0
        self.accepted = 0
        self._behaviours = behaviours
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, started: Callable[[], None], stopping: asyncio.Event) -> None:
        """Serve until told to stop."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started()
        await stopping.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports that were closed in this turn of the loop let go in the next

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        behave = self._behaviours[min(self.accepted, len(self._behaviours) - 1)]
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await behave(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the door closes; asyncio's server complains of a handler that was cancelled
        finally:
            writer.close()
            self._tasks.discard(task)


@contextmanager
def front(*behaviours: Behaviour) -> Iterator[Front]:
    """Yield a front door that is open, on a thread of its own."""
    loop = asyncio.new_event_loop()
    door, started, stopping = Front(behaviours), threading.Event(), asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(door.run(started.set, stopping)), daemon=True
    )
    thread.start()
    assert started.wait(10)
    try:
        yield door
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
