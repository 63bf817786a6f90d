"""One worker process as the recording process sees it: started, fed, listened to, ended."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, cast

from recorder.settings import environ_without_settings
from recorder.workers.wire import Down, Reader, Report, Setup, Up, decode_up, encode

END_SECS: Final = 2.0
"""How long a worker that was given up has for closing its clients before it is killed."""


class Worker(asyncio.Protocol):
    """One life of a worker. It ends by itself, by `give_up` or by `finish`; then `ended` is set.

    Feeding it never waits: what it has not taken is pending in the transport, and `is_behind` says when that is too
    much. Two pairs of sockets lead to it, which nobody else can reach: one carries batches and messages, the other the
    connections of clients.
    """

    def __init__(
        self,
        number: int,
        pending_bytes_max: int,
        handle: Callable[[Worker, Up], None],
        lost: Callable[[], None],
    ) -> None:
        self.number = number
        self._pending_bytes_max = pending_bytes_max
        self._handle = handle
        self._lost = lost
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: socket.socket | None = None
        self.ended = asyncio.Event()
        self.is_ready = False
        self.given_up = ""
        """Why it was given up; empty while it is not."""
        self.refusal = ""
        """What the worker said when it could not start."""
        self.heard_at = 0.0
        """When the worker last said something, in loop time."""
        self.handed = 0
        """Connections that were handed to it in all."""
        self.report: Report | None = None
        self.places: Counter[tuple[str, str]] = Counter()
        """The places that its clients take of those of all workers, by port and hash of the token."""
        self.wanted: dict[tuple[str, bool], dict[str, None]] = {}
        """Topics that its clients want upstream, by cluster and by whether they are another recorder's bars."""

    @property
    def pid(self) -> int:
        """The id of the process; 0 before and after its life."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that it has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def is_behind(self) -> bool:
        """Whether it has left more pending than it may."""
        return self.pending_bytes > self._pending_bytes_max

    @property
    def connections_count(self) -> int:
        """Connections that it has: those of its last report, and those handed to it since."""
        if self.report is None:
            return self.handed
        return self.report.connections + self.handed - self.report.adopted

    async def start(self, setup: Setup) -> None:
        """Start the process. It is ready when it says so.

        :raises OSError: the machine has no process, no memory or no file left for it; nothing is left behind.
        """
        loop = asyncio.get_running_loop()
        with ExitStack() as undo:
            ours, theirs = map(undo.enter_context, socket.socketpair())
            connections, their_connections = map(undo.enter_context, socket.socketpair())
            process = _spawn(theirs.fileno(), their_connections.fileno())
            undo.callback(process.wait)
            undo.callback(process.kill)
            ours.setblocking(False)
            connections.setblocking(False)
            await loop.create_unix_connection(lambda: self, sock=ours)
            undo.pop_all()
            theirs.close()
            their_connections.close()
        self._connections, self._process = connections, process
        self.heard_at = loop.time()
        self.send(setup)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        """Handle what the worker says."""
        self.heard_at = asyncio.get_running_loop().time()
        for _, content in self._reader.feed(data):
            self._handle(self, decode_up(content))

    def connection_lost(self, error: Exception | None) -> None:
        """The worker is gone, or was given up."""
        self.is_ready = False
        if self._connections is not None:
            self._connections.close()
        self.ended.set()
        self._lost()

    def feed(self, data: bytes) -> None:
        """Send whole pieces; the same bytes serve every worker."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def send(self, message: Down) -> None:
        """Send a message."""
        self.feed(encode(message))

    def hand(self, place: int, connection: socket.socket) -> bool:
        """Hand a client's connection to the port of this place; return False if the worker cannot take it now."""
        if self._connections is None:
            return False
        try:
            socket.send_fds(self._connections, [bytes((place,))], [connection.fileno()])
        except OSError:  # it is full, or the worker is gone and its end not noticed yet
            return False
        self.handed += 1
        return True

    def give_up(self, reason: str) -> None:
        """Hang up: the worker passes on what it has, closes its clients with 1012, and ends."""
        if not self.given_up:
            self.given_up = reason
        self.is_ready = False
        if self._transport is not None:
            self._transport.abort()

    async def finish(self, secs: float) -> int:
        """Wait up to `secs` for the worker to end, then end it; return its exit status, below 0 for a signal."""
        try:
            async with asyncio.timeout(secs):
                await self.ended.wait()
        except TimeoutError:
            self.give_up("stop")
        process = self._process
        if process is None:
            return 0
        try:
            return await asyncio.to_thread(process.wait, END_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
        return await asyncio.to_thread(process.wait)

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "ready" if self.is_ready else "starting"
        return f"Worker({self.number}, pid={self.pid}, {state}, pending={self.pending_bytes})"


def _spawn(*ends: int) -> subprocess.Popen[bytes]:
    """Start a process that has these files open, by vfork, which takes a millisecond whatever this process's size.

    Settings come by the feed alone, so none are in its environment; stdout is the data of another reader.
    """
    return subprocess.Popen(  # noqa: S603 - our own module, by our own interpreter
        [sys.executable, "-m", "recorder.workers", *map(str, ends)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=ends,
        env=environ_without_settings(),
        start_new_session=True,  # Ctrl-C is for the recording process
    )
