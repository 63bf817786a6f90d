"""What a client asks for of the bars of the past, and what becomes of it, over all its clusters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from recorder.polygon.server import Subscribe
from recorder.servers.client import Client
from recorder.servers.past.answer import complete, say_bars
from recorder.servers.stats import Resumed, ServerStats

_MARKED: Final = re.compile(r".*@([a-z_]{1,32}=[0-9]{1,18}(?:,[a-z_]{1,32}=[0-9]{1,18})*)", re.DOTALL)


def marked(position: str, closed_ms: dict[str, int]) -> str:
    """Return a position that also says up to which time a client has the bars of each cluster."""
    times = ",".join(f"{cluster}={time_ms}" for cluster, time_ms in closed_ms.items())
    return f"{position}@{times}" if position and times else position


def closed_by(after: str) -> dict[str, int]:
    """Return up to which time a client has the bars of each cluster, Unix ms, as its position says."""
    found = _MARKED.fullmatch(after)
    times = (part.split("=") for part in found[1].split(",")) if found is not None else ()
    return {cluster: int(time_ms) for cluster, time_ms in times}


class Result(NamedTuple):
    """What there is of a wish in one cluster."""

    recovered: bool
    reason: str
    """Why not; empty if it is."""
    begins: str
    """The position behind which is what follows."""
    available: tuple[str, int]
    """The oldest position, and the oldest time, from which on everything is there."""
    gaps: tuple[dict[str, Any], ...] = ()


@dataclass(eq=False, slots=True)
class BarRequest:
    """One request of one client; without a `wish`, for what comes from now on."""

    client: Client
    clusters: tuple[str, ...]
    wish: Subscribe | None = None
    stats: ServerStats | None = None
    """Those of its port; None for a request without a wish."""
    count: int = 0
    """Bars of the past that were sent."""
    is_answered: bool = False
    _results: dict[str, Result] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)

    @property
    def is_refused(self) -> bool:
        """Whether nothing of the past is sent, since not all is there."""
        takes_less = self.wish is not None and self.wish.partial
        return not takes_less and not all(result.recovered for result in self._results.values())

    def found(self, cluster: str, result: Result) -> None:
        """Learn what there is in a cluster; tell the client once it is known for all."""
        self._results[cluster] = result
        if self.is_answered or len(self._results) < len(self.clusters):
            return
        self.is_answered = True
        wish, stats = self.wish, self.stats
        if wish is None or stats is None:
            return
        results = self._results.values()
        missing = [result for result in results if not result.recovered]
        outcome: Resumed = "recovered" if not missing else "partial" if wish.partial else "refused"
        stats.resumes[outcome] += 1
        newest = max(results, key=lambda result: result.available[1])
        say_bars(
            self.client,
            recovered=not missing,
            partial=wish.partial,
            reason=missing[0].reason if missing else "",
            begins=next(iter(results)).begins,
            available=newest.available,
            gaps=_distinct(gap for result in results for gap in result.gaps),
        )

    def over(self, cluster: str) -> None:
        """Learn that the past of a cluster has been sent; say so once it has of all."""
        before = len(self._over)
        self._over.add(cluster)
        is_last = before < len(self._over) == len(self.clusters)
        if is_last and self.is_answered and self.wish is not None and not self.is_refused:
            self.client.say(complete(self.count, of_bars=True))


def _distinct(gaps: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for gap in gaps:
        if gap not in found:
            found.append(gap)
    return found
