"""One WebSocket of a client: its frames are read ahead up to a bound, and its pings are answered meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import aiohttp
from aiohttp import WSCloseCode, WSMsgType

from recorder.errors import Disconnected, ReadTimeout
from recorder.sources.exchange.web_socket import WebSocket, close_web_socket, disconnected

AHEAD_BYTES_MAX: Final = 1024 * 1024
"""Bytes of frames that wait to be taken before reading stops; TCP, and then the server, holds what comes behind."""
_GREETING: Final = b"greeting"
_REQUESTS: Final = b"requests"
HEARTBEAT_SECS: Final = 20.0
READ_TIMEOUT_SECS: Final = 60.0


class Line:
    """Reads a WebSocket on a task of its own, so that the server is answered while nobody takes anything.

    A side that takes nothing stops the reading once `AHEAD_BYTES_MAX` wait. A connection on which nothing comes for
    `READ_TIMEOUT_SECS`, not even an answer to our pings, has ended.
    """

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._bytes = 0
        self._changed = asyncio.Event()
        """Set when a frame or the answer to a ping has come, and when the connection has ended."""
        self._room = asyncio.Event()
        """Set while there is room for more frames."""
        self._room.set()
        self._heard_at = self._loop.time()
        self._answered: set[bytes] = set()
        """Payloads of pings that the server has answered: everything that it was sent before, it has read."""
        self._tasks = [self._start(self._read()), self._start(self._watch())]

    async def take(self, secs: float | None) -> list[bytes]:
        """Return the frames that have come, one at least; none where that many seconds pass without.

        :raises UpstreamError: the connection has ended, and everything that came before is taken.
        """
        await self._wait(secs, lambda: bool(self._frames))
        frames, self._frames, self._bytes = self._frames, [], 0
        self._room.set()
        return frames

    async def is_greeted(self, secs: float) -> bool:
        """Return whether the server speaks first: not, where its first word is the answer to a ping. Where nothing comes
        within that many seconds, it is expected to speak.

        :raises UpstreamError: the connection has ended.
        """
        await self._ping(_GREETING)
        await self._wait(secs, lambda: bool(self._frames) or _GREETING in self._answered)
        return bool(self._frames) or _GREETING not in self._answered

    @property
    def has_read_requests(self) -> bool:
        """Whether the server has read what it was sent before `ask_for_answer` was called first."""
        return _REQUESTS in self._answered

    @property
    def refuses_size(self) -> bool:
        """Whether the server has ended the connection because a message was too large for it."""
        return self._socket.close_code == WSCloseCode.MESSAGE_TOO_BIG

    async def ask_for_answer(self) -> None:
        """Ask the server to say that it has read what it was sent. Raise Disconnected where the connection is over."""
        await self._ping(_REQUESTS)

    async def send(self, *requests: bytes) -> None:
        """Send requests. Raise Disconnected where the connection is over."""
        with _ending():
            for request in requests:
                await self._socket.send_str(request.decode())

    async def _ping(self, payload: bytes = b"") -> None:
        with _ending():
            await self._socket.ping(payload)

    async def _wait(self, secs: float | None, has_come: Callable[[], bool]) -> None:
        """Wait until something has come, or that many seconds have passed. Raise UpstreamError where it cannot come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(secs):
                while not has_come():
                    for task in self._tasks:
                        if task.done():
                            task.result()
                    self._changed.clear()
                    await self._changed.wait()

    async def close(self) -> None:
        """End the connection. What was not taken is gone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await close_web_socket(self._socket)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._changed.set())
        return task

    async def _read(self) -> None:
        receive = self._socket.receive
        with _ending():
            while True:
                message = await receive()
                self._heard_at = self._loop.time()
                kind = message.type
                if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                    # `receive` does not yield while messages are buffered, so all of one read are taken at once.
                    self._frames.append(message.data)
                    self._bytes += len(message.data)
                    self._changed.set()
                    if self._bytes >= AHEAD_BYTES_MAX:
                        self._room.clear()
                        await self._room.wait()
                elif kind is WSMsgType.PING:
                    await self._socket.pong(bytes(message.data))
                elif kind is WSMsgType.PONG:
                    self._answered.add(bytes(message.data))
                    self._changed.set()
                else:
                    raise disconnected(self._socket, message)

    async def _watch(self) -> None:
        """Ping, so that something comes; end the connection where nothing does."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECS)
            if not self._room.is_set():
                self._heard_at = self._loop.time()  # nobody listens: that is no silence of the server
            if self._loop.time() - self._heard_at >= READ_TIMEOUT_SECS:
                raise ReadTimeout(f"no byte received for {READ_TIMEOUT_SECS:g} s")
            await self._ping()

    def __repr__(self) -> str:
        return f"Line({len(self._frames)} frames wait, {self._bytes} bytes)"


@contextmanager
def _ending() -> Iterator[None]:
    """Turn what the library raises where a connection is over into our error."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        raise Disconnected(f"the connection broke: {error}") from error
