"""Scenario 4: from the feed's socket to a client's, at 10, 50 and 100 thousand events a second."""

from __future__ import annotations

from functools import partial

from benchmarks import serving, stages, units
from benchmarks.scenario import RECORDER, Case, Column, Plan, Plot, Run, Scenario, Target
from benchmarks.serving import BARE_LOOP, STRAIGHT
from benchmarks.stages import EVERYTHING

RATES = (10_000, 50_000, 100_000)
OTHERS = (0, 99)
_PORTS = {"firehose": stages.recorder_firehose, "filtered": stages.recorder_filtered}
_LIMITS = {BARE_LOOP: stages.bare_loop, STRAIGHT: stages.nothing_between}


def work(port: str, rate: int, others: int) -> str:
    """Return the name of a load."""
    return f"{port}, {rate // 1000} k events/s, {f'with {others} others' if others else 'alone'}"


def served(plan: Plan, port: str, who: str, rate: int, others: int) -> Run:
    """Measure how long events are on their way."""
    played = serving.played(plan)
    server = _LIMITS.get(who, _PORTS[port])
    # Only the recorder's filtered port makes arrays of its own.
    form = units.arrays if who == RECORDER and port == "filtered" else units.frames
    run = serving.paced(plan, server, form(played, stamped=True), [EVERYTHING] * (others + 1), rate)
    run.figures[f"rate_{port}_{others + 1}"] = rate  # each plot has an axis of its own
    return run


def _cases(plan: Plan) -> list[Case]:
    return [
        Case(work(port, rate, others), who, partial(served, port=port, who=who, rate=rate, others=others))
        for port in _PORTS
        for others in OTHERS
        for rate in RATES
        for who in (RECORDER, BARE_LOOP, STRAIGHT)
        if who == RECORDER or (port == "firehose" and (who != STRAIGHT or not others))
    ]


SCENARIO = Scenario(
    number=4,
    name="latency",
    question="How long is an event on its way from the feed's socket to a client's?",
    columns=(
        Column("p50_ms", "p50, ms", ".3f"),
        Column("p99_ms", "p99, ms", ".3f"),
        Column("p999_ms", "p99.9, ms", ".3f"),
        Column("max_ms", "longest, ms", ".1f"),
        Column("frames_timed", "frames timed"),
        Column("cpu_share", "core busy", ".0%"),
    ),
    cases=_cases,
    targets=tuple(
        Target(
            f"{name} ≤ {limit_ms:g} ms, {work(port, 50_000, others)}",
            work(port, 50_000, others),
            f"{name}_ms",
            at_most=limit_ms,
            form=".3f",
        )
        for port in _PORTS
        for others, p50_ms, p99_ms in ((0, 0.1, 1.0), (99, 0.8, 2.5))
        for name, limit_ms in (("p50", p50_ms), ("p99", p99_ms))
    ),
    plots=tuple(
        Plot(
            f"bench-latency-{port}-{'shared' if others else 'alone'}",
            f"Latency by load, {port}, {f'with {others} others' if others else 'alone'}",
            x=f"rate_{port}_{others + 1}",
            y={"p50_ms": "p50", "p99_ms": "p99", "p999_ms": "p99.9"},
            x_label="events/s",
            y_label="ms",
            y_log=True,
        )
        for port in _PORTS
        for others in OTHERS
    ),
    note="Frames of 10 events, each with the nanosecond at which it was due in a field of its first event; the client, "
    "in the same process and so on the same clock, takes the difference as it reads them. A frame that is sent late, "
    "because its reader is slow or the load is, counts from when it was due. The measuring client subscribed last, so "
    "it is served last; of the others the load looks at one at a time, and at the measuring one in between. What the "
    "load itself costs shows where it is alone, and with a bare loop in C in the recorder's place.",
)
