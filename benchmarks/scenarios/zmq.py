"""How fast records are published over ZMQ."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from benchmarks.harness import Broken
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario

_RECORDS = 2_000_000
BATCHES = (10, 100)
_TIMEOUT_SECS = 600


def work(batch_events: int) -> str:
    """Return the name of a case."""
    return f"{batch_events} events a read"


def _published(plan: Plan, batch_events: int) -> Run:
    records = int(plan.pick(_RECORDS, 20_000))
    command = [sys.executable, "-m", "benchmarks.zmq_sink", str(records), str(batch_events)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECS)
    if done.returncode:
        raise Broken(f"the sink ended with {done.returncode}: {done.stderr[-200:]}")
    figures = json.loads(done.stdout)
    dropped = figures.pop("dropped")
    return Run(figures, [f"{dropped:,} records dropped"] if dropped else [])


SCENARIO = Scenario(
    number=11,
    name="zmq",
    question="How many records a second does the ZMQ sink publish, and a subscriber in Python take?",
    columns=(
        Column("sent_per_sec", "records/s published"),
        Column("taken_per_sec", "records/s taken"),
        Column("cpu_us_per_record", "CPU µs/record", ".2f"),
    ),
    cases=lambda plan: [
        Case(work(batch), RECORDER, partial(_published, batch_events=batch)) for batch in BATCHES
    ],
    note="The sink alone, fed as from the bus; decoding and formatting are part of it. One "
    "subscriber in another process over TCP, which must get every record.",
)
