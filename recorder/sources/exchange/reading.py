"""Whether the socket of a connection is read: while it is not, TCP holds what comes, and the exchange waits."""

from __future__ import annotations

import asyncio
from typing import Final

from recorder.sources.exchange.context import FeedContext

REST_SECS: Final = 0.001
"""How long frames wait in the socket for others, to share a pass with them, where nobody waits for them."""
REST_BYTES_MAX: Final = 64 * 1024
"""A read that brought more has shared its pass among enough frames already."""
_REST: Final = "rest"
_REST_NS: Final = int(REST_SECS * 1e9)
_BRAKE: Final = "brake"
_LOOK_SECS: Final = 0.005
"""Time between two looks whether what the sinks hold is written."""


class Reading:
    """Reads one connection's socket unless something holds it, each for a reason of its own.

    A pause is no silence: nothing can be said of an exchange that nobody listens to. `paused_until_ns` is for those who
    measure silence.

    The reasons are the brake, while the sinks have more than enough, and a rest after a pass, so that the frames of a
    millisecond cost one pass: its price is that of a hundred events. What is read is read late by `REST_SECS` at most,
    as far as the loop's timer is exact, and its time is that of the reading.
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
        self._passed_ns = 0
        """Monotonic time of the last pass."""
        self._rest_timer: asyncio.TimerHandle | None = None

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
        if self._transport is not None and not self._transport.is_closing():
            self._reasons.add(reason)
            # Also where it is held already: aiohttp resumes by its own lights.
            self._transport.pause_reading()

    def release(self, reason: str) -> None:
        """Take a reason back; with the last one gone, reading goes on."""
        if reason in self._reasons:
            self._reasons.remove(reason)
            if not self._reasons and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def look(self) -> None:
        """Hold where the sinks have more than enough; to be called after each pass."""
        if self._timer is None and not self._bus.may_read() and self._transport is not None:
            self._stats.reading_pauses += 1
            self._looked_ns = self._clock.monotonic_ns()
            self.hold(_BRAKE)
            self._look_again()

    def rest(self, read_ns: int, frames: int, size_bytes: int) -> None:
        """Rest where frames come faster than one in `REST_SECS`, and nobody waits for them; called after each pass.

        `read_ns` is when its frames were read.
        """
        is_dense = read_ns - self._passed_ns < _REST_NS * frames
        self._passed_ns = read_ns
        if is_dense and size_bytes <= REST_BYTES_MAX and not self._reasons and not self._bus.is_awaited():
            self.hold(_REST)
            self._rest_timer = asyncio.get_running_loop().call_later(REST_SECS, self.release, _REST)

    def end(self) -> None:
        """Release everything, for a connection that is about to close."""
        if self._rest_timer is not None:
            self._rest_timer.cancel()
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
