"""Bars for the ports that serve them: made from the trades on the bus, with a memory for clients that missed some."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from recorder.bars import Bar, BarMaker, trades_of
from recorder.bars.amendments import WINDOW_BYTES
from recorder.bars.conditions import update_rule
from recorder.bus import SOUGHT, Batch, SessionChange, SessionClosed, Watermark
from recorder.clock import Clock
from recorder.servers.bar_cluster import BarCluster, TimeSource
from recorder.servers.bar_listeners import BarListeners, Listener
from recorder.servers.bar_replay import Joiner, Remembered, Replay
from recorder.servers.client import Client
from recorder.servers.stats import ReplayStats
from recorder.servers.subscriptions import EVERYTHING, spellings
from recorder.servers.topics import BarTopic
from recorder.settings import BarSettings

REPLAYS_MAX: Final = 16
"""Clients of one cluster that are given the past at a time; others wait their turn."""
REPLAY_STEP_NS: Final = 3_000_000
"""How long the loop works on the past before it looks after the present again."""
SLICE_WINDOWS: Final = 500
"""Windows of one cluster that are closed in one turn of the loop; the others that are due wait for the next turn."""
DUE_WINDOWS_MAX: Final = 32_768
"""Of more windows that are due, the first are closed at once, so that they take bounded memory."""
_TRADE_BYTES: Final = 250
"""Bytes that a remembered trade takes besides its own: its symbol, its time and its numbers, and their places."""
_WATERMARK_BYTES: Final = 200
"""Bytes that a remembered watermark takes."""
ASK_AGAIN_NS: Final = 1_000_000_000
"""How long a source has to answer before it is asked for the time once more."""

CallSoon = Callable[[Callable[[], None]], object]
"""Has the loop call something in its next turn."""


class BarSource:
    """Makes the bars that clients ask for, of every cluster, on the bus's pass.

    Time comes from the bus: with the trades, and with watermarks when no trades come. Where a window waits for nothing
    but time, the source of the cluster is asked how far time has come.

    Recent trades are kept (`REPLAY_BUFFER_SECS`, `REPLAY_BUFFER_BYTES`), so that a client that names `since` gets the
    closed bars from then on, oldest first, then live ones: none twice, none missing. Its past is made in short steps
    between the passes, and `REPLAYS_MAX` clients at a time, so that nobody else waits for it. Each of them has a bar maker
    of its own: what was wanted, and what was late, differs from client to client.

    **Slices.** Thousands of windows may end at one time. Whether a trade is late is decided by then (`closed_ms`), so that
    their bars can wait: `SLICE_WINDOWS` are closed on the pass, the others in the next turns of the loop. Bars go out in
    the order in which they would without slices, those of a later time behind all of an earlier one. Where a client
    could tell that a bar is missing, what is due goes out first (`hand_on`): before it is unsubscribed, before a ping
    that asks for the time is answered, and before ports close.

    Bars are amended only while some client asks for it, within `BAR_AMEND_SECS` and `BAR_AMEND_BYTES`.
    """

    def __init__(
        self, clusters: Iterable[str], settings: BarSettings, clock: Clock, call_soon: CallSoon | None = None
    ) -> None:
        """`call_soon`: of the loop that runs, unless it is given."""
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
        self._clusters = {name: BarCluster(name, self._make(name)) for name in names}
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
        for name, cluster in self._clusters.items():
            if cluster.waiting or cluster.replays:
                self._replay_some(name, cluster, now_ns)
            due_ns = cluster.due_ns()
            if due_ns is not None and now_ns >= max(due_ns, cluster.ask_ns) and cluster.source is not None:
                cluster.ask_ns = now_ns + ASK_AGAIN_NS
                cluster.source.ask_time()

    def accept(self, batch: Batch) -> None:
        """Take the trades of a batch; hand on the bars that they close."""
        cluster = self._clusters[batch.cluster]
        trades = trades_of(batch.rows, cluster.trade_channel)
        if trades is None:
            return
        size = sum(map(len, trades.fragments)) + _TRADE_BYTES * len(trades.symbols)
        self._take(batch.cluster, cluster, Remembered(trades, batch.read_ns, size))

    def advance(self, watermark: Watermark) -> None:
        """Let time pass; hand on the bars that this closes."""
        cluster = self._clusters[watermark.cluster]
        cluster.ask_ns = 0
        self._take(watermark.cluster, cluster, Remembered(None, watermark.until_ns, _WATERMARK_BYTES))

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
            for symbol in _symbols(cluster_name, topic):
                cluster.maker.amend(topic.interval_ms, symbol)
        holders = cluster.wants.get(topic, 0)
        cluster.wants[topic] = holders + 1
        if holders:
            return
        cluster.wanted_from_ms[topic] = cluster.maker.newest_ms
        for symbol in _symbols(cluster_name, topic):
            cluster.maker.want(topic.interval_ms, symbol)

    def unwant(self, cluster_name: str, topic: BarTopic, *, amend: bool = False) -> None:
        """Undo one `want` with the same `amend`."""
        cluster = self._clusters[cluster_name]
        if amend:
            for symbol in _symbols(cluster_name, topic):
                cluster.maker.unamend(topic.interval_ms, symbol)
        cluster.wants[topic] -= 1
        if cluster.wants[topic]:
            return
        del cluster.wants[topic]
        del cluster.wanted_from_ms[topic]
        for symbol in _symbols(cluster_name, topic):
            cluster.maker.unwant(topic.interval_ms, symbol)

    def replay(
        self,
        cluster_name: str,
        topics: Iterable[BarTopic],
        since_ms: int | None,
        client: Client,
        joiner: Joiner,
        *,
        amend: bool = False,
    ) -> bool:
        """Send a client the bars since `since_ms` (None: from now on); call `joiner.join` once it has them all.

        The topics must be wanted with the same `amend`, and the client must not be sent them live before. What overlaps
        in topics that it gets live already does not come from here. Always True, since there is a past.
        """
        cluster = self._clusters[cluster_name]
        if since_ms is None:
            since_ms = cluster.maker.newest_ms + 1
        else:
            self.stats.replays += 1
        found = next((replay for replay in cluster.waiting if replay.client is client), None)
        if found is None:
            found = Replay(client, joiner)
            cluster.waiting.append(found)
        for topic in topics:
            found.topics[topic] = since_ms
            if amend:
                found.amend_wishes.add(topic)
        return True

    def cancel(self, cluster_name: str, topics: Iterable[BarTopic], client: Client) -> None:
        """A client has given topics back, whether it got them live or from a replay."""
        cluster = self._clusters[cluster_name]
        gone = dict.fromkeys(topics, 0)
        for replay in (*cluster.replays, *cluster.waiting):
            if replay.client is client:
                for topic in gone:
                    replay.topics.pop(topic, None)
                    replay.amend_wishes.discard(topic)
                replay.amended = frozenset(_spelled(cluster_name, dict.fromkeys(replay.amend_wishes, 0)))
                replay.since_ms = _spelled(cluster_name, replay.topics)
                replay.held -= _spelled(cluster_name, gone).keys()

    def forget(self, client: Client) -> None:
        """A client is gone: nothing is replayed for it any more."""
        for cluster in self._clusters.values():
            cluster.replays = [replay for replay in cluster.replays if replay.client is not client]
            cluster.waiting = deque(replay for replay in cluster.waiting if replay.client is not client)

    def kept_from_ms(self, clusters: Iterable[str]) -> int | None:
        """Return the Unix ms at which the first window may begin that is remembered whole; None if nothing is."""
        times = [self._clusters[cluster].remembered_from_ms() for cluster in clusters]
        return max((time_ms for time_ms in times if time_ms is not None), default=None)

    def _start_over(self, name: str) -> None:
        """Forget the trades and the time of a cluster; who was still sent the past gets what comes."""
        for replay in self._clusters[name].start_over():
            replay.joiner.join(replay.client, name, replay.topics)

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

    def _take(self, name: str, cluster: BarCluster, arrived: Remembered) -> None:
        arrived.enter(cluster.maker)
        self._remember(cluster, arrived)
        for replay in cluster.replays:
            replay.ahead.append(arrived)
        self._close_some(name, cluster)

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

    def _remember(self, cluster: BarCluster, arrived: Remembered) -> None:
        settings = self._settings
        recent = cluster.recent
        recent.append(arrived)
        cluster.recent_bytes += arrived.size
        limit_bytes = settings.replay_bytes // len(self._clusters)
        oldest_ns = arrived.read_ns - int(settings.replay_secs * 1e9)
        while recent and (cluster.recent_bytes > limit_bytes or recent[0].read_ns < oldest_ns):
            forgotten = recent.popleft()
            cluster.recent_bytes -= forgotten.size
            if forgotten.trades is not None:
                # A misdated trade is in no bar, and must not make the memory look empty.
                newest_ms = min(max(forgotten.trades.times_ms), cluster.maker.newest_ms)
                cluster.forgotten_ms = max(cluster.forgotten_ms, newest_ms)

    def _replay_some(self, name: str, cluster: BarCluster, now_ns: int) -> None:
        """Work on what clients have missed, on each a little, for `REPLAY_STEP_NS` in all."""
        self._begin_waiting(name, cluster)
        # Rotate the order, so that no client is always served last.
        cluster.replays = cluster.replays[1:] + cluster.replays[:1]
        for replay in list(cluster.replays):
            maker = replay.maker
            if maker is None:
                continue
            bars = self._catch_up(replay, maker, now_ns)
            # All that is open, or to come, must be whole with the common maker, and nothing closed that it will close.
            is_closing = maker.closing_count or cluster.maker.closing_count
            is_whole = replay.until_ms <= maker.closed_ms <= cluster.maker.closed_ms
            is_over = is_whole and not replay.ahead and not is_closing
            if is_over:
                # What the common maker has closed a moment earlier, the client has missed.
                closed_ms = cluster.maker.closed_ms
                for topic in replay.amended:
                    symbol = None if topic.symbol == EVERYTHING else topic.symbol
                    cluster.maker.adopt(maker, topic.interval_ms, symbol, replay.whole_after_ms)
                bars += maker.flush(closed_ms)
            bars = [bar for bar in bars if replay.wants(bar)]
            if bars:
                replay.joiner.send_bars(replay.client, bars)
            if is_over:
                cluster.replays.remove(replay)
                replay.joiner.join(replay.client, name, replay.topics)

    def _begin_waiting(self, name: str, cluster: BarCluster) -> None:
        """Begin what waits, one replay a client, as far as there is room."""
        busy = {replay.client for replay in cluster.replays}
        for replay in list(cluster.waiting):
            if len(busy) >= REPLAYS_MAX:
                break
            if replay.client not in busy:
                cluster.waiting.remove(replay)
                busy.add(replay.client)
                self._begin(name, cluster, replay)

    def _begin(self, name: str, cluster: BarCluster, replay: Replay) -> None:
        replay.since_ms = _spelled(name, replay.topics)
        held = dict.fromkeys(replay.joiner.held_bars(replay.client, name), 0)
        replay.held = frozenset(_spelled(name, held))
        replay.maker = self._make(name)
        replay.amended = frozenset(_spelled(name, dict.fromkeys(replay.amend_wishes, 0)))
        for topic in replay.since_ms:
            symbol = None if topic.symbol == EVERYTHING else topic.symbol
            replay.maker.want(topic.interval_ms, symbol)
            if topic in replay.amended:
                replay.maker.amend(topic.interval_ms, symbol)
        replay.ahead = cluster.recent.copy()
        replay.whole_after_ms = cluster.forgotten_ms
        replay.until_ms = max(
            (cluster.wanted_from_ms[topic] + topic.interval_ms for topic in replay.topics), default=0
        )
        cluster.replays.append(replay)

    def _catch_up(self, replay: Replay, maker: BarMaker, now_ns: int) -> list[Bar]:
        """Let a replay see more of what is ahead of it, as the common maker saw it; return the bars that this closes."""
        bars: list[Bar] = []
        while replay.ahead or maker.closing_count:
            if not maker.closing_count:
                replay.ahead.popleft().enter(maker)
            bars += maker.close_due(SLICE_WINDOWS)
            if self._clock.monotonic_ns() - now_ns >= REPLAY_STEP_NS:
                break
        return bars

    def __repr__(self) -> str:
        return f"BarSource({ {name: dict(cluster.wants) for name, cluster in self._clusters.items()} })"


def _call_soon(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(call)


def _symbols(cluster: str, topic: BarTopic) -> Iterable[str | None]:
    """Return what a bar maker calls the symbols of a topic, None being all."""
    return (None,) if topic.symbol == EVERYTHING else spellings(cluster, topic.symbol)


def _spelled(cluster: str, topics: dict[BarTopic, int]) -> dict[BarTopic, int]:
    """Return topics under every spelling of their symbols."""
    return {
        BarTopic(topic.interval_ms, EVERYTHING if symbol is None else symbol): since_ms
        for topic, since_ms in topics.items()
        for symbol in _symbols(cluster, topic)
    }
