"""Notifies the service manager (systemd) over `NOTIFY_SOCKET`: ready, status, signs of life, stopping."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import RateLimited, get_logger, mask
from recorder.sources.stats import FeedStats
from recorder.words import size_text

STATUS_SECS: Final = 5.0
"""Time between status lines, and the longest time between two signs of life."""
WRITER_STUCK_SECS: Final = 300.0
"""How long the writer thread may be in one call. A disk that hangs for less is survived in memory, with the clients
served; beyond it, only a thread that hangs by our own fault is worth the restart (see `Writer`)."""
STOP_GRACE_SECS: Final = 10.0
"""Time for what follows the draining of the sinks: the ops server, the last log lines, the interpreter's end."""
_UNSENT_MAX: Final = 16
"""Messages kept while the manager's socket is full; two of them are minutes of its silence."""
_WARN_SECS: Final = 60.0

log = get_logger("polygon_config")


class Writer(Protocol):
    """The thread that writes the archive."""

    @property
    def stuck_secs(self) -> float:
        """How long it has been in one call; 0 while it moves, and while the kernel holds it for the disk's sake."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Where the service manager listens, and how often it wants a sign of life."""

    address: str
    watchdog_secs: float | None
    """It restarts the service if none comes for this long; None: it does not watch."""


def manager_of(environ: Mapping[str, str], pid: int | None = None) -> Manager | None:
    """Return the service manager that started this process (`pid` for tests), or None where none wants to hear.

    The variables are those of sd_notify(3) and sd_watchdog_enabled(3). Those that cannot be used are a warning.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return None
    if address[0] not in "/@" or len(address) == 1:
        log.warning(
            "notify_socket_invalid",
            value=address,
        )
        return None
    return Manager(address, _watchdog_secs(environ, os.getpid() if pid is None else pid))


def _watchdog_secs(environ: Mapping[str, str], pid: int) -> float | None:
    text = environ.get("WATCHDOG_USEC", "")
    if not text or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        log.warning("watchdog_usec_invalid", value=text)
        return None
    return int(text) / 1e6


class Notifier:
    """Sends states to the manager. Never waits and never raises: what does not fit now goes first the next time."""

    def __init__(self, address: str, clock: Clock) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        self._unsent: deque[bytes] = deque(maxlen=_UNSENT_MAX)
        self._warning = RateLimited(_WARN_SECS)

    def send(self, *states: str) -> None:
        """Send states, such as `READY=1`, as one message."""
        self._unsent.append("\n".join(states).encode("utf-8", "replace"))
        # A socket each time: there is one message in seconds, and nothing to close.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            while self._unsent:
                try:
                    sender.sendto(self._unsent[0], self._address)
                except BlockingIOError:
                    return
                except OSError as error:
                    self._warn(error)
                self._unsent.popleft()

    def _warn(self, error: OSError) -> None:
        if self._warning.ready(self._clock.monotonic_ns()) is not None:
            log.warning("notify_failed", reason=error.strerror or str(error))

    def __repr__(self) -> str:
        return f"Notifier({self._address!r}, unsent={len(self._unsent)})"


class StatusLine:
    """One line for `systemctl status`: feeds, rate since the last one, lag, what is pending, what fails."""

    def __init__(self, feeds: Sequence[FeedStats], ledger: Ledger, clock: Clock) -> None:
        self._feeds = feeds
        self._ledger = ledger
        self._clock = clock
        self._counted = self._count()
        self._at_ns = clock.monotonic_ns()

    def next(self, lag_secs: float) -> str:
        """Return the line; `lag_secs` is how late the loop ran."""
        now_ns, counted = self._clock.monotonic_ns(), self._count()
        passed_secs = max(1e-9, (now_ns - self._at_ns) / 1e9)
        rate = (counted - self._counted) / passed_secs
        self._at_ns, self._counted = now_ns, counted
        sinks = list(self._ledger.sinks.values())
        dropped = sum(sum(sink.dropped.values()) for sink in sinks)
        parts = [
            *self._feed_texts(),
            f"{rate:,.0f} frames/s",
            f"lag {lag_secs * 1000:,.1f} ms",
            f"{size_text(sum(sink.pending_bytes for sink in sinks))} pending",
            *([f"{dropped:,} dropped"] if dropped else []),
            *(f"{sink.name}: {sink.failure}" for sink in sinks if sink.failure),
        ]
        return mask(" ".join("; ".join(parts).split()))

    def _feed_texts(self) -> list[str]:
        flowing = [feed.cluster for feed in self._feeds if feed.connected and feed.subscribed]
        others = [
            f"{feed.cluster}: {feed.reason or feed.state}"
            for feed in self._feeds
            if feed.cluster not in flowing
        ]
        return [*([f"{', '.join(flowing)} streaming"] if flowing else []), *others]

    def _count(self) -> int:
        return sum(feed.frames_received for feed in self._feeds)


class Service:
    """Keeps the service manager informed.

    While `run` works, a status line goes out at least every `STATUS_SECS`, and with it a sign of life, if the manager
    wants signs and there is progress: this runs on the event loop, which is where batches are passed on, so a
    blocked pass sends none; and none is sent once the writer thread is stuck.
    """

    def __init__(self, manager: Manager, line: StatusLine, writer: Writer | None, clock: Clock) -> None:
        """`writer` is None where no archive is written."""
        self._watchdog = manager.watchdog_secs is not None
        # Half of its patience, as sd_watchdog_enabled(3) asks for.
        self._interval_secs = min(STATUS_SECS, (manager.watchdog_secs or 2 * STATUS_SECS) / 2)
        self._line = line
        self._writer = writer
        self._clock = clock
        self._notifier = Notifier(manager.address, clock)
        self._phase = ""
        self._warning = RateLimited(_WARN_SECS)

    def started(self) -> None:
        """Every part runs."""
        self._notifier.send("READY=1", f"STATUS={self._line.next(0.0)}")

    def reloading(self) -> None:
        """SIGHUP came; `reloaded` follows."""
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={self._clock.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report that the reload that SIGHUP asked for is done."""
        self._notifier.send("READY=1")

    def draining(self, secs: float) -> None:
        """A stop was asked for, and begins when the clients are gone, in `secs` at most."""
        self._phase = "draining; "
        extend_usec = int((secs + STOP_GRACE_SECS) * 1e6)
        self._notifier.send(f"EXTEND_TIMEOUT_USEC={extend_usec}", "STATUS=draining")

    def stopping(self, timeout_secs: float) -> None:
        """The edges are drained from now on, for `timeout_secs` at most."""
        self._phase = "stopping; "
        extend_usec = int((timeout_secs + STOP_GRACE_SECS) * 1e6)
        self._notifier.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={extend_usec}", "STATUS=stopping")

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            due_ns = self._clock.monotonic_ns() + int(self._interval_secs * 1e9)
            await self._clock.sleep(self._interval_secs)
            self._report(max(0.0, (self._clock.monotonic_ns() - due_ns) / 1e9))

    def _report(self, lag_secs: float) -> None:
        alive = ["WATCHDOG=1"] if self._watchdog and self._is_writer_alive() else []
        self._notifier.send(*alive, f"STATUS={self._phase}{self._line.next(lag_secs)}")

    def _is_writer_alive(self) -> bool:
        stuck_secs = self._writer.stuck_secs if self._writer is not None else 0.0
        if stuck_secs <= WRITER_STUCK_SECS:
            return True
        if self._warning.ready(self._clock.monotonic_ns()) is not None:
            log.error(
                "writer_stuck",
                stuck_secs=round(stuck_secs),
            )
        return False

    def __repr__(self) -> str:
        return f"Service({self._notifier!r}, every {self._interval_secs:g} s)"
