"""Whether the socket of a connection is read: while it is not, TCP holds what comes, and the exchange waits."""

from __future__ import annotations

import asyncio
from typing import Final

from recorder.sources.exchange.context import FeedContext

_BRAKE: Final = "brake"
_LOOK_SECS: Final = 0.005
"""Time between two looks whether what the sinks hold is written."""


class Reading:
    """Reads one connection's socket unless something holds it, each for a reason of its own.

    A pause is no silence: nothing can be said of an exchange that nobody listens to. `paused_until_ns` is for those who
    measure silence.
    """

    def __init__(self, context: FeedContext, transport: asyncio.ReadTransport | None) -> None:
        """Without a transport, reading cannot be held."""
        self._bus = context.bus
        self._stats = context.stats
        self._clock = context.clock
        self._transport = transport
        self._reasons: set[str] = set()
        self._looked_ns = 0
        """Monotonic time of the last look while the brake holds."""
        self._until_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_braked(self) -> bool:
        """Whether reading waits for the sinks."""
        return _BRAKE in self._reasons

    @property
    def paused_until_ns(self) -> int:
        """Monotonic time until which reading waited for the sinks; now while it does, 0 where it never did."""
        return self._clock.monotonic_ns() if self.is_braked else self._until_ns

    def hold(self, reason: str) -> None:
        """Stop reading for a reason; it may be one already."""
        if self._transport is not None:
            self._reasons.add(reason)
            # Also where it is held already: aiohttp resumes by its own lights.
            self._transport.pause_reading()

    def release(self, reason: str) -> None:
        """Take a reason back; with the last one gone, reading goes on."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons and self._transport is not None:
                self._transport.resume_reading()

    def look(self) -> None:
        """Hold where the sinks have more than enough; to be called after each pass."""
        if self._timer is None and not self._bus.may_read() and self._transport is not None:
            self._stats.reading_pauses += 1
            self._looked_ns = self._clock.monotonic_ns()
            self.hold(_BRAKE)
            self._look_again()

    def end(self) -> None:
        """Release everything, for a connection that is about to close."""
        if self._timer is not None:
            self._timer.cancel()
            self._end_brake()
        for reason in tuple(self._reasons):
            self.release(reason)

    def _look_again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECS, self._look_later)

    def _look_later(self) -> None:
        if self._bus.may_read():
            self._end_brake()
            return
        self._count()
        self.hold(_BRAKE)
        self._look_again()

    def _end_brake(self) -> None:
        self._count()
        self._timer = None
        self._until_ns = self._looked_ns
        self.release(_BRAKE)

    def _count(self) -> None:
        now_ns = self._clock.monotonic_ns()
        self._stats.reading_paused_secs += (now_ns - self._looked_ns) / 1e9
        self._looked_ns = now_ns

    def __repr__(self) -> str:
        return f"Reading({', '.join(sorted(self._reasons)) or 'on'})"
