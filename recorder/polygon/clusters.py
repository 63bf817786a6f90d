"""The clusters: one row for each upstream endpoint. A new cluster is one row here, and its hours if they are new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

from recorder.polygon.channels import CHANNELS, Channel, Kind

Hours = Literal["stocks", "listed", "globex", "forex", "always"]
"""Whose market hours a cluster keeps; `market_hours.calendar` computes each."""


class Cluster(NamedTuple):
    """What is known of one cluster."""

    name: str
    """Its path at the vendor."""
    channels: tuple[str, ...]
    """What can be subscribed to; the first one is followed unless a topic list says otherwise."""
    hours: Hours
    delay_secs: float = 900.0
    """How late the vendor's `delayed` host is."""
    prefix: str = ""
    """What symbols begin with, here or in the vendor's other interfaces."""
    prefix_sent: bool = False
    """Whether the events' own symbols have the prefix, so that topics must have it too."""
    slashed: bool = False
    """Whether pairs are asked for as `EUR-USD` and delivered as `EUR/USD`."""
    venues: tuple[str, ...] = ()
    """Exchanges that the path can narrow the cluster to, as `futures/cme`."""
    consolidated: bool = False
    """Whether trade conditions say, by the consolidated tape's rules, what a trade may update in a bar."""

    @property
    def main(self) -> Channel:
        """The channel that the cluster is followed by unless a topic list says otherwise."""
        return CHANNELS[self.channels[0]]

    @property
    def trade_channel(self) -> str:
        """The channel whose trades make bars, `""` where there are no trades."""
        return next(iter(self.codes("trade")), "")

    @property
    def has_spellings(self) -> bool:
        """Whether clients may call a symbol otherwise than the vendor delivers it."""
        return self.slashed or (bool(self.prefix) and not self.prefix_sent)

    def codes(self, *kinds: Kind) -> tuple[str, ...]:
        """Return the codes of its channels that are of these kinds, in order."""
        return tuple(code for code in self.channels if CHANNELS[code].kind in kinds)


CLUSTERS: Final[Mapping[str, Cluster]] = {
    cluster.name: cluster
    for cluster in (
        Cluster("stocks", ("T", "Q", "A", "AM", "LULD", "NOI", "FMV", "LV"), "stocks", consolidated=True),
        Cluster("options", ("T", "Q", "A", "AM", "FMV", "LV"), "listed", prefix="O:", prefix_sent=True),
        Cluster("futures", ("T", "Q", "A", "AM"), "globex", 600.0, venues=("cme", "cbot", "nymex", "comex")),
        Cluster("crypto", ("XT", "XQ", "XL2", "XAS", "XA", "FMV", "LV"), "always", prefix="X:"),
        Cluster("forex", ("C", "CAS", "CA", "FMV", "LV"), "forex", prefix="C:", slashed=True),
        Cluster("indices", ("V", "A", "AM"), "listed", prefix="I:", prefix_sent=True),
    )
}

SYMBOL_PREFIXES: Final = frozenset(
    cluster.prefix.removesuffix(":") for cluster in CLUSTERS.values() if cluster.prefix
) - frozenset(CHANNELS)
"""What a text with a colon begins with that is a symbol without a channel: `O:SPY…`, but not `C:EUR-USD`."""


def is_cluster_path(path: str) -> bool:
    """Return whether a URL path without its leading slash names a cluster: `stocks`, `futures/cme`."""
    name, _, venue = path.partition("/")
    return name in CLUSTERS and (not venue or venue in CLUSTERS[name].venues)


CLUSTERS_HEADER: Final = "Recorder-Clusters"
"""The header of an answer in which a recorder names its clusters, for a recorder behind it."""


def clusters_in(headers: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the clusters that a recorder names in the headers of an answer; none where it is no recorder."""
    named = (headers or {}).get(CLUSTERS_HEADER, "").split(",")
    return tuple(cluster for cluster in map(str.strip, named) if cluster in CLUSTERS)


def cluster_path(url: str) -> str:
    """Return the end of a URL's path that names a cluster (`stocks`, `futures/cme`), `""` if none does."""
    segments = [segment for segment in urlsplit(url).path.split("/") if segment]
    ends = ("/".join(segments[-count:]) for count in (2, 1))
    return next(filter(is_cluster_path, ends), "")


def cluster_of(channel: str, symbol: str) -> str:
    """Return the cluster that an event most likely comes from, by its channel and the prefix of its symbol."""
    possible = [cluster for cluster in CLUSTERS.values() if channel in cluster.channels]
    by_prefix = [each for each in possible if each.prefix_sent and symbol.startswith(each.prefix)]
    return next((each.name for each in (*by_prefix, *possible)), next(iter(CLUSTERS)))
