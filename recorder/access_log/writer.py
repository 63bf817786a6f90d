"""The part that writes the access log: lines from any thread, a thread of its own for the file."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from recorder.access_log.file import AccessFile, refused
from recorder.archive.disk import Disk, reason_of
from recorder.clock import Clock
from recorder.errors import RecorderError
from recorder.log import RateLimited, get_logger
from recorder.settings import AccessLogSettings
from recorder.stats import BYTES, counter, gauge, shown

WAITING_BYTES_MAX: Final = 16 * 2**20
"""Lines that may wait for the disk: some forty thousand."""
RETRY_SECS: Final = 1.0
SYNC_SECS: Final = 5.0
"""How long written lines may be in the memory of the operating system alone."""
TIDY_SECS: Final = 600.0
_WARN_SECS: Final = 30.0
_STALLED_SECS: Final = 5.0
"""A write that has not returned for this long is named as what is wrong."""

log = get_logger("polygon_clients")


@dataclass(slots=True)
class AccessLogStats:
    """The access log."""

    file: str = shown("Where it is written.")
    lines: int = counter("polygon_access_log_lines_total", "Lines written to the access log.")
    dropped: int = counter(
        "polygon_access_log_dropped_total",
        "Lines of the access log that were lost because the file could not be written for long; no client waits for it.",
    )
    pending_bytes: int = gauge(
        "polygon_access_log_pending_bytes", "Lines of the access log that wait for the disk.", unit=BYTES
    )
    failure: str = shown("Why it cannot be written; empty while it can.", default="")
    busy_since_ns: int = 0
    """Monotonic time at which the present write began; 0 while there is none."""

    def warning(self, now_ns: int) -> str:
        """Return what is wrong with the log at this monotonic time, in words; empty if nothing is."""
        problem = self.failure
        stalled_secs = (now_ns - self.busy_since_ns) / 1e9 if self.busy_since_ns else 0.0
        if not problem and stalled_secs >= _STALLED_SECS:
            problem = f"the last write has not returned for {stalled_secs:.0f} s"
        if not problem:
            return ""
        return (
            f"access log: {self.file}: {problem}; clients are served all the same, "
            f"{self.pending_bytes:,} bytes of lines wait, {self.dropped:,} lines are lost"
        )


class _Lines(NamedTuple):
    data: bytes
    lines_count: int
    begun_ns: int


class AccessLog:
    """A part that can do no harm: `write` never waits and never raises, and a file that fails is tried again each second.

    What waits for it is bounded by `WAITING_BYTES_MAX`; past that the newest lines are dropped and counted.
    """

    name = "access log"

    def __init__(self, settings: AccessLogSettings, clock: Clock, disk: Disk | None = None) -> None:
        self._file = AccessFile(settings, disk or Disk())
        self._clock = clock
        self.stats = AccessLogStats(str(self._file.path))
        self._waiting: deque[_Lines] = deque()
        self._changed = threading.Condition()
        self._reopeners: list[Callable[[], object]] = []
        """Called once the file is open again: somebody wants it to be."""
        self._closing = False
        self._thread: threading.Thread | None = None
        self._warning = RateLimited(_WARN_SECS)
        self._dropping = RateLimited(_WARN_SECS)

    def write(self, lines: bytes, count: int, begun_ns: int) -> None:
        """Accept whole lines, from any thread."""
        with self._changed:
            if self.stats.pending_bytes + len(lines) <= WAITING_BYTES_MAX:
                self._waiting.append(_Lines(lines, count, begun_ns))
                self.stats.pending_bytes += len(lines)
                self._changed.notify_all()
                return
            self.stats.dropped += count
        if self._dropping.ready(time.monotonic_ns()) is not None:
            log.error(
                "access_log_lines_dropped",
                file=self.stats.file,
                dropped=self.stats.dropped,
                error=self.stats.failure or "the disk takes too long",
            )

    def reopen(self, done: Callable[[], object]) -> None:
        """Have the file opened again, as after a rotation by another program; then `done` is called, on the log's thread.

        Where it cannot be opened, `done` is called all the same: `stats.failure` says why.
        """
        with self._changed:
            self._reopeners.append(done)
            self._changed.notify_all()

    async def open(self) -> None:
        """Open the file and start the thread.

        :raises ConfigError: the file cannot be written.
        """
        self._closing = False
        running = asyncio.get_running_loop()
        opened: asyncio.Future[OSError | None] = running.create_future()

        def settle(error: OSError | None) -> None:
            if not opened.done():
                opened.set_result(error)

        def tell(error: OSError | None) -> None:
            running.call_soon_threadsafe(settle, error)

        # A daemon: one that hangs in the kernel must not keep the process.
        self._thread = threading.Thread(target=self._live, args=(tell,), name="access log", daemon=True)
        self._thread.start()
        error = await opened
        if error is not None:
            raise refused(self._file.path, error) from error

    async def run(self) -> None:
        """Work until cancelled."""
        while self._thread is not None and self._thread.is_alive():
            await self._clock.sleep(RETRY_SECS)
        raise RecorderError("the thread of the access log has ended")

    async def close(self, deadline_ns: int) -> None:
        """Write what waits, as far as the disk takes it until the deadline."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        thread = self._thread
        if thread is None:
            return
        await asyncio.to_thread(thread.join, max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9))
        with self._changed:
            missing = sum(lines.lines_count for lines in self._waiting)
        if missing:
            self.stats.dropped += missing
            log.error(
                "access_log_lines_dropped", file=self.stats.file, dropped=missing, error="the recorder stops"
            )

    def _live(self, tell: Callable[[OSError | None], None]) -> None:
        """Open the file, tell how that went, and write until closed: the thread's whole life."""
        try:
            try:
                self._file.open()
            except OSError as error:
                tell(error)
                return
            tell(None)
            self._work()
        finally:
            self._file.close()

    def _work(self) -> None:
        dirty = is_closing = False
        synced_ns = tidied_ns = 0
        while not is_closing:
            is_closing, reopeners = self._wait(dirty=dirty)
            self.stats.busy_since_ns = time.monotonic_ns()
            try:
                if reopeners or self.stats.failure:
                    self._file.reopen()
                dirty = self._write_all() or dirty
                if dirty and (is_closing or time.monotonic_ns() - synced_ns >= SYNC_SECS * 1e9):
                    self._file.sync()
                    dirty, synced_ns = False, time.monotonic_ns()
            except OSError as error:
                self._note_failure(reason_of(error))
                dirty = True
            else:
                self._note_success()
            self.stats.busy_since_ns = 0
            for done in reopeners:
                done()
            if not is_closing and (
                self._file.has_rotated or time.monotonic_ns() - tidied_ns >= TIDY_SECS * 1e9
            ):
                self._file.tidy(self._clock.wall_ns())
                tidied_ns = time.monotonic_ns()

    def _wait(self, *, dirty: bool) -> tuple[bool, list[Callable[[], object]]]:
        """Wait for something to do; return whether the log is to be closed, and who wants it to be opened again."""
        failing = bool(self.stats.failure)
        secs = RETRY_SECS if failing else SYNC_SECS if dirty else TIDY_SECS
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closing
                    or self._reopeners
                    or self._file.has_rotated
                    or (self._waiting and not failing)
                ),
                secs,
            )
            reopeners, self._reopeners = self._reopeners, []
            return self._closing, reopeners

    def _write_all(self) -> bool:
        """Write what waits; return whether there was anything."""
        wrote = False
        while True:
            with self._changed:
                if not self._waiting:
                    return wrote
                lines = self._waiting[0]
            self._file.write(lines.data, lines.begun_ns)
            wrote = True
            with self._changed:
                self._waiting.popleft()
                self.stats.pending_bytes -= len(lines.data)
            self.stats.lines += lines.lines_count

    def _note_failure(self, reason: str) -> None:
        self.stats.failure = reason
        if self._warning.ready(time.monotonic_ns()) is not None:
            log.warning(
                "access_log_not_written",
                file=self.stats.file,
                error=reason,
                waiting_bytes=self.stats.pending_bytes,
                dropped=self.stats.dropped,
            )

    def _note_success(self) -> None:
        if self.stats.failure:
            self.stats.failure = ""
            log.info("access_log_written_again", file=self.stats.file, dropped=self.stats.dropped)

    def __repr__(self) -> str:
        return f"AccessLog({self._file!r}, pending={self.stats.pending_bytes} bytes, dropped={self.stats.dropped})"
