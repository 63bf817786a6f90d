"""The past of bars for one client: what is remembered of the feed, and a bar maker that sees it again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from recorder.bars import Bar, BarMaker, Trades
from recorder.servers.client import Client
from recorder.servers.subscriptions import EVERYTHING
from recorder.servers.topics import BarTopic


class Joiner(Protocol):
    """A port whose clients can be given the past."""

    def held_bars(self, client: Client, cluster: str) -> Iterable[BarTopic]:
        """Return the bars that a client gets live."""

    def send_bars(self, client: Client, bars: Sequence[Bar]) -> None:
        """Send a client bars of the past."""

    def join(self, client: Client, cluster: str, topics: Iterable[BarTopic]) -> None:
        """A client has got all it missed; from now on it gets what all get."""


@dataclass(slots=True)
class Remembered:
    """The trades of one batch, or a watermark where there are none."""

    trades: Trades | None
    read_ns: int
    """When the trades were read, or until when everything has been."""
    size: int

    def enter(self, maker: BarMaker) -> None:
        """Have a maker take it; `BarMaker.close_due` is due afterwards."""
        if self.trades is not None:
            maker.add(self.trades, self.read_ns)
        else:
            maker.advance(self.read_ns)


@dataclass(slots=True)
class Replay:
    """The past for one client, by a bar maker of its own, until the common one has every window whole."""

    client: Client
    joiner: Joiner
    topics: dict[BarTopic, int] = field(default_factory=dict)
    """What it asked for, and from which time on, Unix ms."""
    since_ms: dict[BarTopic, int] = field(default_factory=dict)
    """The same under every spelling of the symbols."""
    amend_wishes: set[BarTopic] = field(default_factory=set)
    """Of what it asked for, what it wants again when late trades change it."""
    amended: frozenset[BarTopic] = frozenset()
    """The same under every spelling of the symbols."""
    held: frozenset[BarTopic] = frozenset()
    """What it gets live already, and so not from here."""
    maker: BarMaker | None = None
    """None while it waits its turn."""
    ahead: deque[Remembered] = field(default_factory=deque)
    """What its maker has not seen yet."""
    whole_after_ms: int = 0
    """Windows that begin later can be made whole from what is remembered."""
    until_ms: int = 0
    """Windows that end later are whole with the common maker."""

    def wants(self, bar: Bar) -> bool:
        """Whether the client is to get a bar from here."""
        topics = (BarTopic(bar.interval_ms, bar.symbol), BarTopic(bar.interval_ms, EVERYTHING))
        times = [
            self.since_ms[topic]
            for topic in topics
            if topic in self.since_ms and (not bar.rev or topic in self.amended)
        ]
        return (
            bool(times)
            and bar.start_ms >= min(times)
            and bar.start_ms > self.whole_after_ms
            and self.held.isdisjoint(topics)
        )
