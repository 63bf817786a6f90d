"""What all workers counted together: counters never fall when a worker ends, gauges are of those that live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from recorder.bars import BarStats
from recorder.servers.stats import ServerStats
from recorder.workers.wire import Report

_GAUGES: Final = frozenset(
    {"clients", "clients_authenticated", "subscriptions", "audiences", "pending_bytes_max", "lag_secs_max"}
    | {"open_windows"}
)
"""Fields that say how it is now; the others count."""


class BarTotals:
    """The bars of one cluster, of all workers; read like a bar maker."""

    def __init__(self) -> None:
        self.stats = BarStats()
        self.event_ms = 0
        """The newest of all workers."""


class ReplayTotals:
    """Requests for bars of the past, at all workers."""

    def __init__(self) -> None:
        self.replays = 0


class Totals:
    """The sums over all workers, kept up to date in the objects that others read."""

    def __init__(self, ports: Iterable[str], clusters: Iterable[str], *, makes_bars: bool) -> None:
        self.servers = [ServerStats(port) for port in ports]
        self.makers = {cluster: BarTotals() for cluster in clusters} if makes_bars else {}
        self.bars = ReplayTotals() if makes_bars else None
        self._servers_before = [ServerStats(port) for port in ports]
        self._bars_before = {cluster: BarStats() for cluster in self.makers}
        self._replays_before = 0

    def update(self, reports: Sequence[Report]) -> None:
        """Add up what the workers that live have reported, and what those counted that do not."""
        for place, total in enumerate(self.servers):
            _add_up(total, [self._servers_before[place], *(report.servers[place] for report in reports)])
        for cluster, maker in self.makers.items():
            of_cluster = [report.bars[cluster] for report in reports if cluster in report.bars]
            _add_up(maker.stats, [self._bars_before[cluster], *(bars.stats for bars in of_cluster)])
            maker.event_ms = max((bars.event_ms for bars in of_cluster), default=maker.event_ms)
        if self.bars is not None:
            self.bars.replays = self._replays_before + sum(report.replays for report in reports)

    def retire(self, report: Report) -> None:
        """Keep what a worker counted that has ended."""
        for before, last in zip(self._servers_before, report.servers, strict=True):
            _add_up(before, [before, last], gauges=False)
        for cluster, bars in report.bars.items():
            _add_up(self._bars_before[cluster], [self._bars_before[cluster], bars.stats], gauges=False)
        self._replays_before += report.replays


def _add_up(total: Any, parts: Sequence[Any], *, gauges: bool = True) -> None:
    """Set each number of a dataclass to the sum over its parts; the greatest where its name ends in `_max`."""
    for field in fields(total):
        name = field.name
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], str) or (name in _GAUGES and not gauges):
            continue
        if isinstance(values[0], Mapping):
            setattr(total, name, sum(values, Counter()))
        else:
            setattr(total, name, max(values) if name.endswith("_max") else sum(values))
