"""Signals of the operating system, heard before anything is opened: stop, reopen, rotate, drain."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

from recorder.log import drain, get_logger

SECOND_SIGNAL_STATUS: Final = 1
_LOG_SECS: Final = 0.2
"""How long the reader of the log has for its last lines then."""

log = get_logger("polygon_config")


class Drain(Protocol):
    """What takes the clients off this process."""

    def before_stop(self, reason: str) -> bool:
        """Drain, then stop for this reason; return False where nothing is to be waited for, or no longer."""

    def toggle(self) -> None:
        """Drain and work on, or take clients again."""


class Signals:
    """Hands each signal to the one function that it is for.

    The second SIGTERM or SIGINT ends the process at once: the operator has no patience left. What is flushed is safe,
    and the next start finishes the rest. A SIGTERM that begins a drain is no stop yet: the next signal ends the drain,
    and the one behind it the process. All other signals that come before `release` wait for it, so that none can hurt a
    process that is still opening its archive.
    """

    def __init__(
        self,
        stop: Callable[[str], None],
        reopen: Callable[[], None],
        rotate: Callable[[], None],
        drain: Drain,
        end: Callable[[int], None] | None = None,
    ) -> None:
        """`stop` is called with the name of the signal; `end` (for tests) ends the process at once."""
        self._stop = stop
        self._reopen = reopen
        self._rotate = rotate
        self._drain = drain
        self._end = end or _end
        self._stops_count = 0
        self._released = False
        self._remembered: dict[signal.Signals, None] = {}

    def install(self) -> None:
        """Handle signals from now on, on the loop that runs."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, self.handle, number)

    def handle(self, number: signal.Signals) -> None:
        """Do what a signal asks for."""
        if number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGTERM and self._may_drain and self._drain.before_stop(number.name):
                return
            # Signals count, not stops: a stop that began for another reason leaves the operator both of his.
            self._stops_count += 1
            if self._stops_count > 1:
                log.warning("stop_forced", signal=number.name, exit_status=SECOND_SIGNAL_STATUS)
                self._end(SECOND_SIGNAL_STATUS)
            self._stop(number.name)
        elif not self._released:
            self._remembered[number] = None
            log.info("signal_remembered", signal=number.name)
        elif number == signal.SIGHUP:
            self._reopen()
        elif number == signal.SIGUSR1:
            self._rotate()
        else:
            self._drain.toggle()

    @property
    def _may_drain(self) -> bool:
        """Whether clients can be there, and no stop has begun."""
        return self._released and not self._stops_count

    def release(self) -> None:
        """Run what was asked for meanwhile, now that everything is open."""
        self._released = True
        remembered, self._remembered = self._remembered, {}
        for number in remembered:
            self.handle(number)

    def __repr__(self) -> str:
        return f"Signals(stops={self._stops_count}, remembered={list(self._remembered)})"


def _end(status: int) -> None:
    """End the process now, with what was logged so far if somebody reads it."""
    drain(_LOG_SECS)
    os._exit(status)
