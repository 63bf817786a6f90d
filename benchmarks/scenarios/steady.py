"""Scenario 13: record at steady rates, each frame by itself, as an exchange sends them while nothing happens."""

from __future__ import annotations

from functools import partial
from typing import Final

from waiting import eventually_sync

from benchmarks import handshakes, harness, units
from benchmarks.native import Native
from benchmarks.scenario import RECORDER, Case, Column, Plan, Plot, Run, Scenario, Target
from benchmarks.scenarios.record import QUICK_EVENTS, SYMBOLS, by_peer, figures

RATES: Final = (5_000, 20_000, 50_000, 100_000)
FRAMES: Final = (10, 100)
_WARM_UP_SECS: Final = 0.5
_EVENTS: Final = "polygon_events_total"


def work(rate: int, frame_events: int) -> str:
    """Return the name of a load."""
    return f"{rate // 1000} k events/s, {frame_events} a frame"


def recorded(plan: Plan, rate: int, frame_events: int) -> Run:
    """Measure the recorder: every frame comes when it is due."""
    fed = units.frames(units.market(SYMBOLS, frame_events, int(plan.pick(0, QUICK_EVENTS))))
    with (
        plan.scratch() as folder,
        handshakes.listening() as listener,
        harness.recorder(handshakes.port_of(listener), folder, HEARTBEAT_INTERVAL_SECS="0") as recorder,
    ):
        data, index = fed.save(folder)
        feed = handshakes.followed(listener)
        silent, far = handshakes.pair()  # the load wants a client
        options = ("-d", str(data), "-i", str(index), "-t", "-r", str(rate))
        # The exchange stays connected until everything is recorded.
        with feed.dup(), far, Native("load", *options, sockets=[feed, silent]) as load:
            harness.warmed_up(recorder, rate * _WARM_UP_SECS)
            span = harness.watch(recorder, plan.seconds)
            sent = load.finish()["events"]
            eventually_sync(lambda: recorder.received() >= sent, "all that was sent", 60, 0.05)
            failures = harness.stop(recorder)
    frames = span.counted("polygon_messages_received_total")
    run = Run(figures(span, span.counted(_EVENTS)), failures)
    run.figures |= {
        f"rate_{frame_events}": rate,  # each plot has an axis of its own
        "cpu_us_per_frame": span.cpu_secs / frames * 1e6,
        "frames_per_pass": frames / span.counted("polygon_batches_total"),
    }
    return run


def _cases(plan: Plan) -> list[Case]:
    return [
        case
        for frame_events in FRAMES
        for rate in RATES
        for case in (
            Case(work(rate, frame_events), RECORDER, partial(recorded, rate=rate, frame_events=frame_events)),
            *(
                Case(
                    work(rate, frame_events),
                    peer.name,
                    partial(by_peer, peer=peer, frame_events=frame_events, rate=rate),
                )
                for peer in plan.peers
                if peer.records
            ),
        )
    ]


SCENARIO = Scenario(
    number=13,
    name="steady",
    question="What does recording cost at a steady rate, where each frame wakes the process by itself?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".2f"),
        Column("cpu_us_per_frame", "CPU µs/frame", ".1f"),
        Column("cpu_share", "core busy", ".1%"),
        Column("frames_per_pass", "frames a pass", ".2f"),
        Column("load_share", "load's core busy", ".0%"),
    ),
    cases=_cases,
    targets=(
        *(
            Target(f"≤ 80 µs a frame, {work(rate, 10)}", work(rate, 10), "cpu_us_per_frame", at_most=80)
            for rate in RATES
        ),
        *(
            Target(
                f"≤ 8 µs an event, {work(rate, 100)}",
                work(rate, 100),
                "cpu_us_per_event",
                at_most=8,
                form=".2f",
            )
            for rate in RATES
        ),
    ),
    plots=tuple(
        Plot(
            f"bench-steady-{frame_events}",
            f"Cost of recording an event at a steady rate, {frame_events} a frame",
            x=f"rate_{frame_events}",
            y={"cpu_us_per_event": ""},
            x_label="events/s",
            y_label="CPU µs an event",
            x_log=True,
        )
        for frame_events in FRAMES
    ),
    note="As scenario 1, but the frames are evenly spaced: the load sends each when it is due, and polls without sleeping, "
    "so its core is always busy. A frame of 10 events is what the exchange packs together in a quiet moment; a pass takes "
    "the frames of a millisecond where nobody but sinks wants them. All that was sent is recorded, or the run fails.",
)
