"""Kafka brokers for tests, real ones, of Maven; and readers of the tests' own, which know nothing of the recorder's code."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zstandard
from certificates import self_signed
from commands import Running, free_port
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from server_processes import ServerProcess, all_of, kept
from tools import tool
from waiting import eventually_sync

from recorder.settings import KafkaSettings

_POM = Path(__file__).parent / "kafka" / "pom.xml"
_FETCH_SECS = 300
_START_SECS = 180.0
"""Far beyond what the start of a broker takes, also of one of several on a busy machine."""
_QUICK = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
USER, SECRET = "me", "a-secret-0123456789"
"""Whom a broker knows by a password. What it may do is up to the test; everybody else on the open port may do all."""


@contextmanager
def _kept_folder() -> Iterator[Path]:
    """Yield where things are kept that are made once for this machine, to one process of tests at a time."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cached / "polygon-recorder-tests"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@cache
def _jars() -> Path:
    """Return the folder with the broker's classes; Maven fetches them once for this machine. Skip the test without it."""
    tool("java")
    maven = tool("mvn")
    version = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    with _kept_folder() as kept_here:
        folder = kept_here / f"kafka-{version}"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=kept_here) as made:
                jars = Path(made) / "jars"
                command = [
                    maven,
                    "--batch-mode",
                    "--quiet",
                    "--file",
                    str(_POM),
                    "dependency:copy-dependencies",
                ]
                command += ["-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECS, cwd=made)
                if done.returncode:
                    pytest.skip(
                        f"Maven cannot fetch the Kafka broker: {done.stdout[-300:]}{done.stderr[-300:]}"
                    )
                jars.rename(folder)
    return folder


@cache
def _parsed() -> Path:
    """Return a file with the broker's classes as Java has them in memory: with it, a start takes half as long."""
    jars = _jars()
    with _kept_folder() as folder:
        archive = folder / f"{jars.name}.jsa"
        if not archive.exists():
            made = folder / f"{jars.name}.part"
            with tempfile.TemporaryDirectory() as data:
                broker = KafkaBroker(Path(data), java=(*_QUICK, f"-XX:ArchiveClassesAtExit={made}")).start()
                assert broker.process is not None
                broker.process.terminate()
                broker.process.wait(_START_SECS)
            made.rename(archive)
    return archive


class KafkaBroker(ServerProcess):
    """One broker on loopback, which is its own controller; it can be killed, stopped, started again.

    It listens on an open port, on one that asks for a password, and on one with TLS.
    """

    def __init__(
        self,
        folder: Path,
        number: int = 1,
        quorum: Sequence[tuple[int, int]] = (),
        java: Sequence[str] | None = None,
    ) -> None:
        """`quorum` has the number and the controller's port of each broker of a cluster, this one's too.

        `java` are the options of its Java, in place of those with which it starts quickly and is not fast afterwards.
        """
        super().__init__(folder / "broker.log")
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.sasl_port, self.tls_port = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.sasl_address = f"127.0.0.1:{self.sasl_port}"
        self.tls_address = f"localhost:{self.tls_port}"
        self._folder = folder
        self._options = (*_QUICK, f"-XX:SharedArchiveFile={_parsed()}") if java is None else tuple(java)
        self.certificate, key = self_signed(folder, "broker")
        (folder / "broker.store").write_text(key.read_text() + self.certificate.read_text())
        quorum = quorum or [(number, free_port())]
        controller = dict(quorum)[number]
        listeners = (
            f"PLAINTEXT://{self.address},SASL_PLAINTEXT://{self.sasl_address},SSL://{self.tls_address}"
        )
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        replicas = min(3, len(quorum))
        self._config = folder / "broker.properties"
        self._config.write_text(
            "\n".join(
                [
                    "process.roles=broker,controller",
                    f"node.id={number}",
                    f"controller.quorum.voters={','.join(f'{n}@127.0.0.1:{port}' for n, port in quorum)}",
                    f"listeners={listeners},CONTROLLER://127.0.0.1:{controller}",
                    f"advertised.listeners={listeners}",
                    "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
                    "SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL",
                    "controller.listener.names=CONTROLLER",
                    "inter.broker.listener.name=PLAINTEXT",
                    "sasl.enabled.mechanisms=PLAIN",
                    f'listener.name.sasl_plaintext.plain.sasl.jaas.config={login} user_{USER}="{SECRET}";',
                    "ssl.keystore.type=PEM",
                    f"ssl.keystore.location={folder / 'broker.store'}",
                    "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                    "super.users=User:ANONYMOUS",
                    f"log.dirs={folder / 'data'}",
                    "auto.create.topics.enable=false",
                    f"default.replication.factor={replicas}",
                    f"min.insync.replicas={(replicas + 1) // 2}",
                    f"offsets.topic.replication.factor={replicas}",
                    f"transaction.state.log.replication.factor={replicas}",
                    f"transaction.state.log.min.isr={(replicas + 1) // 2}",
                    # A lone one that was killed may come back at once; several on a busy machine keep their seats.
                    f"broker.session.timeout.ms={1500 if len(quorum) == 1 else 9000}",
                    "broker.heartbeat.interval.ms=300",
                    "num.network.threads=1",
                    "num.io.threads=2",
                    "background.threads=2",
                    "",
                ]
            )
        )

    def form(self) -> None:
        """Make the folder of its data, empty."""
        command = self._java("kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ")
        done = subprocess.run([*command, "-c", str(self._config)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def command(self) -> list[str]:
        """Return what it is started with; the first time, make the folder of its data."""
        if not (self._folder / "data").exists():
            self.form()
        return self._java("kafka.Kafka", str(self._config))

    def _java(self, *arguments: str) -> list[str]:
        return [tool("java"), *self._options, "-cp", f"{_jars()}/*", *arguments]

    def wait(self) -> None:
        """Return once it answers."""
        admin = AdminClient(
            {"bootstrap.servers": self.address, "log_level": 0, "reconnect.backoff.max.ms": 200}
        )

        def answers() -> bool:
            self.assert_runs()
            try:
                return bool(admin.list_topics(timeout=0.5).brokers)
            except KafkaException:
                return False

        eventually_sync(answers, "an answer of the Kafka broker", deadline_secs=_START_SECS, every_secs=0.05)

    def remember(self) -> None:
        """Copy what its disk has, while it is dead."""
        shutil.copytree(self._folder / "data", self._folder / "copy")

    def roll_back(self) -> None:
        """Let its disk have what was remembered, while it is dead: it has lost what it had acknowledged since."""
        shutil.rmtree(self._folder / "data")
        (self._folder / "copy").rename(self._folder / "data")

    def stored_bytes(self, topic: str) -> int:
        """Return the size of what its disk has of a topic."""
        folders = (self._folder / "data").glob(f"{topic}-*")
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.log"))


@cache
def _shared() -> KafkaBroker:
    return kept(KafkaBroker)


def shared_broker() -> KafkaBroker:
    """Return the broker of this process's tests, which runs, whatever the test before has done to it."""
    broker = _shared()
    if broker.is_alive:
        broker.resume()
    else:
        broker.launch()
    broker.wait()
    return broker


@contextmanager
def clustered(folder: Path, count: int) -> Iterator[list[KafkaBroker]]:
    """Yield brokers that are one cluster."""
    quorum = [(number, free_port()) for number in range(1, count + 1)]
    with all_of([KafkaBroker(folder / f"b{number}", number, quorum) for number, _ in quorum]) as brokers:
        yield brokers


@dataclass(slots=True)
class Read:
    """A message of a topic."""

    partition: int
    key: bytes | None
    value: bytes
    headers: dict[str, str]

    @property
    def frames(self) -> list[bytes]:
        """The frames of a message of frames."""
        plain = zstandard.ZstdDecompressor().decompress(self.value)
        (count,) = struct.unpack_from("!I", plain)
        place, frames = 4 + 4 * count, []
        for size in struct.unpack_from(f"!{count}I", plain, 4):
            frames.append(plain[place : place + size])
            place += size
        assert place == len(plain)
        return frames

    @property
    def events(self) -> list[bytes]:
        """Each event of a message of frames, as `json` writes it."""
        return [json.dumps(event).encode() for frame in self.frames for event in json.loads(frame)]


def messages_of(broker: KafkaBroker, topic: str) -> list[Read]:
    """Return all messages of a topic, partition by partition, in order."""
    options = {"bootstrap.servers": broker.address, "group.id": "tests", "enable.auto.commit": False}
    reader = Consumer({**options, "auto.offset.reset": "earliest", "log_level": 0})
    try:
        partitions = reader.list_topics(topic, timeout=10).topics[topic].partitions
        found = []
        for number in sorted(partitions):
            place = TopicPartition(topic, number, 0)
            low, high = reader.get_watermark_offsets(place, timeout=10)
            place.offset = low
            reader.assign([place])
            while low < high:
                for message in reader.consume(min(1000, high - low), timeout=1):
                    assert message.error() is None, message.error()
                    headers = {name: value.decode() for name, value in message.headers() or ()}
                    found.append(Read(number, message.key(), message.value(), headers))
                    low = message.offset() + 1
        return found
    finally:
        reader.close()


def proven(messages: list[Read]) -> list[bytes]:
    """Return the events of all messages of frames, having proven that of each run none is missing and none comes twice."""
    events: list[bytes] = []
    expected: dict[str, int] = {}
    for message in messages:
        headers = message.headers
        assert headers["Format"] == "frames-zstd-1"
        assert int(headers["First"]) == expected.get(headers["Writer"], 1), headers
        found = message.events
        assert int(headers["Events"]) == len(found)
        expected[headers["Writer"]] = int(headers["First"]) + len(found)
        events += found
    return events


def kafka_settings(broker: KafkaBroker, **changes: Any) -> KafkaSettings:
    """Return settings of a sink for a broker."""
    return KafkaSettings(**{"brokers": (broker.address,), "buffer_bytes": 2**26, **changes})


def kafka_variables(broker: KafkaBroker, prefix: str, **variables: str) -> dict[str, str]:
    """Return the variables of a recorder with that sink, for a broker."""
    return {
        "SINK": "ndjson,kafka",
        "KAFKA_BROKERS": broker.address,
        "KAFKA_TOPIC_PREFIX": prefix,
        **variables,
    }


def stored(recorder: Running) -> float:
    """Return how many events are acknowledged."""
    return recorder.metric("polygon_kafka_sent_total")


def recorded(folder: Path) -> list[bytes]:
    """Return the records of an archive."""
    return (folder / "polygon.ndjson").read_bytes().splitlines()


def payloads(folder: Path) -> list[bytes]:
    """Return the events of an archive, as `json` writes them."""
    return [json.dumps(json.loads(line)["payload"]).encode() for line in recorded(folder)]
