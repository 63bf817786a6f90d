"""Appends messages to streams: one epoch after another, each of which begins with a look at where the streams end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from recorder.backoff import Backoff
from recorder.bus import SessionChange
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.jetstream.connection import Connection, Delivery, NatsUnreachable
from recorder.jetstream.streams import JetStream
from recorder.ledger import PairStats
from recorder.log import get_logger
from recorder.settings.nats import NatsSettings
from recorder.sinks.nats.absences import Absences
from recorder.sinks.nats.answers import answer_of
from recorder.sinks.nats.appender import ALONE_NS, CONTENT_BYTES_MAX, Appender
from recorder.sinks.nats.message import Frames, Message
from recorder.sinks.nats.pairing import Pairing
from recorder.sinks.nats.purge_watch import PurgeWatch
from recorder.sinks.sink import Drops
from recorder.sources.turn import Turn
from recorder.stream_message import Names

ACK_SECS_MAX: Final = 5.0
"""A message that is not acknowledged for longer ends the epoch."""
OPEN_SECS: Final = 5.0
"""The start of the recorder waits no longer for the servers."""
EPOCH_SECS: Final = 20.0
"""How long a later epoch may take to begin."""
_RETRY_FIRST_SECS: Final = 0.2
_RETRY_SECS_MAX: Final = 2.0
_FIRST_ID: Final = "first"
_TICK_SECS: Final = 0.1
_LOOK_SECS: Final = 5.0
"""Time between two looks at the streams while all is well: a purge disturbs no appending."""
_HEADER_BYTES: Final = 2048
_PATIENCE_OF_TAKEOVER: Final = 2
"""What is to tell of an absence waits for so many times of a takeover: another recorder has taken over by then."""
_CLOSE_SECS: Final = 0.2
"""Kept of the time for closing, to drop the connection."""

log = get_logger("polygon_clients")


class NatsPublisher:
    """Target of the sink: takes the frames of each read, and has each in its stream exactly once.

    Whatever goes wrong ends the epoch: the connection is dropped, `failure` says why, and nothing more is taken until the
    next epoch has begun. What is not acknowledged is kept, and sent again unless it had arrived. At the deadline of
    `close` it counts as dropped, though it may arrive yet.
    """

    def __init__(
        self,
        settings: NatsSettings,
        clusters: Sequence[str],
        drops: Drops,
        clock: Clock,
        writer: str,
        turns: Mapping[str, Turn],
    ) -> None:
        self._settings = settings
        self._drops = drops
        self._stats = drops.stats
        self._clock = clock
        self._writer = writer
        self._clusters = clusters
        self._appenders: dict[str, Appender] = {}
        self._connection: Connection | None = None
        self._jetstream: JetStream | None = None
        self._inbox = ""
        self._changed = asyncio.Event()
        """Set by each acknowledgement, and when the connection ends."""
        self._backoff = Backoff(_RETRY_FIRST_SECS, _RETRY_SECS_MAX, random.uniform)
        self._retry_ns = 0
        self._look_ns = 0
        self._watches: dict[str, PurgeWatch] = {}
        """By cluster."""
        # With one connection for two, nobody can show what this recorder has not got.
        self._absences = {
            cluster: Absences(
                0 if cluster in turns else int(_PATIENCE_OF_TAKEOVER * settings.takeover_secs * 1e9)
            )
            for cluster in clusters
        }
        self._turns = turns
        self._pairings: dict[str, Pairing] = {}
        """By cluster: what is done about another recorder."""
        self._said: bool | None = None
        """Whether the failure that the log has told of is one for an operator; None: it has told of none."""
        self._is_proven = False
        """Whether this epoch has shown that it can append, or has had nothing to append."""
        self.bytes_done = 0

    @property
    def failure(self) -> str:
        """Why nothing can be appended now; empty while it can."""
        connection = self._connection
        return self._stats.failure or (connection.failure if connection is not None else "")

    async def open(self) -> None:
        """Begin the first epoch. Servers that are away do not keep the recorder from working: `failure` says so.

        :raises ConfigError: the credentials or a stream cannot be used; somebody must change something.
        """
        settings = self._settings
        takeover_ns = int(settings.takeover_secs * 1e9)
        for cluster in self._clusters:
            stats = PairStats(cluster, Names.of(settings.stream_prefix, cluster).stream)
            self._appenders[cluster] = Appender(
                cluster,
                settings.stream_prefix,
                self._writer,
                stats,
                settings.role,
                takeover_ns,
                self._absences[cluster],
            )
            self._pairings[cluster] = Pairing(
                self._appenders[cluster], self._clock, self._changed.set, self._turns.get(cluster)
            )
            self._watches[cluster] = PurgeWatch(self._appenders[cluster], settings)
        self._stats.streams = [appender.stats for appender in self._appenders.values()]
        self._backoff.reset()
        self._said = None
        await self._try(OPEN_SECS, fatal=(ConfigError,))

    async def write(self, item: Frames) -> None:
        """Take the frames of one read."""
        # Nothing waits here, so that an item is either taken or not, also where the call is cancelled.
        appender = self._appenders[item.cluster]
        appender.gather(item, self._clock.monotonic_ns())
        await self._send(appender)

    async def tick(self) -> float:
        """Send what has lingered, see whether all is acknowledged in time, and begin an epoch where there is none."""
        if self._connection is None:
            wait_secs = (self._retry_ns - self._clock.monotonic_ns()) / 1e9
            if wait_secs > 0:
                return min(wait_secs, _TICK_SECS)
            await self._try(EPOCH_SECS)
            return _TICK_SECS
        if self._connection.failure:
            connection = self._connection
            self._end(NatsUnreachable(connection.failure))
            await self._leave(connection)
            return 0.0
        due_secs = await self._turn()
        self._judge()
        if self._clock.monotonic_ns() >= self._look_ns:
            await self._look()
        return min(due_secs, _TICK_SECS)

    async def close(self, deadline_ns: int) -> None:
        """Send what is gathered, and wait for the acknowledgements until then; drop the rest, counted."""
        with suppress(TimeoutError):
            left_secs = (deadline_ns - self._clock.monotonic_ns()) / 1e9 - _CLOSE_SECS
            async with asyncio.timeout(max(0.0, left_secs)):
                await self._drain()
        lost = 0
        for appender in self._appenders.values():
            for message in appender.abandon():
                lost += message.events
                self._give_up(appender.cluster, message)
        if lost:
            log.error("nats_unacknowledged", events=lost, failure=self.failure)
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._leave(connection)

    async def _leave(self, connection: Connection) -> None:
        for pairing in self._pairings.values():
            await pairing.stop()
        await connection.close()

    async def _drain(self) -> None:
        while self._connection is not None and not self._connection.failure:
            self._changed.clear()
            due_secs = await self._turn()
            if not any(appender.has_events for appender in self._appenders.values()):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(due_secs):
                    await self._changed.wait()

    async def _turn(self) -> float:
        """Send what may be sent, and follow the streams that others write to; return the seconds until more is due."""
        linger_ns = self._settings.linger_ms * 1_000_000
        due_ns = int(_TICK_SECS * 1e9)
        for cluster, appender in self._appenders.items():
            await self._look_at_other(cluster)
            now_ns = self._clock.monotonic_ns()
            due_ns = min(due_ns, appender.linger(now_ns, linger_ns))
            await self._send(appender)
            due_ns = min(due_ns, appender.due_ns(now_ns))
            appender.count()
        return due_ns / 1e9

    async def _look_at_other(self, cluster: str) -> None:
        connection, jetstream = self._connection, self._jetstream
        if connection is None or jetstream is None or connection.failure:
            return
        try:
            await self._pairings[cluster].look(connection, jetstream)
        except RecorderError as error:
            connection.fail(str(error))

    def session_changed(self, change: SessionChange) -> None:
        """Note that a cluster's connection to the exchange has data, or no longer."""
        if change.cluster in self._absences:
            self._absences[change.cluster].session_changed(change)
        if change.cluster in self._pairings:
            self._pairings[change.cluster].session_changed(change)

    async def _send(self, appender: Appender) -> None:
        """Send the message that is next. nats-py only puts it into its buffer, so this does not wait for the server."""
        connection = self._connection
        if connection is None or connection.failure:
            return
        message = appender.next_message(self._clock.monotonic_ns())
        self._settle(appender)
        if message is None:
            return
        headers = appender.heading(message).headers()
        headers["Nats-Expected-Last-Sequence"] = str(message.seq - 1)
        if message.seq == 1:
            # nats-server 2.9 does not compare an expected 0; the first message has the same id, whoever writes it.
            headers["Nats-Msg-Id"] = _FIRST_ID
        message.sent_ns = self._clock.monotonic_ns()
        reply = f"{self._inbox}.{appender.cluster}"
        try:
            await connection.publish(appender.subject, message.content, reply, headers)
        except NatsUnreachable as error:
            connection.fail(str(error))
            return
        self._stats.bytes_written += len(message.content)

    def _settle(self, appender: Appender) -> None:
        """Count what has turned out to be in the stream, and what never will be."""
        for stored in appender.take_stored():
            self._stats.note_recorded(appender.cluster, stored.counts)
            self.bytes_done += stored.size
        for lost in appender.take_lost():
            self._drops.add(appender.cluster, lost.counts, "larger than a message of the servers may be")
            self._drops.warn(
                "an event is larger than max_payload of the servers allows", bytes=len(lost.content)
            )
            self.bytes_done += lost.size

    def _receive_ack(self, appender: Appender, delivery: Delivery) -> None:
        """Take the answer to a message: the place where it is stored, or why it is not."""
        connection = self._connection
        if connection is None or connection.failure:
            return
        sent = appender.sent
        if sent is None:
            return  # it was read sooner than this came
        answer = answer_of(delivery.content, delivery.headers, sent.seq)
        if answer.problem:
            connection.fail(f"stream {appender.stream}: {answer.problem}")
        elif answer.end_seq:
            appender.refused(answer.end_seq)
        else:
            appender.acknowledged()
            self._settle(appender)
            if not self._is_proven:
                self._prove()
        self._changed.set()

    def _prove(self) -> None:
        """The epoch is a good one. What begins and fails each time, as for want of a permission, is one failure."""
        assert self._connection is not None
        self._is_proven = True
        self._backoff.reset()
        self._said = None
        log.info("nats_connected", server=self._connection.server, version=self._connection.version)

    def _give_up(self, cluster: str, message: Message) -> None:
        self._drops.add(cluster, message.counts, "not acknowledged before the shutdown's deadline")
        self._stats.given_up += message.events
        self.bytes_done += message.size

    def _judge(self) -> None:
        """End the epoch where a message is not acknowledged in time."""
        connection = self._connection
        if connection is None or connection.failure:
            return
        limit_ns = self._clock.monotonic_ns() - int(ACK_SECS_MAX * 1e9)
        for cluster, appender in self._appenders.items():
            if appender.sent is not None and appender.sent.sent_ns < limit_ns:
                connection.fail(f"stream {appender.stream}: nothing was acknowledged for {ACK_SECS_MAX:g} s")
            if self._pairings[cluster].is_stuck(limit_ns):
                connection.fail(f"stream {appender.stream}: nothing was read for {ACK_SECS_MAX:g} s")

    async def _try(self, limit_secs: float, fatal: tuple[type[Exception], ...] = ()) -> None:
        """Begin an epoch; raise what is `fatal`, and wait out any other failure."""
        try:
            async with asyncio.timeout(limit_secs):
                await self._begin()
        except fatal:
            raise
        except TimeoutError:
            words = f"the servers have not said where the streams end within {limit_secs:g} s"
            self._end(NatsUnreachable(words))
        except RecorderError as error:
            self._end(error)

    async def _begin(self) -> None:
        """Connect, see where each stream ends, and send what is missing there."""
        connection = await Connection.to_any(self._settings, f"recorder {self._writer}", self._changed.set)
        try:
            jetstream = JetStream(connection, self._settings)
            for appender in self._appenders.values():
                appender.content_bytes_max = min(
                    CONTENT_BYTES_MAX, connection.max_payload_bytes - _HEADER_BYTES
                )
                await self._resume(appender, jetstream)
            inbox = connection.new_inbox()
            for appender in self._appenders.values():
                receive = partial(self._receive_ack, appender)
                await connection.subscribe(f"{inbox}.{appender.cluster}", receive)
                await self._pairings[appender.cluster].begin(connection, jetstream)
        except BaseException:
            await self._leave(connection)
            raise
        self._connection, self._jetstream, self._inbox = connection, jetstream, inbox
        self._look_ns = self._clock.monotonic_ns() + int(_LOOK_SECS * 1e9)
        self._stats.failure = ""
        self._is_proven = False
        if not any(appender.leads and appender.has_events for appender in self._appenders.values()):
            self._prove()
        for appender in self._appenders.values():
            await self._send(appender)

    async def _resume(self, appender: Appender, jetstream: JetStream) -> None:
        """Let an appender go on where its stream ends."""
        end, made = await jetstream.end_of(appender.stream, appender.subject)
        if made:
            log.info("nats_stream_made", stream=appender.stream, subject=appender.subject)
        said_gap = appender.gap
        is_idle = self._clock.wall_ns() - end.stored_ns > ALONE_NS
        appender.resume(end, self._clock.monotonic_ns(), is_idle=is_idle)
        self._settle(appender)
        if appender.gap and appender.gap != said_gap:
            self._tell_gap(appender)
        self._watches[appender.cluster].begin(end.last_heading_seq)

    async def _look(self) -> None:
        """See whether what was stored is still there."""
        assert self._jetstream is not None
        assert self._connection is not None
        for cluster, appender in self._appenders.items():
            try:
                is_purged = await self._watches[cluster].look(self._jetstream, self._clock.wall_ns())
            except RecorderError as error:
                self._connection.fail(str(error))
                return
            if is_purged:
                self._tell_gap(appender)
        self._look_ns = self._clock.monotonic_ns() + int(_LOOK_SECS * 1e9)

    def _tell_gap(self, appender: Appender) -> None:
        log.error(
            "nats_stream_gap", stream=appender.stream, reason=appender.gap, next_first=appender.next_first
        )

    def _end(self, error: RecorderError) -> None:
        """End the epoch, or the attempt to begin one: nothing is taken until the next one has begun."""
        self._connection = self._jetstream = None
        self._stats.failure = str(error)
        self._stats.write_errors += 1
        wait_secs = self._backoff.next_secs()
        self._retry_ns = self._clock.monotonic_ns() + int(wait_secs * 1e9)
        self._changed.set()
        is_for_operator = isinstance(error, ConfigError)
        if is_for_operator is not self._said:
            self._said = is_for_operator
            log.error("nats_interrupted", failure=str(error), under_way_bytes=self._stats.pending_bytes)

    def __repr__(self) -> str:
        return f"NatsPublisher({list(self._appenders.values())!r}, failure={self.failure!r})"
