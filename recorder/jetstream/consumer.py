"""Reads one stream in order, from a place on. Nothing is acknowledged: the servers keep no state of the reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from recorder.clock import Clock
from recorder.errors import RecorderError
from recorder.jetstream.connection import Connection, Delivery, Unsubscribe
from recorder.jetstream.streams import JetStream

HEARTBEAT_NS: Final = 1_000_000_000
"""How often the servers say that they are there, while no message comes."""
SILENT_SECS_MAX: Final = 4.0
"""A consumer that is silent for longer is gone: with its server, or with its stream."""
_TICK_SECS: Final = 0.25
_ORPHAN_NS: Final = 10_000_000_000
"""How long the servers keep a consumer whose reader is gone."""


class ConsumerLost(RecorderError):
    """Messages may be missing: whoever reads begins anew behind the last message that it has."""


class StoredMessage(NamedTuple):
    """A message of a stream."""

    seq: int
    pending: int
    """How many more the stream had behind it when it was sent."""
    headers: Mapping[str, str]
    content: bytes


class Consumer:
    """The messages of a stream behind a place, in order, none missing.

    The servers send no more than their window (32 MiB at most) before what was sent is taken: a mark among the messages
    is answered once all before it were taken. That is what waits here, too.
    """

    def __init__(self, connection: Connection, stream: str, clock: Clock) -> None:
        self._connection = connection
        self._stream = stream
        self._clock = clock
        self._arrived: deque[StoredMessage | str] = deque()
        """Messages, and among them the subjects that want an answer."""
        self._changed = asyncio.Event()
        self._number = 0
        """Of the last message that has arrived, as the consumer counts."""
        self._heard_ns = 0
        self._failure = ""
        self._unsubscribe: Unsubscribe | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no message waits to be taken."""
        return not self._arrived

    async def start(self, jetstream: JetStream, subject: str, where: Mapping[str, object]) -> int:
        """Begin at a place, worded as the stream API has it; return how many messages are there.

        :raises RecorderError: the servers do not have it now.
        """
        inbox = self._connection.new_inbox()
        self._unsubscribe = await self._connection.subscribe(inbox, self._receive)
        pending = await jetstream.make_consumer(
            self._stream,
            {
                "deliver_subject": inbox,
                "filter_subject": subject,
                "ack_policy": "none",
                "replay_policy": "instant",
                "flow_control": True,
                "idle_heartbeat": HEARTBEAT_NS,
                "inactive_threshold": _ORPHAN_NS,
                "mem_storage": True,
                "num_replicas": 1,
                **where,
            },
        )
        self._heard_ns = self._clock.monotonic_ns()
        return pending

    async def next(self) -> StoredMessage:
        """Return the next message, once it is there.

        :raises RecorderError: the connection has ended, or messages may be missing.
        """
        while True:
            while self._arrived:
                first = self._arrived.popleft()
                if isinstance(first, StoredMessage):
                    return first
                await self._connection.publish(first, b"", "", {})
            self._judge()
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECS):
                    await self._changed.wait()

    async def stop(self) -> None:
        """Listen no more; the servers drop the consumer after a while."""
        if self._unsubscribe is not None:
            await self._unsubscribe()

    def wake(self) -> None:
        """Have `next` look again: the connection has ended."""
        self._changed.set()

    def _judge(self) -> None:
        """Raise where nothing more will come."""
        if self._failure or self._connection.failure:
            raise ConsumerLost(self._failure or self._connection.failure)
        silent_secs = (self._clock.monotonic_ns() - self._heard_ns) / 1e9
        if silent_secs > SILENT_SECS_MAX:
            raise ConsumerLost(f"nothing was heard of stream {self._stream} for {silent_secs:.0f} s")

    def _receive(self, delivery: Delivery) -> None:
        self._heard_ns = self._clock.monotonic_ns()
        self._changed.set()
        if self._failure:
            return
        if "Status" in delivery.headers:
            self._receive_status(delivery)
            return
        try:
            seq, number, pending = _places_in(delivery.reply)
        except ValueError:
            self._failure = f"stream {self._stream}: {delivery.reply!r} says nothing of a message's place"
            return
        if number != self._number + 1:
            self._failure = f"messages of stream {self._stream} were lost on their way"
            return
        self._number = number
        self._arrived.append(StoredMessage(seq, pending, delivery.headers, delivery.content))

    def _receive_status(self, delivery: Delivery) -> None:
        status, headers = delivery.headers["Status"], delivery.headers
        if status != "100":
            self._failure = f"stream {self._stream}: {headers.get('Description', '')} ({status})"
        elif delivery.reply:
            self._arrived.append(delivery.reply)
        elif int(headers.get("Nats-Last-Consumer", self._number)) > self._number:
            self._failure = f"messages of stream {self._stream} were lost on their way"
        elif (stalled := headers.get("Nats-Consumer-Stalled")) and stalled not in self._arrived:
            self._arrived.append(stalled)  # the answer to this mark has not arrived

    def __repr__(self) -> str:
        return f"Consumer({self._stream}, {self._number} messages, {len(self._arrived)} wait)"


def _places_in(reply: str) -> tuple[int, int, int]:
    """Return a message's number in the stream, its number of this consumer, and how many are behind it.

    :raises ValueError: the subject has another form.
    """
    tokens = reply.split(".")
    place = 4 if len(tokens) >= 11 else 2  # the domain and the account stand in front of the stream
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) < place + 7:
        raise ValueError(reply)
    return int(tokens[place + 3]), int(tokens[place + 4]), int(tokens[place + 6])
