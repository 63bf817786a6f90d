"""One life of the recorder: the real parts, put together as the app does, on virtual time."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving import LIMITS, SERVERS

from recorder.archive.context import ArchiveContext
from recorder.archive.policy import Selection
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, Bus, SessionChange
from recorder.errors import KeyRefused
from recorder.ledger import Ledger
from recorder.ops.health import readiness
from recorder.polygon.topics import parse_pattern
from recorder.servers.access import Access, Rules
from recorder.servers.admission import OwnAdmission
from recorder.servers.filtered import TopicPort
from recorder.servers.firehose import Firehose
from recorder.servers.hub import Hub
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.past.resumes import Resumes
from recorder.servers.stats import ServerStats
from recorder.servers.tokens import Guard
from recorder.settings import ArchiveSettings, ClientLimits, ServersSettings, UpstreamSettings
from recorder.sinks.archive import NAME, ArchiveSink
from recorder.sinks.stage import Stage
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.stats import FeedStats
from simulation.disk import MemoryDisk, Storage
from simulation.exchange import Exchange
from simulation.loop import Killed, VirtualClock, VirtualLoop, VirtualWorker

FIREHOSE = ("127.0.0.1", 8767)
FILTERED = ("127.0.0.1", 8765)
NUMBER = re.compile(rb'"q":(\d+)}')
"""The end of an event of ours; the number is its own."""


@dataclass(frozen=True)
class Plan:
    """What one simulation runs with; all of it is drawn from the seed."""

    archive: ArchiveSettings
    include: tuple[str, ...]
    sample_quotes: int
    read_timeout_secs: float
    heartbeat_interval_secs: float
    shutdown_secs: float
    clusters: tuple[str, ...]
    writer: type[ArchiveWriter] = ArchiveWriter
    """Mutants stand here."""
    sink: type[ArchiveSink] = ArchiveSink
    resume_bytes: int = 0
    resumes: type[Resumes] = Resumes


@dataclass
class Life:
    """What is known of one run from outside, for the checks."""

    number: int
    received: list[tuple[float, str, int]] = field(default_factory=list)
    """Virtual time, cluster and number of each event that came by the bus."""
    frames: dict[str, list[bytes]] = field(default_factory=dict)
    records: dict[int, int] = field(default_factory=dict)
    """Which event has which `seq`."""
    accepted_at: dict[int, float] = field(default_factory=dict)
    """When each `seq` was given."""
    end: str = ""
    """`exit`, `kill`, `power`, or `refused` where it never began."""

    @property
    def hostname(self) -> str:
        """Stands in each record of the run, and so tells whose it is."""
        return f"run-{self.number}"


class BusSpy:
    """Sees every batch before anybody else does."""

    def __init__(self, life: Life, loop: VirtualLoop, exchanges: dict[str, Exchange]) -> None:
        self._life = life
        self._loop = loop
        self._exchanges = exchanges

    def accept(self, batch: Batch) -> None:
        exchange = self._exchanges[batch.cluster]
        now = self._loop.time()
        self._life.frames.setdefault(batch.cluster, []).extend(batch.data_frames)
        for frame in batch.frames:
            for text in NUMBER.findall(frame):
                number = int(text)
                self._life.received.append((now, batch.cluster, number))
                exchange.tape.connection_of[number].published.append(number)

    def is_awaited(self) -> bool:
        return False

    def session_changed(self, change: SessionChange) -> None:
        """Sessions are checked by what the manifest says of them."""


class SinkSpy:
    """Sees which event got which `seq`."""

    def __init__(self, life: Life, loop: VirtualLoop) -> None:
        self._life = life
        self._loop = loop

    def accept(self, batch: Batch) -> None:
        now = self._loop.time()
        rows = batch.recorded
        if rows is None:
            return
        for fragment, seq in zip(rows.fragments, rows.seqs, strict=True):
            found = NUMBER.search(fragment)
            assert found is not None, f"not an event of ours: {fragment!r}"
            self._life.records[seq] = int(found[1])
            self._life.accepted_at[seq] = now

    def is_awaited(self) -> bool:
        return False

    def session_changed(self, change: SessionChange) -> None:
        """Sessions are checked by what the manifest says of them."""


class Process:
    """A recorder. `start` raises what keeps it from starting; `ended` tells how it ended."""

    def __init__(
        self,
        life: Life,
        plan: Plan,
        storage: Storage,
        exchanges: dict[str, Exchange],
        loop: VirtualLoop,
        clock: VirtualClock,
        rng: random.Random,
        died: Callable[[], None],
        opened: Callable[[], None],
        ticked: Callable[[Process], None],
    ) -> None:
        self.life = life
        self.plan = plan
        self.loop = loop
        self.clock = clock
        self.ended: asyncio.Future[None] = loop.create_future()
        self.is_stopping = False
        self.refused: BaseException | None = None
        self.disk = MemoryDisk(storage, random.Random(rng.random()), died)
        self.worker = VirtualWorker(loop)
        self.disk.worker = self.worker
        self.ledger = Ledger()
        self.bus = Bus()
        self.archive_stats = ArchiveStats()
        self._tasks: list[asyncio.Task[None]] = []

        class Watched(plan.writer):  # type: ignore[misc,name-defined]
            """Lets the checks look when the archive is repaired, and after each turn."""

            def open(writer) -> None:  # noqa: N805
                super().open()
                opened()

            def tick(writer) -> float:  # noqa: N805 - `self` is the process
                due: float = super().tick()
                ticked(self)
                return due

        shedding = LoadShedding(self.archive_stats.pressure)
        context = ArchiveContext.create(
            plan.archive, run_id=life.hostname, clock=clock, stats=self.archive_stats, disk=self.disk
        )
        self.writer: ArchiveWriter = Watched(
            context,
            self.ledger.sink(NAME),
            shedding,
            {"version": "0", "hostname": life.hostname, "pid": life.number, "settings": {}},
            pause=self._pause,
            background=False,
        )
        self.sink = plan.sink(context, self.writer, shedding, self.ledger, worker=self.worker)
        patterns = [parse_pattern(text) for text in plan.include]
        selection = Selection(patterns, plan.sample_quotes, shedding)
        self.bus.stage = Stage(selection, self.ledger, life.hostname, "0")
        self.bus.attach(BusSpy(life, loop, exchanges))
        self.bus.attach(SinkSpy(life, loop))
        self.bus.attach(self.sink)
        self._make_hubs(rng)
        self.feed_stats = [FeedStats(cluster, (1,), (1,)) for cluster in exchanges]
        self.feeds = [
            Feed(
                FeedContext(_upstream(exchange, plan), self.bus, stats, clock),
                rng=random.Random(rng.random()),
            )
            for exchange, stats in zip(exchanges.values(), self.feed_stats, strict=True)
        ]

    def _make_hubs(self, rng: random.Random) -> None:
        values = {**SERVERS, "firehose_port": FIREHOSE[1], "filtered_port": FILTERED[1], "bars_port": None}
        limits = ClientLimits.model_construct(**{**LIMITS, "pending_bytes_max": 200_000})
        settings = ServersSettings.model_construct(**values, limits=limits)
        clusters = self.plan.clusters
        access = Access(Rules.read(settings, ""), Guard(self.clock), OwnAdmission(settings.limits))
        self.server_stats = [ServerStats("firehose"), ServerStats("filtered")]
        firehose = Firehose(self.server_stats[0], 1000, {}, self.clock)
        nothing_known = dict.fromkeys(clusters, frozenset[str]())
        filtered = TopicPort(
            "filtered", nothing_known, self.server_stats[1], 1000, None, None, bars_only=False
        )
        ports: Sequence[tuple[Any, int]] = ((firehose, FIREHOSE[1]), (filtered, FILTERED[1]))
        log = HotLog(self.life.hostname, self.plan.resume_bytes, clusters, self.clock.wall_ns() // 1_000_000)
        self.resumes = self.plan.resumes(log, self.clock)
        self.hubs = [
            Hub(
                port,
                number,
                settings,
                clusters,
                access,
                stats,
                self.resumes,
                rng=random.Random(rng.random()),
            )
            for (port, number), stats in zip(ports, self.server_stats, strict=True)
        ]
        self.bus.attach(Numbering(log))
        for port, _ in ports:
            self.bus.attach(port)

    def _pause(self, secs: float) -> None:
        if self.worker.is_current:
            self.worker.block(secs)

    async def start(self) -> None:
        """Begin to work, as the app does: not at all once it is told to stop. Raise `RecorderError` or `Killed`."""
        await self.sink.open()
        for hub in self.hubs:
            if self.is_stopping:
                return
            await hub.open()
            self._run(hub.run())
        if self.is_stopping:
            return
        self._run(self.resumes.run())
        self._run(self.sink.run())
        for feed in self.feeds:
            self._run(feed.run())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._task_ended)
        self._tasks.append(task)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self.is_stopping or self.disk.is_dead:
            return
        error = task.exception()
        if isinstance(error, KeyRefused):
            self.refused = error
            self.stop()
        elif not isinstance(error, Killed):
            self.fail(error or AssertionError("a part ended"))

    def fail(self, error: BaseException) -> None:
        """A part had a defect."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def stop(self) -> None:
        """SIGTERM: drain and end, in the order of the app."""
        if not self.is_stopping and not self.disk.is_dead:
            self.is_stopping = True
            self.sink.end_reason = "SIGTERM"
            asyncio.ensure_future(self._shut_down()).add_done_callback(self._stopped)

    async def _shut_down(self) -> None:
        feeds = self._tasks[-len(self.feeds) :]
        await _cancel(feeds)
        secs = self.plan.shutdown_secs
        deadline_ns = self.clock.monotonic_ns() + int(secs * 1e9)
        await asyncio.gather(self.sink.close(deadline_ns), *(hub.close(deadline_ns) for hub in self.hubs))
        await _cancel(self._tasks)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if self.ended.done() or task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.disk.is_dead:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)

    def hang_up(self) -> None:
        """SIGHUP."""
        self.sink.reopen(lambda: None)

    def rotate(self) -> None:
        """SIGUSR1."""
        self.sink.rotate()

    def die(self) -> None:
        """Be gone, at once: nothing that still runs of it can touch the disk or the network."""
        self.disk.die()
        self.loop.network.cut_all()
        for hub in (FIREHOSE, FILTERED):
            self.loop.network.forget(hub)
        if not self.ended.done():
            self.ended.set_result(None)

    async def bury(self) -> None:
        """Take its tasks off the loop."""
        self.die()
        self.worker.kill()
        await _cancel(self._tasks)

    @property
    def reasons_not_ready(self) -> list[str]:
        """What `/ready` would say."""
        return readiness(
            self.feed_stats,
            [self.sink.stats],
            ready_min_messages=1,
            ready_delay_ms=0,
            now_monotonic_ns=self.clock.monotonic_ns(),
        )


def _upstream(exchange: Exchange, plan: Plan) -> UpstreamSettings:
    return UpstreamSettings.model_construct(
        cluster=exchange.cluster,
        url=exchange.url,
        api_key="key",
        topics=("T.*", "Q.*", "A.*"),
        backoff_initial_secs=1,
        backoff_max_secs=60,
        read_timeout_secs=plan.read_timeout_secs,
        heartbeat_interval_secs=plan.heartbeat_interval_secs,
        channel_cap=64,
    )


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
