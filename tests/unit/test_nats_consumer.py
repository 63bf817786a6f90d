"""The reader of a stream takes each message in order, and knows when one is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest
from fakes import FakeClock

from recorder.jetstream.connection import Connection, Delivery, Receive
from recorder.jetstream.consumer import SILENT_SECS_MAX, Consumer, ConsumerLost
from recorder.jetstream.streams import JetStream

STALLED = {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "0"}


class Servers:
    """A connection, and the stream API over it: what the consumer asks of them, without a network."""

    def __init__(self) -> None:
        self.failure = ""
        self.answers: list[str] = []
        self.config: Mapping[str, object] = {}
        self._receive: Receive

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, subject: str, receive: Receive) -> Any:
        self._receive = receive

    async def publish(self, subject: str, content: bytes, reply: str, headers: dict[str, str]) -> None:
        self.answers.append(subject)

    async def make_consumer(self, stream: str, config: Mapping[str, object]) -> int:
        self.config = config
        return 7

    def send(self, number: int, reply: str = "") -> None:
        """Send the message that has this number, at the consumer and (plus 100) in the stream."""
        form = reply or "$JS.ACK.MD_STOCKS.c.1.{}.{}.1795922263812641923.3"
        self._receive(Delivery(b"%d" % number, {"First": "1"}, form.format(number + 100, number)))

    def say(self, headers: Mapping[str, str], reply: str = "") -> None:
        """Send a status."""
        self._receive(Delivery(b"", headers, reply))


async def started() -> tuple[Consumer, Servers, FakeClock]:
    """Return a consumer that has begun."""
    servers, clock = Servers(), FakeClock()
    consumer = Consumer(cast(Connection, servers), "MD_STOCKS", clock)
    where = {"deliver_policy": "by_start_sequence", "opt_start_seq": 5}
    assert await consumer.start(cast(JetStream, servers), "md.stocks.frames", where) == 7
    return consumer, servers, clock


async def test_messages_come_in_order() -> None:
    """With their places; also where domain and account stand in the subject of the answer."""
    consumer, servers, _ = await started()
    assert servers.config["opt_start_seq"] == 5
    servers.send(1)
    servers.send(2, "$JS.ACK.hub.ACCOUNT.MD_STOCKS.c.1.{}.{}.1795922263812641923.3.token")
    taken = [await consumer.next() for _ in range(2)]
    assert [(one.seq, one.pending, one.content) for one in taken] == [(101, 3, b"1"), (102, 3, b"2")]


async def test_the_window_opens_once_what_was_sent_is_taken() -> None:
    """The servers are answered behind the messages before, once; also where the answer was lost."""
    consumer, servers, _ = await started()
    servers.send(1)
    servers.say({"Status": "100", "Description": "FlowControl Request"}, "flow.1")
    servers.say({**STALLED, "Nats-Consumer-Stalled": "flow.1"})
    servers.send(2)
    await consumer.next()
    assert not servers.answers
    await consumer.next()
    assert servers.answers == ["flow.1"]
    servers.say({**STALLED, "Nats-Consumer-Stalled": "flow.1"})
    servers.send(3)
    await consumer.next()
    assert servers.answers == ["flow.1", "flow.1"]


@pytest.mark.parametrize(
    "loses",
    [
        lambda servers: servers.send(3),
        lambda servers: servers.say({**STALLED, "Nats-Last-Consumer": "2"}),
        lambda servers: servers.say({"Status": "409", "Description": "Consumer Deleted"}),
        lambda servers: servers.send(2, "nothing.of.a.place"),
        lambda servers: setattr(servers, "failure", "the connection has ended"),
    ],
    ids=["a message", "the last message", "the consumer", "its place", "the connection"],
)
async def test_what_is_lost_is_noticed(loses: Any) -> None:
    """What came before is taken first; then nothing more is."""
    consumer, servers, _ = await started()
    servers.send(1)
    loses(servers)
    servers.send(2)
    assert (await consumer.next()).content == b"1"
    if not servers.failure:
        with pytest.raises(ConsumerLost):
            await consumer.next()
        return
    assert (await consumer.next()).content == b"2"
    with pytest.raises(ConsumerLost, match="has ended"):
        await consumer.next()


async def test_silence() -> None:
    """Heartbeats say that nothing has come; without them the consumer is gone."""
    consumer, servers, clock = await started()
    waiting = asyncio.ensure_future(consumer.next())
    for _ in range(5):
        clock.advance(SILENT_SECS_MAX - 0.5)
        servers.say(STALLED)
        await asyncio.sleep(0)
        consumer.wake()
        await asyncio.sleep(0)
        assert not waiting.done()
    clock.advance(SILENT_SECS_MAX + 0.5)
    consumer.wake()
    with pytest.raises(ConsumerLost, match="nothing was heard"):
        await waiting
