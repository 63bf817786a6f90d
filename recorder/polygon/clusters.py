"""The clusters: the upstream endpoints, what flows on each, and the topic each is followed by unless told otherwise."""

from __future__ import annotations

from typing import Final

CLUSTERS: Final = ("stocks", "options", "futures", "crypto", "forex", "indices")
"""Every cluster, under the name that is its path at the vendor."""

VENUES: Final = ("cme", "cbot", "nymex", "comex")
"""Exchanges that the futures cluster can be narrowed to, as `futures/cme`."""

TRADE_CHANNEL: Final = {
    "stocks": "T",
    "options": "T",
    "futures": "T",
    "crypto": "XT",
    "forex": "C",
    "indices": "V",
}
"""The channel that a cluster is known for. Forex has no trades (quotes `C`), indices have values (`V`)."""

BUSY_CHANNELS: Final = frozenset({"T", "Q", "A", "AM", "XT", "XQ", "XAS", "XA", "C", "CAS", "CA", "V"})
"""Channels that bring something every minute while their market is open, if all symbols are subscribed."""


def is_cluster_path(path: str) -> bool:
    """Tell whether a URL path without its leading slash names a cluster: `stocks`, `futures/cme`."""
    cluster, _, venue = path.partition("/")
    return cluster in CLUSTERS and (not venue or (cluster == "futures" and venue in VENUES))
