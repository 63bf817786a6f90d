"""A worker process: the ports of the recorder, with the recording process as their source."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Final, cast

from recorder import log, loop, native
from recorder.access_log.book import AccessBook
from recorder.bus import Batch, Bus, Watermark
from recorder.clock import SystemClock
from recorder.descriptors import OwnSocket
from recorder.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, ConfigError
from recorder.polygon.events import Decoder
from recorder.servers.access import Access
from recorder.servers.past.hotlog import HotLog
from recorder.servers.serving import Serving
from recorder.servers.spectators import Spectators
from recorder.servers.stats import ReplayStats
from recorder.servers.tokens import Guard
from recorder.settings import ClientLimits, DemandSettings
from recorder.sources.source import TopicSink
from recorder.tuning import tune
from recorder.workers.drain_messages import Dismiss, Refuse
from recorder.workers.replay_messages import Finish, Finished, Look, Say, Stand
from recorder.workers.wire import (
    BARS,
    BATCH,
    MESSAGE,
    Accessed,
    Admit,
    Advance,
    Answer,
    AskTime,
    Begun,
    Down,
    Enter,
    FedBatch,
    Guessed,
    Leave,
    Marked,
    NewRules,
    Reader,
    Ready,
    Refused,
    Release,
    Report,
    Session,
    Setup,
    Stop,
    Topics,
    Up,
    Want,
    answered_of,
    change_of,
    decode_batch,
    decode_down,
    encode,
    rules_of,
)

REPORT_SECS: Final = 1.0
ORPHANED_SECS: Final = 1.0
"""How long clients have for what is pending once the recording process is gone or has given the worker up."""
CLIENTS_REPORTED_MAX: Final = 50
"""The most clients of each port that a report describes, for the live page."""
_ADOPTIONS_MAX: Final = 64
"""The most connections that are taken before the loop does anything else."""


class Link(asyncio.Protocol):
    """The worker's end of the feed: batches and messages in, messages out."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._worker: _Worker | None = None
        self.setup: asyncio.Future[Setup] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        """Set once the recording process is gone, or wants no more of this worker."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclass

    def connect(self, worker: _Worker) -> None:
        """Hand everything that comes after the setup to the worker, in order."""
        self._worker = worker

    def data_received(self, data: bytes) -> None:
        """Handle the pieces of one read; its batches go through the ports in one pass."""
        for kind, content in self._reader.feed(data):
            if kind != MESSAGE:
                if self._worker is not None:
                    self._worker.collect(kind, decode_batch(content))
                continue
            message = decode_down(content)
            if isinstance(message, Setup):
                self.setup.set_result(message)
            elif self._worker is not None:
                self._worker.publish()
                self._worker.handle(message)
        if self._worker is not None:
            self._worker.publish()

    def connection_lost(self, error: Exception | None) -> None:
        """The worker ends with its feed."""
        self.lost.set()
        if not self.setup.done():
            self.setup.cancel()

    def send(self, message: Up) -> None:
        """Send a message to the recording process."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    async def close(self) -> None:
        """Send what is pending, then hang up."""
        if self._transport is not None:
            self._transport.close()
            await self.lost.wait()


class RemoteAdmission:
    """Asks the recording process, which counts the clients of all workers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._requests = 0
        self._asked: dict[int, asyncio.Future[bool]] = {}

    async def enter(self, port: str) -> bool:
        """Return whether there is room for a client."""
        number, answer = self._ask()
        self._link.send(Enter(number, port))
        return await answer

    async def admit(self, port: str, token: str) -> bool:
        """Return whether a token may have one more client."""
        number, answer = self._ask()
        self._link.send(Admit(number, port, token))
        return await answer

    def leave(self, port: str, token: str) -> None:
        """Free the place of a client that is gone."""
        self._link.send(Leave(port, token))

    def change(self, limits: ClientLimits) -> None:
        """Do nothing: the recording process counts, and has the limits."""

    def answer(self, answer: Answer) -> None:
        """Hand an answer to the client that waits for it."""
        asked = self._asked.pop(answer.request, None)
        if asked is not None and not asked.done():  # the client may be gone
            asked.set_result(answer.allowed)

    def _ask(self) -> tuple[int, asyncio.Future[bool]]:
        self._requests += 1
        answer = self._asked[self._requests] = asyncio.get_running_loop().create_future()
        return self._requests, answer


class SharedGuard(Guard):
    """Counts wrong tokens over all workers: an address that fails at one of them waits at all of them."""

    def __init__(self, link: Link) -> None:
        super().__init__(SystemClock())
        self._link = link

    def failed(self, address: str) -> None:
        """Count a failure here and at the other workers."""
        self.failed_elsewhere(address)
        self._link.send(Guessed(address))

    def failed_elsewhere(self, address: str) -> None:
        """Count a failure at another worker."""
        super().failed(address)


class RemoteSource:
    """The upstream feed of a cluster, which the recording process has."""

    def __init__(self, link: Link, cluster: str, *, bars: bool) -> None:
        self._link = link
        self._cluster = cluster
        self._bars = bars

    def subscribe(self, topics: Iterable[str]) -> None:
        """Have topics subscribed."""
        self._link.send(Want(self._cluster, list(topics), self._bars))

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Have topics unsubscribed, unless another worker wants them."""
        self._link.send(Release(self._cluster, list(topics), self._bars))

    def ask_time(self) -> None:
        """Have the exchange asked how far time has come there."""
        self._link.send(AskTime(self._cluster))


class _Worker:
    """One life of a worker, from its setup to `Stop` or to the end of its feed."""

    def __init__(self, setup: Setup, link: Link) -> None:
        self._link = link
        self._number = setup.number
        clusters = tuple(setup.topics)
        self._admission = RemoteAdmission(link)
        self._guard = SharedGuard(link)
        clock = SystemClock()
        book = None
        if setup.rules.servers.access_log.dest is not None:
            interval_secs = setup.rules.servers.access_log.interval_secs
            book = AccessBook(interval_secs, clusters, self._send_lines, clock)
        manifest = Path(setup.manifest) if setup.manifest else None
        self._log = HotLog(
            setup.epoch,
            setup.rules.servers.resume_bytes,
            clusters,
            _now_ms(),
            manifest=manifest,
            follows=setup.follows,
        )
        sources: dict[str, TopicSink] = {name: RemoteSource(link, name, bars=False) for name in clusters}
        self._serving = Serving(
            setup.rules.servers,
            setup.bars,
            # The recording process decides how long a topic is kept.
            DemandSettings(enabled=setup.on_demand, release_delay_secs=0.0),
            setup.topics,
            sources,
            Access(rules_of(setup.rules), self._guard, self._admission, book),
            clock,
            self._log,
        )
        self._spectators = Spectators(self._serving)
        self._finishing: asyncio.Task[None] | None = None
        self._decoders = {name: Decoder(name) for name in clusters}
        self._buses = {BATCH: Bus(), BARS: Bus()}
        for consumer in self._serving.consumers:
            self._buses[BATCH].attach(consumer)
        if self._serving.relay is not None:
            self._serving.relay.amend_refusal = setup.amend_refusal
            self._buses[BARS].attach(self._serving.relay)
            for name in clusters:
                self._serving.relay.connect(name, RemoteSource(link, name, bars=True))
        self._collected: dict[tuple[int, str], list[FedBatch]] = {}
        self._lag_ns = 0
        self._adopted = 0
        self._deadline_ns: int | None = None
        self._stopping = asyncio.Event()

    def collect(self, kind: int, batch: FedBatch) -> None:
        """Keep a batch for the pass at the end of the present read."""
        if kind == BATCH:
            # One by one, as every worker has them: a client may resume at another one, at any border between two.
            marks = self._log.take(
                batch.cluster, batch.frames, batch.received_ns, batch.position, batch.seq, batch.marks
            )
            batch = batch._replace(marks=tuple(marks))
        self._collected.setdefault((kind, batch.cluster), []).append(batch)

    def publish(self) -> None:
        """Pass on what one read brought: one batch of each cluster."""
        if not self._collected:
            return
        collected, self._collected = self._collected, {}
        now_ns = time.time_ns()
        for (kind, cluster), batches in collected.items():
            self._lag_ns = max(self._lag_ns, now_ns - batches[0].received_ns)
            frames = batches[0].frames
            if len(batches) > 1:
                frames = [frame for batch in batches for frame in batch.frames]
            received_ns = batches[-1].received_ns
            events_count = sum(batch.events_count for batch in batches)
            begins = accumulate((len(batch.frames) for batch in batches), initial=0)
            marks = [
                mark._replace(frames=begin + mark.frames)
                for begin, batch in zip(begins, batches, strict=False)
                for mark in batch.marks
            ]
            self._buses[kind].publish(
                Batch(
                    cluster,
                    received_ns,
                    frames,
                    self._decoders[cluster],
                    events_count,
                    read_ns=batches[-1].read_ns,
                    marks=marks,
                )
            )
        self._log.settled = self._log.reached

    def handle(self, message: Down) -> None:
        """Handle a message, in order with the batches."""
        match message:
            case Answer():
                self._admission.answer(message)
            case Guessed(address):
                self._guard.failed_elsewhere(address)
            case Session():
                self._log.session_changed(change_of(message))
                self._buses[BATCH].announce(change_of(message))
            case Marked(cluster, after):
                self._log.upstream.reach(cluster, after)
            case Begun(position, seq, closed, marks):
                self._log.begin(position, _now_ms(), seq, marks)
                for session in closed:
                    self._log.session_changed(change_of(session))
            case Topics():
                self._buses[BATCH].answer(answered_of(message))
            case NewRules():
                self._serving.change(rules_of(message))
            case Advance(cluster, until_ns):
                self._buses[BATCH].advance(Watermark(cluster, until_ns))
            case Say(payload):
                self._spectators.say(payload)
            case Look(number):
                self._link.send(Stand(number, self._spectators.fullest))
            case Finish(words):
                self._finishing = asyncio.create_task(self._finish(words), name="finish")
            case Refuse(new):
                self._serving.refuse(new=new)
            case Dismiss(secs):
                self._serving.dismiss(secs)
            case Stop(deadline_ns):
                self._deadline_ns = deadline_ns
                self._stopping.set()

    async def run(self, connections: socket.socket) -> int:
        """Serve until told to stop or until the recording process is gone; return the exit status."""
        await self._serving.start(listen=False)
        tasks = [
            asyncio.create_task(self._serving.run(), name="servers"),
            asyncio.create_task(self._adopt_all(connections), name="connections"),
            asyncio.create_task(self._report_all(), name="reports"),
            asyncio.create_task(self._wait_for_end(), name="end"),
        ]
        tune()
        self._link.send(Ready())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            secs = ORPHANED_SECS
            if self._deadline_ns is not None:
                secs = max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e9)
            await self._serving.close(secs)
            if self._finishing is not None:
                self._finishing.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self._link.send(self._report())
        return EXIT_OK if self._deadline_ns is not None else EXIT_FAILURE

    async def _finish(self, words: str) -> None:
        await self._spectators.finish(words)
        self._link.send(Finished())

    def _send_lines(self, lines: bytes, count: int, begun_ns: int) -> None:
        self._link.send(Accessed(lines, count, begun_ns))

    async def _wait_for_end(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._link.lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _adopt_all(self, connections: socket.socket) -> None:
        """Serve the connections that the recording process accepts."""
        running = asyncio.get_running_loop()
        hubs = list(self._serving.hubs.values())
        async with asyncio.TaskGroup() as group:

            def accept() -> None:
                for _ in range(_ADOPTIONS_MAX):
                    try:
                        place, numbers, _, _ = socket.recv_fds(connections, 1, 1)
                    except BlockingIOError:
                        return
                    if not place:  # the link ends, too
                        running.remove_reader(connections)
                        return
                    for number in numbers:
                        connection = OwnSocket(fileno=number)
                        connection.setblocking(False)
                        self._adopted += 1
                        group.create_task(hubs[place[0]].adopt(connection))

            running.add_reader(connections, accept)
            try:
                await running.create_future()
            finally:
                running.remove_reader(connections)

    async def _report_all(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECS)
            self._link.send(self._report())
            self._lag_ns = 0

    def _report(self) -> Report:
        serving = self._serving
        return Report(
            servers=serving.stats,
            bars={name: maker.stats for name, maker in serving.makers.items()},
            replays=serving.bars.stats if serving.bars is not None else ReplayStats(),
            connections=sum(hub.connections for hub in serving.hubs.values()),
            adopted=self._adopted,
            lag_secs=max(0.0, self._lag_ns / 1e9),
            cpu_secs=time.process_time(),
            memory_bytes=_memory_bytes(),
            consumer_failures=sum(bus.failures for bus in self._buses.values()),
            log_lines_dropped=log.lines_dropped(),
            clients=[
                replace(client, worker=self._number) for client in serving.clients(CLIENTS_REPORTED_MAX)
            ],
            subscribed=self._spectators.subscribed,
        )


def _now_ms() -> int:
    """Return Unix ms."""
    return time.time_ns() // 1_000_000


def _memory_bytes() -> int:
    """Return the resident memory; where the system does not tell it, the most there ever was."""
    with suppress(OSError):
        pages = Path("/proc/self/statm").read_bytes().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def _live(feed: socket.socket, connections: socket.socket) -> int:
    link = Link()
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=feed)
    try:
        setup = await link.setup
    except asyncio.CancelledError:
        return EXIT_FAILURE
    log.configure(setup.log_levels, setup.log_format, fields={"worker": setup.number})
    try:
        native.choose(native.YES if setup.native else native.NO)
        worker = _Worker(setup, link)
        link.connect(worker)
        return await worker.run(connections)
    except ConfigError as error:
        link.send(Refused(str(error)))
        return EXIT_CONFIG
    finally:
        await link.close()


def run_worker(feed_fd: int, connections_fd: int) -> int:
    """Run a worker on its ends of two socket pairs; return the exit status."""
    log.configure({"": "info"})
    with socket.socket(fileno=feed_fd) as feed, socket.socket(fileno=connections_fd) as connections:
        feed.setblocking(False)
        connections.setblocking(False)
        return loop.run(_live(feed, connections))
