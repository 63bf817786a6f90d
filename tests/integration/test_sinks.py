"""What every sink must hold: order, accounting of drops, a slow other side, draining at the end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from archives import Fault, FaultyDisk, archive_settings
from fakes import batch_of, recording_bus
from subscribers import Subscriber, reached, zmq_settings
from waiting import eventually

from recorder.archive.context import ArchiveContext
from recorder.archive.disk import Disk
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.verify import verify
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, Bus, SessionClosed, SessionOpened
from recorder.clock import SystemClock
from recorder.ledger import Ledger, SinkStats
from recorder.sinks.archive import ArchiveSink
from recorder.sinks.stdout import StdoutSink
from recorder.sinks.zmq import ZmqSink

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

    sink: ArchiveSink | StdoutSink | ZmqSink
    ledger: Ledger
    counts_each_loss: bool
    """Whether each record that does not come out is counted; ZMQ tells only when a queue becomes full."""

    async def caught_up(self) -> None:
        """Wait until the other side has taken all that it will get, and is ready for more."""

    def block(self) -> None:
        """Stop the other side from taking anything."""

    def unblock(self) -> None:
        """Let it go on."""

    def lines(self) -> list[bytes]:
        """Give what has come out, whole lines; once the sink is closed."""


class ArchiveBench:
    """The archive, on a disk with a gate."""

    counts_each_loss = True

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        settings = archive_settings(folder / "polygon.ndjson", buffer_bytes=LIMIT_BYTES)
        self.folder = folder
        self.disk = GatedDisk()
        self.ledger = Ledger()
        stats = ArchiveStats()
        context = ArchiveContext.create(
            settings, run_id="run", clock=SystemClock(), stats=stats, disk=disk or self.disk
        )
        self.shedding = LoadShedding(stats.pressure)
        writer = ArchiveWriter(context, self.ledger.sink("ndjson"), self.shedding, {})
        self.sink = ArchiveSink(settings, context.names, writer, self.ledger, SystemClock())
        self.sink.open()

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.edge.pending_bytes == 0)

    async def leave(self) -> None:
        self.disk.gone = True

    async def missed(self) -> None:
        await eventually(lambda: self.sink.books.failure)

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
            channel_cap=2048,
            buffer_bytes=LIMIT_BYTES,
            warn_interval_secs=5,
            flush_every=100,
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

    async def caught_up(self) -> None:
        await eventually(lambda: self.sink.edge.pending_bytes == 0)

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
        self.sink.open()
        self.subscriber = self._subscribe()
        self.taken: list[bytes] = []

    def _subscribe(self) -> Subscriber:
        return Subscriber(self.sink.publisher.endpoint, rcvhwm=2000)

    async def caught_up(self) -> None:
        await reached(self.sink, self.subscriber)

    async def leave(self) -> None:
        self.subscriber.close()
        self.taken += self.subscriber.lines
        await self.missed()

    async def missed(self) -> None:
        await eventually(lambda: self.sink.books.peers == 0 and self.sink.edge.pending_bytes == 0)

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


@asynccontextmanager
async def recording(bench: Bench) -> AsyncIterator[Bus]:
    """Yield a bus with the running sink; the test closes the sink."""
    bus = recording_bus(bench.ledger, bench.sink)
    task = asyncio.create_task(bench.sink.run())
    await asyncio.sleep(0)
    await bench.caught_up()
    try:
        yield bus
    finally:
        bench.unblock()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["archive", "stdout", "zmq"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Each sink that takes records."""
    if request.param == "archive":
        return ArchiveBench(tmp_path / "a")
    return StdoutBench() if request.param == "stdout" else ZmqBench(tmp_path)


def numbered(first: int, count: int) -> Batch:
    """Give a batch of trades that carry their number."""
    events = b",".join(
        b'{"ev":"T","sym":"A","t":1760375617662,"q":%d}' % n for n in range(first, first + count)
    )
    return batch_of(b"[" + events + b"]")


async def test_records_keep_their_order(bench: Bench) -> None:
    """What is accepted comes out whole and in order, and all of it before `close` returns."""
    async with recording(bench) as bus:
        for turn in range(50):
            bus.publish(numbered(turn * 20, 20))
        await bench.sink.close("test", 10)
    records = [json.loads(line) for line in bench.lines()]
    assert [record["payload"]["q"] for record in records] == list(range(1000))
    assert [record["seq"] for record in records] == list(range(1, 1001))
    assert bench.ledger.differences(bench.sink.name) == {}


async def test_a_slow_other_side_costs_the_newest_and_is_accounted_for(bench: Bench) -> None:
    """While nothing is taken, the limit holds; what is dropped is counted, the books balance, and it goes on after."""
    async with recording(bench) as bus:
        bench.block()
        sent = 0
        while not bench.sink.books.dropped:
            bus.publish(numbered(sent, 100))
            sent += 100
            assert bench.sink.edge.pending_bytes <= LIMIT_BYTES
            assert sent < 100_000
        bus.publish(numbered(sent, 100))
        bench.unblock()
        await bench.caught_up()
        bus.publish(numbered(sent + 100, 100))
        await bench.sink.close("test", 10)
    numbers = [json.loads(line)["payload"]["q"] for line in bench.lines()]
    assert numbers == sorted(set(numbers))
    assert numbers[-100:] == [*range(sent + 100, sent + 200)]
    lost = sorted(set(range(sent + 200)) - set(numbers))
    dropped = bench.ledger.totals(bench.sink.name)["dropped"]
    if bench.counts_each_loss:
        assert lost[:100] == [*range(sent - 100, sent)]
        assert dropped == len(lost)
    else:
        assert 0 < dropped <= len(lost)
    assert bench.ledger.differences(bench.sink.name) == {}


@pytest.mark.parametrize("kind", [ArchiveBench, ZmqBench])
async def test_the_other_side_may_go_and_come_back(
    kind: type[ArchiveBench | ZmqBench], tmp_path: Path
) -> None:
    """Without its other side a sink still takes records; what comes once it is back arrives, whole and in order."""
    bench = kind(tmp_path)
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await bench.caught_up()
        await bench.leave()
        bus.publish(numbered(100, 100))
        await bench.missed()
        await bench.come_back()
        bus.publish(numbered(200, 100))
        await bench.sink.close("test", 10)
    numbers = [json.loads(line)["payload"]["q"] for line in bench.lines()]
    meanwhile = [*range(100, 200)] if kind is ArchiveBench else []
    assert numbers == [*range(100), *meanwhile, *range(200, 300)]
    assert bench.ledger.differences(bench.sink.name) == {}


@pytest.mark.parametrize("bench", ["archive", "stdout"], indirect=True)
async def test_what_cannot_be_written_in_time_is_given_up_and_counted(bench: Bench) -> None:
    """`close` returns at its deadline although the other side hangs; nothing is claimed that was not written."""
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await eventually(lambda: bench.sink.edge.pending_bytes == 0)
        bench.block()
        for turn in range(1, 20):
            bus.publish(numbered(turn * 100, 100))
        await bench.sink.close("test", 0.05)
        books: SinkStats = bench.sink.books
        assert books.recorded["stocks", "T"] < 2000
        assert "hung" in books.failure


async def test_what_a_failing_disk_costs_at_the_end_is_noted_once(tmp_path: Path) -> None:
    """However many batches wait when the time is over, the manifest says in one line a channel what was given up."""
    disk = FaultyDisk()
    bench = ArchiveBench(tmp_path / "a", disk)
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await bench.caught_up()
        disk.faults["write"] = Fault(errno.ENOSPC, match="polygon.ndjson")
        bus.publish(numbered(100, 100))
        await bench.missed()
        for turn in range(2, 12):
            bus.publish(numbered(turn * 100, 100))
        bench.sink.session_changed(SessionClosed("stocks", 2, "shutdown", 1))
        await asyncio.wait_for(bench.sink.close("test", 1), 1.5)
        assert not bench.sink.edge.hung
    assert bench.sink.books.given_up == 1100
    assert "No space left on device" in bench.sink.reason_given_up
    manifest = (tmp_path / "a" / "polygon.manifest.ndjson").read_bytes()
    entries = [json.loads(line) for line in manifest.splitlines()]
    drops = [entry for entry in entries if entry["kind"] == "drop"]
    assert [(drop["first_seq"], drop["last_seq"]) for drop in drops] == [(201, 1200), (101, 200)]
    assert "session_closed" in [entry["kind"] for entry in entries]
    assert entries[-1]["kind"] == "run_ended"
    assert entries[-1]["balance"]["difference"] == 0
    assert verify([tmp_path / "a"]).ok


async def test_the_manifest_tells_of_sessions_gaps_and_drops(tmp_path: Path) -> None:
    """A drop stands in the manifest with its `seq`, a gap with its bounds; `verify` accepts the hole they explain."""
    bench = ArchiveBench(tmp_path / "a")
    at = 1_795_237_802_000_000_000
    async with recording(bench) as bus:
        bus.announce(SessionOpened("stocks", at))
        bus.publish(numbered(0, 100))
        await eventually(lambda: bench.sink.edge.pending_bytes == 0)
        bus.announce(SessionClosed("stocks", at + 2_000_000_000, "disconnected", at + 1_000_000_000))
        bus.announce(SessionOpened("stocks", at + 5_000_000_000))
        bench.block()
        sent = 100
        while not bench.sink.books.dropped:
            bus.publish(numbered(sent, 100))
            sent += 100
        bench.unblock()
        await eventually(lambda: bench.sink.edge.pending_bytes == 0)
        bus.publish(numbered(sent, 100))
        await bench.sink.close("test", 10)
    entries = [
        json.loads(line) for line in (tmp_path / "a" / "polygon.manifest.ndjson").read_bytes().splitlines()
    ]
    kinds = [entry["kind"] for entry in entries]
    assert kinds.count("session_opened") == 2
    assert kinds[kinds.index("gap") + 1] == "session_opened", "a kill between the two must not lose the gap"
    [gap] = [entry for entry in entries if entry["kind"] == "gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == (
        at // 1_000_000 + 1000,
        at // 1_000_000 + 5000,
        "disconnected",
    )
    [drop] = [entry for entry in entries if entry["kind"] == "drop"]
    assert (drop["channel"], drop["count"]) == ("T", 100)
    assert (drop["first_seq"], drop["last_seq"]) == (sent - 99, sent)
    report = verify([tmp_path / "a"])
    assert report.ok, report
    assert [gap.cluster for gap in report.gaps] == ["stocks"]
    assert [(drop.count, drop.first_seq) for drop in report.drops] == [(100, sent - 99)]


async def test_a_file_for_each_type(tmp_path: Path) -> None:
    """Each type has its file, in its own order, with one `seq` over all; unheard-of types under their own code."""
    settings = archive_settings(tmp_path / "a" / "polygon.ndjson", split_per_type=True)
    ledger = Ledger()
    context = ArchiveContext.create(settings, run_id="run", clock=SystemClock(), stats=ArchiveStats())
    writer = ArchiveWriter(context, ledger.sink("ndjson"), LoadShedding(), {})
    sink = ArchiveSink(settings, context.names, writer, ledger, SystemClock())
    sink.open()
    bus = recording_bus(ledger, sink)
    task = asyncio.create_task(sink.run())
    await asyncio.sleep(0)
    kinds = ["T", "Q", "A", "AM", "LULD", "NOI", "FMV", "V", "XL2", "XT", "ZZ9", "../../etc/passwd"]
    for turn in range(30):
        events = [
            {"ev": kinds[(turn * 7 + n) % len(kinds)], "sym": "A", "t": 1760375617662, "n": turn * 50 + n}
            for n in range(50)
        ]
        bus.publish(batch_of(json.dumps(events).encode()))
    await sink.close("test", 10)
    await task
    words = {
        "T": "trades",
        "XT": "trades",
        "Q": "quotes",
        "A": "second_aggs",
        "AM": "minute_aggs",
        "V": "values",
        "XL2": "level2",
    }
    seqs = []
    for path in (tmp_path / "a").glob("polygon.*.ndjson"):
        if "manifest" in path.name:
            continue
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        numbers = [record["seq"] for record in records]
        assert numbers == sorted(numbers)
        seqs += numbers
        word = path.name.split(".")[1]
        for record in records:
            expected = words.get(
                record["type"], record["type"].lower() if record["type"].isalnum() else "other"
            )
            assert word == expected
    assert sorted(seqs) == list(range(1, 1501))
    assert verify([tmp_path / "a"]).ok


@pytest.fixture
def paused_bench(tmp_path: Path) -> ArchiveBench:
    """An archive whose recording the test pauses."""
    return ArchiveBench(tmp_path / "a")


async def test_a_pause_is_a_hole_that_the_manifest_explains(paused_bench: ArchiveBench) -> None:
    """While recording is paused all is dropped, unformatted; one note a channel says what; then it goes on."""
    bench = paused_bench
    shedding = bench.shedding
    async with recording(bench) as bus:
        bus.publish(numbered(0, 10))
        shedding.paused = True
        for turn in range(5):
            bus.publish(batch_of(b'[{"ev":"Q","sym":"A","t":%d},5]' % turn))
            bus.publish(numbered(0, 10))
        shedding.paused = False
        bus.publish(numbered(10, 10))
        shedding.paused = True
        bus.publish(numbered(0, 7))
        await bench.sink.close("test", 10)
    numbers = [json.loads(line)["seq"] for line in bench.lines()]
    assert numbers == [*range(1, 11), *range(66, 76)]
    entries = map(json.loads, (bench.folder / "polygon.manifest.ndjson").read_text().splitlines())
    drops = [entry for entry in entries if entry["kind"] == "drop"]
    assert {drop["reason"] for drop in drops} == {"disk_pressure"}
    assert [(drop["channel"], drop["count"], drop["first_seq"], drop["last_seq"]) for drop in drops] == [
        ("Q", 5, 11, 65),
        ("", 5, 11, 65),
        ("T", 50, 11, 65),
        ("T", 7, 76, 82),
    ]
    assert shedding.stats.dropped == bench.sink.books.dropped.total() == 62
    assert bench.ledger.differences("ndjson") == {}
    report = verify([bench.folder])
    assert report.ok, report


async def test_a_pause_of_the_archive_is_none_of_the_other_sinks(
    paused_bench: ArchiveBench, tmp_path: Path
) -> None:
    """What the archive leaves out, another sink gets all the same."""
    other = StdoutBench()
    bus = recording_bus(paused_bench.ledger, paused_bench.sink, other.sink)
    tasks = [asyncio.create_task(sink.run()) for sink in (paused_bench.sink, other.sink)]
    await asyncio.sleep(0)
    paused_bench.shedding.paused = True
    bus.publish(numbered(0, 10))
    await paused_bench.sink.close("test", 10)
    await other.sink.close("test", 10)
    await asyncio.gather(*tasks)
    assert len(other.lines()) == 10
    assert paused_bench.lines() == []


async def test_a_drop_and_a_pause_are_told_apart(paused_bench: ArchiveBench) -> None:
    """A disk that is too slow first, and a pause after it, are two notes, each with its reason."""
    bench = paused_bench
    async with recording(bench) as bus:
        bench.block()
        while not bench.sink.books.dropped.total():
            bus.publish(numbered(0, 100))
        bench.shedding.paused = True
        bus.publish(numbered(0, 3))
        bench.unblock()
        await bench.sink.close("test", 10)
    entries = map(json.loads, (bench.folder / "polygon.manifest.ndjson").read_text().splitlines())
    drops = [(entry["reason"], entry["count"]) for entry in entries if entry["kind"] == "drop"]
    assert drops == [("the disk is too slow", 100), ("disk_pressure", 3)]
    assert verify([bench.folder]).ok
