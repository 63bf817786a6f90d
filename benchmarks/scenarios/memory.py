"""Scenario 5: the memory of idle clients, of hours of work, and of a client that stops reading."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from waiting import eventually_sync

from benchmarks import harness
from benchmarks.drain import connected
from benchmarks.scenario import RECORDER, Case, Column, Plan, Plot, Run, Scenario, Target

CLIENTS = 5000
_STEPS = 5
_RATE = 100_000
_MINUTES = 10.0
_SAMPLES = 300
_FRAME_EVENTS = 100
_LOAD = ("--rate", str(_RATE), "--frame-events", str(_FRAME_EVENTS), "--no-bursts")
_PENDING_MIB = 16
"""CLIENT_PENDING_BYTES_MAX of the client that stops reading: its default."""
_WRITE_MIB = 1
"""What is written to a client at once comes on top, and is at most so much."""
IDLE, WORK, STALLED = (
    f"{CLIENTS:,} idle clients",
    f"{_RATE // 1000} k events/s",
    "a client that stops reading",
)


def _idle(plan: Plan) -> Run:
    step = int(plan.pick(CLIENTS, 250)) // _STEPS
    sizes: list[float] = []
    clients: list[harness.Program] = []
    with ExitStack() as stack:
        folder = stack.enter_context(plan.scratch())
        port = stack.enter_context(harness.exchange(folder, "--rate", "100"))
        recorder = stack.enter_context(harness.recorder(port, folder, ROLES="filtered,ops"))
        harness.warmed_up(recorder, 1)
        sizes.append(harness.memory(recorder.process.pid).rss_bytes)
        for number in range(1, _STEPS + 1):
            clients.append(
                stack.enter_context(harness.drain(int(recorder.port_of("filtered")), step, "T.NOTHING"))
            )
            harness.clients_subscribed(recorder, "filtered", number * step)
            sizes.append(harness.memory(recorder.process.pid).rss_bytes)
        failures = harness.stop(recorder, *clients)
    return Run(
        {
            "clients": _STEPS * step,
            "kib_per_client": (sizes[-1] - sizes[0]) / 1024 / (_STEPS * step),
            "rss_mib": sizes[-1] / 2**20,
        },
        failures,
        {
            "clients": [float(number * step) for number in range(_STEPS + 1)],
            "rss_mib": [size / 2**20 for size in sizes],
        },
    )


def _working(plan: Plan) -> Run:
    secs = plan.pick(_MINUTES * 60, 10 * plan.seconds)
    at: list[float] = []
    sizes: list[float] = []
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *_LOAD) as port,
        harness.recorder(
            port,
            folder,
            ROLES="archive,filtered,ops",
            NDJSON_COMPRESSION="zstd",
            NDJSON_MAX_BYTES="64MiB",
            NDJSON_RETAIN_BYTES="1GiB",
        ) as recorder,
        harness.drain(int(recorder.port_of("filtered")), 10, "*") as clients,
    ):
        harness.clients_subscribed(recorder, "filtered", 10)
        harness.warmed_up(recorder, plan.warm_up_events)
        before = harness.look(recorder)
        for _ in range(_SAMPLES):
            time.sleep(secs / _SAMPLES)  # between two looks
            at.append((time.monotonic() - before.at_secs) / 60)
            sizes.append(harness.memory(recorder.process.pid).rss_bytes / 2**20)
        span = harness.Span(before, harness.look(recorder))
        failures = harness.stop(recorder, clients)
    quarter = len(sizes) // 4
    late = statistics.linear_regression(at[quarter:], sizes[quarter:])
    return Run(
        {
            "events_per_sec": span.per_sec("polygon_events_total"),
            "rss_mib": statistics.median(sizes),
            "peak_mib": max(sizes),
            "growth_mib_per_min": late.slope,
            "growth_mib": statistics.median(sizes[-quarter:])
            - statistics.median(sizes[quarter : 2 * quarter]),
        },
        failures,
        {"minutes": at, "rss_mib": sizes},
    )


def _stalled(plan: Plan) -> Run:
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *_LOAD) as port,
        harness.recorder(
            port, folder, ROLES="firehose,ops", CLIENT_PENDING_BYTES_MAX=f"{_PENDING_MIB}MiB"
        ) as recorder,
        harness.drain(int(recorder.port_of("firehose")), 1, "*") as reader,
    ):
        pid = recorder.process.pid
        harness.clients_subscribed(recorder, "firehose", 1)
        harness.warmed_up(recorder, plan.warm_up_events / _FRAME_EVENTS, "polygon_messages_received_total")
        harness.forget_peak(pid)
        before = harness.memory(pid)
        with connected(int(recorder.port_of("firehose")), "/stocks", "*"):
            began = time.monotonic()
            eventually_sync(
                lambda: recorder.metric("polygon_server_evictions_total") >= 1, "the client is cut", 60, 0.02
            )
            secs = time.monotonic() - began
        after = harness.memory(pid)
        return Run(
            {
                "rss_mib": after.rss_bytes / 2**20,
                "peak_mib": after.peak_bytes / 2**20,
                "growth_mib": (after.peak_bytes - before.rss_bytes) / 2**20,
                "cut_after_secs": secs,
            },
            harness.stop(recorder, reader, cut_expected=1),
        )


SCENARIO = Scenario(
    number=5,
    name="memory",
    question="What does a client cost in memory, does work make it grow, and what can a client that stops reading take?",
    columns=(
        Column("clients", "clients"),
        Column("kib_per_client", "KiB/client", ".1f"),
        Column("events_per_sec", "events/s"),
        Column("rss_mib", "MiB resident", ".1f"),
        Column("peak_mib", "MiB at most", ".1f"),
        Column("growth_mib", "MiB grown", "+.1f"),
        Column("growth_mib_per_min", "MiB/min", "+.2f"),
        Column("cut_after_secs", "cut after, s", ".1f"),
    ),
    cases=lambda plan: [
        Case(IDLE, RECORDER, _idle),
        Case(WORK, RECORDER, _working, once=True),
        Case(STALLED, RECORDER, _stalled),
    ],
    targets=(
        Target(f"≤ 20 KiB a client, {CLIENTS:,} idle", IDLE, "kib_per_client", at_most=20, form=".1f"),
        Target(
            f"no growth in {_MINUTES:g} minutes at {_RATE // 1000} k events/s (≤ 1 MiB a minute)",
            WORK,
            "growth_mib_per_min",
            at_most=1,
            form="+.2f",
        ),
        Target(
            f"a client that stops reading takes at most its limit, {_PENDING_MIB} MiB, and a write, {_WRITE_MIB} MiB",
            STALLED,
            "growth_mib",
            at_most=_PENDING_MIB + _WRITE_MIB,
            form=".1f",
        ),
    ),
    plots=(
        Plot(
            "bench-memory-by-clients",
            "Resident memory by idle clients",
            x="clients",
            y={"rss_mib": ""},
            x_label="clients",
            y_label="MiB",
            series_of=IDLE,
        ),
        Plot(
            "bench-memory-at-work",
            f"Resident memory at {_RATE // 1000} k events/s",
            x="minutes",
            y={"rss_mib": ""},
            x_label="minutes",
            y_label="MiB",
            series_of=WORK,
        ),
    ),
    note="Resident memory of the process. The growth at work is the slope after the first quarter, and the last quarter's "
    "median less the second's; the recorder writes zstd files of 64 MiB and serves ten clients with `*` meanwhile. The "
    "growth through a client that stops reading is the peak less the size before it came, beside one that reads.",
)
