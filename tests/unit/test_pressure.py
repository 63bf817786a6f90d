"""The ladder of disk pressure: which steps there are, when each is taken, and when it is undone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.archive.disk import Space
from recorder.archive.pressure import (
    EASE_HOLD_NS,
    QUOTES_KEPT_ONE_IN,
    WORSEN_HOLD_NS,
    Give,
    LoadShedding,
    Pressure,
    Step,
    ladder,
    min_free_bytes,
)

MIN_FREE = 1_000_000
PLENTY = Space(100 * MIN_FREE, None)
NOTHING = Space(0, None)
LADDERS = st.builds(
    ladder, compresses=st.booleans(), deletes=st.booleans(), give=st.sampled_from(["stop", "sample"])
)
BYTES = st.integers(0, 6 * MIN_FREE)
SPACES = st.builds(Space, BYTES, st.one_of(st.none(), st.integers(0, 2000)))


def whole_ladder() -> Pressure:
    """Make one with all steps, settled where there is plenty of space."""
    pressure = Pressure(MIN_FREE, ladder(compresses=True, deletes=True, give="sample"))
    pressure.poll(PLENTY, 0)
    return pressure


@pytest.mark.parametrize(
    ("compresses", "deletes", "give", "words"),
    [
        (False, False, "stop", "none warn stop"),
        (True, False, "stop", "none warn compress stop"),
        (False, True, "stop", "none warn delete stop"),
        (True, True, "sample", "none warn compress delete sample no_quotes stop"),
    ],
)
def test_only_steps_that_can_help_are_on_the_ladder(
    compresses: bool, deletes: bool, give: Give, words: str
) -> None:
    """Nothing is compressed, deleted or sampled that the operator did not allow; it always ends with a pause."""
    steps = ladder(compresses=compresses, deletes=deletes, give=give)
    assert [step.word for step in steps] == words.split()


def test_levels_fall_along_the_ladder() -> None:
    """Each step is taken below the one before, the last below what is to stay free; and undone above its level."""
    pressure = whole_ladder()
    levels = [pressure.entered_below(step) for step in pressure.steps[1:]]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) == len(levels)
    assert levels[-1] == MIN_FREE
    assert all(pressure.left_at(step) > pressure.entered_below(step) for step in pressure.steps[1:])


@pytest.mark.parametrize("step", list(Step)[1:])
def test_a_step_is_taken_below_its_level_and_undone_at_the_other(step: Step) -> None:
    """To the byte."""
    pressure = whole_ladder()
    below, back = pressure.entered_below(step), pressure.left_at(step)
    assert pressure.wanted(Space(below, None)) < step <= pressure.wanted(Space(below - 1, None))
    assert pressure.kept(Space(back, None)) < step <= pressure.kept(Space(back - 1, None))


def test_a_disk_that_fills_at_once_climbs_one_step_at_a_time() -> None:
    """Each step is held for its time, so that it can help; then comes the next."""
    pressure = whole_ladder()
    taken = []
    for turn in range(1, 7):
        now = turn * WORSEN_HOLD_NS
        assert pressure.poll(NOTHING, now - 1) == (taken[-1] if taken else Step.NONE)
        taken.append(pressure.poll(NOTHING, now))
    assert taken == list(Step)[1:]
    assert pressure.poll(NOTHING, 10**15) is Step.STOP


def test_space_that_is_back_at_once_undoes_one_step_at_a_time() -> None:
    """In the reverse order, each after its time."""
    pressure = Pressure(MIN_FREE, ladder(compresses=True, deletes=True, give="sample"))
    assert pressure.poll(NOTHING, 0) is Step.STOP
    taken = []
    for turn in range(1, 7):
        now = turn * EASE_HOLD_NS
        assert pressure.poll(PLENTY, now - 1) == (taken[-1] if taken else Step.STOP)
        taken.append(pressure.poll(PLENTY, now))
    assert taken == list(Step)[5::-1]
    assert pressure.poll(PLENTY, 10**15) is Step.NONE


def test_a_refused_write_is_a_full_disk() -> None:
    """Whatever is measured: a quota, and inodes that are used up, are not seen otherwise."""
    pressure = whole_ladder()
    assert pressure.poll(PLENTY, WORSEN_HOLD_NS, refused=True) is Step.WARN
    assert pressure.poll(PLENTY, 2 * WORSEN_HOLD_NS, refused=True) is Step.COMPRESS
    assert pressure.poll(PLENTY, WORSEN_HOLD_NS * 2 + EASE_HOLD_NS) is Step.WARN


def test_few_inodes_are_a_matter_of_deleting() -> None:
    """Inodes alone warn and delete; fewer records would need no fewer files."""
    pressure = whole_ladder()
    assert pressure.wanted(PLENTY._replace(inodes=1024)) is Step.NONE
    assert pressure.wanted(PLENTY._replace(inodes=1023)) is Step.WARN
    assert pressure.wanted(PLENTY._replace(inodes=0)) is Step.DELETE
    without = Pressure(MIN_FREE, ladder(compresses=True, deletes=False, give="sample"))
    assert without.wanted(PLENTY._replace(inodes=0)) is Step.WARN


@settings(deadline=None)
@given(LADDERS, SPACES, SPACES)
def test_less_space_never_calls_for_less(steps: tuple[Step, ...], one: Space, other: Space) -> None:
    """Monotone in bytes and inodes; and what is wanted is always within what is kept."""
    pressure = Pressure(MIN_FREE, steps)
    inodes = [space.inodes for space in (one, other) if space.inodes is not None]
    less = Space(min(one.bytes, other.bytes), min(inodes, default=None))
    for space in (one, other):
        assert pressure.wanted(less) >= pressure.wanted(space)
        assert pressure.kept(less) >= pressure.kept(space)
        assert pressure.wanted(space) <= pressure.kept(space)


@settings(deadline=None)
@given(
    LADDERS,
    st.lists(st.tuples(SPACES, st.integers(0, 2 * EASE_HOLD_NS), st.booleans()), min_size=1, max_size=60),
)
def test_any_history_moves_by_single_steps_that_are_held(
    steps: tuple[Step, ...], history: list[tuple[Space, int, bool]]
) -> None:
    """After the first look, steps change to a neighbour, for a cause, and no earlier than their time."""
    pressure = Pressure(MIN_FREE, steps)
    now = changed_ns = 0
    before: Step | None = None
    for space, passed_ns, refused in history:
        now += passed_ns
        step = pressure.poll(space, now, refused=refused)
        measured = space._replace(bytes=0) if refused else space
        if before is None:
            assert step is pressure.wanted(measured)
            changed_ns = now
        elif step is not before:
            assert abs(steps.index(step) - steps.index(before)) == 1
            if step > before:
                assert pressure.wanted(measured) >= step
                assert now - changed_ns >= WORSEN_HOLD_NS
            else:
                assert pressure.kept(measured) <= step
                assert now - changed_ns >= EASE_HOLD_NS
            changed_ns = now
        else:
            held = now - changed_ns
            assert held < WORSEN_HOLD_NS or pressure.wanted(measured) <= step
            assert held < EASE_HOLD_NS or pressure.kept(measured) >= step
        before = step


@settings(deadline=None)
@given(LADDERS, SPACES, SPACES)
def test_steady_space_settles(steps: tuple[Step, ...], before: Space, space: Space) -> None:
    """From anywhere, the step goes one way until it fits, and stays."""
    pressure = Pressure(MIN_FREE, steps)
    taken = [pressure.poll(before, 0)]
    taken += [pressure.poll(space, turn * EASE_HOLD_NS) for turn in range(1, 20)]
    assert taken in (sorted(taken), sorted(taken, reverse=True))
    assert pressure.wanted(space) <= taken[-1] <= pressure.kept(space)
    assert taken[-1] is taken[-5]


@settings(deadline=None)
@given(LADDERS, st.data())
def test_space_that_wavers_between_two_levels_changes_nothing(
    steps: tuple[Step, ...], data: st.DataObject
) -> None:
    """No flapping: between where a step is taken and where it is undone, it stays however long that lasts."""
    pressure = Pressure(MIN_FREE, steps)
    step = data.draw(st.sampled_from(steps[1:]))
    pressure.poll(Space(pressure.entered_below(step) - 1, None), 0)
    place = steps.index(step)
    lowest = pressure.entered_below(steps[place + 1]) if place + 1 < len(steps) else 0
    levels = st.integers(lowest, pressure.left_at(step) - 1)
    for turn in range(1, 20):
        level = data.draw(levels)
        assert pressure.poll(Space(level, None), turn * 10 * EASE_HOLD_NS) is step


@pytest.mark.parametrize(
    ("give", "free", "one_in", "paused"),
    [
        ("sample", 3 * MIN_FREE, 1, False),
        ("sample", 2 * MIN_FREE - 1, QUOTES_KEPT_ONE_IN, False),
        ("sample", MIN_FREE, 0, False),
        ("sample", 0, 0, True),
        ("stop", MIN_FREE, 1, False),
        ("stop", 0, 1, True),
    ],
)
def test_what_recording_leaves_out(give: Give, free: int, one_in: int, paused: bool) -> None:
    """Quotes go only where the operator gives them, before everything does."""
    pressure = Pressure(MIN_FREE, ladder(compresses=True, deletes=True, give=give))
    pressure.poll(Space(free, None), 0)
    shedding = LoadShedding()
    shedding.follow(pressure)
    assert (shedding.quotes_kept_one_in, shedding.paused) == (one_in, paused)


@pytest.mark.parametrize("step", list(Step)[1:])
def test_the_runbook_has_the_levels(step: Step) -> None:
    """docs/operations.md tells for each step where it is taken and undone."""
    runbook = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    pressure = whole_ladder()
    taken, undone = (level(step) / MIN_FREE for level in (pressure.entered_below, pressure.left_at))
    row = f"| {int(step)} `{step.word}` | {f'{taken:g} M' if taken != 1 else 'M'} | {undone:g} M |"
    assert row in runbook


@pytest.mark.parametrize(
    ("asked", "capacity_bytes", "kept"),
    [
        (None, 10**13, 2**30),
        (None, 20 * 2**30, 2**30),
        (None, 500 * 2**20, 25 * 2**20),
        (0, 10**13, 0),
        (7, 10, 7),
    ],
)
def test_what_is_left_free_follows_the_size_of_the_file_system(
    asked: int | None, capacity_bytes: int, kept: int
) -> None:
    """A twentieth, 1 GiB at most; unless NDJSON_MIN_FREE_BYTES says something else."""
    assert min_free_bytes(asked, capacity_bytes) == kept
