"""Appends single events to streams: in rounds, each acknowledged as a whole before the next one begins."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple

import orjson

from recorder.backoff import Backoff
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.jetstream.connection import Connection, Delivery, NatsUnreachable
from recorder.jetstream.streams import JetStream
from recorder.log import get_logger
from recorder.settings.nats import NatsSettings
from recorder.sinks.sink import Drops
from recorder.stream_message import SymbolNames

EVENTS_PER_SEC_MAX: Final = 20_000
"""What servers can take of messages that are one event each; faster events wait."""
ROUND_EVENTS_MAX: Final = 500
ROUND_BYTES_MAX: Final = 512 * 1024
"""Of one round: what may be unacknowledged, and is sent again where nobody knows whether it is stored."""
ACK_SECS_MAX: Final = 5.0
"""A round that is not acknowledged for longer is sent again, over another connection."""
OPEN_SECS: Final = 5.0
"""The start of the recorder waits no longer for the servers."""
EPOCH_SECS: Final = 20.0
"""How long a later connection may take to be of use."""
_RETRY_FIRST_SECS: Final = 0.2
_RETRY_SECS_MAX: Final = 2.0
IDS_SECS: Final = 60.0
"""Servers know ids for two minutes. Of a round that was sent longer ago than half of that, each subject is looked at."""
_TICK_SECS: Final = 0.1
_LOOK_SECS: Final = 0.005
"""Time between two looks at a round behind which others wait."""
_CLOSE_SECS: Final = 0.2
"""Kept of the time for closing, to drop the connection."""
_HEADER_BYTES: Final = 1024
_ID_BYTES: Final = 12

log = get_logger("polygon_clients")


@dataclass(slots=True)
class SymbolEvents:
    """The chosen events of one batch: channel, subject and exact bytes of each."""

    cluster: str
    counts: Mapping[str, int]
    channels: Sequence[str]
    subjects: Sequence[str]
    events: Sequence[bytes]
    size: int


class _Message(NamedTuple):
    cluster: str
    channel: str
    subject: str
    event: bytes
    size: int
    """What it takes in memory."""
    id: str
    """Of its bytes."""


class SymbolPublisher:
    """Target of the sink: takes events, and has each in its stream once.

    The id of a message is made of the event's bytes, and the servers know the ids of the last two minutes: what is sent
    again, and what another recorder of the same feed has sent, is stored once. Whatever goes wrong drops the connection;
    the next one begins with the round that is not acknowledged, less what its subjects show to be stored.
    """

    def __init__(
        self,
        settings: NatsSettings,
        names: Mapping[str, SymbolNames],
        drops: Drops,
        clock: Clock,
        writer: str,
    ) -> None:
        """`names` are those of each cluster's stream; `writer` names this run to the servers."""
        self._settings = settings
        self._names = names
        self._drops = drops
        self._stats = drops.stats
        self._clock = clock
        self._writer = writer
        self._waiting: deque[_Message] = deque()
        self._round: list[_Message] = []
        self._acknowledged = 0
        """Messages of the round."""
        self._sent_ns = 0
        self._next_ns = 0
        """When the next round may begin."""
        self._connection: Connection | None = None
        self._inbox = ""
        self._changed = asyncio.Event()
        """Set when a round is acknowledged, and when the connection ends."""
        self._backoff = Backoff(_RETRY_FIRST_SECS, _RETRY_SECS_MAX, random.uniform)
        self._retry_ns = 0
        self._is_told = False
        """Whether the log has told of the failure that lasts."""
        self.bytes_done = 0

    @property
    def failure(self) -> str:
        """Why nothing can be appended now; empty while it can."""
        connection = self._connection
        return self._stats.failure or (connection.failure if connection is not None else "")

    async def open(self) -> None:
        """Connect, and find or make the streams. Servers that are away do not keep the recorder from working.

        :raises ConfigError: the credentials or a stream cannot be used; somebody must change something.
        """
        self._backoff.reset()
        self._is_told = False
        await self._try(OPEN_SECS, fatal=(ConfigError,))

    async def write(self, item: SymbolEvents) -> None:
        """Take the events of one batch."""
        # Nothing waits here, so that an item is either taken or not, also where the call is cancelled.
        share = item.size // len(item.events)
        rest = item.size - share * len(item.events)
        for channel, subject, event in zip(item.channels, item.subjects, item.events, strict=True):
            key = blake2b(event, digest_size=_ID_BYTES).hexdigest()
            self._waiting.append(_Message(item.cluster, channel, subject, event, share + rest, key))
            rest = 0
        await self._send()

    async def tick(self) -> float:
        """Send the next round, see whether the last one is acknowledged in time, and connect where that is due."""
        connection, now_ns = self._connection, self._clock.monotonic_ns()
        if connection is None:
            if now_ns < self._retry_ns:
                return min((self._retry_ns - now_ns) / 1e9, _TICK_SECS)
            await self._try(EPOCH_SECS)
            return 0.0 if self._connection is not None else _TICK_SECS
        if self._round and now_ns - self._sent_ns > ACK_SECS_MAX * 1e9:
            connection.fail(f"{connection.server}: nothing was acknowledged for {ACK_SECS_MAX:g} s")
        if connection.failure:
            self._end(NatsUnreachable(connection.failure))
            await connection.close()
            return 0.0
        return await self._send()

    async def close(self, deadline_ns: int) -> None:
        """Send what waits, and wait for the acknowledgements until then; drop the rest, counted."""
        with suppress(TimeoutError):
            left_secs = (deadline_ns - self._clock.monotonic_ns()) / 1e9 - _CLOSE_SECS
            async with asyncio.timeout(max(0.0, left_secs)):
                while (self._round or self._waiting) and not self.failure:
                    self._changed.clear()
                    due_secs = await self._send()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(due_secs):
                            await self._changed.wait()
        left = [*self._round, *self._waiting]
        self._round, self._waiting = [], deque()
        if left:
            log.error("nats_unacknowledged", events=len(left), failure=self.failure)
            self._stats.given_up += len(left)
            self._lose(left, "not acknowledged before the shutdown's deadline")
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _send(self) -> float:
        """Begin the next round if it may begin; return the seconds until there may be more to do."""
        connection = self._connection
        if connection is None or connection.failure or not self._waiting:
            return _TICK_SECS
        if self._round:
            return _LOOK_SECS
        wait_secs = (self._next_ns - self._clock.monotonic_ns()) / 1e9
        if wait_secs > 0:
            return min(wait_secs, _TICK_SECS)
        limit = connection.max_payload_bytes - _HEADER_BYTES
        size = 0
        while self._waiting and len(self._round) < ROUND_EVENTS_MAX and size < ROUND_BYTES_MAX:
            message = self._waiting.popleft()
            if len(message.event) > limit:
                self._lose([message], "larger than a message of the servers may be")
                self._drops.warn(
                    "an event is larger than max_payload of the servers allows", bytes=len(message.event)
                )
                continue
            size += len(message.event)
            self._round.append(message)
        await self._publish(connection)
        return _LOOK_SECS

    async def _publish(self, connection: Connection) -> None:
        """Send the whole round. nats-py only puts it into its buffer, so this does not wait for the server."""
        now_ns = self._clock.monotonic_ns()
        self._acknowledged = 0
        self._sent_ns = now_ns
        self._next_ns = now_ns + len(self._round) * 1_000_000_000 // EVENTS_PER_SEC_MAX
        try:
            for message in self._round:
                headers = {"Nats-Msg-Id": message.id}
                await connection.publish(message.subject, message.event, self._inbox, headers)
        except NatsUnreachable as error:
            connection.fail(str(error))

    def _receive(self, connection: Connection, delivery: Delivery) -> None:
        """Take the answer to a message of the round; which one it is does not matter."""
        if connection is not self._connection or connection.failure:
            return
        problem = _problem_in(delivery)
        if problem:
            connection.fail(problem)
            self._changed.set()
            return
        self._acknowledged += 1
        if self._acknowledged < len(self._round):
            return
        done, self._round = self._round, []
        self._settle(done)
        self._backoff.reset()
        if self._is_told:
            self._is_told = False
            log.info("nats_symbols_connected", server=connection.server, version=connection.version)
        self._changed.set()

    def _settle(self, done: Sequence[_Message]) -> None:
        """Count messages that are stored."""
        for cluster, counts in _counted(done).items():
            self._stats.note_recorded(cluster, counts)
        self.bytes_done += sum(message.size for message in done)
        self._stats.bytes_written += sum(len(message.event) for message in done)

    async def _take_out_stored(self, jetstream: JetStream) -> None:
        """Take out of the round what the streams have of it: of each subject, up to its newest message."""
        of_subject: dict[str, list[_Message]] = {}
        for message in self._round:
            of_subject.setdefault(message.subject, []).append(message)
        stored: list[_Message] = []
        left: list[_Message] = []
        for subject, messages in of_subject.items():
            newest = await jetstream.newest_id(self._names[messages[0].cluster].stream, subject)
            count = max(
                (place for place, message in enumerate(messages, 1) if message.id == newest), default=0
            )
            stored += messages[:count]
            left += messages[count:]
        self._round = left
        self._settle(stored)

    def _lose(self, messages: Sequence[_Message], reason: str) -> None:
        for cluster, counts in _counted(messages).items():
            self._drops.add(cluster, counts, reason)
        self.bytes_done += sum(message.size for message in messages)

    async def _try(self, limit_secs: float, fatal: tuple[type[Exception], ...] = ()) -> None:
        """Connect; raise what is `fatal`, and wait out any other failure."""
        try:
            async with asyncio.timeout(limit_secs):
                await self._begin()
        except fatal:
            raise
        except TimeoutError:
            self._end(NatsUnreachable(f"the servers have not shown their streams within {limit_secs:g} s"))
        except RecorderError as error:
            self._end(error)

    async def _begin(self) -> None:
        connection = await Connection.to_any(
            self._settings, f"recorder symbols {self._writer}", self._changed.set
        )
        try:
            jetstream = JetStream(connection, self._settings)
            for names in self._names.values():
                if await jetstream.ensure(names.stream, names.subjects):
                    log.info("nats_stream_made", stream=names.stream, subject=names.subjects)
            if self._round and self._clock.monotonic_ns() - self._sent_ns > IDS_SECS * 1e9:
                await self._take_out_stored(jetstream)
            inbox = connection.new_inbox()
            await connection.subscribe(inbox, lambda delivery: self._receive(connection, delivery))
        except BaseException:
            await connection.close()
            raise
        self._connection, self._inbox = connection, inbox
        self._stats.failure = ""
        if self._round:
            await self._publish(connection)

    def _end(self, error: RecorderError) -> None:
        """Nothing is taken until another connection is there."""
        self._connection = None
        self._stats.failure = str(error)
        self._stats.write_errors += 1
        self._retry_ns = self._clock.monotonic_ns() + int(self._backoff.next_secs() * 1e9)
        self._changed.set()
        if not self._is_told:
            self._is_told = True
            log.error(
                "nats_symbols_interrupted", failure=str(error), under_way_bytes=self._stats.pending_bytes
            )

    def __repr__(self) -> str:
        return f"SymbolPublisher({list(self._names)}, {len(self._waiting)} wait, failure={self.failure!r})"


def _problem_in(delivery: Delivery) -> str:
    """Return why a message is not stored; empty where it is, also by an earlier attempt."""
    if not delivery.content:
        return "no stream takes the subject of a symbol now"
    answer = orjson.loads(delivery.content)
    return str(answer["error"].get("description", "an error")) if "error" in answer else ""


def _counted(messages: Sequence[_Message]) -> dict[str, Counter[str]]:
    """Count messages by cluster and channel."""
    found: dict[str, Counter[str]] = {}
    for message in messages:
        found.setdefault(message.cluster, Counter())[message.channel] += 1
    return found
