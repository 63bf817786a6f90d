"""What a source is to the rest of the recorder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from recorder.part import Part


class Source(Part, Protocol):
    """Puts batches of one cluster on the bus that it was made with, from `open` until `close`.

    It announces when a session begins and when it ends, in order with the batches: the time between two sessions is a
    gap, and the archive says so. Each batch says when it was read, so that no consumer looks at its own clock.
    """


class TopicSink(Protocol):
    """A source that can change what it is subscribed to."""

    def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to more topics, also after every reconnect."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Give topics back that were subscribed to in this way."""

    def ask_time(self) -> None:
        """Ask how far time has come at the exchange; a `Watermark` of now or later on the bus answers."""
