"""What a client of a filtering port has missed: the events of its topics, as the hot log or the archive has them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from recorder.bus import Batch
from recorder.polygon.channels import AGGREGATE_CHANNELS
from recorder.polygon.rows import Rows
from recorder.servers.client import Client
from recorder.servers.delivery import deliver
from recorder.servers.port import Where
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import Subscriptions


class TopicPast:
    """Sends one client the events of some topics, less those that it gets in another way.

    What it gets in another way may become less while the past is read, and then counts from somewhere on.
    """

    def __init__(
        self,
        client: Client,
        clusters: Iterable[str],
        topics: Iterable[str],
        held: Iterable[str],
        stats: ServerStats,
        *,
        bars_only: bool,
    ) -> None:
        self._client = client
        self._stats = stats
        self._bars_only = bars_only
        self._wanted = _indices(client, clusters, topics)
        self._held = _indices(client, clusters, held)
        self._releases: deque[tuple[Where, tuple[str, ...]]] = deque()
        """What is no longer held from somewhere on, the earliest first."""

    def send(self, batch: Batch, where: Where) -> int:
        """Send the events of a batch, in one array; return how many there are."""
        while self._releases and self._releases[0][0] <= where:
            _, topics = self._releases.popleft()
            for index in self._held.values():
                index.unsubscribe(self._client, topics)
        wanted = self._wanted.get(batch.cluster)
        if wanted is None:
            return 0
        events = served(batch.rows, bars_only=self._bars_only)
        if events is None:
            return 0
        places = _places(wanted, events)
        held = self._held[batch.cluster]
        if places and held.topics:
            had = set(_places(held, events))
            places = [place for place in places if place not in had]
        if places:
            fragments = events.fragments
            chosen = fragments if len(places) == len(fragments) else [fragments[place] for place in places]
            deliver([self._client], chosen, self._stats)
        return len(places)

    def drop(self, topics: Iterable[str]) -> None:
        """Leave out topics from now on."""
        dropped = tuple(topics)
        for index in self._wanted.values():
            index.unsubscribe(self._client, dropped)

    def release(self, topics: Iterable[str], where: Where) -> None:
        """From there on, the client does not get these in another way any more."""
        self._releases.append((where, tuple(topics)))
        self._releases = deque(sorted(self._releases))

    def __repr__(self) -> str:
        return f"TopicPast({self._client!r}, {list(self._wanted.values())!r})"


def served(rows: Rows, *, bars_only: bool) -> Rows | None:
    """Return the events that a port serves: all, or with `bars_only` the aggregates; None if there are none of these."""
    if not bars_only:
        return rows
    channels = AGGREGATE_CHANNELS & rows.counts.keys()
    return rows.of_channels(channels) if channels else None


def _indices(
    client: Client, clusters: Iterable[str], topics: Iterable[str]
) -> dict[str, Subscriptions[Client]]:
    found = {cluster: Subscriptions[Client](cluster) for cluster in clusters}
    held = tuple(topics)
    for index in found.values():
        index.subscribe(client, held)
    return found


def _places(index: Subscriptions[Client], events: Rows) -> list[int]:
    """Return where the events stand that the one client of an index gets."""
    if not index.topics:
        return []
    everything = range(len(events))
    if index.everybody():
        return list(everything)
    return next((places for _, places in index.match(events.channels, events.symbols, everything)), [])
