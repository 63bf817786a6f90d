"""Bars for the ports that serve them: made from the trades on the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

from recorder.bars import BarMaker, trades_of
from recorder.bars.amendments import WINDOW_BYTES
from recorder.bars.conditions import update_rule
from recorder.bus import SOUGHT, Batch, SessionChange, SessionClosed, Watermark
from recorder.clock import Clock
from recorder.polygon.server import Subscribe
from recorder.servers.bar_cluster import BarCluster, TimeSource, spelled, symbols_of
from recorder.servers.bar_listeners import BarListeners, Listener
from recorder.servers.client import Client
from recorder.servers.past.bar_pasts import SLICE_WINDOWS, BarPasts
from recorder.servers.past.bar_replay import Edge, Joiner, Replay
from recorder.servers.past.bar_request import BarRequest
from recorder.servers.past.cold import ColdReaders
from recorder.servers.past.hotlog import HotLog
from recorder.servers.stats import ReplayStats, ServerStats
from recorder.servers.topics import BarTopic
from recorder.settings import BarSettings

DUE_WINDOWS_MAX: Final = 32_768
"""Of more windows that are due, the first are closed at once, so that they take bounded memory."""
ASK_AGAIN_NS: Final = 1_000_000_000
"""How long a source has to answer before it is asked for the time once more."""

CallSoon = Callable[[Callable[[], None]], object]
"""Has the loop call something in its next turn."""


class BarSource:
    """Makes the bars that clients ask for, of every cluster, on the bus's pass.

    Time comes from the bus: with the trades, and with watermarks when no trades come. Where a window waits for nothing
    but time, the source of the cluster is asked how far time has come.

    A client that names `since` or `after` gets the closed bars from then on, oldest first, then live ones: none twice, none
    missing (`BarPasts`). They are made of what the hot log and the archive have.

    **Slices.** Thousands of windows may end at one time. Whether a trade is late is decided by then (`closed_ms`), so that
    their bars can wait: `SLICE_WINDOWS` are closed on the pass, the others in the next turns of the loop. Bars go out in
    the order in which they would without slices, those of a later time behind all of an earlier one. Where a client
    could tell that a bar is missing, what is due goes out first (`hand_on`): before it is unsubscribed, before a ping
    that asks for the time is answered, and before ports close.

    Bars are amended only while some client asks for it, within `BAR_AMEND_SECS` and `BAR_AMEND_BYTES`.
    """

    def __init__(
        self,
        clusters: Iterable[str],
        settings: BarSettings,
        clock: Clock,
        log: HotLog,
        readers: ColdReaders | None = None,
        call_soon: CallSoon | None = None,
    ) -> None:
        """`log` is fed before this; `readers` read its archive. `call_soon`: of the loop that runs, unless it is given."""
        self._settings = settings
        self._call_soon = call_soon if call_soon is not None else _call_soon
        self._clock = clock
        self.lengths_ms = (settings.min_interval_ms, settings.max_interval_ms)
        names = tuple(clusters)
        self._windows_max = settings.amend_bytes // max(1, len(names)) // WINDOW_BYTES
        self.amend_refusal = ""
        """Why no bars are amended here; empty if they are."""
        if not settings.amend_secs or not self._windows_max:
            self.amend_refusal = "this recorder amends no bars"
        self._clusters = {name: BarCluster(name, self._make(name), log) for name in names}
        self._orders = count()
        self._pasts = BarPasts(
            log,
            clock,
            readers,
            self._make,
            spelled,
            past_ms_max=int(settings.past_max_secs * 1000),
            amend_ms=int(settings.amend_secs * 1000),
        )
        self._listeners = BarListeners()
        self.stats = ReplayStats()
        """Requests for bars of the past."""

    @property
    def makers(self) -> dict[str, BarMaker]:
        """The maker of each cluster, for those that read its figures."""
        return {name: cluster.maker for name, cluster in self._clusters.items()}

    def attach(self, listener: Listener) -> None:
        """Have closed bars handed to `listener(cluster, bars)`."""
        self._listeners.attach(listener)

    def connect(self, cluster: str, source: TimeSource) -> None:
        """Ask this source how far time has come in a cluster."""
        self._clusters[cluster].source = source

    async def run(self) -> None:
        """Ask for the time where windows wait for it, and work on what clients have missed, until cancelled."""
        interval_secs = self._settings.timer_interval_ms / 1000
        while True:
            await self._clock.sleep(interval_secs)
            self.tick()

    def tick(self) -> None:
        """Work on what clients have missed, and ask for the time where windows wait for it."""
        now_ns = self._clock.monotonic_ns()
        for cluster in self._clusters.values():
            if cluster.waiting or cluster.replays:
                self._pasts.work(cluster, now_ns)
            due_ns = cluster.due_ns()
            if due_ns is not None and now_ns >= max(due_ns, cluster.ask_ns) and cluster.source is not None:
                cluster.ask_ns = now_ns + ASK_AGAIN_NS
                cluster.source.ask_time()

    def accept(self, batch: Batch) -> None:
        """Take the trades of a batch; hand on the bars that they close."""
        cluster = self._clusters[batch.cluster]
        memory, maker = cluster.memory, cluster.maker
        trades = trades_of(batch.rows, memory.trade_channel)
        if trades is None:
            memory.pass_over()
            return
        before = maker.progress
        maker.add(trades, batch.read_ns)
        memory.take(before, maker.progress, batch.read_ns, trades.times_ms)
        self._close_some(batch.cluster, cluster)

    def advance(self, watermark: Watermark) -> None:
        """Let time pass; hand on the bars that this closes."""
        cluster = self._clusters[watermark.cluster]
        cluster.ask_ns = 0
        cluster.memory.let_time_pass(cluster.maker.progress, watermark.until_ns)
        cluster.maker.advance(watermark.until_ns)
        self._close_some(watermark.cluster, cluster)

    def is_awaited(self) -> bool:
        """Whether a client wants bars."""
        return any(cluster.wants for cluster in self._clusters.values())

    def session_changed(self, change: SessionChange) -> None:
        """Windows stay open over a gap, and close by time. Where a replay goes on at another time, they are given up."""
        if isinstance(change, SessionClosed) and change.reason == SOUGHT:
            self._start_over(change.cluster)

    def want(self, cluster_name: str, topic: BarTopic, *, amend: bool = False) -> None:
        """Begin to make bars, and with `amend` to change them. Each call is undone by one `unwant`."""
        cluster = self._clusters[cluster_name]
        if amend:
            for symbol in symbols_of(cluster_name, topic):
                cluster.maker.amend(topic.interval_ms, symbol)
        holders = cluster.wants.get(topic, 0)
        cluster.wants[topic] = holders + 1
        if holders:
            return
        cluster.wanted_from_ms[topic] = cluster.maker.newest_ms
        for symbol in symbols_of(cluster_name, topic):
            cluster.maker.want(topic.interval_ms, symbol)

    def unwant(self, cluster_name: str, topic: BarTopic, *, amend: bool = False) -> None:
        """Undo one `want` with the same `amend`."""
        cluster = self._clusters[cluster_name]
        if amend:
            for symbol in symbols_of(cluster_name, topic):
                cluster.maker.unamend(topic.interval_ms, symbol)
        cluster.wants[topic] -= 1
        if cluster.wants[topic]:
            return
        del cluster.wants[topic]
        del cluster.wanted_from_ms[topic]
        for symbol in symbols_of(cluster_name, topic):
            cluster.maker.unwant(topic.interval_ms, symbol)

    def request(
        self, client: Client, clusters: tuple[str, ...], wish: Subscribe | None, stats: ServerStats
    ) -> BarRequest:
        """Return what stands for a request of a client: for bars of the past, or for those that come from now on."""
        if wish is None:
            return BarRequest(client, clusters)
        self.stats.replays += 1
        return BarRequest(client, clusters, wish, stats)

    def replay(
        self,
        cluster_name: str,
        topics: Iterable[BarTopic],
        request: BarRequest,
        joiner: Joiner,
        *,
        amend: bool = False,
    ) -> bool:
        """Send a client the bars that it asks for; call `joiner.join` once it has them all.

        The topics must be wanted with the same `amend`, and the client must not be sent them live before. What overlaps
        in topics that it gets live already does not come from here. Always True, since there is a past.
        """
        cluster = self._clusters[cluster_name]
        client, wish = request.client, request.wish
        key = (wish.since_ms, wish.after, wish.partial) if wish is not None else None
        waiting = (one for one in cluster.waiting if one.client is client and one.key == key)
        found = next(waiting, None)
        if found is None:
            start_ms = cluster.maker.newest_ms + 1
            if wish is not None:
                start_ms = wish.since_ms or 0
            found = Replay(
                client,
                joiner,
                cluster.memory,
                Edge(start_ms, closed_ms=0),
                next(self._orders),
                key,
            )
            self._pasts.add(cluster, found)
        found.requests[request] = None
        for topic in topics:
            found.topics[topic] = request
            if amend:
                found.amend_wishes.add(topic)
        return True

    def cancel(self, cluster_name: str, topics: Iterable[BarTopic], client: Client) -> None:
        """A client has given topics back, whether it got them live or from a replay."""
        cluster = self._clusters[cluster_name]
        gone = tuple(topics)
        for replay in (*cluster.replays, *cluster.waiting):
            if replay.client is client:
                replay.give_back(gone, spelled(cluster_name, gone))
                if not replay.topics:
                    self._pasts.drop(cluster, replay)
                    for request in replay.requests:
                        request.over(cluster_name)

    def forget(self, client: Client) -> None:
        """A client is gone: nothing is replayed for it any more."""
        for cluster in self._clusters.values():
            for replay in (*cluster.replays, *cluster.waiting):
                if replay.client is client:
                    self._pasts.drop(cluster, replay)

    def kept_from_ms(self, cluster_name: str) -> int:
        """Return the Unix ms at which the first window may begin that can be made whole of what is in memory."""
        return self._clusters[cluster_name].kept_from_ms

    def closed_ms(self, cluster_name: str, client: Client) -> int | None:
        """Return up to which time a client has got all bars that have closed; None where some are still to be sent."""
        cluster = self._clusters[cluster_name]
        return cluster.maker.closed_ms if self._pasts.is_at_tip(cluster, client) else None

    def _start_over(self, name: str) -> None:
        """Forget the trades and the time of a cluster; who was still sent the past gets what comes."""
        cluster = self._clusters[name]
        self._pasts.join_all(cluster, cluster.start_over(), "the replay goes on at another time")

    def _make(self, cluster: str) -> BarMaker:
        settings = self._settings
        rule = update_rule(cluster, settings.conditions)
        return BarMaker(
            cluster,
            delay_ms=settings.delay_ms,
            rule=rule,
            amend_ms=int(settings.amend_secs * 1000),
            amend_windows_max=self._windows_max,
        )

    def hand_on(self, cluster_name: str) -> None:
        """Close all windows that are due, and hand on their bars, before something that must come behind them."""
        cluster = self._clusters[cluster_name]
        if cluster.maker.closing_count:
            self._listeners.send(cluster_name, cluster.maker.close_due())

    def _close_some(self, name: str, cluster: BarCluster) -> None:
        """Close some of the windows that are due, and come back for the others in the next turn of the loop."""
        maker = cluster.maker
        bars = maker.close_due(max(SLICE_WINDOWS, maker.closing_count - DUE_WINDOWS_MAX))
        if bars:
            self._listeners.send(name, bars)
        if maker.closing_count and not cluster.is_scheduled:
            cluster.is_scheduled = True
            self._call_soon(lambda: self._go_on(name, cluster))

    def _go_on(self, name: str, cluster: BarCluster) -> None:
        cluster.is_scheduled = False
        self._close_some(name, cluster)

    def __repr__(self) -> str:
        return f"BarSource({ {name: dict(cluster.wants) for name, cluster in self._clusters.items()} })"


def _call_soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)
