"""Topics on demand: upstream is asked for the union of what clients hold, until some time after the last one left."""

from __future__ import annotations

from collections.abc import Iterable

from recorder.clock import Clock
from recorder.polygon.topics import WILDCARD, parse_topic
from recorder.settings import DemandSettings
from recorder.sources.source import TopicSink


class OnDemandTopics:
    """Keeps each cluster's upstream subscriptions equal to what clients hold, beyond what the settings ask for.

    A topic is unsubscribed `UNSUBSCRIBE_DELAY_SECS` after its last client left, so that a client that comes back soon
    costs nothing. `*` of a client asks for nothing more: it means all that comes anyway.
    """

    def __init__(
        self,
        settings: DemandSettings,
        sources: dict[str, TopicSink],
        fixed: dict[str, frozenset[str]],
        clock: Clock,
    ) -> None:
        """`fixed`: the topics of each cluster that are subscribed in any case."""
        self._delay_ns = int(settings.release_delay_secs * 1e9)
        self._sources = sources
        self._fixed = fixed
        self._clock = clock
        self._counts: dict[tuple[str, str], int] = {}
        self._releases: dict[tuple[str, str], int] = {}
        """Topics that no client holds any more, and the monotonic time at which they are unsubscribed."""

    def subscribe(self, cluster: str, topics: Iterable[str]) -> None:
        """Count topics that a client has begun to hold; subscribe upstream to those that are new."""
        new = []
        for topic in map(as_asked, topics):
            key = (cluster, topic)
            if self._is_fixed(cluster, topic):
                continue
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._counts[key] == 1 and self._releases.pop(key, None) is None:
                new.append(topic)
        if new:
            self._sources[cluster].subscribe(new)

    def unsubscribe(self, cluster: str, topics: Iterable[str]) -> None:
        """Count topics that a client no longer holds."""
        at_ns = self._clock.monotonic_ns() + self._delay_ns
        for topic in map(as_asked, topics):
            key = (cluster, topic)
            if key not in self._counts:
                continue
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
                self._releases[key] = at_ns

    def _is_fixed(self, cluster: str, topic: str) -> bool:
        """Return whether a topic comes in any case, by itself or with its channel."""
        fixed = self._fixed.get(cluster, frozenset())
        return topic == WILDCARD or topic in fixed or f"{topic.partition('.')[0]}.{WILDCARD}" in fixed

    async def run(self) -> None:
        """Unsubscribe from topics when their time has come, until cancelled."""
        while True:
            await self._clock.sleep(min(1.0, max(0.05, self._delay_ns / 4e9)))
            self.release_due()

    def release_due(self) -> None:
        """Unsubscribe from what no client has held for long enough."""
        now_ns = self._clock.monotonic_ns()
        due: dict[str, list[str]] = {}
        for key, at_ns in list(self._releases.items()):
            if at_ns <= now_ns:
                del self._releases[key]
                due.setdefault(key[0], []).append(key[1])
        for cluster, topics in due.items():
            self._sources[cluster].unsubscribe(topics)

    def __repr__(self) -> str:
        return f"OnDemandTopics({len(self._counts)} topics, {len(self._releases)} to be unsubscribed)"


def as_asked(topic: str) -> str:
    """Return a client's topic as the exchange is asked for it: `C.EUR/USD` is `C.EUR-USD` there."""
    return topic if topic == WILDCARD else str(parse_topic(topic))
