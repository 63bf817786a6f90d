"""The edge: a bounded queue and its writer thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from waiting import eventually

from recorder.ledger import SinkStats
from recorder.sinks.edge import Edge


class FakeDisk:
    """A target that writes what it is given, fails while told to, or hangs in a write until let go."""

    def __init__(self, write_secs: float = 0.0) -> None:
        self.write_secs = write_secs
        self.written: list[bytes] = []
        self.failure = ""
        self.bytes_done = 0
        self.ticks = 0
        self.released = threading.Event()
        self.released.set()
        self.writing = threading.Event()
        self.defect: Exception | None = None

    def write(self, item: bytes) -> None:
        self.writing.set()
        self.released.wait()
        time.sleep(self.write_secs)
        if self.defect:
            raise self.defect
        self.written.append(item)
        self.bytes_done += len(item)

    def tick(self) -> float:
        self.ticks += 1
        return 0.01


@asynccontextmanager
async def running(
    disk: FakeDisk,
    *,
    batches_max: int = 1000,
    bytes_max: int = 1_000_000,
    given_up: Callable[[bytes], None] = print,
) -> AsyncIterator[Edge[bytes]]:
    """Give a started edge; close it at the end, if the test has not."""
    edge: Edge[bytes] = Edge(
        "test",
        disk,
        SinkStats("test"),
        batches_max=batches_max,
        bytes_max=bytes_max,
        wake_records=1,
        given_up=given_up,
    )
    edge.start()
    try:
        yield edge
    finally:
        disk.released.set()
        await edge.close(5, lambda: None)


async def test_items_and_commands_keep_their_order() -> None:
    """What is offered and what is called comes to the thread in the order in which it was given."""
    disk = FakeDisk()
    async with running(disk) as edge:
        for number in range(100):
            assert edge.offer(b"%d" % number, 2, 1)
            edge.call(lambda number=number: disk.written.append(b"after %d" % number))  # type: ignore[misc]
        await eventually(lambda: len(disk.written) == 200)
    assert disk.written == [text for n in range(100) for text in (b"%d" % n, b"after %d" % n)]


async def test_past_the_byte_limit_it_says_no() -> None:
    """With the disk hanging, offers are taken up to the limit, refused beyond, and taken again when it is back."""
    disk = FakeDisk()
    async with running(disk, bytes_max=1000) as edge:
        disk.released.clear()
        assert edge.offer(b"x" * 400, 400, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        assert edge.offer(b"y" * 400, 400, 1)
        assert not edge.offer(b"z" * 400, 400, 1)
        assert edge.pending_bytes == 800
        disk.released.set()
        await eventually(lambda: edge.pending_bytes == 0)
        assert edge.offer(b"w" * 400, 400, 1)
    assert [item[:1] for item in disk.written] == [b"x", b"y", b"w"]


async def test_past_the_batch_limit_it_says_no() -> None:
    """Waiting batches are merged up to a size; past `batches_max` merged ones, offers are refused."""
    disk = FakeDisk()
    async with running(disk, batches_max=2, bytes_max=100_000_000) as edge:
        disk.released.clear()
        big = b"x" * 800_000
        assert edge.offer(b"first", 5, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        taken = [edge.offer(big, len(big), 1) for _ in range(4)]
        assert taken == [True, True, False, False]
        small = [edge.offer(b"s", 1, 1) for _ in range(50)]
        assert all(small), "small batches fit into the last waiting one"
    assert len(disk.written) == 1 + 2 + 50


async def test_a_failing_target_gets_nothing_more_but_urgent_commands() -> None:
    """While it fails, items wait; `call_soon` is served; when it is well again, everything comes in order."""
    disk = FakeDisk()
    called: list[str] = []
    async with running(disk) as edge:
        disk.failure = "disk full"
        before = disk.ticks
        await eventually(lambda: disk.ticks > before + 1)
        edge.offer(b"a", 1, 1)
        edge.call(lambda: called.append("ordinary"))
        edge.call_soon(lambda: called.append("urgent"))
        await eventually(lambda: called == ["urgent"])
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 2)
        assert disk.written == []
        disk.failure = ""
        await eventually(lambda: called == ["urgent", "ordinary"])
    assert disk.written == [b"a"]


async def test_close_drains_then_finishes() -> None:
    """All that waits is written before `finish` is called, on the thread; nothing is given up."""
    disk = FakeDisk()
    finished: list[int] = []
    edge: Edge[bytes] = Edge(
        "test",
        disk,
        SinkStats("test"),
        batches_max=10_000,
        bytes_max=10_000,
        wake_records=10**9,
        given_up=pytest.fail,
    )
    edge.start()
    for _ in range(1000):
        assert edge.offer(b"x", 1, 1)
    await edge.close(10, lambda: finished.append(len(disk.written)))
    assert finished == [1000]


async def test_close_gives_up_on_what_a_slow_target_has_not_taken() -> None:
    """At the deadline the thread begins nothing more, however much waits, and still finishes."""
    disk = FakeDisk(write_secs=0.01)
    given_up: list[bytes] = []
    finished: list[bool] = []
    async with running(disk, given_up=given_up.append) as edge:
        for number in range(100):
            edge.offer(b"%d" % number, 1, 1)
        await edge.close(0.2, lambda: finished.append(True))
    assert disk.written
    assert given_up
    assert [*disk.written, *given_up] == [b"%d" % number for number in range(100)]
    assert finished == [True]


async def test_close_gives_up_at_the_deadline() -> None:
    """What a failing target cannot take in time is handed back to be counted."""
    disk = FakeDisk()
    given_up: list[bytes] = []
    async with running(disk, given_up=given_up.append) as edge:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        edge.offer(b"a", 1, 1)
        edge.offer(b"b", 1, 1)
        await edge.close(0.05, lambda: None)
    assert given_up == [b"a", b"b"]
    assert disk.written == []


async def test_the_books_know_when_nothing_is_pending_any_more() -> None:
    """Once all is written the pending figures are 0, also when nothing more is offered."""
    disk = FakeDisk()
    async with running(disk) as edge:
        disk.released.clear()
        for _ in range(3):
            assert edge.offer(b"x" * 100, 100, 1)
        assert edge._books.pending_bytes == 300
        disk.released.set()
        await eventually(lambda: len(disk.written) == 3)
        await eventually(lambda: (edge._books.pending_bytes, edge._books.pending_batches) == (0, 0))


async def test_what_was_called_is_called_even_at_the_deadline() -> None:
    """A failing target that is given up still hears what stood between the items, in its place: notes of drops."""
    disk = FakeDisk()
    heard: list[bytes] = []
    async with running(disk, given_up=heard.append) as edge:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        edge.offer(b"a", 1, 1)
        edge.call(lambda: heard.append(b"dropped"))
        edge.offer(b"b", 1, 1)
        await edge.close(0.05, lambda: None)
    assert heard == [b"a", b"dropped", b"b"]


async def test_a_hung_thread_does_not_hang_the_process() -> None:
    """Close returns although the thread is stuck in a write, and the books say so."""
    disk = FakeDisk()
    async with running(disk) as edge:
        disk.released.clear()
        edge.offer(b"a", 1, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        await edge.close(0.05, lambda: None)
        assert "hung" in edge._books.failure


async def test_a_thread_in_one_call_counts_as_stuck() -> None:
    """The time of the call at hand is told, and 0 as soon as it is over; many short calls are no long one."""
    disk = FakeDisk()
    async with running(disk) as edge:
        disk.released.clear()
        edge.offer(b"a", 1, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        await eventually(lambda: edge.stuck_secs > 0.05, "stuck")
        disk.released.set()
        await eventually(lambda: edge.stuck_secs == 0, "moving again")
        for number in range(1000):
            edge.offer(b"%d" % number, 4, 1)
        assert edge.stuck_secs < 0.05


async def test_a_thread_that_the_kernel_holds_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """In uninterruptible sleep it waits for the disk, and no signal would end it."""
    disk = FakeDisk()
    async with running(disk) as edge:
        disk.released.clear()
        edge.offer(b"a", 1, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        await eventually(lambda: edge.stuck_secs > 0, "stuck")
        monkeypatch.setattr(Path, "read_text", lambda path: f"{path.parts[-2]} (a) D b) D 1 2 3")
        assert edge.stuck_secs == 0
        disk.released.set()


async def test_a_defect_of_the_target_is_raised() -> None:
    """An exception on the thread reaches who waits for the edge."""
    disk = FakeDisk()
    disk.defect = ZeroDivisionError("a defect")
    edge: Edge[bytes] = Edge(
        "test", disk, SinkStats("test"), batches_max=10, bytes_max=10, wake_records=1, given_up=print
    )
    edge.start()
    edge.offer(b"a", 1, 1)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(edge.wait(), 10)


async def test_a_close_in_time_leaves_time_to_account_for_what_is_given_up() -> None:
    """`finish` runs before the time to close is over, behind every call that waited, and nothing hangs."""
    disk = FakeDisk()
    told: list[str] = []
    async with running(disk, given_up=lambda item: told.append(item.decode())) as edge:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        edge.offer(b"first", 5, 1)
        edge.call(lambda: told.append("call"))
        edge.offer(b"second", 6, 1)
        await asyncio.wait_for(edge.close(2, lambda: told.append("finish")), 2)
        assert not edge.hung
    assert told == ["first", "call", "second", "finish"]


async def test_a_write_that_does_not_return_shows_since_when() -> None:
    """The books tell when the thread began what it is in; nothing once it waits for work."""
    disk = FakeDisk()
    async with running(disk) as edge:
        await eventually(lambda: disk.ticks > 0 and not edge._books.busy_since_ns)
        disk.released.clear()
        before_ns = time.monotonic_ns()
        edge.offer(b"a", 1, 1)
        assert await asyncio.to_thread(disk.writing.wait, 10)
        assert before_ns <= edge._books.busy_since_ns <= time.monotonic_ns()
        disk.released.set()
        await eventually(lambda: not edge._books.busy_since_ns)
