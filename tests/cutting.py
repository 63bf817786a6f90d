"""A client of trials that is cut at random, and resumes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
from commands import KEY
from websockets.sync.client import connect

_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


class CutClient:
    """Keeps what came up to each position, and loses its connection again and again, with all that came behind."""

    def __init__(self, urls: list[str], topics: str, seed: int) -> None:
        self.frames: list[bytes] = []
        self.cuts = 0
        self.answers: list[dict[str, Any]] = []
        """What became of each wish to resume."""
        self.urls = urls
        """Each connection is to one of them."""
        self._topics = topics
        self._dice = random.Random(seed)
        self._after: str | None = None

    def follow(self, is_over: Callable[[], bool]) -> None:
        """Be cut at random until it is over."""
        while not is_over():
            self.listen(self._dice.uniform(0.0, 0.3))
            self.cuts += 1

    def listen(self, secs: float | None) -> None:
        """Stay connected for some time; without one, until told a position."""
        loose: list[bytes] = []
        with connect(self._dice.choice(self.urls), max_size=None, compression=None) as socket:
            socket.send(json.dumps({"action": "auth", "params": KEY}))
            request = {"action": "subscribe", "params": self._topics, "positions": True}
            socket.send(json.dumps({**request, **({"after": self._after} if self._after else {})}))
            until = time.monotonic() + (30.0 if secs is None else secs)
            while time.monotonic() < until:
                try:
                    frame = socket.recv(timeout=max(0.0, until - time.monotonic()), decode=False)
                except TimeoutError:
                    break
                if not frame.startswith(b'[{"ev":"status"'):
                    loose.append(frame)
                    continue
                [status] = json.loads(frame)
                if status["status"] == "resume":
                    self.answers.append(status)
                elif status["status"] == "position":
                    self._after = status["after"]
                    self.frames += loose
                    loose = []
                    if secs is None:
                        return
            assert secs is not None, "no position came"
            socket.socket.shutdown(2)  # no goodbye: the line is cut


def events_of(frames: list[bytes]) -> list[bytes]:
    """Return every event of some frames, byte for byte."""
    return [bytes(event) for frame in frames for event in _events(frame)]
