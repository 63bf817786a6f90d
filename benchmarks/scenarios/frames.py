"""What an event costs by how many of them come in a frame."""

from __future__ import annotations

from functools import partial

from benchmarks.scenario import RECORDER, Case, Column, Plan, Plot, Scenario
from benchmarks.scenarios.record import recorded, work

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_QUICK_SIZES = (1, 10, 100)


def _cases(plan: Plan) -> list[Case]:
    sizes = _QUICK_SIZES if plan.quick else SIZES
    return [Case(work(size), RECORDER, partial(recorded, frame_events=size)) for size in sizes]


SCENARIO = Scenario(
    number=9,
    name="frames",
    question="What does recording an event cost, by the number of events in a frame?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".3f"),
        Column("cpu_share", "core busy", ".0%"),
        Column("load_share", "load's core busy", ".0%"),
    ),
    cases=_cases,
    plots=(
        Plot(
            "bench-cost-by-frame",
            "Cost of recording an event, by events in a frame",
            x="frame_events",
            y={"cpu_us_per_event": ""},
            x_label="events in a frame",
            y_label="CPU µs an event",
            x_log=True,
        ),
    ),
    note="As scenario 1. What a frame costs by itself is spread over its events; the rest is the price of an event.",
)
