"""What a filtering port does for clients that want more than every event at once, or another end than being closed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from recorder.bus import Batch
from recorder.polygon.channels import REPLACEABLE_CHANNELS
from recorder.polygon.control import ERROR, encode_status
from recorder.polygon.manner import SNAPSHOT, SNAPSHOT_COMPLETE, Manner, Slow
from recorder.polygon.rows import Rows, Status
from recorder.servers.client import Client
from recorder.servers.delivery import deliver
from recorder.servers.manners.intervals import INTERVALS_MAX, SLICE_VALUES, Interval, is_held_back, overlaps
from recorder.servers.manners.slow import ROOM_SHARE, Leniency
from recorder.servers.means import Means
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import Subscriptions

SNAPSHOT_PRICE: Final = 64
"""A snapshot of so many bytes costs a client what a message of one byte does."""


class Manners:
    """The clients of one port that have asked for a manner. For all others nothing is done, and nothing costs more."""

    def __init__(self, live: Mapping[str, Subscriptions[Client]], stats: ServerStats, means: Means) -> None:
        """`live`: by cluster, the topics whose events are sent as they come."""
        self._live = live
        self._stats = stats
        self._means = means
        self._intervals: dict[int, Interval] = {}
        """Those in use, by their length in ms."""
        self._sooner: dict[Client, dict[tuple[str, int], Subscriptions[Client] | None]] = {}
        """What `sooner` has found, by cluster and interval; of a client whose topics change, it is forgotten."""
        self._conflating: dict[Client, Leniency] = {}
        """Clients whose values are conflated while they are slow."""

    def when_slow(self, client: Client, slow: Slow) -> None:
        """From here on, treat a client so when it leaves too much unread."""
        before = client.lenience
        if slow == ("disconnect" if before is None else before.way):
            return
        if before is not None:
            before.recover()
        self._conflating.pop(client, None)
        client.lenience = None
        if slow != "disconnect":
            made = Leniency(client, slow, self._means, self._stats)
            made.left_out = before.left_out if before is not None else 0
            client.lenience = made
            if slow == "conflate":
                self._conflating[client] = made

    @property
    def has_intervals(self) -> bool:
        """Whether a client gets anything at intervals."""
        return bool(self._intervals)

    def refusals(self, manner: Manner) -> list[str]:
        """Return what is not to be had of a manner, in words."""
        found = []
        if manner.snapshot and not self._means.values.values_max:
            found.append("snapshot: this recorder keeps no last values (SNAPSHOT_VALUES_MAX is 0)")
        if manner.interval_ms and (refusal := self._interval_refusal(manner.interval_ms)):
            found.append(f"interval_ms: {refusal}; each event comes at once")
        return found

    async def prepare(self, manner: Manner) -> None:
        """Return once topics can be had in this manner."""
        if manner.snapshot:
            await self._means.values.prepare()

    def _interval_refusal(self, interval_ms: int) -> str:
        """Return why there can be no such interval; empty if there can."""
        if interval_ms in self._intervals or len(self._intervals) < INTERVALS_MAX:
            return ""
        return f"other clients use {INTERVALS_MAX} intervals already: take one of {sorted(self._intervals)}"

    def indices(self, cluster: str) -> list[Subscriptions[Client]]:
        """Return the topics of a cluster that clients get at intervals."""
        return [interval.indices[cluster] for interval in self._intervals.values()]

    def subscribe(
        self, client: Client, cluster: str, topics: Sequence[str], interval_ms: int
    ) -> Sequence[str]:
        """Let the client get topics at intervals; return those of which everything is to be sent as it comes."""
        self.settle(client, cluster)
        if not interval_ms or self._interval_refusal(interval_ms):
            return topics
        held = [topic for topic in topics if is_held_back(topic)]
        if held:
            interval = self._intervals.get(interval_ms)
            if interval is None:
                interval = Interval(interval_ms, self._live, self, self._stats, self._means)
                self._intervals[interval_ms] = interval
            interval.settle(client, cluster)
            interval.indices[cluster].subscribe(client, held)
        return [topic for topic in topics if not is_held_back(topic)]

    def _topics_of(self, client: Client) -> list[Subscriptions[Client]]:
        """Return the indices of the client's topics, one for each cluster."""
        found = []
        for cluster, live in self._live.items():
            found.append(made := Subscriptions[Client](cluster))
            for index in (live, *self.indices(cluster)):
                made.subscribe(client, index.topics.get(client, {}))
        return found

    def settle(self, client: Client, cluster: str, given_back: Collection[str] = ()) -> None:
        """The client's topics are about to change: send it what is held back by those that it keeps."""
        for interval in self._intervals.values():
            if client in interval.indices[cluster].topics:
                interval.settle(client, cluster, given_back)

    def whole(self, client: Client, clusters: Iterable[str], topics: Iterable[str]) -> list[str]:
        """Return of some topics those that the client does not get at intervals."""
        indices = [index for cluster in clusters for index in self.indices(cluster)]
        return [
            topic for topic in topics if not any(topic in index.topics.get(client, {}) for index in indices)
        ]

    def topics_changed(self, client: Client) -> None:
        """Forget what is known of a client's topics, what is held for others, and intervals that nobody uses any more."""
        leniency = self._conflating.get(client)
        if leniency is not None and leniency.is_behind:
            leniency.keep(self._topics_of(client))
        if not self._intervals:
            return
        self._sooner.pop(client, None)
        for length, interval in list(self._intervals.items()):
            if not any(index.topics for index in interval.indices.values()):
                self._means.pacer.release(interval)
                del self._intervals[length]
        used = []
        for interval in self._intervals.values():
            if any(client in index.topics for index in interval.indices.values()):
                used.append(interval)
            else:
                interval.leave(client)
        client.intervals = tuple(used)

    def sooner(self, client: Client, cluster: str, interval_ms: int) -> Subscriptions[Client] | None:
        """Return the index of a client's topics whose events come sooner; None if there are none."""
        known = self._sooner.setdefault(client, {})
        key = cluster, interval_ms
        if key not in known:
            shorter = [each for length, each in self._intervals.items() if length < interval_ms]
            indices = [self._live[cluster], *(each.indices[cluster] for each in shorter)]
            held = self._intervals[interval_ms].indices[cluster].topics.get(client, {})
            topics = [
                topic
                for index in indices
                for topic in index.topics.get(client, {})
                if overlaps(topic, held, cluster)
            ]
            found = Subscriptions[Client](cluster) if topics else None
            if found is not None:
                found.subscribe(client, topics)
            known[key] = found
        return known[key]

    def send_snapshot(self, client: Client, clusters: Iterable[str], topics: Sequence[str]) -> None:
        """Send the client the last values of topics, which it gets from here on: between two statuses, in one turn."""
        values = self._means.values
        if not values.values_max:
            return
        found = [fragment for cluster in clusters for fragment in values.of(cluster, topics)]
        size = sum(map(len, found))
        room = int(client.limits.pending_bytes_max * ROOM_SHARE) - client.pending_bytes
        if client.is_behind or size > room:
            words = f"snapshot: it has {size} bytes, and {max(0, room)} may wait for you now"
            refusal = f"{words}; ask for fewer topics at a time: these come without"
        elif not client.may_request(size // SNAPSHOT_PRICE):
            refusal = "snapshot: too many of them; wait a few seconds: the topics come without"
        else:
            refusal = ""
        self._stats.snapshots["refused" if refusal else "sent"] += 1
        if refusal:
            client.say(encode_status(Status(ERROR, refusal)))
            return
        words = "the last values of your topics follow"
        if not values.is_whole:
            words += ", less those that there was no room for (SNAPSHOT_VALUES_MAX)"
        client.say(
            encode_status(Status(SNAPSHOT, words), available_since=values.since_ms, is_whole=values.is_whole)
        )
        # As slices that are a frame each: to cut one array of all into frames would cost three times as much.
        for begin in range(0, len(found), SLICE_VALUES):
            deliver([client], found[begin : begin + SLICE_VALUES], self._stats)
        words = f"that was the snapshot: {len(found)}"
        client.say(encode_status(Status(SNAPSHOT_COMPLETE, words), count=len(found)))

    def accept(self, cluster: str, events: Rows) -> None:
        """Take the events of a pass for those that get them at intervals."""
        held = REPLACEABLE_CHANNELS & events.counts.keys()
        others = events.counts.keys() - held
        values = (events if not others else events.of_channels(held)) if held else None
        rest = (events if not held else events.of_channels(others)) if others else None
        for interval in self._intervals.values():
            interval.accept(cluster, rest, values)

    def splits(self, batch: Batch) -> bool:
        """Return whether some client has no room for the whole of a batch, so that its values are to be held back."""
        if not self._conflating:
            return False
        size = sum(map(len, batch.frames))
        must_hold = False
        for leniency in self._conflating.values():
            must_hold |= leniency.must_hold(size)
        return must_hold

    def deliver(self, index: Subscriptions[Client], events: Rows) -> None:
        """Do as the port does with the events of a pass, but hold back the values of those that have no room."""
        channels, symbols, fragments = events.channels, events.symbols, events.fragments
        everything = range(len(events))
        for clients, places in [
            (index.everybody(), everything),
            *index.match(channels, symbols, everything),
        ]:
            chosen = fragments if len(places) == len(everything) else [fragments[place] for place in places]
            slow = [client for client in clients if client in self._conflating and client.is_behind]
            if len(slow) < len(clients):
                deliver([client for client in clients if client not in slow], chosen, self._stats)
            for client in slow:
                self._conflating[client].hold(
                    [channels[place] for place in places], [symbols[place] for place in places], chosen
                )

    def forget(self, client: Client) -> None:
        """Remove a client."""
        self._conflating.pop(client, None)
        if client.lenience is not None:
            client.lenience.look()

    def __repr__(self) -> str:
        return f"Manners({list(self._intervals.values())!r}, {len(self._conflating)} conflate)"
