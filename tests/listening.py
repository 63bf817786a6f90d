"""A client of trials: connects as an official one does, reads on a thread of its own, and keeps every frame."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from commands import KEY
from waiting import eventually_sync
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

_EVENTS = msgspec.json.Decoder(list[msgspec.Raw])


class Listener:
    """What a client got: data frames as they came with the time of each, and how its connection ended."""

    def __init__(
        self, url: str, topics: str = "*", token: str = KEY, trust: ssl.SSLContext | None = None
    ) -> None:
        """`trust` is for `wss://`."""
        self.frames: list[bytes] = []
        self.times_ns: list[int] = []
        """Wall clock, of each frame."""
        self.statuses: list[dict[str, Any]] = []
        """Every status, in order."""
        self.close_code: int | None = None
        """None as long as the connection stands; 1006 if it ended without a close frame."""
        self.close_reason = ""
        self._exits = ExitStack()
        self._socket = self._exits.enter_context(
            connect(url, ssl=trust, max_size=None, compression=None, max_queue=None, ping_interval=None)
        )
        self._socket.send(json.dumps({"action": "auth", "params": token}))
        self._socket.send(json.dumps({"action": "subscribe", "params": topics}))
        self._subscribed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually_sync(lambda: self._subscribed.is_set() or self.close_code, "a subscription")
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
        self._exits.close()
        self._thread.join(30)

    def _read(self) -> None:
        try:
            while True:
                frame = self._socket.recv(decode=False)
                if frame.startswith(b'[{"ev":"status"'):
                    self.statuses += json.loads(frame)
                    if b'"success"' in frame:
                        self._subscribed.set()
                    continue
                self.frames.append(frame)
                self.times_ns.append(time.time_ns())
        except ConnectionClosed as end:
            self.close_reason = end.rcvd.reason if end.rcvd else str(end)
            self.close_code = end.rcvd.code if end.rcvd else 1006


@contextmanager
def listening(
    url: str, topics: str = "*", token: str = KEY, trust: ssl.SSLContext | None = None
) -> Iterator[Listener]:
    """Yield a client that listens."""
    listener = Listener(url, topics, token, trust)
    try:
        yield listener
    finally:
        listener.close()
