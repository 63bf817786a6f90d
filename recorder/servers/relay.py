"""Bars of another recorder, for the ports that serve them: subscribed to as clients ask, passed on as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from recorder.bars import Bar
from recorder.bus import Batch, SessionChange
from recorder.polygon.control import SUCCESS, has_amend_remark, parse_ack
from recorder.polygon.rows import Status
from recorder.polygon.server import Subscribe
from recorder.servers.bar_listeners import BarListeners, Listener
from recorder.servers.client import Client
from recorder.servers.past.answer import complete, say_bars
from recorder.servers.past.bar_replay import Joiner
from recorder.servers.past.bar_request import BarRequest
from recorder.servers.stats import RelayStats, ServerStats
from recorder.servers.topics import BarTopic
from recorder.sources.source import TopicSink

BAR_CHANNEL = "MB"
NO_PAST = "the bars come from another recorder (MS_AGGREGATOR_URL), whose past is asked for there"
AMEND_REFUSAL = "the recorder that makes the bars amends none"


class _BarHeader(msgspec.Struct):
    """What says to whom a bar goes."""

    sym: str
    interval: int
    s: int
    e: int
    rev: int = 0


_decode_header = msgspec.json.Decoder(_BarHeader).decode


class BarRelay:
    """Takes bars from `MS_AGGREGATOR_URL` instead of making them. Has the interface of a `BarSource`.

    The other recorder's memory is not asked for: `since` is answered with what comes from now on. It is always asked for
    amended bars, which go to those clients that asked for them here. That it amends none is known once it acknowledges
    the first topic: clients that asked before are told then.
    """

    def __init__(self, lengths_ms: tuple[int, int]) -> None:
        self.lengths_ms = lengths_ms
        self._sources: dict[str, TopicSink] = {}
        self._wants: dict[tuple[str, BarTopic], int] = {}
        self._listeners = BarListeners()
        self.amend_refusal = ""
        """Why no bars are amended; empty unless the other recorder has said that it amends none."""
        self._when_refused: list[Callable[[str], None]] = []
        self.stats = RelayStats()

    def connect(self, cluster: str, source: TopicSink) -> None:
        """Use this feed for the bars of a cluster."""
        self._sources[cluster] = source

    def attach(self, listener: Listener) -> None:
        """Have bars handed to `listener(cluster, bars)`."""
        self._listeners.attach(listener)

    def when_refused(self, listener: Callable[[str], None]) -> None:
        """Have `listener(refusal)` called when the other recorder says that it amends no bars."""
        self._when_refused.append(listener)

    def accept(self, batch: Batch) -> None:
        """Pass on the bars of a batch of the other recorder."""
        events = batch.rows
        for status in events.statuses:
            self._learn(status)
        bars = []
        for channel, raw in zip(events.channels, events.objects, strict=True):
            if channel != BAR_CHANNEL:
                continue
            try:
                header = _decode_header(raw)
            except msgspec.MsgspecError:
                self.stats.unreadable += 1
                continue
            bars.append(Bar(header.interval, header.sym, header.s, header.e, raw, header.rev))
        self.stats.relayed += len(bars)
        if bars:
            self._listeners.send(batch.cluster, bars)

    def _learn(self, status: Status) -> None:
        """Learn from the acknowledgement of a topic, which is always asked for with `amend`, whether bars are amended."""
        acknowledged = parse_ack(status.message) if status.status == SUCCESS else None
        if acknowledged is None or acknowledged[0] != "subscribed":
            return
        before, self.amend_refusal = self.amend_refusal, ""
        if has_amend_remark(status.message):
            self.amend_refusal = AMEND_REFUSAL
            if not before:
                for listener in self._when_refused:
                    listener(AMEND_REFUSAL)

    def session_changed(self, change: SessionChange) -> None:
        """The subscriptions are restored by the feed."""

    def want(self, cluster: str, topic: BarTopic, *, amend: bool = False) -> None:
        """Subscribe to a topic of the other recorder, if nobody had asked for it."""
        key = (cluster, topic)
        self._wants[key] = self._wants.get(key, 0) + 1
        if self._wants[key] == 1:
            self._sources[cluster].subscribe([str(topic)])

    def unwant(self, cluster: str, topic: BarTopic, *, amend: bool = False) -> None:
        """Undo one `want`."""
        key = (cluster, topic)
        self._wants[key] -= 1
        if not self._wants[key]:
            del self._wants[key]
            self._sources[cluster].unsubscribe([str(topic)])

    def hand_on(self, cluster_name: str) -> None:
        """Nothing waits here."""

    def request(
        self, client: Client, clusters: tuple[str, ...], wish: Subscribe | None, stats: ServerStats
    ) -> None:
        """Say that there is no past to give, where a client wishes for it."""
        if wish is not None:
            stats.resumes["partial" if wish.partial else "refused"] += 1
            say_bars(
                client,
                recovered=False,
                partial=wish.partial,
                reason=NO_PAST,
                begins="",
                available=("", None),
                gaps=(),
            )
            if wish.partial:
                client.say(complete(0, of_bars=True))

    def replay(
        self,
        cluster: str,
        topics: Iterable[BarTopic],
        request: BarRequest,
        joiner: Joiner,
        *,
        amend: bool = False,
    ) -> bool:
        """There is no past to give."""
        return False

    def cancel(self, cluster: str, topics: Iterable[BarTopic], client: Client) -> None:
        """Nothing is replayed here."""

    def forget(self, client: Client) -> None:
        """Nothing is kept for a client."""

    def __repr__(self) -> str:
        return f"BarRelay({len(self._wants)} topics, bars={self.stats.relayed})"
