"""The benchmarks work: each scenario in its smallest form, against the real command. Nothing is said about time."""

from __future__ import annotations

import pytest

from benchmarks.scenario import ALONE, RECORDER, Plan
from benchmarks.scenarios import SCENARIOS, bars, everything, memory, record, verify, zmq

PLAN = Plan(runs=1, seconds=0.2, quick=True)

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("scenario", "work", "who"),
    [
        ("record", record.work(10), RECORDER),
        ("record", record.work(10), record.RAW),
        ("record", record.work(10), record.MODELS),
        ("record", record.work(10), ALONE),
        ("memory", memory.IDLE, RECORDER),
        ("memory", memory.WORK, RECORDER),
        ("memory", memory.STALLED, RECORDER),
        ("bars", bars.VENDOR, RECORDER),
        ("bars", bars.EVERY, RECORDER),
        ("rotation", "flood, rotation, zstd", RECORDER),
        ("everything", next(iter(everything.LOADS)), RECORDER),
        ("frames", record.work(1), RECORDER),
        ("verify", verify.work("zstd", 2), RECORDER),
        ("zmq", zmq.work(10), RECORDER),
    ],
)
def test_a_scenario_gives_its_figures(scenario: str, work: str, who: str) -> None:
    """It has figures for columns of its table, and nothing was lost."""
    [case] = [one for one in SCENARIOS[scenario].cases(PLAN) if (one.work, one.who) == (work, who)]
    run = case.measure(PLAN)
    assert run.failures == []
    shown = {column.figure for column in SCENARIOS[scenario].columns} & run.figures.keys()
    assert shown
    assert all(value >= 0 for name, value in run.figures.items() if not name.startswith("growth"))
    assert run.figures.get("events_per_sec", 1) > 0
