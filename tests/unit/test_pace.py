"""The clock of a replay: one anchor, whatever changes the pace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.sources.replay.pace import Pace

SECOND = 1_000_000_000
BEGIN = 1_790_000_000 * SECOND


class Scene:
    """A pace, and the clock that it lives by."""

    def __init__(self, rate: float | None = 1.0) -> None:
        self.now_ns = 7 * SECOND
        self.pace = Pace(lambda: self.now_ns, rate)
        self.pace.seek(BEGIN)

    def wait(self, secs: float) -> int:
        """Let time pass; return how far the data's time has come since the beginning, ms."""
        self.now_ns += int(secs * SECOND)
        return self.at_ms

    @property
    def at_ms(self) -> int:
        return (self.pace.position_ns - BEGIN) // 1_000_000


def test_it_stands_still_until_it_is_played() -> None:
    """And while it is paused; what came at that moment is due once it plays."""
    scene = Scene()
    assert scene.wait(5) == 0
    assert not scene.pace.is_due(BEGIN)
    assert scene.pace.wait_secs(BEGIN) is None
    scene.pace.play()
    assert scene.pace.is_due(BEGIN)
    assert scene.wait(2) == 2000
    scene.pace.pause()
    assert scene.wait(60) == 2000
    scene.pace.play()
    assert scene.wait(0.5) == 2500


def test_another_rate_counts_from_where_it_is() -> None:
    """Nothing jumps, and the wait for what is due follows."""
    scene = Scene()
    scene.pace.play()
    scene.wait(1)
    scene.pace.set_rate(10)
    assert scene.at_ms == 1000
    assert scene.wait(1) == 11_000
    assert scene.pace.wait_secs(BEGIN + 21 * SECOND) == 1.0
    scene.pace.set_rate(0.5)
    assert scene.wait(2) == 12_000


def test_a_seek_goes_anywhere() -> None:
    """Back or forth; it goes on from there at the same rate."""
    scene = Scene(2)
    scene.pace.play()
    scene.wait(3)
    scene.pace.seek(BEGIN)
    assert scene.at_ms == 0
    assert scene.wait(1) == 2000


def test_without_a_limit_everything_is_due() -> None:
    """The data's time is that of what was played last."""
    scene = Scene(None)
    assert not scene.pace.is_due(BEGIN + 3600 * SECOND)
    scene.pace.play()
    assert scene.pace.is_due(BEGIN + 3600 * SECOND)
    assert scene.pace.wait_secs(BEGIN + 3600 * SECOND) == 0
    assert scene.wait(10) == 0
    scene.pace.reach(BEGIN + 5 * SECOND)
    assert scene.at_ms == 5000
    scene.pace.set_rate(1)
    assert scene.wait(1) == 6000


@given(
    st.lists(st.tuples(st.floats(0.001, 5), st.sampled_from([0.5, 1.0, 3.0, 10.0])), max_size=30),
)
def test_no_error_adds_up(steps: list[tuple[float, float]]) -> None:
    """However often the rate changes, the data's time is the sum of what has passed at each."""
    scene = Scene()
    scene.pace.play()
    expected = 0.0
    for secs, rate in steps:
        scene.pace.set_rate(rate)
        expected += int(secs * SECOND) * rate / 1e6
        assert scene.wait(secs) == pytest.approx(expected, abs=1)
