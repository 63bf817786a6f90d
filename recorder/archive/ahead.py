"""Files of a bucket that are read soon, fetched while others are read: one by one, each would be waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final, NamedTuple

_AT_ONCE: Final = 4
_AHEAD_MAX: Final = 16
"""Files that are fetched before they are asked for, at most."""


class Expected(NamedTuple):
    """A file that will be read."""

    path: Path
    sha256: str
    size_bytes: int


class Ahead:
    """Fetches the next of some files whenever one of them is opened. Threads may share one.

    The first file that is opened sets nothing in motion: many look at the beginning alone. What fails is left to whoever
    opens the file.
    """

    def __init__(
        self, files: Sequence[Expected], fetch: Callable[[Expected], object], bytes_max: int
    ) -> None:
        """`bytes_max` is how much may be fetched before it is asked for, at a time."""
        self._files = files
        self._places = {file.path: place for place, file in enumerate(files)}
        self._fetch = fetch
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._running: dict[Path, Future[object]] = {}
        self._opened = 0
        self._next = 0
        self._pool: ThreadPoolExecutor | None = None

    def reach(self, path: Path) -> None:
        """Note that a file is opened now: if it is under way, wait until it has come; begin with the next ones."""
        with self._lock:
            place = self._places.get(path)
            if place is None:
                return
            self._opened += 1
            self._next = max(self._next, place + 1)
            if self._opened > 1:
                self._begin(place)
            running = self._running.pop(path, None)
        if running is not None:
            wait([running])

    def _begin(self, place: int) -> None:
        room_bytes = self._bytes_max - sum(file.size_bytes for file in self._files[place + 1 : self._next])
        for file in self._files[self._next : place + 1 + _AHEAD_MAX]:
            room_bytes -= file.size_bytes
            if room_bytes < 0:
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, "fetch-ahead")
            self._running[file.path] = self._pool.submit(self._fetch, file)
            self._next += 1
