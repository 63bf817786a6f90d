"""What clients may expect of a topic: what it needs upstream, and what they are told where nothing will come of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recorder.bus import TopicsAnswered
from recorder.polygon.client import listed
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.control import nothing_remark
from recorder.polygon.topics import WILDCARD
from recorder.servers.demand import as_asked
from recorder.servers.refusals import Refusals
from recorder.servers.subscriptions import EVERYTHING, spellings
from recorder.servers.topics import parse_bar_topic


class Promises:
    """Knows what is subscribed upstream in any case, and what the exchange refuses."""

    def __init__(
        self,
        followed: Mapping[str, frozenset[str]],
        *,
        is_relayed: bool,
        is_on_demand: bool,
        default_cluster: str = "",
    ) -> None:
        """`followed`: what is subscribed upstream in any case, by cluster; where it is empty, nothing is known of it.

        `is_relayed`: another recorder makes the bars. `is_on_demand`: what clients want is subscribed upstream.
        `default_cluster` is the only cluster where nobody has chosen one; else it is empty.
        """
        self.followed = followed
        self.is_relayed = is_relayed
        self._is_on_demand = is_on_demand
        self._default_cluster = default_cluster
        self._refusals = Refusals()

    def take(self, answered: TopicsAnswered) -> None:
        """Remember what the exchange says of topics."""
        self._refusals.take(answered)

    def needed(self, cluster: str, topics: Iterable[str]) -> list[str]:
        """Return what must flow upstream; bars that another recorder makes need nothing here."""
        if self.is_relayed:
            return [topic for topic in topics if parse_bar_topic(topic) is None]
        return upstream_topics(cluster, topics)

    def remark(self, cluster: str, topic: str) -> str:
        """Return what an acknowledgement says about a topic of which nothing may come; empty for any other.

        `cluster` is `""` for all of them.
        """
        clusters = (cluster,) if cluster else tuple(self.followed)
        words = self.refusal(clusters, topic)
        is_certain = not self._is_on_demand and topic != EVERYTHING
        if is_certain and not any(self._is_followed(name, topic) for name in clusters):
            held = "; ".join(f"{name}: {listed(sorted(self.followed[name]))}" for name in clusters)
            words = f"this recorder follows {held}"
        if not words and self._default_cluster and not cluster:
            # Whoever expects another cluster would wait for ever.
            return (
                f" (of {self._default_cluster}, the default here: this recorder's POLYGON_CLUSTER is not set)"
            )
        return nothing_remark(words) if words else ""

    def refusal(self, clusters: Iterable[str], topic: str) -> str:
        """Return why the exchange sends nothing of a topic in any of these clusters; empty where it may."""
        found = [
            self._refusal_of(cluster, topic, needed)
            for cluster in clusters
            for needed in self.needed(cluster, [topic])
        ]
        return found[0] if found and all(found) else ""

    def _refusal_of(self, cluster: str, topic: str, needed: str) -> str:
        """Return why nothing comes of the upstream topic that a client's topic needs."""
        own = as_asked(needed)
        fixed = self.followed[cluster]
        whole = f"{own.partition('.')[0]}.{WILDCARD}"
        asked = whole if whole in fixed and own not in fixed else own
        words = self._refusals.of(cluster, asked)
        is_its_own = needed == topic and asked == own
        return words if is_its_own or not words else f"it needs {asked}, and {words}"

    def _is_followed(self, cluster: str, topic: str) -> bool:
        """Return whether any event may come for a topic, as far as that is known."""
        held = self.followed[cluster]
        is_relayed = self.is_relayed and parse_bar_topic(topic) is not None
        if not held or WILDCARD in held or is_relayed:
            return True
        for needed in self.needed(cluster, [topic]):
            channel, _, symbol = needed.partition(".")
            if symbol == WILDCARD:
                return any(other.startswith(f"{channel}.") for other in held)
            names = (WILDCARD, *spellings(cluster, symbol))
            return not held.isdisjoint(f"{channel}.{name}" for name in names)
        return False  # bars of a cluster that has no trades

    def __repr__(self) -> str:
        return f"Promises({list(self.followed)!r}, {self._refusals!r})"


def upstream_topics(cluster: str, topics: Iterable[str]) -> list[str]:
    """Return what must flow for these topics to be served: bars are made of trades."""
    needed = []
    for topic in topics:
        bars = parse_bar_topic(topic)
        if bars is None:
            needed.append(topic)
        elif CLUSTERS[cluster].trade_channel:
            needed.append(f"{CLUSTERS[cluster].trade_channel}.{bars.symbol}")
    return needed
