"""Follows the stream of one cluster: connects, and connects again, for as long as the process lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from functools import partial
from typing import Final

from recorder.backoff import Backoff
from recorder.bus import Watermark
from recorder.errors import ConfigError, ConnectFailed, Disconnected, RecorderError
from recorder.jetstream.connection import Connection
from recorder.jetstream.consumer import Consumer, StoredMessage
from recorder.jetstream.streams import ForeignMessage, JetStream
from recorder.log import get_logger
from recorder.settings.nats import NEW, NatsSettings
from recorder.sources.nats.intake import CAUGHT_UP_MESSAGES, PASS_BYTES_MAX, Intake
from recorder.sources.nats.place import begin
from recorder.sources.nats.stats import StreamStats
from recorder.sources.nats.stream_time import StreamTime
from recorder.sources.source import SourceContext
from recorder.stream_message import Names

OPEN_SECS: Final = 6.0
"""The start of the recorder waits no longer for the servers."""
BEGIN_SECS: Final = 20.0
"""How long a connection may take until messages can come."""
STEP_NS: Final = 2_000_000
"""How long messages are passed on before the loop may do anything else."""
_RETRY_FIRST_SECS: Final = 0.2
_RETRY_SECS_MAX: Final = 2.0
_BRAKE_SECS: Final = 0.005
"""Time between two looks whether what the sinks hold is written."""
_LOOK_NS: Final = 5_000_000_000
"""Time between two looks at how many events are yet to be read."""
_QUIET_SECS: Final = 5.0
"""So long without a message, and the servers are asked whether they still have the stream."""

log = get_logger("polygon_upstream")


class NatsSource:
    """Follows one stream; one connection at a time, with backoff between attempts.

    Each message is passed on with the position behind it. What waits is bounded by the servers' window: while the sinks
    have more than enough, nothing is taken, and no more is sent.
    """

    def __init__(
        self,
        context: SourceContext,
        settings: NatsSettings,
        stream: StreamStats,
    ) -> None:
        cluster = context.cluster
        self.name = f"stream {cluster}"
        self.stream = stream
        self._context = context
        self._settings = settings
        self._names = Names.of(settings.stream_prefix, cluster)
        self._clock = context.clock
        self._bus = context.bus
        self._stats = context.stats
        self._intake = Intake(context, stream)
        self._consumer: Consumer | None = None
        self._backoff = Backoff(_RETRY_FIRST_SECS, _RETRY_SECS_MAX, random.uniform)
        self._said = ""
        """The failure that the log has told of; empty if it has told of none since the last session."""
        self._rested_ns = 0
        """Monotonic time at which the loop last had its turn."""
        self._looked_ns = 0
        self._time = StreamTime(
            lambda until_ns: self._bus.advance(Watermark(cluster, until_ns)),
            settings.silence_max_ms,
            self._intake,
            self._clock,
        )

    async def open(self) -> None:
        """See whether the stream can be read. Servers and streams that are away are waited for by `run`.

        :raises ConfigError: the credentials are refused, JetStream is off, the stream is of another shape.
        """
        try:
            async with asyncio.timeout(OPEN_SECS):
                connection = await Connection.to_any(self._settings, self._client_name, lambda: None)
                try:
                    await JetStream(connection, self._settings).view_of(*self._names)
                finally:
                    await connection.close()
        except ConfigError:
            raise
        except (RecorderError, TimeoutError):
            return  # `run` says it

    async def run(self) -> None:
        """Work until cancelled."""
        stats = self._stats
        if not stats.connects and self._settings.start != NEW:
            self._intake.go_on(self._context.recorded())
        try:
            while True:
                error = await self._attempt()
                stats.state = "waiting"
                await self._clock.sleep(self._ended(error))
        finally:
            stats.state = "stopped"
            self._time.close()

    async def close(self, deadline_ns: int) -> None:
        """Do nothing: `run` has passed on what was read, and hung up, when it is cancelled."""

    def subscribe(self, topics: Iterable[str]) -> None:
        """Do nothing: the stream has all there is."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Do nothing."""

    def ask_time(self) -> None:
        """Ask how far time has come; a `Watermark` of now or later on the bus answers."""
        self._time.ask()

    @property
    def _client_name(self) -> str:
        return f"recorder {self._context.cluster}"

    async def _attempt(self) -> RecorderError:
        """Connect once and follow the stream; return how that ended."""
        stats = self._stats
        stats.connects += 1
        if stats.connects > 1:
            stats.reconnects += 1
        stats.state = "connecting"
        self._intake.renew()
        connection: Connection | None = None
        reason = "defect"
        try:
            async with asyncio.timeout(BEGIN_SECS):
                connection = await Connection.to_any(self._settings, self._client_name, self._wake)
                jetstream = JetStream(connection, self._settings)
                consumer = await self._begin(connection, jetstream)
            await self._follow(consumer, jetstream)
        except asyncio.CancelledError:
            reason = "shutdown"
            raise
        except TimeoutError:
            reason = Disconnected.reason
            return RecorderError(
                f"stream {self._names.stream}: the servers have not said all within {BEGIN_SECS:g} s"
            )
        except RecorderError as error:
            reason = Disconnected.reason
            return error
        finally:
            self._intake.leave(reason)
            self._time.lost()
            self._consumer = None
            self.stream.server = ""
            if connection is not None:
                await connection.close()
        raise AssertionError("a connection ends by raising")

    async def _begin(self, connection: Connection, jetstream: JetStream) -> Consumer:
        """Have the servers send what is behind the cursor."""
        intake, stats, (stream, subject) = self._intake, self._stats, self._names
        view = await jetstream.view_of(stream, subject)
        place = await begin(jetstream, self._names, view, intake.cursor, self._settings.start)
        self.stream.server = connection.server
        intake.begin(view.last_seq, known=place.known)
        self._consumer = consumer = Consumer(connection, stream, self._clock)
        pending = await consumer.start(jetstream, subject, place.where)
        self.stream.lag_messages = pending
        stats.connected, stats.state = True, "subscribing"
        log.info(
            "stream_followed",
            cluster=self._context.cluster,
            stream=stream,
            server=connection.server,
            version=connection.version,
            after=intake.cursor.after or None,
            pending_messages=pending,
        )
        if pending:
            stats.reason = f"{pending} messages of stream {stream} are to be read first"
        else:
            self._intake.open()
        self._time.connected(partial(jetstream.view_of, stream, subject))
        return consumer

    async def _follow(self, consumer: Consumer, jetstream: JetStream) -> None:
        """Pass on what comes, until the connection ends."""
        intake = self._intake
        while True:
            intake.take(await self._next(consumer, jetstream))
            if consumer.is_empty or intake.pass_bytes >= PASS_BYTES_MAX:
                intake.deliver()
                await self._let_others(consumer)
                if self._clock.monotonic_ns() - self._looked_ns >= _LOOK_NS:
                    await self._look(jetstream)

    async def _next(self, consumer: Consumer, jetstream: JetStream) -> StoredMessage:
        """Return the next message.

        A server that is cut off from the others sends heartbeats as ever, and has no messages. So while none come it is
        asked for the stream, and cannot answer then.

        :raises RecorderError: the connection has ended, messages may be missing, or the servers do not have the stream.
        """
        while True:
            try:
                async with asyncio.timeout(_QUIET_SECS if consumer.is_empty else None):
                    return await consumer.next()
            except TimeoutError:
                await jetstream.view_of(*self._names)

    async def _let_others(self, consumer: Consumer) -> None:
        """Wait while the sinks have more than enough; else let the loop do something else now and then."""
        now_ns = self._clock.monotonic_ns()
        if not self._bus.may_read():
            self._time.is_held = True
            self._stats.reading_pauses += 1
            while not self._bus.may_read():
                await self._clock.sleep(_BRAKE_SECS)
                before_ns, now_ns = now_ns, self._clock.monotonic_ns()
                self._stats.reading_paused_secs += (now_ns - before_ns) / 1e9
                self._intake.show_lag(waits=not consumer.is_empty)
            self._time.is_held = False
        elif now_ns - self._rested_ns > STEP_NS:
            await asyncio.sleep(0.0)
        else:
            return
        self._rested_ns = self._clock.monotonic_ns()

    async def _look(self, jetstream: JetStream) -> None:
        """See how many events are yet to be read."""
        stream = self.stream
        stream.lag_events = 0
        if stream.lag_messages > CAUGHT_UP_MESSAGES:
            try:
                newest = await jetstream.newest(*self._names)
            except ForeignMessage:
                newest = None
            if newest is not None:
                stream.lag_events = max(0, newest.heading.next_first - 1 - self._intake.cursor.event)
        self._looked_ns = self._clock.monotonic_ns()

    def _ended(self, error: RecorderError) -> float:
        """Count and report how a connection ended; return how long to wait before the next one."""
        stats = self._stats
        was_open = self._intake.was_open
        reason = Disconnected.reason if was_open else ConnectFailed.reason
        stats.errors += 1
        stats.ended_by[reason] += 1
        stats.reason = str(error)
        if was_open:
            self._backoff.reset()
        elif stats.connects > 1:
            stats.reconnect_failures += 1
        wait_secs = self._backoff.next_secs()
        if was_open or self._said != stats.reason:
            log.warning(
                "disconnected" if was_open else "connect_failed",
                cluster=self._context.cluster,
                reason=reason,
                message=stats.reason,
                retry_in_secs=round(wait_secs, 3),
            )
        self._said = stats.reason
        return wait_secs

    def _wake(self) -> None:
        if self._consumer is not None:
            self._consumer.wake()

    def __repr__(self) -> str:
        return f"NatsSource({self._names.stream}, {self._stats.state}, {self._intake!r})"
