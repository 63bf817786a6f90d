"""The queue of a sink: bounded, on a thread for what blocks and on the loop for what awaits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from waiting import eventually

from recorder.errors import ConfigError
from recorder.ledger import SinkStats
from recorder.sinks.queue import QueueLimits, SinkQueue
from recorder.sinks.target import Blocking
from recorder.sinks.worker import LoopWorker, WorkerThread


class Text(bytes):
    """An item: some bytes of one record."""

    cluster = "stocks"
    counts = {"T": 1}  # noqa: RUF012

    @property
    def size(self) -> int:
        return len(self)


class FakeDisk:
    """A target that writes what it is given, fails while told to, or hangs in a write until let go."""

    def __init__(self, write_secs: float = 0.0) -> None:
        self.write_secs = write_secs
        self.written: list[bytes] = []
        self.failure = ""
        self.bytes_done = 0
        self.ticks = 0
        self.opens = 0
        self.finished: list[int] = []
        """How much was written at each `close`."""
        self.on_close: Callable[[], None] = lambda: None
        self.released = threading.Event()
        self.released.set()
        self.writing = threading.Event()
        self.defect: Exception | None = None
        self.refusal: Exception | None = None

    def open(self) -> None:
        if self.refusal:
            raise self.refusal
        self.opens += 1

    def write(self, item: Text) -> None:
        self.writing.set()
        self.released.wait()
        time.sleep(self.write_secs)
        self._write(item)

    def _write(self, item: Text) -> None:
        if self.defect:
            raise self.defect
        self.written.append(item)
        self.bytes_done += len(item)

    def tick(self) -> float:
        self.ticks += 1
        return 0.01

    def close(self, deadline_ns: int) -> None:
        self.finished.append(len(self.written))
        self.on_close()


class FakeBroker(FakeDisk):
    """The same on the loop: it awaits where the disk blocks."""

    async def open(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().open()

    async def write(self, item: Text) -> None:  # type: ignore[override]
        self.writing.set()
        await eventually(self.released.is_set, "being let go", 60)
        await asyncio.sleep(self.write_secs)
        self._write(item)

    async def tick(self) -> float:  # type: ignore[override]
        return super().tick()

    async def close(self, deadline_ns: int) -> None:  # type: ignore[override]
        super().close(deadline_ns)


@pytest.fixture(params=[FakeDisk, FakeBroker])
def disk(request: pytest.FixtureRequest) -> FakeDisk:
    """Return a target of each kind."""
    target: FakeDisk = request.param()
    return target


def queue_of(
    disk: FakeDisk,
    *,
    batches_max: int | None = 1000,
    bytes_max: int = 1_000_000,
    given_up: Callable[[Text], None] = lambda item: None,
) -> SinkQueue[Text]:
    """Return the queue of a target, on the worker that its kind needs."""
    is_blocking = not isinstance(disk, FakeBroker)
    return SinkQueue(
        "test",
        Blocking(disk) if is_blocking else disk,  # type: ignore[arg-type]
        WorkerThread("test") if is_blocking else LoopWorker("test"),
        SinkStats("test"),
        QueueLimits(batches_max, bytes_max),
        given_up,
    )


@asynccontextmanager
async def running(
    disk: FakeDisk,
    *,
    batches_max: int | None = 1000,
    bytes_max: int = 1_000_000,
    given_up: Callable[[Text], None] = lambda item: None,
) -> AsyncIterator[SinkQueue[Text]]:
    """Yield an open queue; close it at the end, if the test has not."""
    queue = queue_of(disk, batches_max=batches_max, bytes_max=bytes_max, given_up=given_up)
    await queue.open()
    try:
        yield queue
    finally:
        disk.released.set()
        await queue.close(in_secs(5))


def in_secs(secs: float) -> int:
    """Return a deadline."""
    return time.monotonic_ns() + int(secs * 1e9)


async def begun(disk: FakeDisk) -> None:
    """Wait until the worker is in a write."""
    await eventually(disk.writing.is_set, "a write")


async def test_items_and_commands_keep_their_order(disk: FakeDisk) -> None:
    """What is offered and what is called comes to the thread in the order in which it was given."""
    async with running(disk) as queue:
        for number in range(100):
            assert queue.offer(Text(b"%d" % number), 1)
            queue.call(lambda number=number: disk.written.append(b"after %d" % number))  # type: ignore[misc]
        await eventually(lambda: len(disk.written) == 200)
    assert disk.written == [text for n in range(100) for text in (b"%d" % n, b"after %d" % n)]


async def test_past_the_byte_limit_it_says_no(disk: FakeDisk) -> None:
    """With the disk hanging, offers are taken up to the limit, refused beyond, and taken again when it is back."""
    async with running(disk, bytes_max=1000) as queue:
        disk.released.clear()
        assert queue.offer(Text(b"x" * 400), 1)
        await begun(disk)
        assert queue.offer(Text(b"y" * 400), 1)
        assert not queue.offer(Text(b"z" * 400), 1)
        assert queue.pending_bytes == 800
        disk.released.set()
        await eventually(lambda: queue.pending_bytes == 0)
        assert queue.offer(Text(b"w" * 400), 1)
    assert [item[:1] for item in disk.written] == [b"x", b"y", b"w"]


async def test_past_the_batch_limit_it_says_no(disk: FakeDisk) -> None:
    """Waiting batches are merged up to a size; past `batches_max` merged ones, offers are refused."""
    async with running(disk, batches_max=2, bytes_max=100_000_000) as queue:
        disk.released.clear()
        big = Text(b"x" * 800_000)
        assert queue.offer(Text(b"first"), 1)
        await begun(disk)
        taken = [queue.offer(big, 1) for _ in range(4)]
        assert taken == [True, True, False, False]
        small = [queue.offer(Text(b"s"), 1) for _ in range(50)]
        assert all(small), "small batches fit into the last waiting one"
    assert len(disk.written) == 1 + 2 + 50


async def test_without_a_batch_limit_bytes_alone_count(disk: FakeDisk) -> None:
    """However many merged batches wait, what fits into the bytes is taken."""
    async with running(disk, batches_max=None, bytes_max=9_000_000) as queue:
        disk.released.clear()
        taken = [queue.offer(Text(b"x" * 800_000), 1) for _ in range(13)]
        assert taken == [True] * 11 + [False] * 2
        disk.released.set()


async def test_a_failing_target_gets_nothing_more_but_urgent_commands(disk: FakeDisk) -> None:
    """While it fails, items wait; `call_soon` is served; when it is well again, everything comes in order."""
    called: list[str] = []
    async with running(disk) as queue:
        disk.failure = "disk full"
        before = disk.ticks
        await eventually(lambda: disk.ticks > before + 1)
        queue.offer(Text(b"a"), 1)
        queue.call(lambda: called.append("ordinary"))
        queue.call_soon(lambda: called.append("urgent"))
        await eventually(lambda: called == ["urgent"])
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 2)
        assert disk.written == []
        disk.failure = ""
        await eventually(lambda: called == ["urgent", "ordinary"])
    assert disk.written == [b"a"]


async def test_close_drains_then_finishes(disk: FakeDisk) -> None:
    """All that waits is written before the target is closed; nothing is given up."""
    async with running(disk, bytes_max=10_000, batches_max=10_000, given_up=pytest.fail) as queue:
        for _ in range(1000):
            assert queue.offer(Text(b"x"), 1)
        await queue.close(in_secs(10))
        assert disk.finished == [1000]
        await queue.wait()
        await queue.close(in_secs(10))
    assert disk.finished == [1000], "closing twice closes the target once"


async def test_close_gives_up_on_what_a_slow_target_has_not_taken(disk: FakeDisk) -> None:
    """At the deadline the worker begins nothing more, however much waits, and still finishes."""
    disk.write_secs = 0.01
    given_up: list[bytes] = []
    async with running(disk, given_up=given_up.append) as queue:
        for number in range(100):
            queue.offer(Text(b"%d" % number), 1)
        await queue.close(in_secs(0.2))
    assert disk.written
    assert given_up
    assert [*disk.written, *given_up] == [b"%d" % number for number in range(100)]
    assert disk.finished == [len(disk.written)]


async def test_close_gives_up_at_the_deadline(disk: FakeDisk) -> None:
    """What a failing target cannot take in time is handed back to be counted."""
    given_up: list[bytes] = []
    async with running(disk, given_up=given_up.append) as queue:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        queue.offer(Text(b"a"), 1)
        queue.offer(Text(b"b"), 1)
        await queue.close(in_secs(0.05))
    assert given_up == [b"a", b"b"]
    assert disk.written == []


async def test_the_books_know_when_nothing_is_pending_any_more(disk: FakeDisk) -> None:
    """Once all is written the pending figures are 0, also when nothing more is offered."""
    async with running(disk) as queue:
        disk.released.clear()
        for _ in range(3):
            assert queue.offer(Text(b"x" * 100), 1)
        assert queue._stats.pending_bytes == 300
        disk.released.set()
        await eventually(lambda: len(disk.written) == 3)
        await eventually(lambda: (queue._stats.pending_bytes, queue._stats.pending_batches) == (0, 0))


async def test_what_was_called_is_called_even_at_the_deadline(disk: FakeDisk) -> None:
    """A failing target that is given up still hears what stood between the items, in its place: notes of drops."""
    heard: list[bytes] = []
    async with running(disk, given_up=heard.append) as queue:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        queue.offer(Text(b"a"), 1)
        queue.call(lambda: heard.append(b"dropped"))
        queue.offer(Text(b"b"), 1)
        await queue.close(in_secs(0.05))
    assert heard == [b"a", b"dropped", b"b"]


async def test_a_hung_thread_does_not_hang_the_process() -> None:
    """Close returns although the thread is stuck in a write, and the stats say so."""
    disk = FakeDisk()
    async with running(disk) as queue:
        disk.released.clear()
        queue.offer(Text(b"a"), 1)
        await begun(disk)
        await queue.close(in_secs(0.05))
        assert queue.hung
        assert "hung" in queue._stats.failure


async def test_a_write_that_awaits_for_ever_is_cancelled_at_the_deadline() -> None:
    """On the loop nothing hangs: the write at hand is given up with all that waits, and the target is closed."""
    disk = FakeBroker()
    given_up: list[bytes] = []
    async with running(disk, given_up=given_up.append) as queue:
        disk.released.clear()
        for text in (b"a", b"b", b"c"):
            queue.offer(Text(text), 1)
        await begun(disk)
        await queue.close(in_secs(0.05))
        assert not queue.hung
        await queue.wait()
    assert given_up == [b"a", b"b", b"c"]
    assert disk.finished == [0]


async def test_a_call_that_lasts_counts_as_stuck(disk: FakeDisk) -> None:
    """The time of the call at hand is told, and 0 as soon as it is over; many short calls are no long one."""
    async with running(disk) as queue:
        disk.released.clear()
        queue.offer(Text(b"a"), 1)
        await begun(disk)
        await eventually(lambda: queue.stuck_secs > 0.05, "stuck")
        disk.released.set()
        await eventually(lambda: queue.stuck_secs == 0, "moving again")
        for number in range(1000):
            queue.offer(Text(b"%d" % number), 1)
        assert queue.stuck_secs < 0.05


async def test_a_thread_that_the_kernel_holds_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """In uninterruptible sleep it waits for the disk, and no signal would end it."""
    disk = FakeDisk()
    async with running(disk) as queue:
        disk.released.clear()
        queue.offer(Text(b"a"), 1)
        await begun(disk)
        await eventually(lambda: queue.stuck_secs > 0, "stuck")
        monkeypatch.setattr(Path, "read_text", lambda path: f"{path.parts[-2]} (a) D b) D 1 2 3")
        assert queue.stuck_secs == 0
        disk.released.set()


async def test_a_defect_of_the_target_is_raised_and_costs_no_count(disk: FakeDisk) -> None:
    """It reaches the calls that wait; what is left is given up; the target is closed, and works again once opened."""
    given_up: list[bytes] = []
    async with running(disk, given_up=given_up.append) as queue:
        disk.defect = ZeroDivisionError("a defect")
        queue.offer(Text(b"a"), 1)
        queue.offer(Text(b"b"), 1)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(queue.wait(), 10)
        assert queue.failed
        queue.offer(Text(b"c"), 1)
        await queue.close(in_secs(1))
        assert sorted(given_up) == [b"a", b"b", b"c"]
        assert (disk.finished, queue.pending_bytes) == ([0], 0)
        disk.defect = None
        await queue.open()
        queue.offer(Text(b"d"), 1)
        await queue.close(in_secs(5))
    assert disk.written == [b"d"]
    assert (disk.opens, disk.finished) == (2, [0, 1])


async def test_what_cannot_be_opened_raises_where_it_is_opened(disk: FakeDisk) -> None:
    """The target that was refused is not closed; another try may succeed, and what came meanwhile is written then."""
    queue = queue_of(disk)
    disk.refusal = ConfigError("in use")
    with pytest.raises(ConfigError, match="in use"):
        await queue.open()
    disk.refusal = None
    queue.offer(Text(b"a"), 1)
    await queue.open()
    await queue.close(in_secs(5))
    assert (disk.opens, disk.written, disk.finished) == (1, [b"a"], [1])


async def test_a_close_in_time_leaves_time_to_account_for_what_is_given_up(disk: FakeDisk) -> None:
    """`finish` runs before the time to close is over, behind every call that waited, and nothing hangs."""
    told: list[str] = []
    async with running(disk, given_up=lambda item: told.append(item.decode())) as queue:
        disk.failure = "disk full"
        ticks = disk.ticks
        await eventually(lambda: disk.ticks > ticks + 1)
        queue.offer(Text(b"first"), 1)
        queue.call(lambda: told.append("call"))
        queue.offer(Text(b"second"), 1)
        disk.on_close = lambda: told.append("finish")
        await asyncio.wait_for(queue.close(in_secs(2)), 2)
        assert not queue.hung
    assert told == ["first", "call", "second", "finish"]


async def test_a_write_that_does_not_return_shows_since_when(disk: FakeDisk) -> None:
    """The books tell when the thread began what it is in; nothing once it waits for work."""
    async with running(disk) as queue:
        await eventually(lambda: disk.ticks > 0 and not queue._stats.busy_since_ns)
        disk.released.clear()
        before_ns = time.monotonic_ns()
        queue.offer(Text(b"a"), 1)
        await begun(disk)
        assert before_ns <= queue._stats.busy_since_ns <= time.monotonic_ns()
        disk.released.set()
        await eventually(lambda: not queue._stats.busy_since_ns)


class ScriptedWorker(WorkerThread):
    """A thread whose time passes as the test says: something happens in each `pause`, and each `wait` is written down."""

    def __init__(self, pauses: list[Callable[[], None]]) -> None:
        super().__init__("test")
        self.pauses = pauses
        self.waits: list[float] = []

    async def pause(self, secs: float) -> None:
        if self.pauses:
            self.pauses.pop(0)()

    async def wait(self, secs: float) -> None:
        self.waits.append(secs)
        await super().wait(secs)


async def test_the_worker_takes_a_turn_for_enough_records_only() -> None:
    """What comes while it lingers does not keep it awake: it sleeps until enough waits, then writes all at once."""
    disk, written_at_rest = FakeDisk(), []
    disk.tick = lambda: 3600.0  # type: ignore[method-assign]

    def offer_few() -> None:
        queue.offer(Text(b"a"), 4)

    worker = ScriptedWorker([offer_few])
    queue: SinkQueue[Text] = SinkQueue(
        "test", Blocking(disk), worker, SinkStats("test"), QueueLimits(100, 1000, 10), pytest.fail
    )
    await queue.open()
    await eventually(lambda: len(worker.waits) == 1, "asleep though something waits")
    written_at_rest.append(list(disk.written))
    queue.offer(Text(b"b"), 4)
    written_at_rest.append(list(disk.written))
    queue.offer(Text(b"c"), 4)
    await eventually(lambda: len(disk.written) == 3)
    assert written_at_rest == [[], []]
    assert worker.waits[0] > 3599
    queue.offer(Text(b"d"), 9)
    await eventually(lambda: len(worker.waits) == 2)
    queue.call(lambda: disk.written.append(b"called"))
    await eventually(lambda: disk.written == [b"a", b"b", b"c", b"d", b"called"])
    await queue.close(in_secs(5))


async def test_what_a_failure_held_up_is_written_as_soon_as_it_is_over() -> None:
    """However few records they are, they do not wait for the next time at which the target is due."""
    disk = FakeDisk()
    due_secs = [0.001, 0.001, 3600.0]

    def tick() -> float:
        if len(due_secs) == 1:
            disk.failure = ""
        return due_secs.pop(0) if len(due_secs) > 1 else due_secs[0]

    disk.tick = tick  # type: ignore[method-assign]
    disk.failure = "disk full"
    queue: SinkQueue[Text] = SinkQueue(
        "test",
        Blocking(disk),
        WorkerThread("test"),
        SinkStats("test"),
        QueueLimits(9, 1000, 100),
        pytest.fail,
    )
    queue.offer(Text(b"a"), 1)
    await queue.open()
    await eventually(lambda: disk.written == [b"a"])
    await queue.close(in_secs(5))
