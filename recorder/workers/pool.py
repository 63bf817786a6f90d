"""All workers together: fed, kept running, and shown to the rest of the recorder as if their ports were its own."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from recorder import native
from recorder.access_log.writer import AccessLog
from recorder.backoff import STABLE_SECS, full_jitter
from recorder.bars import BarStats
from recorder.bus import Batch, Border, Consumer, SessionChange, TopicsAnswered, Watermark
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.log import get_logger
from recorder.part import Part, Work
from recorder.servers.access import Rules
from recorder.servers.admission import Places
from recorder.servers.demand import OnDemandTopics
from recorder.servers.past.entry import Origin
from recorder.servers.past.upstream import Upstream
from recorder.servers.refusals import Refusals
from recorder.servers.relay import BarRelay
from recorder.servers.stats import ClientStats, ReplayStats, ServerStats
from recorder.servers.tls import Tls
from recorder.settings import BarSettings, DemandSettings, LogSettings, ServersSettings, WorkerSettings
from recorder.sources.source import TopicSink
from recorder.workers.acceptor import Acceptor
from recorder.workers.drain_messages import Dismiss, Refuse
from recorder.workers.replay_messages import Finished, Replied, Stand
from recorder.workers.shared import Shared
from recorder.workers.stats import WorkerStats
from recorder.workers.totals import Sum, Totals
from recorder.workers.wire import (
    BARS,
    BATCH,
    Accessed,
    Begun,
    Down,
    Guessed,
    Marked,
    Ready,
    Refused,
    Report,
    Session,
    Setup,
    Stop,
    Up,
    advance_of,
    encode,
    encode_batch,
    new_rules_of,
    session_of,
    topics_of,
)
from recorder.workers.worker import Worker

LOOK_SECS: Final = 1.0
SILENT_SECS: Final = 30.0
"""How long a worker may take to start, and how long it may say nothing before it is replaced; it reports each second."""
QUIET_SECS: Final = 3.0
"""How long a worker may say nothing before new connections go to the others."""
RESTART_FIRST_SECS: Final = 0.2
RESTART_SECS_MAX: Final = 10.0
STOP_GRACE_SECS: Final = 1.0
"""Time for the last report, beyond the time of a stop."""

log = get_logger("polygon_clients")


class WorkerPool:
    """A consumer of the bus whose worker processes do the serving. It has the interface of `Serving`.

    A worker that leaves more than `SERVE_WORKER_PENDING_BYTES_MAX` unread, falls silent or ends is replaced; its
    clients are told 1012, or see their connections end, and connect again. Nothing is ever left out of what a worker
    is fed, so no client's stream has a hole. A worker that cannot be started is tried again, with waits that grow.
    """

    name = "workers"

    def __init__(
        self,
        settings: ServersSettings,
        bar_settings: BarSettings,
        demand_settings: DemandSettings,
        topics: Mapping[str, tuple[str, ...]],
        sources: dict[str, TopicSink],
        rules: Rules,
        clock: Clock,
        workers: WorkerSettings,
        logs: LogSettings,
        access_log: AccessLog | None,
        origin: Origin,
    ) -> None:
        """`topics` is what is always subscribed upstream, by cluster. `origin` is what positions are of.

        Raise ConfigError where the certificate cannot be used.
        """
        self._tls = Tls(rules.pem)
        """No connection ends here; it is what tells a certificate that cannot be used from a good one."""
        self._workers = workers
        self._clock = clock
        self._access_log = access_log
        self._setup = Setup(
            number=0,
            rules=new_rules_of(rules),
            bars=bar_settings,
            on_demand=demand_settings.enabled,
            topics=dict(topics),
            native=native.in_use(),
            epoch=origin.epoch,
            manifest=str(origin.manifest or ""),
            follows=origin.follows,
            amend_refusal="",
            log_levels=logs.levels,
            log_format=logs.format,
        )
        ports = {
            name: number
            for name, number in (
                ("firehose", settings.firehose_port),
                ("filtered", settings.filtered_port),
                ("bars", settings.bars_port),
            )
            if number is not None
        }
        self._acceptor = Acceptor(settings.host, ports, self._hand)
        self.demand: OnDemandTopics | None = None
        if demand_settings.enabled:
            fixed = {cluster: frozenset(held) for cluster, held in topics.items()}
            self.demand = OnDemandTopics(demand_settings, sources, fixed, clock)
        self.relay: BarRelay | None = None
        if bar_settings.aggregator_url is not None:
            self.relay = BarRelay((bar_settings.min_interval_ms, bar_settings.max_interval_ms))
        self._places = Places(settings.limits)
        self._refusals = Refusals()
        self._shared = Shared(self._places, sources, self.demand, self.relay)
        makes_bars = settings.bars_port is not None and self.relay is None
        self._totals = Totals(ports, topics, makes_bars=makes_bars)
        self.workers = [WorkerStats(number) for number in range(1, workers.count + 1)]
        self._current: dict[int, Worker] = {}
        self._fed: tuple[Worker, ...] = ()
        """The workers that are ready."""
        self._seq = origin.seq
        self._position = 0
        """Frames received in all; each worker keeps the last of them, under the same numbers."""
        self._upstream = Upstream(topics)
        """The positions of the recorder that this one follows."""
        self._closed: dict[str, Session] = {}
        """The end of the last session of each cluster that has none now."""
        self.replied: Callable[[Worker, Replied], None] = lambda worker, reply: None
        """Takes the answers to what `tell` has sent."""
        self._closing = asyncio.Event()
        self._refuses_new = False
        self._changed = asyncio.Event()
        """Set when a worker is ready, or has failed to become ready."""

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """What to attach to the bus: one consumer, since each worker takes each batch once, for all its ports."""
        return (self,)

    @property
    def addresses(self) -> dict[str, str]:
        """Where each port listens."""
        return self._acceptor.addresses

    @property
    def stats(self) -> list[ServerStats]:
        """The counters of each port, summed over all workers."""
        return self._totals.servers

    @property
    def makers(self) -> Mapping[str, Sum[BarStats]]:
        """The bar counters of each cluster, summed over all workers."""
        return self._totals.makers

    @property
    def bars_consumer(self) -> Consumer:
        """The consumer that takes the bars of another recorder."""
        return _BarsConsumer(self._feed)

    @property
    def bars(self) -> Sum[ReplayStats] | None:
        """The counters of replays; None where no bars are made."""
        return self._totals.bars

    @property
    def subscribed(self) -> int:
        """How many clients have subscribed to something, a second ago at most."""
        reports = [worker.report for worker in self._current.values()]
        return sum(report.subscribed for report in reports if report is not None)

    def tell(self, message: Down) -> tuple[Worker, ...]:
        """Send every worker that is ready a message, in order with the batches; return these workers."""
        data = encode(message)
        for worker in self._fed:
            worker.feed(data)
        return self._fed

    def clients(self, clients_max: int) -> list[ClientStats]:
        """Return clients of each port and worker, as last reported; each worker limits how many it reports."""
        reports = [worker.report for worker in self._current.values() if worker.report is not None]
        return [client for report in reports for client in report.clients]

    def change(self, rules: Rules) -> None:
        """Use other rules from now on, at every worker and at those that replace them.

        Raise ConfigError, and change nothing, if the certificate cannot be used.
        """
        self._tls.change(rules.pem)
        self._places.limits = rules.servers.limits
        self._setup = msgspec.structs.replace(self._setup, rules=new_rules_of(rules))
        for worker in self._fed:
            worker.send(self._setup.rules)

    def refuse(self, *, new: bool) -> None:
        """Answer new clients with 503 from now on; or, where `new` is false, take them again."""
        self._refuses_new = new
        self.tell(Refuse(new))

    def dismiss(self, secs: float) -> None:
        """Begin to close every client with 1012, the last of them in `secs`."""
        self.tell(Dismiss(secs))

    def accept(self, batch: Batch) -> None:
        """Hand a batch to every worker: encoded once, written once for each."""
        self._position += len(batch.frames)
        self._upstream.take(batch.cluster, batch.frames, batch.marks)
        self._feed(BATCH, batch, self._position, self._seq())

    def border_passed(self, border: Border) -> None:
        """Pass on how far the recorder has come that this one follows, in order with the batches."""
        self._upstream.reach(border.cluster, border.after)
        data = encode(Marked(border.cluster, border.after))
        for worker in self._fed:
            worker.feed(data)

    def session_changed(self, change: SessionChange) -> None:
        """Pass on that a session began or ended, in order with the batches."""
        session = session_of(change)
        if session.reason is None:
            self._closed.pop(session.cluster, None)
        else:
            self._closed[session.cluster] = session
        data = encode(session)
        for worker in self._fed:
            worker.feed(data)

    def advance(self, watermark: Watermark) -> None:
        """Pass on how far time has come, in order with the batches."""
        data = encode(advance_of(watermark))
        for worker in self._fed:
            worker.feed(data)

    def topics_answered(self, answered: TopicsAnswered) -> None:
        """Pass on what the exchange says of topics; workers that start later are told, too."""
        self._refusals.take(answered)
        data = encode(topics_of(answered))
        for worker in self._fed:
            worker.feed(data)

    @property
    def parts(self) -> list[Part]:
        """The parts: the workers, and what lets time pass for topics on demand."""
        return [self, *([Work("topics on demand", self.demand.run)] if self.demand is not None else [])]

    async def open(self) -> None:
        """Listen, start every worker, and wait until all are ready.

        :raises ConfigError: a client could not be served.
        """
        self._closing.clear()
        await self._acceptor.open()
        for stats in self.workers:
            await self._start(stats)
        try:
            async with asyncio.timeout(SILENT_SECS):
                while len(self._fed) < len(self.workers):
                    await self._changed.wait()
                    self._changed.clear()
                    self._require_life()
        except TimeoutError as error:
            raise RecorderError(f"the workers were not ready within {SILENT_SECS:g} s") from error

    def _require_life(self) -> None:
        for worker in self._current.values():
            if worker.refusal:
                raise ConfigError(worker.refusal)
            if worker.ended.is_set():
                raise RecorderError(f"worker {worker.number} could not start; its own lines say why")

    async def run(self) -> None:
        """Keep the workers running until cancelled."""
        async with asyncio.TaskGroup() as group:
            for stats in self.workers:
                group.create_task(self._keep(stats), name=f"worker {stats.number}")
            group.create_task(self._check_all(), name="look after workers")

    async def close(self, deadline_ns: int) -> None:
        """Stop accepting, have each worker pass on what it has and close its clients with 1012, and wait for its end."""
        self._closing.set()
        self._acceptor.close()
        timeout_secs = max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9)
        workers = list(self._current.values())
        for worker in workers:
            if worker.is_ready:
                worker.send(Stop(deadline_ns))
            else:
                worker.give_up("stop")
        await asyncio.gather(*(worker.finish(timeout_secs + STOP_GRACE_SECS) for worker in workers))
        for worker in workers:
            self._forget(worker, self.workers[worker.number - 1])

    def _feed(self, kind: int, batch: Batch, position: int = 0, seq: int = 0) -> None:
        if not self._fed:
            return
        data = encode_batch(kind, batch, position, seq)
        for worker in self._fed:
            worker.feed(data)
            if worker.is_behind:
                self._give_up(worker, "slow")

    async def _start(self, stats: WorkerStats) -> None:
        worker = Worker(stats.number, self._workers.pending_bytes_max, self._handle, self._changed.set)
        stats.state = "starting"
        refusal = self.relay.amend_refusal if self.relay is not None else ""
        await worker.start(msgspec.structs.replace(self._setup, number=stats.number, amend_refusal=refusal))
        self._current[stats.number] = worker
        stats.pid = worker.pid
        stats.reason = ""
        if self._closing.is_set():
            worker.give_up("stop")

    async def _keep(self, stats: WorkerStats) -> None:
        """Replace one worker each time it ends."""
        loop = asyncio.get_running_loop()
        waits = _waits()
        while True:
            worker = self._current[stats.number]
            started_at = loop.time()
            await worker.ended.wait()
            self._forget(worker, stats)
            status = await worker.finish(0.0)
            if self._closing.is_set():
                return
            reason = worker.given_up or "ended"
            stats.restarts[reason] += 1
            if loop.time() - started_at >= STABLE_SECS:
                waits = _waits()
            wait_secs = next(waits)
            log.warning(
                "worker_ended",
                worker=stats.number,
                reason=stats.reason,
                exit_status=status,
                retry_in_secs=round(wait_secs, 3),
            )
            await self._clock.sleep(wait_secs)
            await self._start_again(stats, waits)
            if self._closing.is_set():
                return

    async def _start_again(self, stats: WorkerStats, waits: Iterator[float]) -> None:
        """Start a worker as soon as the machine allows it; recording goes on with those that are up."""
        while not self._closing.is_set():
            try:
                await self._start(stats)
            except OSError as error:  # no process, no memory, no file: EAGAIN, ENOMEM, EMFILE
                wait_secs = next(waits)
                stats.state = "down"
                stats.reason = f"cannot be started: {error.strerror or error}"
                log.error(
                    "worker_start_failed",
                    worker=stats.number,
                    error=str(error),
                    retry_in_secs=round(wait_secs, 3),
                    advice="see the limits of processes, memory and open files (ulimit -a, TasksMax)",
                )
                await self._clock.sleep(wait_secs)
            else:
                return

    def _give_up(self, worker: Worker, reason: str) -> None:
        """End a worker that is of no more use; `_keep` replaces it."""
        worker.give_up(reason)
        self._choose_fed()

    def _choose_fed(self) -> None:
        """Feed the workers that are ready; accept connections while there is one."""
        self._fed = tuple(worker for worker in self._current.values() if worker.is_ready)
        if self._fed and not self._closing.is_set():
            self._acceptor.resume()
        else:
            self._acceptor.pause()
        self._changed.set()

    def _forget(self, worker: Worker, stats: WorkerStats) -> None:
        """Let go of what a worker that has ended held for its clients."""
        if self._current.get(stats.number) is not worker:
            return
        del self._current[stats.number]
        self._choose_fed()
        stats.note_end(worker.refusal or worker.given_up or "ended")
        if worker.report is not None:
            self._totals.retire(worker.report)
            worker.report = None
        self._add_up()
        self._shared.forget(worker)

    def _hand(self, place: int, connection: socket.socket) -> bool:
        """Hand a connection to the worker with the fewest; a worker that has fallen quiet comes last."""
        now = asyncio.get_running_loop().time()
        ranked = sorted(
            self._fed, key=lambda worker: (now - worker.heard_at >= QUIET_SECS, worker.connections_count)
        )
        return any(worker.hand(place, connection) for worker in ranked)

    async def _check_all(self) -> None:
        """Check each worker once a second."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOK_SECS
            await self._clock.sleep(LOOK_SECS)
            now = loop.time()
            was_held_up = now - due > LOOK_SECS
            for worker in list(self._current.values()):
                if worker.ended.is_set():
                    continue
                if was_held_up:  # this process was late; what the worker said may not have been read yet
                    worker.heard_at = now
                silent_secs = now - worker.heard_at
                stats = self.workers[worker.number - 1]
                stats.pending_bytes = worker.pending_bytes
                if silent_secs >= QUIET_SECS:
                    stats.lag_secs = silent_secs
                if silent_secs >= SILENT_SECS:
                    self._give_up(worker, "silent")

    def _handle(self, worker: Worker, message: Up) -> None:
        """Handle a message of a worker."""
        match message:
            case Ready():
                worker.is_ready = True
                worker.send(self._setup.rules)  # they may have changed since it was started
                begun = Begun(
                    self._position,
                    self._seq(),
                    tuple(self._closed.values()),
                    dict(self._upstream.marks),
                )
                worker.send(begun)
                if self._refuses_new:
                    worker.send(Refuse(new=True))
                for answered in self._refusals.all():
                    worker.send(topics_of(answered))
                self.workers[worker.number - 1].state = "up"
                self._choose_fed()
                log.info("worker_started", worker=worker.number, pid=worker.pid)
            case Refused(words):
                worker.refusal = words
            case Report():
                self._take_report(worker, message)
            case Accessed(lines, count, begun_ns):
                if self._access_log is not None:
                    self._access_log.write(lines, count, begun_ns)
            case Guessed():
                data = encode(message)
                for other in self._fed:
                    if other is not worker:
                        other.feed(data)
            case Stand() | Finished():
                self.replied(worker, message)
            case _:
                self._shared.handle(worker, message)

    def _take_report(self, worker: Worker, report: Report) -> None:
        stats = self.workers[worker.number - 1]
        stats.note(report, worker.report)
        stats.pending_bytes = worker.pending_bytes
        worker.report = report
        self._add_up()

    def _add_up(self) -> None:
        reports = [worker.report for worker in self._current.values() if worker.report is not None]
        self._totals.update(reports)

    def __repr__(self) -> str:
        return f"WorkerPool({list(self._current.values())!r})"


class _BarsConsumer:
    """Hands bars of another recorder to every worker."""

    def __init__(self, feed: Callable[[int, Batch], None]) -> None:
        self._feed = feed

    def accept(self, batch: Batch) -> None:
        """Pass one batch on."""
        self._feed(BARS, batch)

    def session_changed(self, change: SessionChange) -> None:
        """Nothing: workers are told of the sessions of the exchange alone."""


def _waits() -> Iterator[float]:
    return full_jitter(RESTART_FIRST_SECS, RESTART_SECS_MAX, random.uniform)
