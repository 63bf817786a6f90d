"""The brake: whether the sources may read on, or wait for a sink that falls behind and works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from recorder.sinks.queue import MERGE_BYTES_MAX, QueueLimits

_HOLD_BYTES: Final = 32 * 1024 * 1024
"""With more than this pending, the sources wait; where the limits of the queue are small, with half of what fits."""
STALL_NS_MAX: Final = 50_000_000
"""A target that is at work and has not written anything for longer hangs. Clients wait so long for it, and no longer."""
_RETRY_NS: Final = 1_000_000_000
"""How long the sources read on then: one call that hangs is often followed by the next."""
_PACE_BYTES_PER_SEC: Final = 16 * 1024 * 1024
"""They read on at this pace then: no market is held up, and a flood is."""
_HANG_NS: Final = 2_000_000_000
"""A target that has written nothing for longer slows nobody any more."""


class Braked(Protocol):
    """The queue that the brake looks at."""

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait, or that the target has not written yet."""

    @property
    def bytes_done(self) -> int:
        """Bytes that the target has written, over all."""

    @property
    def is_writing(self) -> bool:
        """Whether the target takes items at the moment."""

    @property
    def busy_ns(self) -> int:
        """How long the call at hand has taken."""

    def hurry(self) -> None:
        """Have everything that waits written now."""


class Brake:
    """Lets the sources wait while a queue holds much and its target makes progress.

    A loop that reads faster than a target writes would fill the queue to its limit and drop. Where the sources wait, TCP
    holds the rest. A target that is stuck in a call lets them read on at the pace of a market; a flood waits for the next
    write. A target that hangs or fails stops nobody: then the queue fills and drops, and clients are served.
    """

    def __init__(
        self,
        queue: Braked,
        limits: QueueLimits,
        monotonic_ns: Callable[[], int],
        stall_ns_max: int = STALL_NS_MAX,
    ) -> None:
        fits_bytes = limits.bytes_max
        if limits.batches_max is not None:
            # Merged batches are half full at least, but for those that hold a single item.
            fits_bytes = min(fits_bytes, limits.batches_max * MERGE_BYTES_MAX // 2)
        self.hold_bytes = min(_HOLD_BYTES, fits_bytes // 2)
        """The sources wait from here."""
        self.release_bytes = self.hold_bytes // 2
        """They read on from here."""
        self._queue = queue
        self._monotonic_ns = monotonic_ns
        self._stall_ns_max = stall_ns_max
        self._holds = False
        self._bytes_done = 0
        self._progress_ns = 0
        """When something was last seen to be written, while more than enough was pending."""
        self._retry_at_ns = 0
        self._begun_bytes = 0
        """All that had come when a call was called stuck."""
        self._begun_ns = 0

    def may_read(self) -> bool:
        """Whether the sources may read on; to be asked again and again while they may not."""
        queue = self._queue
        pending_bytes = queue.pending_bytes
        if pending_bytes <= self.release_bytes:
            self._holds = False
            return True
        now_ns = self._monotonic_ns()
        if queue.bytes_done != self._bytes_done:
            self._bytes_done = queue.bytes_done
            self._progress_ns = now_ns
        if not self._holds and pending_bytes <= self.hold_bytes:
            return True
        stuck_ns = min(queue.busy_ns, now_ns - self._progress_ns)
        if now_ns >= self._retry_at_ns:
            if queue.is_writing and stuck_ns <= self._stall_ns_max:
                return self._hold()
            self._holds = False
            self._retry_at_ns = now_ns + _RETRY_NS
            self._begun_bytes, self._begun_ns = pending_bytes + queue.bytes_done, now_ns
        if not queue.is_writing or stuck_ns > _HANG_NS:
            return True
        return self._is_slow(now_ns) or self._hold()

    def _is_slow(self, now_ns: int) -> bool:
        """Whether what came since the call was called stuck is no more than a market sends."""
        came_bytes = self._queue.pending_bytes + self._queue.bytes_done - self._begun_bytes
        return came_bytes <= _PACE_BYTES_PER_SEC * (now_ns - self._begun_ns) / 1e9

    def _hold(self) -> bool:
        # Without new items nothing else may wake the worker before its flush interval ends.
        self._queue.hurry()
        self._holds = True
        return False

    def __repr__(self) -> str:
        return f"Brake(holds={self._holds}, from {self.hold_bytes} until {self.release_bytes} bytes)"
