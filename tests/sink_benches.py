"""Sinks under test, each with its other side: a disk, a pipe, a subscriber, a server, which the test can block."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from archives import archive_settings
from fakes import batch_of, recording_bus
from kafka_brokers import kafka_settings, shared_broker
from kafka_brokers import messages_of as kafka_messages_of
from nats_servers import NatsServer, messages_of, nats_settings
from subscribers import Subscriber, reached, zmq_settings
from waiting import eventually

from recorder.archive.context import ArchiveContext
from recorder.archive.disk import Disk
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.sinks.archive import ArchiveSink
from recorder.sinks.kafka.sink import KafkaSink
from recorder.sinks.nats.sink import NatsSink
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, QueueSink
from recorder.sinks.stdout import StdoutSink
from recorder.sinks.zmq import ZmqSink

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "plugin"))
from recorder_tcp import TcpSink

LIMIT_BYTES = 400_000


class GatedDisk(Disk):
    """The real disk, whose writes wait while the gate is shut, and fail while it is gone."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()
        self.gone = False

    def write(self, fd: int, data: Any) -> int:
        if not self.gate.is_set():
            self.waiting.set()
        self.gate.wait()
        if self.gone:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(fd, data)


class Bench(Protocol):
    """A sink under test, and the other side of it."""

    sink: QueueSink[Any]
    ledger: Ledger
    counts_each_loss: bool
    """Whether each record that does not come out is counted; ZMQ tells only when a queue becomes full."""

    async def opened(self) -> None:
        """Do what is due once the sink is open."""

    async def caught_up(self) -> None:
        """Wait until the other side has taken all that it will get, and is ready for more."""

    def block(self) -> None:
        """Stop the other side from taking anything."""

    def unblock(self) -> None:
        """Let it continue."""

    def lines(self) -> list[bytes]:
        """Return what has come out, whole lines; once the sink is closed."""


class ArchiveBench:
    """The archive, on a disk with a gate."""

    counts_each_loss = True

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        settings = archive_settings(folder / "polygon.ndjson", buffer_bytes=LIMIT_BYTES)
        self.folder = folder
        self.disk = GatedDisk()
        self.ledger = Ledger()
        self.archive_stats = stats = ArchiveStats()
        context = ArchiveContext.create(
            settings, run_id="run", clock=SystemClock(), stats=stats, disk=disk or self.disk
        )
        self.shedding = LoadShedding(stats.pressure)
        writer = ArchiveWriter(context, self.ledger.sink("ndjson"), self.shedding, {})
        self.sink = ArchiveSink(context, writer, self.shedding, self.ledger)

    async def opened(self) -> None:
        """Nothing more is needed."""

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.queue.pending_bytes == 0)

    async def leave(self) -> None:
        self.disk.gone = True

    async def missed(self) -> None:
        await eventually(lambda: self.sink.stats.failure)

    async def come_back(self) -> None:
        self.disk.gone = False
        await self.caught_up()

    def block(self) -> None:
        self.disk.gate.clear()

    def unblock(self) -> None:
        self.disk.gate.set()

    def lines(self) -> list[bytes]:
        return (self.folder / "polygon.ndjson").read_bytes().splitlines()


class StdoutBench:
    """Standard output, into a pipe that somebody reads or not."""

    counts_each_loss = True

    def __init__(self) -> None:
        self.ledger = Ledger()
        read_end, write_end = os.pipe()
        self.write_end = write_end
        self._reading = threading.Event()
        self._reading.set()
        self._data = bytearray()
        self._reader = threading.Thread(target=self._read, args=(read_end,), daemon=True)
        self._reader.start()
        self.sink = StdoutSink(
            "records",
            self.ledger,
            SystemClock(),
            lambda: None,
            QueueLimits(2048, LIMIT_BYTES, 100),
            warn_interval_secs=5,
            fd=write_end,
        )

    def _read(self, fd: int) -> None:
        while True:
            self._reading.wait()
            data = os.read(fd, 65536)
            if not data:
                os.close(fd)
                return
            self._data += data

    async def opened(self) -> None:
        """Nothing more is needed."""

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.queue.pending_bytes == 0)

    def block(self) -> None:
        self._reading.clear()

    def unblock(self) -> None:
        self._reading.set()

    def lines(self) -> list[bytes]:
        os.close(self.write_end)
        self._reader.join(10)
        return bytes(self._data).splitlines()


class ZmqBench:
    """ZMQ, with a subscriber that has little room. A Unix socket: the kernel's buffers are small there."""

    counts_each_loss = False

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        settings = zmq_settings(f"ipc://{folder}/zmq", snd_hwm=2000, buffer_bytes=LIMIT_BYTES)
        self.sink = ZmqSink(settings, self.ledger, SystemClock())
        self.taken: list[bytes] = []

    async def opened(self) -> None:
        self.subscriber = self._subscribe()

    def _subscribe(self) -> Subscriber:
        return Subscriber(self.sink.publisher.endpoint, rcvhwm=2000)

    async def caught_up(self) -> None:
        await reached(self.sink, self.subscriber)

    async def leave(self) -> None:
        self.subscriber.close()
        self.taken += self.subscriber.lines
        await self.missed()

    async def missed(self) -> None:
        await eventually(lambda: self.sink.stats.peers == 0 and self.sink.queue.pending_bytes == 0)

    async def come_back(self) -> None:
        self.subscriber = self._subscribe()
        await self.caught_up()

    def block(self) -> None:
        self.subscriber.block()

    def unblock(self) -> None:
        self.subscriber.unblock()

    def lines(self) -> list[bytes]:
        assert self.subscriber.disconnected.wait(30)
        self.subscriber.close()
        return self.taken + self.subscriber.lines


class NatsBench:
    """NATS, with a server of its own. The stream has frames; a record is made of each event for the suite."""

    counts_each_loss = True

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger()
        self.server = NatsServer(folder / "nats").start()
        settings = nats_settings(self.server, buffer_bytes=LIMIT_BYTES)
        self.sink = NatsSink(settings, ("stocks",), self.ledger, SystemClock(), "run")

    async def opened(self) -> None:
        """Nothing more is needed."""

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.queue.pending_bytes == 0)

    async def leave(self) -> None:
        self.server.kill()
        await self.missed()

    async def missed(self) -> None:
        await eventually(lambda: self.sink.stats.failure)

    async def come_back(self) -> None:
        self.server.start()
        await self.caught_up()

    def block(self) -> None:
        self.server.pause()

    def unblock(self) -> None:
        self.server.resume()

    def lines(self) -> list[bytes]:
        return [
            b'{"payload":%b,"seq":%d}' % (event, seq)
            for message in messages_of(self.server)
            for seq, event in enumerate(message.events, int(message.headers["First"]))
        ]

    def end(self) -> None:
        self.server.stop()


class KafkaBench:
    """Kafka, with a broker that the benches of a process share; each has topics of its own, in one of the two shapes."""

    counts_each_loss = True
    _numbers = itertools.count(1)

    def __init__(self, shape: Literal["frames", "records"]) -> None:
        self.ledger = Ledger()
        self.broker = shared_broker()
        settings = kafka_settings(
            self.broker,
            topic_prefix=f"bench{next(self._numbers)}",
            shape=shape,
            partitions=1,
            buffer_bytes=LIMIT_BYTES,
        )
        self._topic = settings.topic("stocks")
        self._is_of_frames = shape == "frames"
        self.sink = KafkaSink(settings, ("stocks",), self.ledger, SystemClock(), "run")

    async def opened(self) -> None:
        """Nothing more is needed."""

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.queue.pending_bytes == 0)

    async def leave(self) -> None:
        self.broker.kill()
        await self.missed()

    async def missed(self) -> None:
        await eventually(lambda: self.sink.stats.failure)

    async def come_back(self) -> None:
        self.broker.start()
        await self.caught_up()

    def block(self) -> None:
        self.broker.pause()

    def unblock(self) -> None:
        self.broker.resume()

    def lines(self) -> list[bytes]:
        messages = kafka_messages_of(self.broker, self._topic)
        if not self._is_of_frames:
            assert all(message.key == b"A" for message in messages)
            return [message.value for message in messages]
        return [
            b'{"payload":%b,"seq":%d}' % (event, seq)
            for message in messages
            for seq, event in enumerate(message.events, int(message.headers["First"]))
        ]


class TcpBench:
    """The sink of the example package, which lives on the loop, with a server that has small buffers."""

    counts_each_loss = False

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._reading = threading.Event()
        self._reading.set()
        self._data = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        drops = Drops(self.ledger.sink("tcp"), SystemClock(), get_logger("polygon_clients"), 5.0)
        port = self._listener.getsockname()[1]
        self.sink = TcpSink("127.0.0.1", port, drops, QueueLimits(2048, LIMIT_BYTES))

    def _read(self) -> None:
        connection, _ = self._listener.accept()
        self._listener.close()
        with connection:
            while True:
                self._reading.wait()
                data = connection.recv(65536)
                if not data:
                    return
                self._data += data

    async def opened(self) -> None:
        """Nothing more is needed."""

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.queue.pending_bytes == 0)

    def block(self) -> None:
        self._reading.clear()

    def unblock(self) -> None:
        self._reading.set()

    def lines(self) -> list[bytes]:
        self._reader.join(10)
        return bytes(self._data).splitlines()


BENCHES: dict[str, Callable[[Path], Bench]] = {
    "archive": lambda folder: ArchiveBench(folder / "a"),
    "stdout": lambda folder: StdoutBench(),
    "zmq": ZmqBench,
    "nats": NatsBench,
    "kafka frames": lambda folder: KafkaBench("frames"),
    "kafka records": lambda folder: KafkaBench("records"),
    "tcp": lambda folder: TcpBench(),
}
"""Every sink. A new one has a line here, and so passes the whole suite of `test_sinks`."""
SLOW = ("kafka frames", "kafka records")
"""Those whose other side takes seconds to start: `make test` leaves them to `make test-rest`."""


def in_secs(secs: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(secs * 1e9)


def numbered(first: int, count: int) -> Batch:
    """Return a batch of trades that carry their number."""
    events = b",".join(
        b'{"ev":"T","sym":"A","t":1760375617662,"q":%d}' % n for n in range(first, first + count)
    )
    return batch_of(b"[" + events + b"]")


@asynccontextmanager
async def recording(bench: Bench) -> AsyncIterator[Bus]:
    """Yield a bus with the running sink; the test closes the sink."""
    bus = recording_bus(bench.ledger, bench.sink)
    await bench.sink.open()
    await bench.opened()
    task = asyncio.create_task(bench.sink.run())
    await bench.caught_up()
    try:
        yield bus
    finally:
        bench.unblock()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
