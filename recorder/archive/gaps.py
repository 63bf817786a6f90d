"""PURE. When the clusters of an archive brought nothing, as its manifest says, and which part of a time that is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

NOT_RUNNING: Final = "not_running"
"""Why nothing came between two runs, the first of which ended in order, and before the first of all."""
KILLED: Final = "killed"
"""Why nothing came after a run that did not end in order."""

Span = tuple[int, int]
"""A time in Unix ms, from its beginning to its end."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without data of a cluster; Unix ms."""

    cluster: str
    from_ms: int
    to_ms: int
    reason: str
    run_id: str
    """The run whose session ended it; of one that is still open, the last run. Empty before the first."""

    @property
    def secs(self) -> float:
        """How long it is."""
        return (self.to_ms - self.from_ms) / 1000


class Silence(NamedTuple):
    """Since when a cluster has brought nothing, and why; its next session ends the gap."""

    since_ms: int
    reason: str


class Followed(NamedTuple):
    """A time in which runs of the archive were set to follow a cluster; `until_ms` is 0 while the last run is."""

    since_ms: int
    until_ms: int = 0


class Dropped(NamedTuple):
    """Records that were lost while data came, by when the manifest noted it."""

    at_ms: int
    records: int


@dataclass(slots=True)
class GapHistory:
    """The gaps of each cluster, when it was followed, and what was dropped: the sum of a manifest's lines.

    A gap that is still open is not among them. The time before the first session of a cluster is one, from 0.
    """

    gaps: dict[str, list[Gap]] = field(default_factory=dict)
    """By cluster, in the order of their ends."""
    followed: dict[str, list[Followed]] = field(default_factory=dict)
    dropped: dict[str, list[Dropped]] = field(default_factory=dict)
    last_ms: int = 0
    """When the last line was written."""
    run_id: str = ""
    """The last run."""
    _had_session: set[str] = field(default_factory=set)

    def run_started(self, run_id: str, at_ms: int, settings: Any) -> None:
        """Note a run, and which clusters it follows by its settings, where they are known."""
        self.run_id = run_id
        clusters = settings.get("POLYGON_CLUSTER") if isinstance(settings, Mapping) else None
        if not isinstance(clusters, list):
            return
        for cluster in clusters:
            self._follow(str(cluster), at_ms)
        for cluster, times in self.followed.items():
            if cluster not in clusters and not times[-1].until_ms:
                times[-1] = times[-1]._replace(until_ms=at_ms)

    def session_opened(self, cluster: str, at_ms: int, run_id: str) -> None:
        """Note a session. What came before the first one of a cluster was missed."""
        self._follow(cluster, at_ms)
        if cluster not in self._had_session:
            self.gap_ended(Gap(cluster, 0, at_ms, NOT_RUNNING, run_id))

    def gap_ended(self, gap: Gap) -> None:
        """Note a gap, which a session has ended."""
        self._follow(gap.cluster, gap.to_ms)
        self._had_session.add(gap.cluster)
        self.gaps.setdefault(gap.cluster, []).append(gap)

    def records_dropped(self, cluster: str, at_ms: int, records: int) -> None:
        """Note that records were lost."""
        self.dropped.setdefault(cluster, []).append(Dropped(at_ms, records))

    def _follow(self, cluster: str, at_ms: int) -> None:
        times = self.followed.setdefault(cluster, [])
        if not times or times[-1].until_ms:
            times.append(Followed(at_ms))

    def since(self, cluster: str, at_ms: int) -> Iterator[Gap]:
        """Yield the gaps of a cluster that ended after a moment, the newest first."""
        for gap in reversed(self.gaps.get(cluster, [])):
            if gap.to_ms <= at_ms:
                return
            yield gap


def whole_days(times: Sequence[Followed], begin_ms: int) -> list[Followed]:
    """Return when a cluster was followed, the day of its first run counted from `begin_ms`, when that day began."""
    return [times[0]._replace(since_ms=begin_ms), *times[1:]]


class Completeness(NamedTuple):
    """How much of the time in which a cluster was to be recorded has data."""

    expected_ms: int
    gaps: list[Gap]
    """What is missing, cut to the time in which data was to be had; they do not overlap."""

    @property
    def missing_ms(self) -> int:
        """The length of all gaps together."""
        return sum(gap.to_ms - gap.from_ms for gap in self.gaps)

    @property
    def ratio(self) -> float | None:
        """From 0 to 1; None where no data was to be had."""
        return 1 - self.missing_ms / self.expected_ms if self.expected_ms else None


def completeness(
    open_spans: Iterable[Span], followed: Iterable[Followed], gaps: Iterable[Gap]
) -> Completeness:
    """Return how complete a day is.

    `open_spans` is when its market was open; like `followed`, in order and without overlaps.
    """
    times = [(since_ms, until_ms) for since_ms, until_ms in followed]
    expected = [
        (max(begin, since_ms), min(end, until_ms) if until_ms else end)
        for begin, end in open_spans
        for since_ms, until_ms in times
    ]
    expected = [(begin, end) for begin, end in expected if begin < end]
    missing: list[Gap] = []
    # Gaps overlap where a session brought nothing, or the clock was set back: each moment counts once.
    ordered = sorted(gaps, key=lambda gap: gap.from_ms)
    for begin, end in expected:
        done_ms = begin
        for gap in ordered:
            from_ms, to_ms = max(gap.from_ms, done_ms), min(gap.to_ms, end)
            if from_ms < to_ms:
                missing.append(replace(gap, from_ms=from_ms, to_ms=to_ms))
                done_ms = to_ms
    return Completeness(sum(end - begin for begin, end in expected), missing)
