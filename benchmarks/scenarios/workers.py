"""Scenario 12: what SERVE_WORKERS takes off the recording process."""

from __future__ import annotations

from functools import partial

from benchmarks import harness
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario
from benchmarks.scenarios.everything import FILTERED_CLIENTS, FIREHOSE_CLIENTS, MARKET, topics

_RATE = 20_000
_LOAD = ("--rate", str(_RATE), "--no-bursts", "--frame-events", "10")
WORKERS = (0, 1, 2)


def work(workers: int) -> str:
    """Return the name of a case."""
    return f"{workers or 'no'} worker{'' if workers == 1 else 's'}"


def _served(plan: Plan, workers: int) -> Run:
    firehose, filtered = int(plan.pick(FIREHOSE_CLIENTS, 10)), int(plan.pick(FILTERED_CLIENTS, 10))
    settings = {"ROLES": "archive,firehose,filtered,ops", "SERVE_WORKERS": str(workers)}
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *MARKET, *_LOAD) as port,
        harness.recorder(port, folder, cpus=harness.CPUS, **settings) as recorder,
        harness.drain(int(recorder.port_of("firehose")), firehose, "*") as all_,
        harness.drain(int(recorder.port_of("filtered")), filtered, *map(topics, range(filtered))) as some,
    ):
        for name, clients in (("firehose", firehose), ("filtered", filtered)):
            harness.clients_subscribed(recorder, name, clients)
        harness.warmed_up(recorder, plan.warm_up_events)
        span = harness.watch(recorder, plan.seconds)
        failures = harness.stop(recorder, all_, some)
    events = span.counted("polygon_events_total")
    return Run(
        {
            "workers": workers,
            "events_per_sec": events / span.secs,
            "served_mb_per_sec": span.per_sec("polygon_server_sent_bytes_total") / 1e6,
            "cpu_us_per_event": span.own_cpu_secs / events * 1e6,
            "cpu_share": span.own_cpu_secs / span.secs,
            "pass_p99_ms": span.percentile("polygon_pass_duration_seconds", 0.99) * 1e3,
            "workers_cpu_share": span.children_cpu_secs / span.secs,
            "load_share": span.load_share,
        },
        failures,
    )


SCENARIO = Scenario(
    number=12,
    name="workers",
    question="What do further processes that serve take off the one that records?",
    columns=(
        Column("events_per_sec", "events/s in"),
        Column("served_mb_per_sec", "MB/s served", ",.1f"),
        Column("cpu_us_per_event", "recording, CPU µs/event", ".2f"),
        Column("cpu_share", "recording, of a core", ".0%"),
        Column("pass_p99_ms", "pass p99, ms", ".2f"),
        Column("workers_cpu_share", "workers, of a core", ".0%"),
        Column("load_share", "load's core busy", ".0%"),
    ),
    cases=lambda plan: [
        Case(work(workers), RECORDER, partial(_served, workers=workers)) for workers in WORKERS
    ],
    note=f"{FIREHOSE_CLIENTS} clients of the firehose and {FILTERED_CLIENTS} filtered with 20 topics each of 1,000 "
    f"symbols, at {_RATE:,} events/s, archive on. Unlike elsewhere, the recorder and its workers may use every core, "
    "the load's, too. So CPU time is what counts: of the recording process alone, and of all its workers together. "
    "What the workers serve, and so MB/s, is known to a second. A pass is the time that the recording process gives "
    "to one batch: with workers, it hands the batch over instead of serving it.",
)
