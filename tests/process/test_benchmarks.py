"""The benchmarks work: each scenario in its smallest form, against the real command. Nothing is said about time."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from tools import tool

from benchmarks.harness import Broken
from benchmarks.peers.option import Peer
from benchmarks.scenario import ALONE, RECORDER, Plan
from benchmarks.scenarios import (
    SCENARIOS,
    bars,
    everything,
    export,
    filtered,
    firehose,
    kafka,
    latency,
    memory,
    nats,
    record,
    replay,
    resume,
    steady,
    verify,
    workers,
    zmq,
)
from benchmarks.serving import BARE_LOOP, STRAIGHT

PLAN = Plan(runs=1, seconds=0.2, quick=True)

PROGRAM = Path(__file__).parents[1] / "peer_program.py"


def peer(lose_one_in: int = 0) -> Peer:
    """Return a peer that writes and serves, and that may lose what it should write."""
    return Peer.parse(f"ours, plain={sys.executable} {PROGRAM} {{url}} {{port}} {{file}} {lose_one_in}")


@pytest.mark.parametrize(
    ("scenario", "work"),
    [
        ("record", record.work(10)),
        ("firehose", firehose.work(10)),
        ("filtered", filtered.SELECTIVE),
        ("filtered", filtered.STARS),
    ],
)
def test_a_program_given_by_option_is_measured_beside_ours(scenario: str, work: str) -> None:
    """A command is all that is known of it; it gets what ours gets, and its figures are in the same columns."""
    tool("cc")
    given = replace(PLAN, peers=(peer(),))
    [case] = [one for one in SCENARIOS[scenario].cases(given) if (one.work, one.who) == (work, "ours, plain")]
    run = case.measure(given)
    assert run.failures == []
    assert run.figures["events_per_sec"] > 0
    columns = {column.figure for column in SCENARIOS[scenario].columns}
    assert run.figures.keys() >= columns - {"pending_peak_mib"}


def test_a_program_given_by_option_must_lose_nothing() -> None:
    """A line that is missing in its file is a failed run."""
    tool("cc")
    run = record.by_peer(PLAN, peer(lose_one_in=1000), 10, 20_000)
    assert [failure for failure in run.failures if "events were sent, and its file has" in failure]


def test_a_program_that_is_not_there_is_named() -> None:
    """As the other peers that are not installed."""
    with pytest.raises(Broken, match="not installed: /nowhere/streamer"):
        record.by_peer(PLAN, Peer.parse("streamer=/nowhere/streamer {url} {file}"), 10)


def _alone(scenario: str, work: str, who: str) -> ParameterSet:
    """Return a case in which something would be lost, or given up, if the machine had other work."""
    return pytest.param(scenario, work, who, marks=pytest.mark.alone)


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
        _alone("filtered", filtered.SELECTIVE, RECORDER),
        ("filtered", filtered.STARS, RECORDER),
        ("filtered", filtered.IDLE, RECORDER),
        ("latency", latency.work("firehose", 10_000, 0), RECORDER),
        ("latency", latency.work("filtered", 10_000, 0), RECORDER),
        ("latency", latency.work("firehose", 10_000, 0), STRAIGHT),
        ("latency", latency.work("firehose", 10_000, 99), BARE_LOOP),
        _alone("memory", memory.IDLE, RECORDER),
        ("memory", memory.WORK, RECORDER),
        ("memory", memory.STALLED, RECORDER),
        ("bars", bars.VENDOR, RECORDER),
        ("bars", bars.EVERY, RECORDER),
        _alone("rotation", "flood, rotation, zstd", RECORDER),
        _alone("everything", next(iter(everything.LOADS)), RECORDER),
        ("frames", record.work(1), RECORDER),
        ("steady", steady.work(5_000, 10), RECORDER),
        ("verify", verify.work("zstd", 2), RECORDER),
        ("export", export.work("zstd", 8, 2), RECORDER),
        ("zmq", zmq.work(10), RECORDER),
        ("nats", nats.work(1), RECORDER),
        ("kafka", kafka.work("records"), RECORDER),
        ("nats", nats.READ, RECORDER),
        ("workers", workers.work(1), RECORDER),
        ("resume", resume.work("filtered"), RECORDER),
        ("replay", replay.FLOODS["zstd"], RECORDER),
        ("replay", replay.paced(10), RECORDER),
    ],
)
def test_a_scenario_gives_its_figures(scenario: str, work: str, who: str) -> None:
    """It has figures for columns of its table, and nothing was lost."""
    if scenario in ("firehose", "filtered", "latency", "steady"):
        tool("cc")
    if scenario == "nats":
        tool("nats-server")
    if scenario == "kafka":
        tool("mvn")
    [case] = [one for one in SCENARIOS[scenario].cases(PLAN) if (one.work, one.who) == (work, who)]
    run = case.measure(PLAN)
    assert run.failures == []
    shown = {column.figure for column in SCENARIOS[scenario].columns} & run.figures.keys()
    assert shown
    assert all(value >= 0 for name, value in run.figures.items() if not name.startswith("growth"))
    assert run.figures.get("events_per_sec", 1) > 0
