"""How late the event loop runs: a timer that is due every 100 ms, and by how much it misses."""

from __future__ import annotations

from recorder.clock import Clock
from recorder.stats import Histogram

INTERVAL_SECS = 0.1
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class LoopLag:
    """Measures the event loop's lag while `run` works.

    A loop that is blocked, stopped or starved makes one late observation, with the whole time that it missed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = Histogram(LAG_SECONDS)
        self.last_secs = 0.0
        self.peak_secs = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            begun_ns = self._clock.monotonic_ns()
            await self._clock.sleep(INTERVAL_SECS)
            passed_secs = (self._clock.monotonic_ns() - begun_ns) / 1e9
            # Timers may fire up to one clock tick early.
            self.last_secs = max(0.0, passed_secs - INTERVAL_SECS)
            self.peak_secs = max(self.peak_secs, self.last_secs)
            self.seconds.observe(self.last_secs)

    def __repr__(self) -> str:
        return f"LoopLag(last={self.last_secs:.4f} s, peak={self.peak_secs:.4f} s)"
