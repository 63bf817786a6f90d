"""How fast events go into Kafka topics."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from benchmarks.harness import Broken
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario

_EVENTS = {"frames": 4_000_000, "records": 1_000_000}
_BATCH_EVENTS = 100
_TIMEOUT_SECS = 600


def work(shape: str) -> str:
    """Return the name of a case."""
    return f"one broker, {shape}"


def _sent(plan: Plan, shape: str) -> Run:
    events = int(plan.pick(_EVENTS[shape], 40_000))
    command = [sys.executable, "-m", "benchmarks.kafka_sink", str(events), str(_BATCH_EVENTS), shape]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECS)
    if done.returncode:
        raise Broken(f"the sink ended with {done.returncode}: {done.stderr[-200:]}")
    figures = json.loads(done.stdout.splitlines()[-1])  # behind the log
    dropped = figures.pop("dropped")
    return Run(figures, [f"{dropped:,} events dropped"] if dropped else [])


SCENARIO = Scenario(
    number=17,
    name="kafka",
    question="How many events a second go into a Kafka topic, in either shape, and what does each cost?",
    columns=(
        Column("events_per_sec", "events/s acknowledged"),
        Column("loop_us_per_event", "CPU µs/event, the loop", ".2f"),
        Column("cpu_us_per_event", "CPU µs/event, all threads", ".2f"),
        Column("broker_cpu_us_per_event", "CPU µs/event, the broker", ".2f"),
        Column("stored_bytes_per_event", "stored B/event", ".1f"),
    ),
    cases=lambda plan: [Case(work(shape), RECORDER, partial(_sent, shape=shape)) for shape in _EVENTS],
    note="The sink alone, fed as from the bus with 100 events a read; decoding is part of it, and of records the making of "
    "lines. The broker is Apache Kafka's on the load's core, with its log on this machine's disk; librdkafka has the core "
    "of the sink. Every event must be acknowledged.",
)
