"""How fast frames go into NATS streams."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from benchmarks.harness import Broken
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario

_EVENTS = 4_000_000
SERVERS = (1, 3)
_BATCH_EVENTS = 100
_TIMEOUT_SECS = 600


def work(servers: int) -> str:
    """Return the name of a case."""
    return "one server" if servers == 1 else f"{servers} servers, as many replicas"


def _appended(plan: Plan, servers: int) -> Run:
    events = int(plan.pick(_EVENTS, 40_000))
    command = [sys.executable, "-m", "benchmarks.nats_sink", *map(str, (events, _BATCH_EVENTS, servers))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECS)
    if done.returncode:
        raise Broken(f"the sink ended with {done.returncode}: {done.stderr[-200:]}")
    figures = json.loads(done.stdout.splitlines()[-1])  # behind the log
    dropped = figures.pop("dropped")
    return Run(figures, [f"{dropped:,} events dropped"] if dropped else [])


SCENARIO = Scenario(
    number=16,
    name="nats",
    question="How many events a second go into a NATS stream, and what do they cost here and at the servers?",
    columns=(
        Column("events_per_sec", "events/s acknowledged"),
        Column("cpu_us_per_event", "CPU µs/event", ".2f"),
        Column("servers_cpu_us_per_event", "CPU µs/event, all servers", ".2f"),
        Column("stored_bytes_per_event", "stored B/event", ".1f"),
        Column("events_per_message", "events/message"),
    ),
    cases=lambda plan: [Case(work(count), RECORDER, partial(_appended, servers=count)) for count in SERVERS],
    note="The sink alone, fed as from the bus with 100 events a read; decoding is part of it. The servers are Debian's "
    "nats-server, all on the load's core, with file storage on this machine's disk. Every event must be acknowledged.",
)
