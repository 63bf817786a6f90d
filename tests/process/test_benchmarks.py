"""The benchmarks work: each scenario in its smallest form, against the real command. Nothing is said about time."""

from __future__ import annotations

import pytest
from tools import tool

from benchmarks.scenario import ALONE, RECORDER, Plan
from benchmarks.scenarios import (
    SCENARIOS,
    bars,
    everything,
    filtered,
    firehose,
    latency,
    memory,
    record,
    verify,
    workers,
    zmq,
)
from benchmarks.serving import BARE_LOOP, STRAIGHT

PLAN = Plan(runs=1, seconds=0.2, quick=True)

pytestmark = pytest.mark.alone


@pytest.mark.parametrize(
    ("scenario", "work", "who"),
    [
        ("record", record.work(10), RECORDER),
        ("record", record.work(10), record.RAW),
        ("record", record.work(10), record.MODELS),
        ("record", record.work(10), ALONE),
        ("firehose", firehose.work(10), RECORDER),
        ("firehose", firehose.work(10), firehose.WEBSOCKETS),
        ("firehose", firehose.work(10), BARE_LOOP),
        ("firehose", firehose.work(1), STRAIGHT),
        ("filtered", filtered.SELECTIVE, RECORDER),
        ("filtered", filtered.STARS, RECORDER),
        ("filtered", filtered.IDLE, RECORDER),
        ("latency", latency.work("firehose", 10_000, 0), RECORDER),
        ("latency", latency.work("filtered", 10_000, 0), RECORDER),
        ("latency", latency.work("firehose", 10_000, 0), STRAIGHT),
        ("latency", latency.work("firehose", 10_000, 99), BARE_LOOP),
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
        ("workers", workers.work(1), RECORDER),
    ],
)
def test_a_scenario_gives_its_figures(scenario: str, work: str, who: str) -> None:
    """It has figures for columns of its table, and nothing was lost."""
    if scenario in ("firehose", "filtered", "latency"):
        tool("cc")
    [case] = [one for one in SCENARIOS[scenario].cases(PLAN) if (one.work, one.who) == (work, who)]
    run = case.measure(PLAN)
    assert run.failures == []
    shown = {column.figure for column in SCENARIOS[scenario].columns} & run.figures.keys()
    assert shown
    assert all(value >= 0 for name, value in run.figures.items() if not name.startswith("growth"))
    assert run.figures.get("events_per_sec", 1) > 0
