"""What every sink must hold: order, the books, a slow or hanging other side, defects, draining at the end.

The sinks are `sink_benches.BENCHES`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import CollectingConsumer, batch_of, recording_bus
from sink_benches import (
    BENCHES,
    LIMIT_BYTES,
    SLOW,
    ArchiveBench,
    Bench,
    KafkaBench,
    NatsBench,
    StdoutBench,
    ZmqBench,
    in_secs,
    numbered,
    recording,
)
from waiting import eventually

from recorder.bus import Batch, SessionClosed, SessionOpened
from recorder.polygon.rows import Rows


def these(*names: str) -> list[Any]:
    """Return sinks as parameters; the slow ones are left to the rest of the tests."""
    return [pytest.param(name, marks=pytest.mark.rest) if name in SLOW else name for name in names]


@pytest.fixture(params=these(*BENCHES))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Yield each sink in turn."""
    made = BENCHES[request.param](tmp_path)
    yield made
    if isinstance(made, NatsBench):
        made.end()


async def test_records_keep_their_order(bench: Bench) -> None:
    """What is accepted comes out whole and in order, and all of it before `close` returns."""
    async with recording(bench) as bus:
        for turn in range(50):
            bus.publish(numbered(turn * 20, 20))
        await bench.sink.close(in_secs(10))
    records = [json.loads(line) for line in bench.lines()]
    assert [record["payload"]["q"] for record in records] == list(range(1000))
    assert [record["seq"] for record in records] == list(range(1, 1001))
    assert bench.ledger.differences(bench.sink.name) == {}


async def test_a_slow_other_side_costs_the_newest_and_is_accounted_for(bench: Bench) -> None:
    """While nothing is taken, the limit holds; what is dropped is counted, the books balance, and it goes on after."""
    async with recording(bench) as bus:
        bench.block()
        sent = 0
        while not bench.sink.stats.dropped:
            bus.publish(numbered(sent, 100))
            sent += 100
            assert bench.sink.queue.pending_bytes <= LIMIT_BYTES
            assert sent < 100_000
        bus.publish(numbered(sent, 100))
        bench.unblock()
        await bench.caught_up()
        bus.publish(numbered(sent + 100, 100))
        await bench.sink.close(in_secs(10))
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


@pytest.mark.parametrize("bench", these("archive", "zmq", "nats", "kafka records"), indirect=True)
async def test_the_other_side_may_go_and_come_back(
    bench: ArchiveBench | ZmqBench | NatsBench | KafkaBench,
) -> None:
    """Without its other side a sink still takes records; what comes once it is back arrives, whole and in order."""
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await bench.caught_up()
        await bench.leave()
        bus.publish(numbered(100, 100))
        await bench.missed()
        await bench.come_back()
        bus.publish(numbered(200, 100))
        await bench.sink.close(in_secs(10))
    numbers = [json.loads(line)["payload"]["q"] for line in bench.lines()]
    meanwhile = [] if isinstance(bench, ZmqBench) else [*range(100, 200)]
    assert numbers == [*range(100), *meanwhile, *range(200, 300)]
    assert bench.ledger.differences(bench.sink.name) == {}


@pytest.mark.parametrize("bench", these("archive", "stdout", "tcp", "nats", *SLOW), indirect=True)
async def test_what_cannot_be_written_in_time_is_given_up_and_counted(bench: Bench) -> None:
    """`close` returns at its deadline although the other side hangs; nothing is claimed that was not written."""
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        bench.block()
        sent = 100
        while not bench.sink.stats.dropped:
            bus.publish(numbered(sent, 100))
            sent += 100
            await asyncio.sleep(0)
        began = time.monotonic()
        await bench.sink.close(in_secs(0.05))
        assert time.monotonic() - began < 10
        stats = bench.sink.stats
        assert stats.recorded["stocks", "T"] < sent
        if bench.sink.hung:  # a thread that nobody can interrupt
            assert "hung" in stats.failure
        else:
            assert stats.given_up > 0
            assert bench.ledger.differences(bench.sink.name) == {}


async def test_a_defect_in_a_write_ends_the_worker_and_the_books_balance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the target had not finished counts as dropped, `run` raises the defect, and `close` still releases all."""
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await bench.caught_up()

        async def fail(item: Any) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(bench.sink.queue._target, "write", fail, raising=False)
        bus.publish(numbered(100, 100))
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(bench.sink.run(), 10)
        bus.publish(numbered(200, 100))
        await bench.sink.close(in_secs(5))
    stats = bench.sink.stats
    if not isinstance(bench, ArchiveBench):  # its files are left as after a kill
        assert (stats.recorded["stocks", "T"], stats.dropped["stocks", "T"]) == (100, 200)
        assert bench.ledger.differences(bench.sink.name) == {}
    assert not bench.sink.hung


async def test_a_defect_before_the_queue_costs_one_batch_of_this_sink(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that cannot be put into the target's form is dropped and counted; other consumers have it."""
    async with recording(bench) as bus:
        port = CollectingConsumer()
        bus.attach(port)
        real = bench.sink.item_of

        def fail(batch: Batch, rows: Rows) -> Any:
            raise ZeroDivisionError("a defect")

        bus.publish(numbered(0, 100))
        monkeypatch.setattr(bench.sink, "item_of", fail)
        bus.publish(numbered(100, 100))
        monkeypatch.setattr(bench.sink, "item_of", real)
        bus.publish(numbered(200, 100))
        await bench.sink.close(in_secs(10))
    assert bus.failures == 1
    assert len(port.batches) == 3
    numbers = [json.loads(line)["payload"]["q"] for line in bench.lines()]
    assert numbers == [*range(100), *range(200, 300)]
    assert bench.sink.stats.dropped["stocks", "T"] == 100
    assert bench.ledger.differences(bench.sink.name) == {}


async def test_what_is_no_record_costs_nothing(bench: Bench) -> None:
    """Batches of rejects or statuses alone, and sessions that come and go, leave the books balanced."""
    async with recording(bench) as bus:
        bus.announce(SessionOpened("stocks", 1))
        bus.publish(batch_of(b"[5]"))
        bus.publish(batch_of(b'[{"ev":"status","status":"connected","message":"hello"}]'))
        bus.announce(SessionClosed("stocks", 2, "disconnected", 1))
        bus.publish(numbered(0, 10))
        await bench.sink.close(in_secs(10))
    assert len(bench.lines()) == 10
    assert bench.ledger.differences(bench.sink.name) == {}


async def test_it_closes_unopened_opened_and_twice(bench: Bench) -> None:
    """The supervisor may close a sink at any time: it always returns, and nothing is left running."""
    await bench.sink.close(in_secs(1))
    await bench.sink.open()
    await bench.opened()
    await bench.sink.close(in_secs(5))
    await bench.sink.run()
    await bench.sink.close(in_secs(1))
    assert not bench.sink.hung


@pytest.mark.parametrize("bench", these("stdout", "zmq", "nats", *SLOW), indirect=True)
async def test_it_opens_again_after_it_was_closed(bench: Bench) -> None:
    """A sink that the supervisor starts again continues, and records what came while it was down."""
    bus = recording_bus(bench.ledger, bench.sink)
    for turn in range(2):
        bus.publish(numbered(turn, 1))
        await bench.sink.open()
        bus.publish(numbered(turn, 1))
        await bench.sink.close(in_secs(5))
    assert bench.ledger.differences(bench.sink.name) == {}
    assert bench.sink.stats.recorded["stocks", "T"] == 4


async def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    """A stdout that somebody else has made non-blocking says EAGAIN when it is full: its reader is slow, not gone."""
    bench = StdoutBench()
    os.set_blocking(bench.write_end, False)
    async with recording(bench) as bus:
        bench.block()
        for turn in range(15):
            bus.publish(numbered(turn * 100, 100))
        await eventually(lambda: bench.sink.stats.busy_since_ns and bench.sink.queue.stuck_secs > 0.05)
        bench.unblock()
        await bench.sink.close(in_secs(10))
    assert len(bench.lines()) == 1500
    assert bench.sink.stats.write_errors == 0
