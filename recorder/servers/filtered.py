"""The ports that filter: each client gets the events and bars of its topics, once each, in order, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from recorder import frames
from recorder.bars import Bar
from recorder.bus import Batch, SessionChange, TopicsAnswered
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.control import (
    ERROR,
    NOTHING_COMES,
    acknowledgement,
    amend_remark,
    encode_status,
)
from recorder.polygon.manner import PLAIN, Manner, Slow
from recorder.polygon.rows import Status, fragment_of
from recorder.polygon.server import Policy, Subscribe
from recorder.polygon.topics import WILDCARD
from recorder.servers.bars import BarSource
from recorder.servers.client import Client
from recorder.servers.delivery import arrays, deliver, deliver_payloads, joined
from recorder.servers.demand import OnDemandTopics
from recorder.servers.manners.manners import Manners
from recorder.servers.means import Means
from recorder.servers.past.bar_request import BarRequest
from recorder.servers.past.topic_past import TopicPast, served
from recorder.servers.port import KeyCheck
from recorder.servers.promises import Promises
from recorder.servers.relay import BarRelay
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import Subscriptions
from recorder.servers.topics import BarTopic, TopicPolicy, bar_channel, parse_bar_topic


class TopicPort:
    """The ports 8765 (`filtered`: everything) and 8768 (`bars`: bars and aggregates only).

    One index for each cluster for the events, one for the bars, so that `*` never means bars. Cost is paid for
    matched deliveries: an event that nobody holds costs a look-up. Subscriptions change between passes.
    """

    def __init__(
        self,
        name: str,
        followed: Mapping[str, frozenset[str]],
        stats: ServerStats,
        topics_max: int,
        bars: BarSource | BarRelay | None,
        demand: OnDemandTopics | None,
        *,
        bars_only: bool,
        default_cluster: str = "",
    ) -> None:
        """`followed`: what is subscribed upstream in any case, by cluster; where it is empty, nothing is known of it.

        `default_cluster` is the only cluster where nobody has chosen one; else it is empty.
        """
        self.name = name
        self._clusters = tuple(followed)
        self._stats = stats
        self.topics_max = topics_max
        self._bars = bars
        self._demand = demand
        self._bars_only = bars_only
        self._promises = Promises(
            followed,
            is_relayed=isinstance(bars, BarRelay),
            is_on_demand=demand is not None,
            default_cluster=default_cluster,
        )
        self._events: dict[str, Subscriptions[Client]] = {
            name: Subscriptions(name) for name in self._clusters
        }
        self._made: dict[str, Subscriptions[Client]] = {name: Subscriptions(name) for name in self._clusters}
        self._amended: dict[str, Subscriptions[Client]] = {
            name: Subscriptions(name) for name in self._clusters
        }
        """Of these bars, those that clients want again when late trades change them."""
        self._amend_wishes: dict[tuple[Client, str], set[BarTopic]] = {}
        """What a client wants amended in a cluster, whether it gets it live or from a replay."""
        self._behind: dict[tuple[Client, str], dict[BarTopic, None]] = {}
        """Bars that a client holds in a cluster, and gets from a replay until it has caught up."""
        self._manners: Manners | None = None
        if bars is not None:
            bars.attach(self.accept_bars)
        if isinstance(bars, BarRelay):
            bars.when_refused(self._take_back_amend)

    def policy(self, cluster: str, refuse_key: KeyCheck) -> Policy:
        """The grammar of this port."""
        bars = self._bars
        return TopicPolicy(
            refuse_key,
            self.topics_max,
            bars_ms=bars.lengths_ms if bars is not None else None,
            bars_only=self._bars_only,
            amend_refusal=lambda: bars.amend_refusal if bars is not None else "",
            unfollowed=lambda topic: self._promises.remark(cluster, topic),
            manner_refusals=lambda manner: (
                self._manners.refusals(manner) if self._manners is not None else []
            ),
        )

    def greets(self, cluster: str) -> bool:
        """Always, as the vendor does."""
        return True

    def offer(self, means: Means) -> None:
        """Serve clients in other manners, too: `Manner`."""
        self._manners = Manners(self._events, self._stats, means)

    async def prepare(self, manner: Manner) -> None:
        """Return once clients can have topics in this manner."""
        if self._manners is not None:
            await self._manners.prepare(manner)

    def when_slow(self, client: Client, slow: Slow) -> None:
        """From here on, treat a client so when it leaves too much unread."""
        if self._manners is not None:
            self._manners.when_slow(client, slow)

    def subscribe(
        self,
        client: Client,
        topics: tuple[str, ...],
        wish: Subscribe | None = None,
        *,
        amend: bool = False,
        manner: Manner = PLAIN,
    ) -> None:
        """Add topics to a client; send it first what it has missed of bars, as far as that is kept."""
        events = [topic for topic in topics if parse_bar_topic(topic) is None]
        made = [topic for topic in topics if parse_bar_topic(topic) is not None]
        manners = self._manners
        if manners is not None and manner.snapshot and events:
            manners.send_snapshot(client, self._of(client), events)
        request = None
        # While a client catches up, what it asks for then may overlap in that, and so waits for it.
        is_behind = any(self._behind.get((client, cluster)) for cluster in self._of(client))
        if made and self._bars is not None and (wish is not None or is_behind):
            request = self._bars.request(client, self._of(client), wish, self._stats)
        for cluster in self._of(client):
            live: Sequence[str] = events
            if manners is not None:
                live = manners.subscribe(client, cluster, events, manner.interval_ms)
            self._events[cluster].subscribe(client, live)
            if made:
                self._want_bars(client, cluster, made, request, amend=amend)
            if self._demand is not None:
                self._demand.subscribe(cluster, self._promises.needed(cluster, topics))
        self._topics_changed(client)

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        """Unsubscribe a client from topics."""
        asked = frozenset(topics)
        for cluster in self._of(client):
            if self._bars is not None and not asked.isdisjoint(self._made[cluster].topics.get(client, ())):
                self._bars.hand_on(cluster)
            if self._manners is not None:
                self._manners.settle(client, cluster, asked)
            for index in (*self._indices(cluster), self._made[cluster]):
                held = [topic for topic in topics if topic in index.topics.get(client, {})]
                if held:
                    index.unsubscribe(client, held)
                    self._release(client, cluster, held)
            self._amended[cluster].unsubscribe(client, topics)
            behind = self._behind.get((client, cluster), {})
            given_back = [topic for topic in behind if str(topic) in asked]
            for bar_topic in given_back:
                del behind[bar_topic]
            self._release(client, cluster, list(map(str, given_back)))
        self._topics_changed(client)

    def bars_closed_ms(self, client: Client) -> dict[str, int] | None:
        """Return up to when a client has its bars; None while it lacks some."""
        closed_ms: dict[str, int] = {}
        for cluster in self._of(client):
            has_bars = self._made[cluster].topics.get(client) or self._behind.get((client, cluster))
            if has_bars and isinstance(self._bars, BarSource):
                if (found := self._bars.closed_ms(cluster, client)) is None:
                    return None
                closed_ms[cluster] = found
        return closed_ms

    def past(self, client: Client, topics: tuple[str, ...], held: Iterable[str]) -> TopicPast:
        """The events of these topics; bars have a past of their own.

        What the client holds at an interval counts as if it did not: not every event comes by that.
        """
        if self._manners is not None:
            held = self._manners.whole(client, self._of(client), held)
        return TopicPast(client, self._of(client), topics, held, self._stats, bars_only=self._bars_only)

    def ping(self, client: Client, payload: bytes) -> None:
        """Answer at once; where the time is asked for, behind the bars that are due."""
        if self._bars is not None and payload.startswith(frames.TIME_PING):
            for cluster in self._of(client):
                self._bars.hand_on(cluster)
        client.pong(payload)

    def forget(self, client: Client) -> None:
        """Remove a client."""
        if self._bars is not None:
            self._bars.forget(client)
        for cluster in self._of(client):
            for index in (*self._indices(cluster), self._made[cluster]):
                held = list(index.topics.get(client, {}))
                if held:
                    index.forget(client)
                    self._release(client, cluster, held)
            self._amended[cluster].forget(client)
            self._release(client, cluster, list(map(str, self._behind.pop((client, cluster), {}))))
        self._topics_changed(client)
        if self._manners is not None:
            self._manners.forget(client)

    def held_bars(self, client: Client, cluster: str) -> Iterable[BarTopic]:
        """Return the bars that a client gets live."""
        held = self._made[cluster].topics.get(client, {})
        return [topic for topic in map(parse_bar_topic, held) if topic is not None]

    def send_bars(self, client: Client, bars: Sequence[Bar]) -> None:
        """Send a client bars that it has missed."""
        deliver([client], [fragment_of(bar.data) for bar in bars], self._stats)

    def join(self, client: Client, cluster: str, topics: Iterable[BarTopic]) -> None:
        """A client has got the bars that it had missed: it gets live ones now."""
        behind = self._behind.get((client, cluster), {})
        for topic in topics:
            behind.pop(topic, None)
        if not behind:
            self._behind.pop((client, cluster), None)
        self._subscribe_bars(client, cluster, topics)
        self._count_audiences()

    def accept(self, batch: Batch) -> None:
        """Send each client its events of this batch, in one array."""
        index = self._events[batch.cluster]
        manners = self._manners
        has_intervals = manners is not None and manners.has_intervals
        if not index.topics and not has_intervals:
            return
        events = served(batch.rows, bars_only=self._bars_only)
        if events is None:
            return
        if manners is not None:
            if has_intervals:
                manners.accept(batch.cluster, events)
            if manners.splits(batch):
                manners.deliver(index, events)
                return
        everybody = index.everybody()
        if everybody and len(events):
            # The frames are there already; cutting them into events would cost more than all the rest.
            payloads = [] if self._bars_only else joined(batch.plain_frames)
            deliver_payloads(everybody, payloads or arrays(events.fragments), len(events), self._stats)
        if index.has_others:
            for clients, fragments in index.match(events.channels, events.symbols, events.fragments):
                deliver(clients, fragments, self._stats)

    def accept_bars(self, cluster: str, bars: Sequence[Bar]) -> None:
        """Send each client its bars, in the order in which they closed."""
        if any(bar.rev for bar in bars):
            self._deliver_bars(self._made[cluster], [bar for bar in bars if not bar.rev])
            self._deliver_bars(self._amended[cluster], [bar for bar in bars if bar.rev])
        else:
            self._deliver_bars(self._made[cluster], bars)

    def is_awaited(self) -> bool:
        """Whether a client has a topic; those that wait for bars are the bars' own."""
        is_awaited = any(index.topics for index in self._events.values())
        return is_awaited or (self._manners is not None and self._manners.has_intervals)

    def session_changed(self, change: SessionChange) -> None:
        """A gap is a pause; the client sees that nothing comes."""

    def topics_answered(self, answered: TopicsAnswered) -> None:
        """Say to clients of which of their topics nothing will come, or that something will after all."""
        holders = list(dict.fromkeys(self._holders(answered)))
        before = [self._promises.refusal(self._of(client), topic) for client, topic in holders]
        self._promises.take(answered)
        told: dict[Client, list[Status]] = {}
        for (client, topic), was_refused in zip(holders, before, strict=True):
            words = self._promises.refusal(self._of(client), topic)
            if words and not was_refused:
                told.setdefault(client, []).append(Status(ERROR, f"{topic}: {NOTHING_COMES}{words}"))
            elif was_refused and not words:
                told.setdefault(client, []).append(acknowledgement("subscribed", topic))
        for client, statuses in told.items():
            _say(client, statuses)

    def _holders(self, answered: TopicsAnswered) -> Iterator[tuple[Client, str]]:
        """Yield the clients that may hold what depends on these topics, and their own topics."""
        cluster = answered.cluster
        fixed = self._promises.followed[cluster]
        makes_bars = not self._promises.is_relayed
        for asked in answered.topics:
            channel, _, symbol = asked.partition(".")
            # Topics of a channel that is subscribed as a whole are not asked for one by one.
            found = None if symbol == WILDCARD and asked in fixed else symbol
            for index in self._indices(cluster):
                yield from index.holders(channel, found)
            if makes_bars and channel == CLUSTERS[cluster].trade_channel:
                made = self._made[cluster]
                for length in made.channels:
                    yield from made.holders(length, found)
        for (client, name), topics in self._behind.items():
            if name == cluster:
                yield from ((client, str(topic)) for topic in topics)

    def _deliver_bars(self, index: Subscriptions[Client], bars: Sequence[Bar]) -> None:
        if not index.topics:
            return
        channels = [bar_channel(bar.interval_ms) for bar in bars]
        fragments_of_all = [fragment_of(bar.data) for bar in bars]
        for clients, fragments in index.match(channels, [bar.symbol for bar in bars], fragments_of_all):
            deliver(clients, fragments, self._stats)

    def _of(self, client: Client) -> tuple[str, ...]:
        return (client.cluster,) if client.cluster else self._clusters

    def _want_bars(
        self, client: Client, cluster: str, topics: list[str], request: BarRequest | None, *, amend: bool
    ) -> None:
        bars = self._bars
        if bars is None:
            return
        amend = amend and not bars.amend_refusal
        parsed = [found for topic in topics if (found := parse_bar_topic(topic)) is not None]
        for bar_topic in parsed:
            bars.want(cluster, bar_topic, amend=amend)
        if amend:
            self._amend_wishes.setdefault((client, cluster), set()).update(parsed)
        if request is not None and bars.replay(cluster, parsed, request, self, amend=amend):
            self._behind.setdefault((client, cluster), {}).update(dict.fromkeys(parsed))
        else:
            self._subscribe_bars(client, cluster, parsed)

    def _subscribe_bars(self, client: Client, cluster: str, topics: Iterable[BarTopic]) -> None:
        """From the next pass on, the client gets these bars live."""
        topics = list(topics)
        wishes = self._amend_wishes.get((client, cluster), set())
        self._made[cluster].subscribe(client, map(str, topics))
        self._amended[cluster].subscribe(client, [str(topic) for topic in topics if topic in wishes])

    def _take_back_amend(self, refusal: str) -> None:
        """Say to clients that were promised amended bars that none will come: acknowledge each topic again, with why."""
        told: dict[Client, set[str]] = {}
        for (client, cluster), wishes in self._amend_wishes.items():
            topics = set(map(str, wishes))
            self._amended[cluster].unsubscribe(client, topics)
            told.setdefault(client, set()).update(topics)
        self._amend_wishes.clear()
        remark = amend_remark(refusal)
        for client, topics in told.items():
            acks = [acknowledgement("subscribed", topic) for topic in sorted(topics)]
            _say(client, [Status(ack.status, ack.message + remark) for ack in acks])

    def _release(self, client: Client, cluster: str, topics: list[str]) -> None:
        made = [found for topic in topics if (found := parse_bar_topic(topic)) is not None]
        if made and self._bars is not None:
            self._bars.cancel(cluster, made, client)
            wishes = self._amend_wishes.get((client, cluster), set())
            for topic in made:
                self._bars.unwant(cluster, topic, amend=topic in wishes)
            wishes.difference_update(made)
            if not wishes:
                self._amend_wishes.pop((client, cluster), None)
        if self._demand is not None:
            self._demand.unsubscribe(cluster, self._promises.needed(cluster, topics))

    def _indices(self, cluster: str) -> list[Subscriptions[Client]]:
        """Return the indices of a cluster's events: of those that are sent as they come, and of those at intervals."""
        at_intervals = self._manners.indices(cluster) if self._manners is not None else []
        return [self._events[cluster], *at_intervals]

    def _topics_changed(self, client: Client) -> None:
        if self._manners is not None:
            self._manners.topics_changed(client)
        self._count_audiences()

    def _count_audiences(self) -> None:
        indices = [self._made[cluster] for cluster in self._clusters]
        for cluster in self._clusters:
            indices += self._indices(cluster)
        self._stats.audiences = sum(index.audiences_count for index in indices)

    def __repr__(self) -> str:
        return f"TopicPort({self.name}, {list(self._events.values())!r})"


def _say(client: Client, statuses: Iterable[Status]) -> None:
    """Send statuses, each in a frame of its own."""
    try:
        client.say(*map(encode_status, statuses))
    except Exception as error:  # the defect of one connection must not cost the others what they are told
        client.fail(error)
