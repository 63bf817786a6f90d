"""Reads what a stream has behind the last message that its appender knows, whoever wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from recorder.clock import Clock
from recorder.errors import RecorderError
from recorder.jetstream.connection import Connection
from recorder.jetstream.consumer import Consumer
from recorder.jetstream.streams import ForeignMessage, JetStream
from recorder.sinks.nats.appender import Appender
from recorder.stream_message import UnknownMessage, heading_of


class Following:
    """One connection's reading of one stream. Where it ends, `failure` says why, and the epoch is over."""

    def __init__(
        self, appender: Appender, connection: Connection, clock: Clock, changed: Callable[[], None]
    ) -> None:
        """`changed` is called after each message."""
        self._appender = appender
        self._clock = clock
        self._changed = changed
        self._consumer = Consumer(connection, appender.stream, clock)
        self._task: asyncio.Task[None] | None = None
        self.failure = ""
        self.heard_ns = clock.monotonic_ns()
        """When the last message was taken. Monotonic clock."""

    async def start(self, jetstream: JetStream, where: Mapping[str, object]) -> None:
        """Begin at a place, worded as the stream API has it.

        :raises RecorderError: the servers do not have it now.
        """
        appender = self._appender
        end_seq = appender.end_seq
        messages = await self._consumer.start(jetstream, appender.subject, where)
        if not messages:
            appender.know_all(end_seq)
        self._task = asyncio.create_task(self._read(messages, end_seq), name=f"nats: {appender.stream}")

    async def stop(self) -> None:
        """Read no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._consumer.stop()

    async def _read(self, messages: int, end_seq: int) -> None:
        """Have the appender take each message; it knows everything up to `end_seq` after so many of them."""
        try:
            while True:
                message = await self._consumer.next()
                try:
                    heading = heading_of(message.headers)
                    self._appender.absorb(message.seq, heading, message.content, self._clock.monotonic_ns())
                except UnknownMessage as error:
                    raise ForeignMessage(self._appender.stream, message.seq, error) from error
                messages -= 1
                if messages == 0:
                    self._appender.know_all(end_seq)
                self.heard_ns = self._clock.monotonic_ns()
                self._changed()
                await asyncio.sleep(
                    0
                )  # messages that have come together do not keep the loop from its other work
        except RecorderError as error:
            self.failure = str(error)
            self._changed()
