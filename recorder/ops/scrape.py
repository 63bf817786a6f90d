"""The state that one scrape of the metrics sees: the parts, and the books, added up once."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

from recorder.ledger import OTHER, SinkStats
from recorder.ops.books import balances, total
from recorder.ops.observed import Observed
from recorder.ops.status_schema import Balance

NO_CHANNEL: Final = "none"
"""The channel of elements that could not be read and so have none."""
_PLAIN_CODE: Final = re.compile(r"[A-Za-z0-9_]{1,16}")

Key = tuple[str, str]
"""Cluster and channel."""


class Scrape:
    """The state of all parts at one moment. Make and use it in one go, in the event loop's thread."""

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.sinks: list[SinkStats] = list(observed.ledger.sinks.values())
        self.channels = observed.ledger.channels
        self.books: dict[str, dict[Key, Balance]] = {
            sink.name: balances(observed.ledger, sink) for sink in self.sinks
        }
        keys = [*self.channels, *(key for books in self.books.values() for key in books)]
        self.clusters = list(
            dict.fromkeys([*(feed.cluster for feed in observed.feeds), *(cluster for cluster, _ in keys)])
        )

    @cached_property
    def received(self) -> dict[Key, int]:
        """Events received per cluster and `channel` label."""
        found: dict[Key, int] = {}
        for (cluster, channel), counts in self.channels.items():
            key = cluster, channel_label(channel)
            found[key] = found.get(key, 0) + counts.received
        return found

    @cached_property
    def labelled_books(self) -> dict[str, dict[Key, Balance]]:
        """Each sink's books per cluster and `channel` label."""
        found: dict[str, dict[Key, Balance]] = {}
        for sink, books in self.books.items():
            labelled = found[sink] = {}
            for (cluster, channel), balance in books.items():
                key = cluster, channel_label(channel)
                labelled[key] = total([labelled[key], balance]) if key in labelled else balance
        return found

    def received_on(self, cluster: str, channels: frozenset[str]) -> int:
        """Return the number of events that a cluster received on `channels`."""
        return sum(
            counts.received
            for (feed, channel), counts in self.channels.items()
            if feed == cluster and channel in channels
        )

    def rejected(self, cluster: str) -> int:
        """Return the number of frames and elements of a cluster that could not be read."""
        return sum(counts.rejected for (feed, _), counts in self.channels.items() if feed == cluster)

    def ndjson(self, cluster: str) -> Balance:
        """Return the sum of a cluster's books in the sinks that write NDJSON, to files or to stdout."""
        return total(
            balance
            for sink in ("ndjson", "stdout")
            for (feed, _), balance in self.books.get(sink, {}).items()
            if feed == cluster
        )


def channel_label(channel: str) -> str:
    """Return the value of the `channel` label. The ledger bounds how many there are."""
    if not channel:
        return NO_CHANNEL
    return channel if _PLAIN_CODE.fullmatch(channel) else OTHER
