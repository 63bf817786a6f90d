"""Where lines of the log go: standard error is an edge, with a thread that writes and a limit on what waits for it."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TextIO

WAITING_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes that may wait for the reader of the log: some ten thousand lines."""


class Output(Protocol):
    """Where lines go: whole lines from any thread. A log that cannot be written never stops the program."""

    def msg(self, line: str) -> None:
        """Accept a line, without its end."""


class StreamOutput:
    """Writes to a stream that is not the standard error of the process, at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        with self._lock:
            try:
                self._stream.write(f"{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # the reader of the pipe is gone, or the stream is closed
                return

    debug = info = warning = error = critical = msg


class LogWriter:
    """An edge like any other: lines for a file descriptor, which a thread of its own writes.

    A reader that stands still holds up nobody. What waits for it is bounded by `waiting_bytes_max`; lines beyond that,
    and those that nobody can read any more, are dropped and counted. Once lines are read again, one says how many are
    missing. `drain` waits for what was said, at the end of the process.
    """

    def __init__(
        self, fd: int, notice: Callable[[int], str] = str, waiting_bytes_max: int = WAITING_BYTES_MAX
    ) -> None:
        """`notice` makes of a number of dropped lines the one that stands in their place."""
        self.notice = notice
        self.dropped = 0
        """Lines that were never written, in all."""
        self._fd = fd
        self._waiting_bytes_max = waiting_bytes_max
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        """Bytes of the lines that wait or are being written."""
        self._missing = 0
        """Lines dropped since the last notice."""
        # Reentrant, since a finalizer may log at any point.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None

    def msg(self, line: str) -> None:
        """Accept a line, from any thread."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._waiting_bytes + len(data) > self._waiting_bytes_max:
                self._drop(1)
                return
            self._add(data)
            if self._thread is None:
                # A daemon: one that hangs in the kernel must not keep the process.
                self._thread = threading.Thread(target=self._work, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    debug = info = warning = error = critical = msg

    def drain(self, secs: float) -> bool:
        """Wait until every line is written, for `secs` at most; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting_bytes, secs)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                lines = list(self._lines)
                self._lines.clear()
            size = sum(map(len, lines))
            written = self._write(b"".join(lines))
            with self._changed:
                self._waiting_bytes -= size
                if not written:
                    self._drop(len(lines))
                elif self._missing:
                    missing, self._missing = self._missing, 0
                    self._add(self.notice(missing).encode("utf-8", "backslashreplace") + b"\n")
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        """Write all of it, however long the reader takes; return False if the reader is gone."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Another program has made this file non-blocking, which it shares with us.
                select.select([], [self._fd], [], 1.0)
            except OSError:
                return False
        return True

    def _add(self, data: bytes) -> None:
        self._lines.append(data)
        self._waiting_bytes += len(data)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._missing += count

    def __repr__(self) -> str:
        return f"LogWriter({self._fd}, waiting={self._waiting_bytes} bytes, dropped={self.dropped})"
