"""How fast frames go into NATS streams, and come out of them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import Final

from benchmarks.harness import Broken
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario

_EVENTS = 4_000_000
SERVERS = (1, 3)
_BATCH_EVENTS = 100
_TIMEOUT_SECS = 600


def work(servers: int) -> str:
    """Return the name of a case."""
    return "one server" if servers == 1 else f"{servers} servers, as many replicas"


READ: Final = "out of one server"


def _appended(plan: Plan, servers: int) -> Run:
    return _run(plan, "benchmarks.nats_sink", str(servers))


def _read(plan: Plan) -> Run:
    return _run(plan, "benchmarks.nats_source")


def _run(plan: Plan, module: str, *arguments: str) -> Run:
    events = int(plan.pick(_EVENTS, 40_000))
    command = [sys.executable, "-m", module, str(events), str(_BATCH_EVENTS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECS)
    if done.returncode:
        raise Broken(f"{module} ended with {done.returncode}: {done.stderr[-200:]}")
    figures = json.loads(done.stdout.splitlines()[-1])  # behind the log
    dropped = figures.pop("dropped")
    return Run(figures, [f"{dropped:,} events dropped"] if dropped else [])


SCENARIO = Scenario(
    number=16,
    name="nats",
    question="How many events a second go into a NATS stream, and out of it, and what do they cost here and at the servers?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".2f"),
        Column("servers_cpu_us_per_event", "CPU µs/event, all servers", ".2f"),
        Column("stored_bytes_per_event", "stored B/event", ".1f"),
        Column("events_per_message", "events/message"),
        Column("latency_p50_ms", "sink to source, ms p50", ".1f"),
        Column("latency_p99_ms", "p99", ".1f"),
    ),
    cases=lambda plan: [
        *(Case(work(count), RECORDER, partial(_appended, servers=count)) for count in SERVERS),
        Case(READ, RECORDER, _read),
    ],
    note="The sink alone, fed as from the bus with 100 events a read; decoding is part of it. The servers are Debian's "
    "nats-server, all on the load's core, with file storage on this machine's disk. Every event must be acknowledged. "
    "The source reads what the sink has appended, and decodes it; then 10,000 events a second are timed from the sink to "
    "the source, NATS_LINGER_MS (3 ms) included.",
)
