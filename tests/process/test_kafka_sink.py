"""The Kafka sink against a real broker: each event is there once, whatever happens to broker, topic and credentials."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from commands import free_port
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from fakes import batch_of
from kafka_brokers import (
    SECRET,
    USER,
    KafkaBroker,
    Read,
    kafka_settings,
    messages_of,
    proven,
    shared_broker,
)
from sink_benches import in_secs
from sink_recordings import SinkRecording, at_work
from structlog.testing import capture_logs
from waiting import eventually

from recorder.checks.kafka import check_kafka
from recorder.checks.scene import Scene
from recorder.clock import SystemClock
from recorder.errors import ConfigError
from recorder.settings import load_settings
from recorder.sinks.kafka import publisher
from recorder.sinks.kafka.sink import KafkaSink

_NUMBERS = itertools.count(1)
SASL = ("security.protocol=sasl_plaintext", "sasl.mechanism=PLAIN", f"sasl.username={USER}")


@pytest.fixture
def broker() -> KafkaBroker:
    """Return the broker that all tests share."""
    return shared_broker()


@pytest.fixture
def prefix() -> str:
    """Return a prefix of topics that is this test's own."""
    return f"t{next(_NUMBERS)}"


class Recording(SinkRecording[KafkaSink]):
    """A Kafka sink with its bus and books."""

    def __init__(self, settings: Any, *clusters: str, include: tuple[str, ...] = ()) -> None:
        chosen = clusters or ("stocks",)
        super().__init__(lambda ledger: KafkaSink(settings, chosen, ledger, SystemClock(), "run"), include)

    @property
    def failure(self) -> str:
        return self.sink.stats.failure


def recording(settings: Any, *clusters: str, **kinds: Any) -> AbstractAsyncContextManager[Recording]:
    """Return a sink that runs for as long as the context lasts."""
    return at_work(Recording(settings, *clusters, **kinds), "kafka")


def numbers(messages: list[Read]) -> list[int]:
    """Return the numbers of all events, which are proven to be there once."""
    return [int(event.partition(b'"q": ')[2].rstrip(b"}")) for event in proven(messages)]


def may(broker: KafkaBroker, topic: str, *operations: AclOperation) -> None:
    """Let the user with the password do something with a topic."""
    allowed = [
        AclBinding(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:{USER}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for operation in operations
    ]
    with AdminClient({"bootstrap.servers": broker.address}) as admin:
        for future in admin.create_acls(allowed).values():
            future.result(10)


def make_topic(broker: KafkaBroker, topic: str, partitions: int, **config: str) -> None:
    """Make a topic."""
    with AdminClient({"bootstrap.servers": broker.address}) as admin:
        admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(10)


def delete_topic(broker: KafkaBroker, topic: str) -> None:
    """Delete a topic."""
    with AdminClient({"bootstrap.servers": broker.address}) as admin:
        admin.delete_topics([topic])[topic].result(10)


async def test_frames_are_stored_as_they_were_received(broker: KafkaBroker, prefix: str) -> None:
    """Byte for byte, odd ones too, several reads a message; statuses are left out; each cluster has a topic."""
    odd = b'[ {"ev":"T","sym":"B","t":1760375617662, "q":1e3} ,\n{"ev":"XX"}]'
    plain = b'[{"ev":"T","sym":"A","t":1760375617662,"q":1}]'
    status = b'[{"ev":"status","status":"connected","message":"hello"}]'
    settings = kafka_settings(broker, topic_prefix=prefix, linger_ms=1000)
    async with recording(settings, "stocks", "crypto") as made:
        made.bus.publish(batch_of(plain, status, odd, received_ns=123))
        made.bus.publish(batch_of(plain, received_ns=456))
        made.bus.publish(batch_of(b'[{"ev":"XT","pair":"BTC-USD","t":1}]', cluster="crypto"))
        made.bus.publish(batch_of(b"[5]"))
        await made.stored()
    [message] = messages_of(broker, f"{prefix}.stocks.frames")
    assert message.frames == [plain, odd, plain]
    assert message.headers == {
        "Format": "frames-zstd-1",
        "First": "1",
        "Events": "4",
        "Received-Ns": "123",
        "Writer": "run",
        "Role": "active",
    }
    assert len(messages_of(broker, f"{prefix}.crypto.frames")) == 1
    assert made.sink.stats.recorded["stocks", "T"] == 3
    assert made.ledger.channel("stocks", "").rejected == 1


async def test_records_are_messages_by_symbol(broker: KafkaBroker, prefix: str) -> None:
    """The key is the symbol, so that each symbol is in one partition, in order; of a selection the chosen ones."""
    settings = kafka_settings(broker, topic_prefix=prefix, shape="records", partitions=3)
    event = b'{"ev":"T","sym":"S%d","t":1760375617662,"q":%d}'
    async with recording(settings, include=("T:*",)) as made:
        for turn in range(5):
            events = [event % (symbol, turn) for symbol in range(20)]
            made.bus.publish(batch_of(b"[" + b",".join(events) + b',{"ev":"Q","sym":"S1"}]'))
        await made.stored()
    messages = messages_of(broker, f"{prefix}.stocks.records")
    assert len({message.partition for message in messages}) == 3
    records = [json.loads(message.value) for message in messages]
    assert sorted(record["seq"] for record in records) == [*range(1, 101)]
    by_symbol: dict[bytes | None, list[int]] = {}
    places = set()
    for message, record in zip(messages, records, strict=True):
        assert message.key == record["symbol"].encode()
        places.add((message.key, message.partition))
        by_symbol.setdefault(message.key, []).append(record["payload"]["q"])
    assert len(places) == len(by_symbol) == 20
    assert all(turns == [*range(5)] for turns in by_symbol.values())


async def test_a_topic_of_another_shape_is_refused(broker: KafkaBroker, prefix: str) -> None:
    """Several partitions would lose the order of frames; for records they are welcome."""
    topic = f"{prefix}.stocks.frames"
    make_topic(broker, topic, 3)
    made = Recording(kafka_settings(broker, topic_prefix=prefix))
    with pytest.raises(ConfigError, match=f"topic {topic} has 3 partitions, and frames need exactly one"):
        await made.sink.open()
    await made.sink.close(in_secs(1))


async def test_a_wrong_password_at_the_start(broker: KafkaBroker, prefix: str, tmp_path: Path) -> None:
    """The start is refused, with words that say where to look, and without the password."""
    secret = tmp_path / "secret"
    secret.write_text("# the user's\nsasl.password=wrong-secret-0123456789\n")
    settings = kafka_settings(
        broker, topic_prefix=prefix, brokers=(broker.sasl_address,), options=SASL, options_file=str(secret)
    )
    made = Recording(settings)
    with pytest.raises(ConfigError, match=r"Invalid username or password.*: see KAFKA_OPTIONS") as refused:
        await made.sink.open()
    assert "wrong-secret" not in str(refused.value)
    await made.sink.close(in_secs(1))


async def test_a_password_that_is_refused_later(broker: KafkaBroker, prefix: str, tmp_path: Path) -> None:
    """It is waited for: not ready, one line; the file's new content needs no restart."""
    secret = tmp_path / "secret"
    secret.write_text("sasl.password=wrong-secret-0123456789\n")
    settings = kafka_settings(
        broker,
        topic_prefix=prefix,
        brokers=(f"127.0.0.1:{broker.sasl_port}",),
        options=SASL,
        options_file=str(secret),
    )
    topic = f"{prefix}.stocks.frames"
    may(broker, topic, AclOperation.CREATE, AclOperation.DESCRIBE, AclOperation.WRITE)
    broker.kill()
    with capture_logs() as logged:
        async with recording(settings) as made:
            assert "can be used" in made.failure
            made.publish()
            await asyncio.to_thread(broker.start)
            await eventually(lambda: "Invalid username or password" in made.failure, "the refusal")
            secret.write_text(f"sasl.password={SECRET}\n")
            await made.stored()
            assert made.failure == ""
    names = [line["event"] for line in logged if line["event"].startswith("kafka")]
    assert names == ["kafka_interrupted", "kafka_interrupted", "kafka_topic_made", "kafka_connected"]
    assert "wrong-secret" not in str(logged)
    assert numbers(messages_of(broker, topic)) == [*range(10)]


async def test_a_permission_that_is_missing(
    broker: KafkaBroker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To make the topic: the start is refused. To write: what waits is sent in order once it is there."""
    monkeypatch.setattr(publisher, "_RETRY_SECS_MAX", 0.2)
    secret = tmp_path / "secret"
    secret.write_text(f"sasl.password={SECRET}\n")
    settings = kafka_settings(
        broker, topic_prefix=prefix, brokers=(broker.sasl_address,), options=SASL, options_file=str(secret)
    )
    topic = f"{prefix}.stocks.frames"
    refused = Recording(settings)
    with pytest.raises(ConfigError, match=r"uthorization failed: .*let the user"):
        await refused.sink.open()
    await refused.sink.close(in_secs(1))
    make_topic(broker, topic, 1)
    may(broker, topic, AclOperation.DESCRIBE)
    async with recording(settings) as made:
        made.publish()
        await eventually(lambda: "authorization failed" in made.failure.lower(), "the failure")
        made.publish()
        may(broker, topic, AclOperation.WRITE)
        await made.stored()
        assert made.failure == ""
    assert numbers(messages_of(broker, topic)) == [*range(20)]


async def test_options_that_librdkafka_does_not_take(
    broker: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    """The start is refused with its words; so is a file that cannot be read, or that says what it may not."""
    file = tmp_path / "options"
    cases = {
        'No such configuration property: "no.such"': {"options": ("no.such=1",)},
        "ssl.ca.location failed": {"options": ("security.protocol=ssl", "ssl.ca.location=/no/such.pem")},
        f"KAFKA_OPTIONS_FILE: {file}: acks must stay as it is": {"options_file": str(file)},
        "KAFKA_OPTIONS_FILE: /no/such cannot be read: No such file": {"options_file": "/no/such"},
    }
    file.write_text("acks=1\n")
    for words, kinds in cases.items():
        made = Recording(kafka_settings(broker, topic_prefix=prefix, **kinds))
        with pytest.raises(ConfigError) as refused:
            await made.sink.open()
        assert words in str(refused.value)
        await made.sink.close(in_secs(1))


async def test_tls(broker: KafkaBroker, prefix: str) -> None:
    """A broker that somebody named vouches for is used; any other one ends the start."""
    named = ("security.protocol=ssl", f"ssl.ca.location={broker.certificate}")
    settings = kafka_settings(broker, topic_prefix=prefix, brokers=(broker.tls_address,), options=named)
    async with recording(settings) as made:
        made.publish()
        await made.stored()
    assert numbers(messages_of(broker, f"{prefix}.stocks.frames")) == [*range(10)]
    strange = Recording(settings.model_copy(update={"options": named[:1]}))
    with pytest.raises(ConfigError, match="certificate verify failed"):
        await strange.sink.open()
    await strange.sink.close(in_secs(1))


async def test_a_broker_that_stands_still(
    broker: KafkaBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time without an acknowledgement it says so; what was under way is there once, and beyond the buffer
    drops are a hole in the numbers."""
    monkeypatch.setattr(publisher, "ACK_SECS_MAX", 0.3)
    settings = kafka_settings(broker, topic_prefix=prefix, linger_ms=0, buffer_bytes=20_000)
    async with recording(settings) as made:
        made.publish()
        await made.stored()
        broker.pause()
        made.publish(50)
        await eventually(lambda: "nothing was acknowledged for 0.3 s" in made.failure, "the failure")
        while not made.sink.stats.dropped:
            made.publish(50)
        broker.resume()
        await made.stored()
        made.publish()
        await made.stored()
        dropped = made.sink.stats.dropped["stocks", "T"]
    messages = messages_of(broker, f"{prefix}.stocks.frames")
    events = sum(int(message.headers["Events"]) for message in messages)
    assert events == made.count - dropped
    ends = [int(message.headers["First"]) + int(message.headers["Events"]) for message in messages]
    holes = [int(message.headers["First"]) - end for message, end in zip(messages[1:], ends, strict=False)]
    assert sum(holes) == dropped == max(holes), "one loss, and all of it"


async def test_a_broker_that_is_killed(broker: KafkaBroker, prefix: str) -> None:
    """kill -9 with messages under way: everything is there once, in order."""
    settings = kafka_settings(broker, topic_prefix=prefix, linger_ms=0)
    async with recording(settings) as made:
        for _ in range(30):
            made.publish(50)
            await asyncio.sleep(0.002)
        broker.kill()
        made.publish(50)
        await eventually(lambda: made.failure, "the failure")
        await asyncio.to_thread(broker.start)
        made.publish(50)
        await made.stored()
    assert numbers(messages_of(broker, f"{prefix}.stocks.frames")) == [*range(made.count)]


async def test_a_broker_that_loses_what_it_had_acknowledged(broker: KafkaBroker, prefix: str) -> None:
    """librdkafka gives up then. Another producer goes on; what the broker has lost is a hole, and the rest is there once."""
    with capture_logs() as logged:
        async with recording(kafka_settings(broker, topic_prefix=prefix, linger_ms=0)) as made:
            made.publish()
            await made.stored()
            broker.kill()
            broker.remember()
            await asyncio.to_thread(broker.start)
            for _ in range(3):
                made.publish()
                await made.stored()
            broker.kill()
            broker.roll_back()
            await asyncio.to_thread(broker.start)
            made.publish()
            await made.stored()
            assert made.failure == ""
    assert [line["event"] for line in logged].count("kafka_producer_replaced") == 1
    messages = messages_of(broker, f"{prefix}.stocks.frames")
    assert [int(message.headers["First"]) for message in messages] == [1, 41]


async def test_a_topic_that_is_deleted(broker: KafkaBroker, prefix: str) -> None:
    """It says so, and goes on once somebody has made it again: what comes afterwards is there."""
    topic = f"{prefix}.stocks.frames"
    async with recording(kafka_settings(broker, topic_prefix=prefix, linger_ms=0)) as made:
        made.publish()
        await made.stored()
        await asyncio.to_thread(delete_topic, broker, topic)
        made.publish()
        await eventually(lambda: made.failure, "the failure", 60)
        make_topic(broker, topic, 1)
        await eventually(lambda: made.sink.queue.pending_bytes == 0, "all acknowledged", 60)
        made.publish()
        await made.stored()
        assert made.failure == ""
    messages = messages_of(broker, topic)
    assert [int(message.headers["First"]) for message in messages] == [11, 21]


async def test_an_event_that_no_message_can_hold(broker: KafkaBroker, prefix: str) -> None:
    """It is dropped and counted, whether librdkafka refuses it or the broker; the others are there."""
    topic = f"{prefix}.stocks.records"
    make_topic(broker, topic, 1, **{"max.message.bytes": "20000"})
    settings = kafka_settings(
        broker, topic_prefix=prefix, shape="records", options=("compression.codec=none",)
    )
    async with recording(settings) as made:
        for size in (0, 30_000, 2_000_000, 0):
            event = b'{"ev":"T","sym":"A","t":1760375617662,"x":"%b"}' % (b"x" * size)
            made.bus.publish(batch_of(b"[" + event + b"]"))
            await made.stored()
        assert made.sink.stats.dropped["stocks", "T"] == 2
    assert [json.loads(message.value)["seq"] for message in messages_of(broker, topic)] == [1, 4]


async def test_what_the_check_says(broker: KafkaBroker, prefix: str, tmp_path: Path) -> None:
    """Brokers, and each topic; what would end the start is a failure, and nothing is made."""

    async def found(**changes: str) -> list[tuple[str, str]]:
        environ = {"POLYGON_API_KEY": "a-key-0123456789", "POLYGON_CLUSTER": "stocks", "SINK": "kafka"}
        named = {"KAFKA_BROKERS": broker.address, "KAFKA_TOPIC_PREFIX": prefix}
        settings = load_settings({**environ, **named, **changes}, tmp_path).settings
        scene = Scene(settings, (), SystemClock())
        return [(one.level.value, one.text) for one in await check_kafka(scene)]

    topic = f"{prefix}.stocks.frames"
    assert await found() == [
        ("ok", f"{broker.address}: 1 broker"),
        ("ok", f"topic {topic} does not exist; the recorder makes it"),
    ]
    make_topic(broker, topic, 1)
    [_, (level, text)] = await found()
    assert level == "warning"
    assert text.startswith(f"topic {topic} has 1 partition, 1 replica: while its broker is away nothing")
    [(level, text)] = await found(KAFKA_BROKERS=f"127.0.0.1:{free_port()}")
    assert level == "failure"
    assert "no broker of 127.0.0.1:" in text
    assert "Connection refused" in text
