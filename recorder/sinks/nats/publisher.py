"""Appends messages to streams: one epoch after another, each of which begins with a look at where the streams end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import orjson

from recorder.backoff import Backoff
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.jetstream.connection import Connection, Delivery, NatsUnreachable
from recorder.jetstream.streams import JetStream
from recorder.log import get_logger
from recorder.settings.nats import NatsSettings
from recorder.sinks.nats.appender import CONTENT_BYTES_MAX, Appender, Frames, Message
from recorder.sinks.sink import Drops
from recorder.stream_message import End

BYTES_UNDER_WAY_MAX: Final = 8 * 2**20
"""Content that is sent and not acknowledged, over all streams; past it nothing more is taken from the queue."""
ACK_SECS_MAX: Final = 5.0
"""A message that is not acknowledged for longer ends the epoch."""
OPEN_SECS: Final = 5.0
"""The start of the recorder waits no longer for the servers."""
EPOCH_SECS: Final = 20.0
"""How long a later epoch may take to begin."""
OTHER_SILENT_SECS: Final = 10.0
"""Another recorder that has written nothing for this time is gone, and its stream is taken over."""
_RETRY_FIRST_SECS: Final = 0.2
_RETRY_SECS_MAX: Final = 2.0
_TICK_SECS: Final = 0.1
_LOOK_SECS: Final = 5.0
"""Time between two looks at the streams while all is well: a purge disturbs no appending."""
_HEADER_BYTES: Final = 1024
_CLOSE_SECS: Final = 0.2
"""Kept of the time for closing, to drop the connection."""

log = get_logger("polygon_clients")


class OtherWriter(RecorderError):
    """Another run of a recorder appends to the same stream."""


class NatsPublisher:
    """Target of the sink: takes the frames of each read, and has each in its stream exactly once.

    Whatever goes wrong ends the epoch: the connection is dropped, `failure` says why, and nothing more is taken until the
    next epoch has begun. What is not acknowledged is kept, and sent again unless it had arrived. At the deadline of
    `close` it counts as dropped, though it may arrive yet.
    """

    def __init__(
        self, settings: NatsSettings, clusters: Sequence[str], drops: Drops, clock: Clock, writer: str
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
        self._looked: dict[str, tuple[int, int]] = {}
        """By stream: the place of the last message at the latest look, 0 for none, and when it was received."""
        self._others: dict[str, tuple[int, int]] = {}
        """By stream: where another recorder had come to, and since when it stands there."""
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
        prefix = self._settings.stream_prefix
        self._appenders = {cluster: Appender(cluster, prefix, self._writer) for cluster in self._clusters}
        self._backoff.reset()
        self._said = None
        await self._try(OPEN_SECS, fatal=(ConfigError,))

    async def write(self, item: Frames) -> None:
        """Take the frames of one read, once there is room for them."""
        await self._wait_for_room()
        # From here on nothing waits, so that an item is either taken or not, also where the call is cancelled.
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
            await connection.close()
            return 0.0
        due_secs = await self._send_lingering()
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
            await connection.close()

    async def _drain(self) -> None:
        for appender in self._appenders.values():
            appender.seal()
            await self._send(appender)
        while self._connection is not None and not self._connection.failure and self._bytes_under_way:
            self._changed.clear()
            await self._changed.wait()

    async def _wait_for_room(self) -> None:
        while self._bytes_under_way >= BYTES_UNDER_WAY_MAX:
            connection = self._connection
            if connection is None or connection.failure:
                return
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECS):
                    await self._changed.wait()
            self._judge()

    @property
    def _bytes_under_way(self) -> int:
        return sum(appender.bytes_under_way for appender in self._appenders.values())

    async def _send_lingering(self) -> float:
        """Send what has lingered long enough; return the seconds until more has."""
        linger_ns = self._settings.linger_ms * 1_000_000
        due_secs = _TICK_SECS
        for appender in self._appenders.values():
            if since_ns := appender.gathered_since_ns:
                rest_ns = since_ns + linger_ns - self._clock.monotonic_ns()
                if rest_ns <= 0:
                    appender.seal()
                else:
                    due_secs = min(due_secs, rest_ns / 1e9)
            await self._send(appender)
        return due_secs

    async def _send(self, appender: Appender) -> None:
        """Send the messages that wait. nats-py only puts them into its buffer, so this does not wait for the server."""
        connection = self._connection
        if connection is None or connection.failure:
            return
        reply = f"{self._inbox}.{appender.cluster}"
        while True:
            for message in appender.unsent():
                headers = appender.heading(message).headers()
                headers["Nats-Expected-Last-Sequence"] = str(message.seq - 1)
                if message.seq == 1:
                    # nats-server 2.9 does not compare an expected 0; the first message is known by its id instead.
                    headers["Nats-Msg-Id"] = f"{self._writer}-{message.first}"
                message.sent_ns = self._clock.monotonic_ns()
                try:
                    await connection.publish(appender.subject, message.content, reply, headers)
                except NatsUnreachable as error:
                    connection.fail(str(error))
                    return
                self._stats.bytes_written += len(message.content)
            lost = appender.too_large()
            if lost is None:
                return
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
        if not delivery.content:
            status = delivery.headers.get("Status", "")
            connection.fail(
                f"no stream takes {appender.subject} now"
                if status == "503"
                else f"an acknowledgement of {appender.stream} is empty"
            )
            return
        answer = orjson.loads(delivery.content)
        if "error" in answer:
            connection.fail(f"stream {appender.stream}: {answer['error'].get('description', 'an error')}")
            return
        self._stored(appender, appender.acknowledged(int(answer["seq"])))
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

    def _stored(self, appender: Appender, messages: Sequence[Message]) -> None:
        for message in messages:
            self._stats.note_recorded(appender.cluster, message.counts)
            self.bytes_done += message.size

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
        for appender in self._appenders.values():
            if appender.sent and appender.sent[0].sent_ns < limit_ns:
                connection.fail(f"stream {appender.stream}: nothing was acknowledged for {ACK_SECS_MAX:g} s")

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
        except BaseException:
            await connection.close()
            raise
        self._connection, self._jetstream, self._inbox = connection, jetstream, inbox
        self._look_ns = self._clock.monotonic_ns() + int(_LOOK_SECS * 1e9)
        self._stats.failure = ""
        self._is_proven = False
        if not self._bytes_under_way:
            self._prove()
        for appender in self._appenders.values():
            await self._send(appender)

    async def _resume(self, appender: Appender, jetstream: JetStream) -> None:
        """Let an appender go on where its stream ends."""
        end, made = await jetstream.end_of(appender.stream, appender.subject)
        if made:
            log.info("nats_stream_made", stream=appender.stream, subject=appender.subject)
        if appender.is_foreign(end):
            await self._meet(appender, jetstream, end)
        said_gap = appender.gap
        self._stored(appender, appender.resume(end))
        self._others.pop(appender.stream, None)
        if appender.gap and appender.gap != said_gap:
            self._tell_gap(appender)
        self._looked[appender.stream] = end.last_heading_seq, appender.last_received_ns

    async def _meet(self, appender: Appender, jetstream: JetStream, end: End) -> None:
        """Another run has written to the stream: find out which messages are ours, and wait until it is gone.

        :raises OtherWriter: it has written a moment ago.
        """
        for message in list(appender.sent):
            stored = await jetstream.message_at(appender.stream, message.seq)
            if stored is None or (stored.heading.writer, stored.heading.first) != (
                self._writer,
                message.first,
            ):
                break
            self._stored(appender, appender.acknowledged(message.seq))
        now_ns = self._clock.monotonic_ns()
        seq, since_ns = self._others.get(appender.stream, (0, 0))
        if seq != end.last_seq:
            self._others[appender.stream] = end.last_seq, now_ns
        elif now_ns - since_ns >= OTHER_SILENT_SECS * 1e9:
            return
        assert end.last is not None
        raise OtherWriter(
            f"another recorder ({end.last.writer}) writes to stream {appender.stream}: stop one of the two, or let each "
            "have its own NATS_STREAM_PREFIX"
        )

    async def _look(self) -> None:
        """See whether what was stored is still there."""
        assert self._jetstream is not None
        assert self._connection is not None
        for appender in self._appenders.values():
            try:
                created, state = await self._jetstream.state_of(appender.stream)
            except RecorderError as error:
                self._connection.fail(str(error))
                return
            if created != appender.created:
                self._connection.fail(f"stream {appender.stream} is another one now")
                return
            if self._is_purged(state, *self._looked[appender.stream]):
                appender.note_purge()
                self._tell_gap(appender)
            last_seq = state["last_seq"] if state["messages"] else 0
            self._looked[appender.stream] = last_seq, appender.last_received_ns
        self._look_ns = self._clock.monotonic_ns() + int(_LOOK_SECS * 1e9)

    def _is_purged(self, state: Mapping[str, int], seq: int, received_ns: int) -> bool:
        """Whether the message that was the last one at the last look is gone, though neither age nor size explains that."""
        age_secs = (self._clock.wall_ns() - received_ns) / 1e9
        max_age_secs, max_bytes = self._settings.max_age_secs or 0, self._settings.max_bytes or 0
        is_gone = seq > 0 and state["first_seq"] > seq
        return is_gone and age_secs < max_age_secs / 2 and state["bytes"] < max_bytes / 2

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
        is_for_operator = isinstance(error, ConfigError | OtherWriter)
        if is_for_operator is not self._said:
            self._said = is_for_operator
            log.error("nats_interrupted", failure=str(error), under_way_bytes=self._bytes_under_way)

    def __repr__(self) -> str:
        return f"NatsPublisher({list(self._appenders.values())!r}, failure={self.failure!r})"
