"""One panel, and the PromQL that its queries are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

FEED: Final = 'feed=~"$feed"'


def of(metric: str, where: str = "") -> str:
    """Return the samples of the recorders that the dashboard's variables choose."""
    return f'{metric}{{job=~"$job", instance=~"$instance"{", " if where else ""}{where}}}'


def rate(metric: str, by: str, where: str = "") -> str:
    """Return the growth of a counter a second; `by` is empty for all together."""
    return f"{_sum(by)}(rate({of(metric, where)}[$__rate_interval]))"


def grown(metric: str, by: str, where: str = "") -> str:
    """Return the growth of a counter of rare things about each point."""
    return f"{_sum(by)}(increase({of(metric, where)}[$__rate_interval]))"


def quantile(q: float, histogram: str, by: str, where: str = "") -> str:
    """Return a quantile of what was observed about each point."""
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', f'{by}, le', where)})"


def _sum(by: str) -> str:
    return f"sum by ({by}) " if by else "sum"


@dataclass(frozen=True)
class Panel:
    """One panel: what it shows, in which unit, and the queries by their legends."""

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    type: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    states: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Values that have a name, and its colour."""
    bad_from: float | None = None
    """A single number is red from here on."""


def stat(title: str, description: str, unit: str, query: str, legend: str = "", **more: Any) -> Panel:
    """Return a single number."""
    return Panel(title, description, unit, {legend: query}, type="stat", width=4, height=4, **more)
