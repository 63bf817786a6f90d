"""The brake: whether the sources may read on, by what waits and by what the target does."""

from __future__ import annotations

import pytest

from recorder.sinks.brake import Brake
from recorder.sinks.queue import QueueLimits

MIB = 2**20
MS = 1_000_000


class Scene:
    """A brake, the queue that it looks at, and a clock."""

    def __init__(self, limits: QueueLimits) -> None:
        self.pending_bytes = 0
        self.bytes_done = 0
        self.is_writing = True
        self.busy_ns = 0
        self.hurries = 0
        self.now_ns = 7 * MS
        self.brake = Brake(self, limits, lambda: self.now_ns)

    def hurry(self) -> None:
        self.hurries += 1

    def may_read(self, pending_bytes: float, *, after_ms: int = 0) -> bool:
        self.pending_bytes = int(pending_bytes)
        self.now_ns += after_ms * MS
        return self.brake.may_read()


@pytest.fixture
def scene() -> Scene:
    """A brake of a queue with the limits of production."""
    return Scene(QueueLimits(2048, 256 * MIB, 100))


def test_the_sources_wait_until_half_is_written(scene: Scene) -> None:
    """They stop above 32 MiB and read on from 16, however long that takes; the worker is woken meanwhile."""
    assert scene.may_read(32 * MIB)
    assert not scene.hurries
    assert not scene.may_read(32 * MIB + 1)
    assert scene.hurries == 1
    assert not scene.may_read(33 * MIB, after_ms=60_000)
    assert not scene.may_read(16 * MIB + 1)
    assert scene.may_read(16 * MIB)
    assert scene.may_read(17 * MIB)
    assert scene.may_read(32 * MIB)
    assert not scene.may_read(33 * MIB)


@pytest.mark.parametrize(
    ("limits", "hold_bytes"),
    [
        pytest.param(QueueLimits(2048, 2_000_000), 1_000_000, id="few bytes"),
        pytest.param(QueueLimits(8, 256 * MIB), 2 * MIB, id="few batches"),
        pytest.param(QueueLimits(1, 1), 0, id="almost nothing"),
    ],
)
def test_the_brake_holds_before_a_small_queue_is_full(limits: QueueLimits, hold_bytes: int) -> None:
    """With less room than usual the sources wait from a half of what fits until a quarter."""
    brake = Scene(limits).brake
    assert (brake.hold_bytes, brake.release_bytes) == (hold_bytes, hold_bytes // 2)


def test_a_target_that_is_stuck_lets_the_sources_read_on(scene: Scene) -> None:
    """A call that writes nothing for longer than 50 ms is stuck: the sources read on, and wait again a second later."""
    scene.bytes_done = 1
    scene.busy_ns = 50 * MS
    assert not scene.may_read(40 * MIB, after_ms=1000)
    scene.busy_ns += 1
    assert scene.may_read(40 * MIB, after_ms=51)
    scene.bytes_done, scene.busy_ns = 2, 0
    assert scene.may_read(55 * MIB, after_ms=999)
    assert not scene.may_read(100 * MIB, after_ms=1)


def test_past_a_stuck_call_the_sources_read_on_at_the_pace_of_a_market(scene: Scene) -> None:
    """16 MiB a second of what comes, whether it waits or has been written meanwhile."""
    scene.bytes_done, scene.busy_ns = MIB, 51 * MS
    assert not scene.may_read(40 * MIB, after_ms=1000)
    assert scene.may_read(40 * MIB, after_ms=51)
    assert not scene.may_read(41 * MIB)
    assert scene.may_read(41 * MIB, after_ms=63)
    scene.bytes_done += 4 * MIB
    assert not scene.may_read(38 * MIB)
    assert scene.may_read(38 * MIB, after_ms=63)


def test_a_target_that_hangs_slows_nobody(scene: Scene) -> None:
    """One that has written nothing for two seconds may take for ever: the queue fills and drops."""
    scene.bytes_done, scene.busy_ns = 1, 51 * MS
    assert not scene.may_read(40 * MIB, after_ms=1000)
    scene.busy_ns = 60_000 * MS
    assert scene.may_read(250 * MIB, after_ms=1000)
    assert not scene.may_read(251 * MIB, after_ms=10)
    assert not scene.may_read(255 * MIB, after_ms=100)
    assert scene.may_read(255 * MIB, after_ms=900)
    assert scene.may_read(256 * MIB, after_ms=5000)


@pytest.mark.parametrize("fsync_ms", [10, 60, 200])
def test_a_flood_waits_for_a_disk_whose_fsyncs_take_long(scene: Scene, fsync_ms: int) -> None:
    """Small files that are synced one by one: whatever a sync takes, the flood never fills the queue."""
    file_bytes, pass_bytes, peak_bytes = 4 * MIB, MIB, 0
    ends_ns = scene.now_ns
    for _ in range(60_000):
        if scene.now_ns >= ends_ns:
            written = min(file_bytes, scene.pending_bytes)
            scene.bytes_done += written
            scene.pending_bytes -= written
            ends_ns, begun_ns = scene.now_ns + fsync_ms * MS, scene.now_ns
        scene.busy_ns = scene.now_ns - begun_ns
        if scene.may_read(scene.pending_bytes):
            scene.pending_bytes += pass_bytes
        peak_bytes = max(peak_bytes, scene.pending_bytes)
        scene.now_ns += MS
    assert 32 * MIB < peak_bytes < 256 * MIB


@pytest.mark.parametrize(
    ("limit_bytes", "rate"), [(256 * MIB, 10 * MIB), (2_000_000, MIB), (2_000_000, 10 * MIB)]
)
def test_who_comes_at_the_rate_of_a_market_never_waits_for_a_hang(limit_bytes: int, rate: int) -> None:
    """A call that never returns holds a market up for 50 ms, and then no more, whatever the queue may hold."""
    scene = Scene(QueueLimits(2048, limit_bytes, 100))
    scene.pending_bytes, scene.bytes_done = scene.brake.hold_bytes, 1
    assert scene.may_read(scene.pending_bytes)
    waited_ms = 0
    for _ in range(20_000):
        scene.now_ns += MS
        scene.busy_ns += MS
        if scene.may_read(scene.pending_bytes):
            scene.pending_bytes = min(limit_bytes, scene.pending_bytes + rate // 1000)
        else:
            waited_ms += 1
    assert waited_ms <= 51


def test_a_long_call_that_writes_makes_progress(scene: Scene) -> None:
    """The sources wait for a slow disk through one long call, as long as some of it is written now and then."""
    scene.busy_ns = 10_000 * MS
    for _ in range(20):
        scene.bytes_done += 1
        assert not scene.may_read(40 * MIB, after_ms=40)
    assert not scene.may_read(40 * MIB, after_ms=50)
    assert scene.may_read(40 * MIB, after_ms=1)


def test_a_target_that_fails_stops_nobody(scene: Scene) -> None:
    """One that takes nothing makes no progress; once it writes again, the sources wait for it."""
    scene.is_writing = False
    assert scene.may_read(200 * MIB)
    assert scene.may_read(256 * MIB, after_ms=999)
    scene.is_writing, scene.bytes_done = True, 1
    assert not scene.may_read(250 * MIB)
    assert not scene.may_read(250 * MIB, after_ms=1000)
