"""Stops of this process, as a suspended laptop or a starved machine makes them: seen by a timer that is late."""

from __future__ import annotations

from typing import Final

_STOPPED_NS: Final = 1_000_000_000
"""A timer that is this much late: the process was stopped or starved meanwhile."""
_CATCH_UP_NS: Final = 10_000_000_000
"""How long after a stop what is read may still be old."""


class StopDetector:
    """Knows when this process did not work, the last time.

    That matters twice. A silence during which nobody was reading is no silence of the exchange. And what is read right
    after a stop may have waited for long, while what the exchange sent behind it may be lost.
    """

    def __init__(self) -> None:
        self._looked_ns = 0
        """Monotonic time of the last look; the next one is due `_interval_ns` later."""
        self._interval_ns = 0
        self._began_ns = self._ended_ns = 0
        """From when until when the process did not work; zeros: never."""

    def sleep(self, now_ns: int, secs: float) -> None:
        """Note that the process looks again after `secs`."""
        self._looked_ns = now_ns
        self._interval_ns = int(secs * 1e9)

    def late_ns(self, now_ns: int) -> int:
        """Return how late it is for the look that is due, and note a stop that this shows."""
        if not self._looked_ns:
            return 0
        late_ns = now_ns - self._looked_ns - self._interval_ns
        if late_ns > _STOPPED_NS:
            self._began_ns, self._ended_ns = self._looked_ns, now_ns
        return late_ns

    def data_until_ns(self, now_ns: int, wall_ns: int, last_received_ns: int) -> int:
        """Return the wall clock until which nothing is missing: the last data, or the last look before a stop."""
        self.late_ns(now_ns)
        if not self._ended_ns or now_ns - self._ended_ns > _CATCH_UP_NS:
            return last_received_ns
        return min(last_received_ns, wall_ns - (now_ns - self._began_ns))
