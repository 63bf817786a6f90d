"""Scenario 7: what rotating and compressing files adds to a pass of the loop."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from commands import Running
from waiting import eventually_sync

from benchmarks import harness
from benchmarks.scenario import ALONE, RECORDER, Case, Column, Plan, Run, Scenario, Target
from benchmarks.scenarios.record import alone, figures, flood

_FRAME_EVENTS = 100
_PACED = 100_000
_PASS = "polygon_pass_duration_seconds"
LOADS = {
    "flood": flood(_FRAME_EVENTS),
    f"{_PACED // 1000} k events/s": ("--rate", str(_PACED), "--frame-events", str(_FRAME_EVENTS)),
}
CODECS = ("none", "gzip", "zstd")


def _work(load: str, codec: str) -> str:
    return f"{load}, {'no rotation' if not codec else f'rotation, {codec}'}"


def _rotated(plan: Plan, load: str, codec: str) -> Run:
    """Measure under load; then let the market end, so that what waits to be compressed is."""
    size = "100GiB" if not codec else f"{plan.pick(64, 4):g}MiB"
    with ExitStack() as stack:
        folder = stack.enter_context(plan.scratch())
        market = stack.enter_context(ExitStack())
        port = market.enter_context(harness.exchange(folder, *LOADS[load]))
        recorder = stack.enter_context(
            harness.recorder(port, folder, NDJSON_MAX_BYTES=size, NDJSON_COMPRESSION=codec or "none")
        )
        harness.warmed_up(recorder, plan.warm_up_events)
        if codec:
            eventually_sync(lambda: recorder.metric("polygon_rotations_total") >= 1, "a rotation", 60, 0.05)
        span = harness.watch(recorder, plan.seconds)
        market.close()
        run = Run(figures(span, span.counted("polygon_events_total")))
        run.figures |= {
            "pass_p50_ms": span.percentile(_PASS, 0.5) * 1e3,
            "pass_p99_ms": span.percentile(_PASS, 0.99) * 1e3,
            "rotations": span.counted("polygon_rotations_total"),
        }
        if codec not in ("", "none"):
            run.figures["size_ratio"] = _size_ratio(recorder)
        run.failures = harness.stop(recorder)
        return run


def _size_ratio(recorder: Running) -> float:
    eventually_sync(
        lambda: recorder.metric("polygon_compress_pending_files") == 0, "all files are compressed", 300, 0.1
    )
    sizes = harness.Metrics(recorder.get("/metrics")[1])
    before, after = (sizes.total(f"polygon_compress_{side}_bytes_total") for side in ("input", "output"))
    return before / after


def _cases(plan: Plan) -> list[Case]:
    cases = [
        Case(_work(load, codec), RECORDER, partial(_rotated, load=load, codec=codec))
        for load in LOADS
        for codec in ("", *CODECS)
    ]
    return [*cases, Case("flood", ALONE, lambda plan: alone(plan, *flood(_FRAME_EVENTS)))]


SCENARIO = Scenario(
    number=7,
    name="rotation",
    question="What do rotation and compression add to a pass of the loop?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".3f"),
        Column("cpu_share", "core busy", ".0%"),
        Column("pass_p50_ms", "pass p50, ms", ".2f"),
        Column("pass_p99_ms", "pass p99, ms", ".2f"),
        Column("rotations", "rotations"),
        Column("size_ratio", "size before / after", ".1f"),
    ),
    cases=_cases,
    targets=tuple(
        Target(
            f"p99 of the pass grows by at most 10 % with {codec}, {load}",
            _work(load, codec),
            "pass_p99_ms",
            at_most=1.1,
            versus=(_work(load, "none"), RECORDER),
            form=".2f",
        )
        for load in LOADS
        for codec in ("gzip", "zstd")
    ),
    note="Files of 64 MiB. A pass is all that the loop does with one read of the socket. While flooding, the reads grow "
    "with what the passes take, and the process that compresses has no core of its own: it runs, at idle priority, on "
    "the recorder's. Its CPU time is part of the event's. The pass's percentiles come from a histogram and are exact to "
    "its bounds.",
)
