"""A client of trials: connects as an official one does, reads on a thread of its own, and keeps every frame."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec
from commands import KEY
from waiting import eventually_sync
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])


class Listener:
    """What a client got: data frames as they came with the time of each, and how its connection ended."""

    def __init__(
        self,
        url: str,
        topics: str = "*",
        token: str = KEY,
        trust: ssl.SSLContext | None = None,
        **wishes: Any,
    ) -> None:
        """`trust` is for `wss://`; `wishes` are what the subscribe request has besides."""
        self.frames: list[bytes] = []
        self.times_ns: list[int] = []
        """Wall clock, of each frame."""
        self.statuses: list[dict[str, Any]] = []
        """Every status, in order."""
        self.close_code: int | None = None
        """None as long as the connection stands; 1006 if it ended without a close frame."""
        self.close_reason = ""
        self._failure: Exception | None = None
        """Why there is no connection."""
        self._subscribed = threading.Event()
        self._leave: Callable[[], object] | None = None
        """Has the connection closed; None before there is one."""
        # It writes, too: OpenSSL does not stand a connection that two threads use at a time.
        request = {"action": "subscribe", "params": topics, **wishes}
        self._thread = threading.Thread(target=self._run, args=(url, request, token, trust), daemon=True)
        self._thread.start()
        eventually_sync(
            lambda: self._subscribed.is_set() or self.close_code or self._failure, "a subscription"
        )
        if self._failure is not None:
            raise self._failure
        assert self.close_code is None, f"refused: {self.close_reason}"

    def told(self, status: str) -> list[dict[str, Any]]:
        """Return the statuses of one name."""
        return [one for one in list(self.statuses) if one["status"] == status]

    @property
    def events(self) -> list[bytes]:
        """Every event so far, exactly as it came."""
        return [bytes(event) for frame in list(self.frames) for event in _EVENTS.decode(frame)]

    def close(self) -> None:
        """Go away."""
        if self._leave is not None:
            with suppress(RuntimeError):  # the loop is closed: the connection has ended by itself
                self._leave()
        self._thread.join(30)

    def _run(self, url: str, request: dict[str, Any], token: str, trust: ssl.SSLContext | None) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._follow(url, request, token, trust))

    async def _follow(
        self, url: str, request: dict[str, Any], token: str, trust: ssl.SSLContext | None
    ) -> None:
        loop, following = asyncio.get_running_loop(), asyncio.current_task()
        closing: list[asyncio.Task[None]] = []
        options: dict[str, Any] = {"max_size": None, "compression": None, "max_queue": None}
        try:
            async with connect(url, ssl=trust, ping_interval=None, **options) as socket:

                def close() -> None:
                    # What comes until the other side has closed, too, counts.
                    if following is not None and not following.done():
                        closing.append(loop.create_task(socket.close()))

                self._leave = partial(loop.call_soon_threadsafe, close)
                await socket.send(json.dumps({"action": "auth", "params": token}))
                await socket.send(json.dumps(request))
                while True:
                    self._take(await socket.recv(decode=False))
        except ConnectionClosed as end:
            self.close_reason = end.rcvd.reason if end.rcvd else str(end)
            self.close_code = end.rcvd.code if end.rcvd else 1006
        except Exception as error:
            self._failure = error

    def _take(self, frame: bytes) -> None:
        if frame.startswith(b'[{"ev":"status"'):
            self.statuses += json.loads(frame)
            if b'"success"' in frame:
                self._subscribed.set()
            return
        self.frames.append(frame)
        self.times_ns.append(time.time_ns())


@contextmanager
def listening(
    url: str, topics: str = "*", token: str = KEY, trust: ssl.SSLContext | None = None, **wishes: Any
) -> Iterator[Listener]:
    """Yield a client that listens."""
    listener = Listener(url, topics, token, trust, **wishes)
    try:
        yield listener
    finally:
        listener.close()
