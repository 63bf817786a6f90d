"""Log lines about the whole process: rates at each interval, and at the end whether the books balance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.sources.stats import FeedStats

log = get_logger("polygon_config")
stats_log = get_logger("polygon_stats")


class StatsLog:
    """Logs each interval how many events, frames and bytes came a second, what was dropped, what is pending."""

    def __init__(
        self, feeds: Sequence[FeedStats], ledger: Ledger, clock: Clock, *, interval_secs: float
    ) -> None:
        self._feeds = feeds
        self._ledger = ledger
        self._clock = clock
        self._interval_secs = interval_secs

    async def run(self) -> None:
        """Log until cancelled."""
        before, at_ns = self._totals(), self._clock.monotonic_ns()
        while True:
            await self._clock.sleep(self._interval_secs)
            now, now_ns = self._totals(), self._clock.monotonic_ns()
            # A loop that was held up comes late: what counts is the time that passed, not the one that was meant.
            passed_secs = max(1e-9, (now_ns - at_ns) / 1e9)
            rates = {f"{name}_per_sec": round((now[name] - before[name]) / passed_secs, 1) for name in now}
            before, at_ns = now, now_ns
            sinks = list(self._ledger.sinks.values())
            stats_log.info(
                "stats",
                **rates,
                dropped=sum(sum(sink.dropped.values()) for sink in sinks),
                pending_bytes=sum(sink.pending_bytes for sink in sinks),
                feeds={stats.cluster: stats.reason or stats.state for stats in self._feeds},
            )

    def _totals(self) -> dict[str, int]:
        channels = list(self._ledger.channels.values())
        return {
            "events": sum(channel.received for channel in channels),
            "frames": sum(stats.frames_received for stats in self._feeds),
            "bytes": sum(stats.bytes_received for stats in self._feeds),
        }

    def __repr__(self) -> str:
        return f"StatsLog(every {self._interval_secs:g} s)"


class Drained(Protocol):
    """A sink that is closed."""

    @property
    def name(self) -> str:
        """Its name in the books."""

    @property
    def hung(self) -> bool:
        """Whether a write of it has not returned."""


def log_balance(ledger: Ledger, sinks: Iterable[Drained]) -> bool:
    """Log what became of the events in each sink; return whether every one is accounted for, none given up."""
    clean = True
    for sink in sinks:
        differences = ledger.differences(sink.name)
        totals = ledger.totals(sink.name)
        if sink.hung:
            clean = False
            log.error("write_hung", sink=sink.name, unwritten=sum(differences.values()))
        elif any(differences.values()):
            clean = False
            log.error(
                "balance_wrong",
                sink=sink.name,
                differences={f"{c}.{ch}": rest for (c, ch), rest in differences.items()},
                **totals,
            )
        else:
            stats_log.info("balance", sink=sink.name, **totals)
    return clean
