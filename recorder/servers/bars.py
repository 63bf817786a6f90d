"""Bars for the ports that serve them: made from the trades on the bus, with a memory for those who missed some."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from recorder.bars import Bar, BarMaker
from recorder.bus import Batch, SessionChange
from recorder.clock import Clock
from recorder.conditions import update_rule
from recorder.polygon.events import TRADE_CHANNELS, Events
from recorder.servers.client import Client
from recorder.servers.topics import BarTopic
from recorder.settings import BarSettings

Listener = Callable[[str, Sequence[Bar]], None]
Sender = Callable[[Client, Sequence[Bar]], None]
_ALL: Final = "*"


@dataclass(slots=True)
class _Remembered:
    """The trades of one batch."""

    events: Events
    received_ns: int
    size: int
    first_ms: int


@dataclass(slots=True)
class _Bridge:
    """Bars for one client of windows that had begun when it came, which the common maker cannot make whole."""

    maker: BarMaker
    client: Client
    send: Sender
    until_ms: int
    """Windows that begin at or before this time are the bridge's, later ones the common maker's."""


class _Cluster:
    """The bars of one cluster."""

    def __init__(self, maker: BarMaker) -> None:
        self.maker = maker
        self.wants: dict[BarTopic, int] = {}
        self.recent: deque[_Remembered] = deque()
        self.recent_bytes = 0
        self.forgotten_ms = 0
        """Trades up to this time may be missing from memory."""
        self.bridges: list[_Bridge] = []


class BarSource:
    """Makes the bars that clients ask for, of every cluster, on the bus's pass and by a timer when nothing comes.

    Recent trades are kept (`REPLAY_BUFFER_SECS`, `REPLAY_BUFFER_BYTES`), so that a client that names `since` gets the
    closed bars from then on, then the windows that were open when it came, then live ones: none twice, none missing.
    """

    def __init__(self, clusters: Iterable[str], settings: BarSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.lengths_ms = (settings.min_interval_ms, settings.max_interval_ms)
        self._clusters = {name: _Cluster(self._make(name)) for name in clusters}
        self._listeners: list[Listener] = []
        self.replays = 0
        """Subscriptions that were given bars of the past."""

    @property
    def makers(self) -> dict[str, BarMaker]:
        """The maker of each cluster, for who reads its figures."""
        return {name: cluster.maker for name, cluster in self._clusters.items()}

    def attach(self, listener: Listener) -> None:
        """Have closed bars handed to `listener(cluster, bars)`."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Close windows while nothing comes, until cancelled."""
        interval_secs = self._settings.timer_interval_ms / 1000
        while True:
            await self._clock.sleep(interval_secs)
            now_ns = self._clock.monotonic_ns()
            for name, cluster in self._clusters.items():
                self._publish(name, cluster, now_ns)

    def accept(self, batch: Batch) -> None:
        """Take the trades of a batch; hand on the bars that they close."""
        cluster = self._clusters[batch.cluster]
        events = batch.events
        if not TRADE_CHANNELS & events.counts.keys():
            return
        now_ns = self._clock.monotonic_ns()
        self._remember(cluster, batch)
        cluster.maker.add(events, now_ns)
        for bridge in cluster.bridges:
            bridge.maker.add(events, now_ns)
        self._publish(batch.cluster, cluster, now_ns)

    def session_changed(self, change: SessionChange) -> None:
        """Windows stay open over a gap; they close by time."""

    def want(
        self, cluster_name: str, topic: BarTopic, since_ms: int | None, client: Client, send: Sender
    ) -> list[Bar]:
        """Begin to make bars. Give the closed ones since `since_ms`, oldest first; nothing if it is None."""
        cluster = self._clusters[cluster_name]
        symbol = None if topic.symbol == _ALL else topic.symbol
        is_new = not cluster.wants.get(topic) and not cluster.wants.get(BarTopic(topic.interval_ms, _ALL))
        newest_ms = cluster.maker.newest_ms
        cluster.wants[topic] = cluster.wants.get(topic, 0) + 1
        cluster.maker.want(topic.interval_ms, symbol)
        if since_ms is None:
            return []
        self.replays += 1
        maker = self._make(cluster_name)
        maker.want(topic.interval_ms, symbol)
        past: list[Bar] = []
        for remembered in cluster.recent:
            maker.add(remembered.events, remembered.received_ns)
            past += maker.close_due(remembered.received_ns)
        whole_from_ms = cluster.forgotten_ms
        if is_new:
            cluster.bridges.append(_Bridge(maker, client, send, newest_ms))
        else:
            # What is open with the common maker comes from there; what it has closed, the client has missed.
            closed_ms = cluster.maker.closed_ms
            past += [bar for bar in maker.flush() if bar.end_ms <= closed_ms]
            past = [bar for bar in past if bar.end_ms <= closed_ms]
        return [bar for bar in past if bar.start_ms >= since_ms and bar.start_ms > whole_from_ms]

    def unwant(self, cluster_name: str, topic: BarTopic) -> None:
        """Undo one `want`."""
        cluster = self._clusters[cluster_name]
        cluster.wants[topic] -= 1
        if not cluster.wants[topic]:
            del cluster.wants[topic]
        cluster.maker.unwant(topic.interval_ms, None if topic.symbol == _ALL else topic.symbol)

    def forget(self, client: Client) -> None:
        """A client is gone: nothing is bridged for it any more."""
        for cluster in self._clusters.values():
            cluster.bridges = [bridge for bridge in cluster.bridges if bridge.client is not client]

    def kept_from_ms(self, clusters: Iterable[str]) -> int | None:
        """Give the Unix ms from which on bars can be made of what is remembered; None if nothing is."""
        times = [
            max(self._clusters[name].forgotten_ms, self._clusters[name].recent[0].first_ms)
            for name in clusters
            if self._clusters[name].recent
        ]
        return max(times, default=None)

    def _make(self, cluster: str) -> BarMaker:
        settings = self._settings
        rule = update_rule(cluster, settings.conditions)
        return BarMaker(cluster, delay_ms=settings.delay_ms, tick_ms=settings.timer_interval_ms, rule=rule)

    def _publish(self, name: str, cluster: _Cluster, now_ns: int) -> None:
        bars = cluster.maker.close_due(now_ns)
        if bars:
            for listener in self._listeners:
                listener(name, bars)
        if cluster.bridges:
            self._serve_bridges(cluster, now_ns)

    def _serve_bridges(self, cluster: _Cluster, now_ns: int) -> None:
        for bridge in list(cluster.bridges):
            bars = [bar for bar in bridge.maker.close_due(now_ns) if bar.start_ms <= bridge.until_ms]
            if bars:
                bridge.send(bridge.client, bars)
            if (
                not bridge.maker.stats.open_windows
                or bridge.maker.closed_ms > bridge.until_ms + self.lengths_ms[1]
            ):
                cluster.bridges.remove(bridge)

    def _remember(self, cluster: _Cluster, batch: Batch) -> None:
        settings = self._settings
        now_ns = self._clock.monotonic_ns()
        times = [time for time in batch.events.times_ms if time]
        size = sum(map(len, batch.frames))
        cluster.recent.append(_Remembered(batch.events, now_ns, size, min(times, default=0)))
        cluster.recent_bytes += size
        limit_bytes = settings.replay_bytes // len(self._clusters)
        oldest_ns = now_ns - int(settings.replay_secs * 1e9)
        recent = cluster.recent
        while recent and (cluster.recent_bytes > limit_bytes or recent[0].received_ns < oldest_ns):
            forgotten = recent.popleft()
            cluster.recent_bytes -= forgotten.size
            newest_ms = max(forgotten.events.times_ms)
            cluster.forgotten_ms = max(cluster.forgotten_ms, newest_ms)

    def __repr__(self) -> str:
        return f"BarSource({ {name: dict(cluster.wants) for name, cluster in self._clusters.items()} })"
