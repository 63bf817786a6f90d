"""What all workers count together: a counter keeps what ended workers counted, a gauge is of those that live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from recorder.bars import BarStats
from recorder.servers.stats import ReplayStats, ServerStats
from recorder.stats import add_up
from recorder.workers.wire import Report

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sum(Generic[T]):
    """The counters of one thing over all workers, with the interface of the part that counts it."""

    stats: T


class Totals:
    """The sums over all workers, in objects that others hold and read."""

    def __init__(self, ports: Iterable[str], clusters: Iterable[str], *, makes_bars: bool) -> None:
        self.servers = [ServerStats(port) for port in ports]
        self.makers = {cluster: Sum(BarStats(cluster)) for cluster in clusters} if makes_bars else {}
        self.bars = Sum(ReplayStats()) if makes_bars else None
        self._servers_before = [ServerStats(port) for port in ports]
        self._bars_before = {cluster: BarStats(cluster) for cluster in self.makers}
        self._replays_before = ReplayStats()

    def update(self, reports: Sequence[Report]) -> None:
        """Set the sums to what living workers have reported plus what ended ones had counted."""
        for place, total in enumerate(self.servers):
            add_up(total, [self._servers_before[place], *(report.servers[place] for report in reports)])
        for cluster, maker in self.makers.items():
            of_cluster = [report.bars[cluster] for report in reports if cluster in report.bars]
            add_up(maker.stats, [self._bars_before[cluster], *of_cluster])
        if self.bars is not None:
            add_up(self.bars.stats, [self._replays_before, *(report.replays for report in reports)])

    def retire(self, report: Report) -> None:
        """Keep what a worker that has ended had counted."""
        for before, last in zip(self._servers_before, report.servers, strict=True):
            add_up(before, [before, last], ended=True)
        for cluster, bars in report.bars.items():
            add_up(self._bars_before[cluster], [self._bars_before[cluster], bars], ended=True)
        add_up(self._replays_before, [self._replays_before, report.replays], ended=True)
