"""Topics that clients get at intervals: of each symbol the newest value, at most so often."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from recorder.polygon.channels import REPLACEABLE_CHANNELS
from recorder.polygon.rows import Rows
from recorder.servers.client import Client
from recorder.servers.delivery import deliver
from recorder.servers.means import Means
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import EVERYTHING, Subscriptions, spellings

INTERVALS_MAX: Final = 32
"""Different intervals that are in use at a time: each costs a look-up an event."""
SLICE_VALUES: Final = 4000
"""Values that are sent in one turn of the loop."""


_Key = tuple[str, str]
"""Channel and symbol."""
_Value = tuple[int, bytes]
"""The number of the pass in which an event came, and its fragment."""


class Newest:
    """The newest event of each channel and symbol of a cluster since it was last handed out, in the stream's order."""

    def __init__(self) -> None:
        self.values: dict[_Key, _Value] = {}

    def take(self, events: Rows, places: Sequence[int], number: int) -> int:
        """Take the events at these places, of a pass; return how many of all that it had are gone for newer ones."""
        channels, symbols, fragments = events.channels, events.symbols, events.fragments
        values = self.values
        gone = 0
        for place in places:
            key = channels[place], symbols[place]
            # Out and in again: so the order is that of the newest events, and nothing has to be sorted.
            if values.pop(key, None) is not None:
                gone += 1
            values[key] = number, fragments[place]
        return gone

    def hand_out(self) -> dict[_Key, _Value]:
        """Return what there is, and keep nothing."""
        values, self.values = self.values, {}
        return values

    def __len__(self) -> int:
        return len(self.values)


class Overlap(Protocol):
    """Knows what a client gets sooner by another topic."""

    def sooner(self, client: Client, cluster: str, interval_ms: int) -> Subscriptions[Client] | None:
        """Return the index of a client's topics whose events come sooner; None if there are none."""


class Interval:
    """One interval: its topics in each cluster, and what is held back until it is over.

    The first value after a pause is sent in the next turn of the loop; from then on what comes is held until the interval
    is over. So a symbol is sent once an interval at most, and its last value waits for an interval at most.
    """

    def __init__(
        self, interval_ms: int, clusters: Iterable[str], overlap: Overlap, stats: ServerStats, means: Means
    ) -> None:
        self.interval_ms = interval_ms
        self.indices: dict[str, Subscriptions[Client]] = {name: Subscriptions(name) for name in clusters}
        self.due_ns = 0
        self.reached = (0, 0)
        """The position for which what was sent stands while something is held, and the last record then."""
        self._overlap = overlap
        self._stats = stats
        self._means = means
        self._newest = {name: Newest() for name in self.indices}
        self._leaving: deque[tuple[str, deque[tuple[_Key, _Value]]]] = deque()
        """What is being sent, by cluster."""
        self._number = self._collected_number = 0
        """The last pass, and the last of which something is being sent."""
        self._marks: dict[str, dict[Client, int]] = {name: {} for name in self.indices}
        """Of clients whose topics have changed, by cluster, the last pass of which everything is settled."""
        self._next_ns = 0
        """Nothing is sent before."""
        self._collected = (0, 0)
        """The position up to which everything is sent, or being sent."""

    @property
    def is_holding(self) -> bool:
        """Whether anything is held back."""
        return bool(self._leaving) or any(map(len, self._newest.values()))

    def accept(self, cluster: str, rest: Rows | None, values: Rows | None) -> None:
        """Send what is never held back to those that hold `*`; hold the values that somebody wants."""
        index = self.indices[cluster]
        if not index.topics:
            return
        everybody = index.everybody()
        if rest is not None and everybody:
            deliver_less(
                everybody, cluster, self.interval_ms, rest, range(len(rest)), self._overlap, self._stats
            )
        if values is None:
            return
        places: Sequence[int] = range(len(values))
        if not everybody:
            matches = [found for _, found in index.match(values.channels, values.symbols, places)]
            places = matches[0] if len(matches) == 1 else sorted(set(chain.from_iterable(matches)))
        if not places:
            return
        if not self.is_holding:
            now_ns = self._means.clock.monotonic_ns()
            self.due_ns = max(now_ns, self._next_ns)
            self.reached = self._means.log.settled
            self._means.pacer.hold(self)
        self._number += 1
        self._stats.events_conflated += self._newest[cluster].take(values, places, self._number)

    def settle(self, client: Client, cluster: str, given_back: Collection[str] = ()) -> None:
        """The client's topics are about to change: send it what is held back by those that it keeps, and never again.

        So what came before the change comes by the topics of then, each event once.
        """
        marks, index = self._marks[cluster], self.indices[cluster]
        topics = [topic for topic in index.topics.get(client, {}) if topic not in given_back]
        leaving = [value for name, values in self._leaving if name == cluster for value in values]
        settled = marks.get(client, 0)
        held = [*leaving, *self._newest[cluster].values.items()] if topics else []
        rows = _rows_of(cluster, [value for value in held if value[1][0] > settled])
        marks[client] = self._number
        if len(rows):
            wanted = Subscriptions[Client](cluster)
            wanted.subscribe(client, topics)
            self._deliver([client], rows, sorted(places_of(wanted, rows)))

    def leave(self, client: Client) -> None:
        """Forget a client that has no topics here any more."""
        for marks in self._marks.values():
            marks.pop(client, None)

    def send_some(self, now_ns: int) -> bool:
        """Send some of what is due; return whether anything is left to be sent."""
        if not self._leaving:
            self._collect()
            self._next_ns = now_ns + self.interval_ms * 1_000_000
        if self._leaving:
            self._send_slice()
        if self._leaving:
            return True
        for cluster, marks in self._marks.items():
            if marks:
                newer = {client: mark for client, mark in marks.items() if mark > self._collected_number}
                self._marks[cluster] = newer
        if self.is_holding:  # it came while this was sent
            self.due_ns = self._next_ns
            self.reached = self._collected
            return True
        return False

    def send_all(self) -> None:
        """Send everything, due or not."""
        self._collect()
        self._next_ns = self._means.clock.monotonic_ns() + self.interval_ms * 1_000_000
        while self._leaving:
            self._send_slice()

    def _collect(self) -> None:
        self._collected = self._means.log.reached
        self._collected_number = self._number
        for cluster, newest in self._newest.items():
            if newest:
                self._leaving.append((cluster, deque(newest.hand_out().items())))

    def _send_slice(self) -> None:
        """Send some values to those that hold their topics now."""
        cluster, values = self._leaving[0]
        part = [values.popleft() for _ in range(min(SLICE_VALUES, len(values)))]
        if not values:
            self._leaving.popleft()
        rows = _rows_of(cluster, part)
        index, marks = self.indices[cluster], self._marks[cluster]
        everything = range(len(rows))
        for clients, places in [
            (index.everybody(), everything),
            *index.match(rows.channels, rows.symbols, everything),
        ]:
            # The oldest is the first: whoever has settled nothing of this slice gets what all get.
            changed = [client for client in clients if marks.get(client, 0) >= part[0][1][0]] if marks else []
            for client in changed:
                self._deliver(
                    [client], rows, [place for place in places if part[place][1][0] > marks[client]]
                )
            self._deliver([client for client in clients if client not in changed], rows, places)

    def _deliver(self, clients: Collection[Client], rows: Rows, places: Sequence[int]) -> None:
        deliver_less(clients, rows.cluster, self.interval_ms, rows, places, self._overlap, self._stats)

    def __repr__(self) -> str:
        return f"Interval({self.interval_ms} ms, {list(self.indices.values())!r})"


def _rows_of(cluster: str, values: Sequence[tuple[_Key, _Value]]) -> Rows:
    rows = Rows(cluster)
    rows.channels = [channel for (channel, _), _ in values]
    rows.symbols = [symbol for (_, symbol), _ in values]
    rows.fragments = [fragment for _, (_, fragment) in values]
    return rows


def deliver_less(
    clients: Collection[Client],
    cluster: str,
    interval_ms: int,
    rows: Rows,
    places: Sequence[int],
    overlap: Overlap,
    stats: ServerStats,
) -> None:
    """Send events to clients, to each without what it gets sooner by another topic."""
    alike: list[Client] = []
    for client in clients:
        index = overlap.sooner(client, cluster, interval_ms)
        if index is None and client.lenience is None:
            alike.append(client)
            continue
        had: Collection[int] = () if index is None else places_of(index, rows)
        left = [place for place in places if place not in had]
        chosen = [rows.fragments[place] for place in left]
        if client.lenience is not None and client.lenience.must_hold(sum(map(len, chosen))):
            channels, symbols = (
                [column[place] for place in left] for column in (rows.channels, rows.symbols)
            )
            client.lenience.hold(channels, symbols, chosen)
        elif chosen:
            deliver([client], chosen, stats)
    if alike and places:
        deliver(alike, [rows.fragments[place] for place in places], stats)


def places_of(index: Subscriptions[Client], rows: Rows) -> Collection[int]:
    """Return where the events stand that the one client of an index gets."""
    everything = range(len(rows))
    if index.everybody():
        return everything
    return set(next((places for _, places in index.match(rows.channels, rows.symbols, everything)), ()))


def overlaps(topic: str, held: Mapping[str, None], cluster: str) -> bool:
    """Return whether some event is of a topic and of one of those that are held."""
    channel, _, symbol = topic.partition(".")
    if topic == EVERYTHING or EVERYTHING in held or f"{channel}.{EVERYTHING}" in held:
        return True
    if symbol == EVERYTHING:
        return any(other.startswith(f"{channel}.") for other in held)
    return any(f"{channel}.{name}" in held for name in spellings(cluster, symbol))


def is_held_back(topic: str) -> bool:
    """Return whether an interval matters to a topic: whether any of its events says it all."""
    return topic == EVERYTHING or topic.partition(".")[0] in REPLACEABLE_CHANNELS
