"""Clients that missed bars: their past is made a little at a time, of memory and of the archive, until they have it all."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from recorder.archive.wanted import Asked, Found, Lead, Place
from recorder.bars import Bar, BarMaker
from recorder.clock import Clock
from recorder.servers.client import Client
from recorder.servers.past.answer import shown_gaps, waits
from recorder.servers.past.bar_memory import BarMemory
from recorder.servers.past.bar_replay import TOO_SLOW, Edge, Replay
from recorder.servers.past.bar_request import Result, closed_by
from recorder.servers.past.cold import READERS_MAX, ColdReader, ColdReaders
from recorder.servers.past.entry import Start, told_place
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.wish import end_for_good, has_room
from recorder.servers.subscriptions import EVERYTHING
from recorder.servers.topics import BarTopic

REPLAYS_MAX: Final = 16
"""Clients of one cluster that are given the past at a time; others wait their turn."""
REPLAY_STEP_NS: Final = 3_000_000
"""How long the loop works on the past before it looks after the present again."""
SLICE_WINDOWS: Final = 500
"""Windows of one cluster that are closed in one turn of the loop; the others that are due wait for the next turn."""
LEAD_MS: Final = 15_000
"""So much before the first bar is read of the archive, since it does not say how far time had come: longer than the trades
that set time are apart (`LEAP_MS`)."""

ASKING_MS: Final = 60_000
"""A client that is told how far back it may ask has so much time to do it."""

NOT_COME: Final = "since is a time that has not come yet"


class Cluster(Protocol):
    """The bars of one cluster, as far as the past is concerned."""

    name: str
    maker: BarMaker
    memory: BarMemory
    wanted_from_ms: dict[BarTopic, int]
    replays: list[Replay]
    waiting: deque[Replay]

    @property
    def kept_from_ms(self) -> int: ...


class BarPasts:
    """Makes the past of all clients that asked for it. Nothing here waits.

    Each has a bar maker of its own: what was wanted, and what was late, differs from client to client.
    """

    def __init__(
        self,
        log: HotLog,
        clock: Clock,
        readers: ColdReaders | None,
        make: Callable[[str], BarMaker],
        spelled: Callable[[str, Iterable[BarTopic]], Mapping[BarTopic, BarTopic]],
        *,
        past_ms_max: int,
        amend_ms: int,
    ) -> None:
        """`make` makes the bar maker of a cluster; `past_ms_max` is how far back bars are made."""
        self._log = log
        self._clock = clock
        self._readers = readers
        self._make = make
        self._spelled = spelled
        self._past_ms_max = past_ms_max
        self._amend_ms = amend_ms

    def work(self, cluster: Cluster, now_ns: int) -> None:
        """Work on what clients have missed, on each a little, for `REPLAY_STEP_NS` in all."""
        self._begin_waiting(cluster)
        for replay in list(cluster.replays):
            # Behind the others, so that no client is always served last.
            cluster.replays.remove(replay)
            cluster.replays.append(replay)
            self._work_on(cluster, replay, now_ns)
            if self._clock.monotonic_ns() - now_ns >= REPLAY_STEP_NS:
                break

    def is_at_tip(self, cluster: Cluster, client: Client) -> bool:
        """Whether a client has all bars of a cluster that have closed, after a short look at those that it lacks."""
        if cluster.maker.closing_count or any(replay.client is client for replay in cluster.waiting):
            return False
        for replay in [replay for replay in cluster.replays if replay.client is client]:
            self._work_on(cluster, replay, self._clock.monotonic_ns())
            maker = replay.maker
            if replay in cluster.replays and (
                maker is None
                or not (replay.is_ready and replay.is_at_tip)
                or maker.closing_count
                or maker.closed_ms != cluster.maker.closed_ms
            ):
                return False
        return True

    def join_all(self, cluster: Cluster, replays: Iterable[Replay], reason: str) -> None:
        """Send what comes from now on, since there is no past any more."""
        for replay in replays:
            for request in replay.requests:
                request.found(cluster.name, self._refused(cluster, request.client, reason))
                request.over(cluster.name)
            self._let_go(replay)
            replay.joiner.join(replay.client, cluster.name, replay.topics)

    def drop(self, cluster: Cluster, replay: Replay) -> None:
        """A client has given all topics back, or is gone."""
        with suppress(ValueError):
            cluster.waiting.remove(replay)
        with suppress(ValueError):
            cluster.replays.remove(replay)
        self._let_go(replay)

    def add(self, cluster: Cluster, replay: Replay) -> None:
        """Have a client wait for its past. From now on memory keeps more for it."""
        cluster.waiting.append(replay)
        self._log.hold()

    def _let_go(self, replay: Replay) -> None:
        replay.close(self._readers)
        replay.maker = None
        self._log.let_go()

    def _begin_waiting(self, cluster: Cluster) -> None:
        """Begin what waits, as far as there is room: first for those clients for which nothing is being made."""
        if not cluster.waiting:
            return
        busy = {replay.client for replay in cluster.replays}
        firsts = [replay for replay in cluster.waiting if replay.client not in busy]
        others = [replay for replay in cluster.waiting if replay.client in busy]
        for replay in [*firsts, *others][: max(0, REPLAYS_MAX - len(cluster.replays))]:
            cluster.waiting.remove(replay)
            self._begin(cluster, replay)

    def _begin(self, cluster: Cluster, replay: Replay) -> None:
        name = cluster.name
        replay.spelled = {
            other: replay.topics[topic] for other, topic in self._spelled(name, replay.topics).items()
        }
        before = [
            topic for other in cluster.replays if other.client is replay.client for topic in other.topics
        ]
        held = [*replay.joiner.held_bars(replay.client, name), *before]
        replay.held = frozenset(self._spelled(name, held))
        replay.amended = frozenset(self._spelled(name, replay.amend_wishes))
        replay.until_ms = max(
            (cluster.wanted_from_ms[topic] + topic.interval_ms for topic in replay.topics), default=0
        )
        replay.maker = self._make(name)
        cluster.replays.append(replay)
        self._look(cluster, replay)

    def _look(self, cluster: Cluster, replay: Replay) -> None:
        """Find what there is for a replay: in memory, or else in the archive, which answers later."""
        request = next(iter(replay.requests), None)
        wish = request.wish if request is not None else None
        begin_ms, reason = replay.edge.start_ms, ""
        place: Place | Asked | None = None
        start: Start | None = None
        if wish is not None and wish.after is not None:
            start = self._log.after(wish.after, replay.client.cluster)
            closed_ms = closed_by(wish.after).get(cluster.name)
            begin_ms, place, reason = self._place(cluster, replay, start, closed_ms)
        elif wish is not None:
            now_ms = max(cluster.maker.newest_ms, self._clock.wall_ns() // 1_000_000)
            reason = NOT_COME if begin_ms > now_ms else ""
        is_partial = wish is not None and wish.partial
        floor_ms = self._floor_ms(cluster)
        if not reason and wish is not None and begin_ms < min(floor_ms - ASKING_MS, cluster.kept_from_ms):
            # The archive says from when on there is less, which is what the client may ask for.
            replay.short = "that is longer ago than BAR_PAST_MAX_SECS"
            replay.edge = Edge(floor_ms, closed_ms=0)
            begin_ms, place = floor_ms, None
        if not reason:
            found = cluster.memory.start(begin_ms, cluster.maker.progress)
            if found is None and self._readers is not None and self._log.manifest is not None:
                self._want(replay)
                replay.cold = self._open(self._readers, Lead(begin_ms, LEAD_MS, place), replay, is_partial)
                replay.whole_after_ms = begin_ms - 1
                replay.clock_ns = self._clock.wall_ns() - self._clock.monotonic_ns()
                return
            if found is not None:
                self._begin_in_memory(replay, *found)
                self._tell(cluster, replay, self._recovered(cluster, replay, start))
                return
            reason = replay.why_short(cluster.kept_from_ms)
            reason = reason or f"memory has them from {cluster.kept_from_ms} on (RESUME_BUFFER_BYTES)"
            if wish is None:
                replay.lost = TOO_SLOW
                return
        self._take_less(cluster, replay, reason)

    def _place(
        self, cluster: Cluster, replay: Replay, start: Start, closed_ms: int | None
    ) -> tuple[int, Place | Asked | None, str]:
        """Find where a replay begins that goes on behind a position: the time from which trades are needed, what the
        archive is asked for, and why not."""
        memory, maker = cluster.memory, cluster.maker
        older = start.older if isinstance(start.older, Place | Asked) else None
        if not start.recovered and older is None:
            return 0, None, start.reason
        if start.recovered and self._log.manifest is not None:
            older = Place(self._log.epoch, start.seq)
        place = older if isinstance(older, Place) else None
        if isinstance(older, Asked) and older.told.record is not None:
            place = Place(older.told.epoch, older.told.record)
        if closed_ms is None:
            if not start.recovered:
                return 0, None, f"{start.reason}; and it says nothing of bars: ask with since"
            closed_ms = memory.before(memory.behind_entry(start.number), maker.progress).closed_ms
        is_passed = place is None and not start.recovered
        replay.edge = Edge(0, closed_ms, start.number, place, is_passed)
        lengths = [topic.interval_ms for topic in replay.topics]
        begin_ms = closed_ms + 1 - max(lengths, default=0)
        if replay.amended:
            begin_ms -= self._amend_ms
        if start.recovered and memory.is_whole(maker.progress):
            begin_ms = max(begin_ms, cluster.kept_from_ms)
        return begin_ms, older, ""

    def _floor_ms(self, cluster: Cluster) -> int:
        """Return from when on bars are made of the archive, Unix ms."""
        return (cluster.maker.newest_ms or self._clock.wall_ns() // 1_000_000) - self._past_ms_max

    def _available(self, cluster: Cluster, client: Client, found: Found | None = None) -> tuple[str, int]:
        """Return the oldest position and time that a client can ask for, in memory or by what the archive has."""
        kept = self._log.available_to(client.cluster), cluster.kept_from_ms
        if found is None or found.floor is None:
            return kept
        place, at_ms = Place(found.floor.run_id, found.floor.seq), found.floor.at_ms
        floor_ms = self._floor_ms(cluster)
        if at_ms < floor_ms:
            place, at_ms = found.place or place, floor_ms
        return (told_place(place), at_ms) if at_ms < cluster.kept_from_ms else kept

    def _take_less(
        self, cluster: Cluster, replay: Replay, reason: str, archived: Found | None = None
    ) -> None:
        """Begin in memory where not all is there: a client that takes less gets what there is."""
        present = cluster.maker.progress
        found = cluster.memory.start(cluster.kept_from_ms, present)
        assert found is not None
        is_whole = cluster.memory.is_whole(present)
        replay.edge = Edge(max(replay.edge.start_ms, 0 if is_whole else cluster.kept_from_ms), closed_ms=0)
        self._begin_in_memory(replay, *found)
        self._tell(cluster, replay, self._refused(cluster, replay.client, reason, archived))

    def _begin_in_memory(self, replay: Replay, number: int, progress: Any) -> None:
        assert replay.maker is not None
        replay.maker.go_on_from(progress)
        self._want(replay)
        replay.number = number
        replay.whole_after_ms = progress.newest_ms

    def _want(self, replay: Replay) -> None:
        assert replay.maker is not None
        for topic in replay.spelled:
            symbol = None if topic.symbol == EVERYTHING else topic.symbol
            replay.maker.want(topic.interval_ms, symbol)
            if topic in replay.amended:
                replay.maker.amend(topic.interval_ms, symbol)

    def _open(self, readers: ColdReaders, wanted: Lead, replay: Replay, is_partial: bool) -> ColdReader:
        reader = readers.open(wanted, partial=is_partial)
        stats = next(iter(replay.requests)).stats
        if stats is not None:
            reader.sources = stats.archive_blocks
        ahead = readers.ahead_of(reader) - READERS_MAX + 1
        if ahead > 0:
            replay.client.say(waits(ahead, of_bars=True))
        return reader

    def _recovered(self, cluster: Cluster, replay: Replay, start: Start | None) -> Result:
        log, client, since_ms = self._log, replay.client, replay.edge.start_ms
        wish = next(iter(replay.requests)).wish
        begins = wish.after if wish is not None and wish.after is not None else self._begins(replay)
        outages = log.outages(start.position if start is not None else 0, cluster.name)
        gaps = [gap for gap in outages if gap.to_ms is None or gap.to_ms > since_ms]
        available = self._available(cluster, client)
        return Result(True, "", begins, available, tuple(shown_gaps((), gaps, cluster.name)))

    def _refused(
        self, cluster: Cluster, client: Client, reason: str, archived: Found | None = None
    ) -> Result:
        log = self._log
        return Result(False, reason, log.told(*log.reached), self._available(cluster, client, archived))

    def _begins(self, replay: Replay) -> str:
        """Return the position behind which a replay reads memory."""
        moment = replay.memory.moment(replay.number)
        number = moment.number if moment is not None else self._log.end
        return self._log.told(*self._log.place_of(max(number, self._log.offered_number)))

    def _tell(self, cluster: Cluster, replay: Replay, result: Result) -> None:
        for request in replay.requests:
            request.found(cluster.name, result)

    def _learn(self, cluster: Cluster, replay: Replay, found: Found) -> None:
        """It is known what the archive has for a replay."""
        place, floor = found.place, found.floor
        available = self._available(cluster, replay.client, found)
        short = replay.why_short(available[1])
        if place is None or floor is None:
            replay.close(self._readers)
            replay.maker = self._make(cluster.name)
            self._take_less(
                cluster,
                replay,
                short or f"memory has them from {cluster.kept_from_ms} on; in the archive: {found.reason}",
                found,
            )
            return
        request = next(iter(replay.requests))
        if request.stats is not None:
            request.stats.archive_reads += 1
        begins = told_place(place)
        is_whole = found.recovered and not short
        if is_whole and request.wish is not None and request.wish.after is not None:
            begins = request.wish.after
        if not found.recovered:
            replay.edge = Edge(max(replay.edge.start_ms, floor.at_ms), closed_ms=0)
        gaps = shown_gaps(found.gaps, self._log.outages(0, cluster.name), cluster.name)
        reason = short or found.reason
        self._tell(cluster, replay, Result(is_whole, reason, begins, available, tuple(gaps)))

    def _work_on(self, cluster: Cluster, replay: Replay, now_ns: int) -> None:
        maker = replay.maker
        if maker is None:
            return
        if replay.cold is not None and self._readers is not None:
            self._readers.work(replay.cold, now_ns, lambda: None, has_room=True)
            if replay.cold.lost:
                replay.lost = f"what you have yet to get is not in the archive: {replay.cold.lost}"
            elif replay.cold.found is not None and not replay.is_found:
                replay.is_found = True
                self._learn(cluster, replay, replay.cold.found)
                maker = replay.maker or maker
        if replay.is_ready and any(request.is_refused for request in replay.requests):
            cluster.replays.remove(replay)
            self._let_go(replay)
            replay.joiner.join(replay.client, cluster.name, replay.topics)
            return
        if replay.is_ready and not replay.lost:
            self._catch_up(cluster, replay, maker, now_ns)
        if replay.lost:
            self.drop(cluster, replay)
            end_for_good(
                replay.client, replay.lost, "slow_consumer" if replay.lost == TOO_SLOW else "past_lost"
            )

    def _catch_up(self, cluster: Cluster, replay: Replay, maker: BarMaker, now_ns: int) -> None:
        """Let a replay see more of what is ahead of it, and send the bars that this closes."""
        joiner, client, common = replay.joiner, replay.client, cluster.maker
        size = 0
        bars: list[Bar] = []
        while has_room(client, size):
            if not maker.closing_count and not replay.step(maker, self._readers):
                break
            ended, replay.ended = replay.ended, []
            closed = [bar for bar in (*ended, *maker.close_due(SLICE_WINDOWS)) if replay.wants(bar)]
            bars += closed
            size += sum(len(bar.data) for bar in closed)
            if self._clock.monotonic_ns() - now_ns >= REPLAY_STEP_NS:
                break
        is_at_tip = replay.is_at_tip and not maker.closing_count
        # All that is open, or to come, must be whole with the common maker, and nothing closed that it will close.
        is_whole = replay.until_ms <= maker.closed_ms <= common.closed_ms
        # What a client asked for later may be in what it asked for before, and then does not come from here.
        is_first = all(other.order >= replay.order for other in cluster.replays if other.client is client)
        is_over = is_whole and is_at_tip and is_first and not common.closing_count
        if is_over:
            # What the common maker has closed a moment earlier, the client has missed.
            closed_ms = common.closed_ms
            for topic in replay.amended:
                symbol = None if topic.symbol == EVERYTHING else topic.symbol
                common.adopt(maker, topic.interval_ms, symbol, replay.whole_after_ms)
            bars += [bar for bar in maker.flush(closed_ms) if replay.wants(bar)]
        if bars:
            joiner.send_bars(client, bars)
        if is_at_tip:
            for request in replay.requests:
                request.over(cluster.name)
        if is_over:
            cluster.replays.remove(replay)
            self._let_go(replay)
            joiner.join(client, cluster.name, replay.topics)

    def __repr__(self) -> str:
        return f"BarPasts({self._log!r})"
