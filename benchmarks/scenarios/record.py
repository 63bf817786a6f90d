"""Scenario 1: record trades and quotes of stocks from a simulator that sends as fast as it is read."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Final

from waiting import eventually_sync

from benchmarks import handshakes, harness, units
from benchmarks.harness import PROGRAM_CPU, Program, Span
from benchmarks.native import Native
from benchmarks.peers.option import Peer
from benchmarks.scenario import ALONE, RECORDER, Case, Column, Plan, Run, Scenario, Target
from recorder import native

INTERPRETED = "recorder, without native code"
"""Who a row is about where all is Python."""
MODELS = "massive, models"
RAW = "massive, raw"
_EVENTS = "polygon_events_total"
FRAMES = (10, 100)
SYMBOLS: Final = 1_000
"""Of the market that is played to peers."""
_FLOOD: Final = 1e12
"""More events a second than anybody reads: TCP holds the rest."""
QUICK_EVENTS: Final = 20_000
_READ_BYTES: Final = 1 << 20
_QUIET_SECS: Final = 2.0
"""A file that has not grown for so long is whole."""


def flood(frame_events: int) -> tuple[str, ...]:
    """Return the options of a simulator that sends as fast as it is read."""
    return ("--rate", "0", "--frame-events", str(frame_events))


def work(frame_events: int) -> str:
    """Return the name of a load."""
    return f"{frame_events} event{'s' if frame_events > 1 else ''} a frame"


def recorded(plan: Plan, frame_events: int, **settings: str) -> Run:
    """Measure the recorder."""
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *flood(frame_events)) as port,
        harness.recorder(port, folder, **settings) as recorder,
    ):
        harness.warmed_up(recorder, plan.warm_up_events)
        span = harness.watch(recorder, plan.seconds)
        peak_bytes = span.after.metrics.total("polygon_sink_pending_peak_bytes")
        written = span.per_sec("polygon_sink_written_bytes_total")
        run = Run(figures(span, span.counted(_EVENTS)), harness.stop(recorder))
        run.figures["frame_events"] = frame_events
        run.figures |= {"written_mb_per_sec": written / 1e6, "pending_peak_mib": peak_bytes / 2**20}
        return run


def figures(span: Span, events: float) -> dict[str, float]:
    """Return the figures that every program has: how fast, at what price, and what the limit was."""
    return {
        "events_per_sec": events / span.secs,
        "cpu_us_per_event": span.cpu_secs / events * 1e6,
        "cpu_share": span.cpu_share,
        "load_share": span.load_share,
    }


def _peer(plan: Plan, frame_events: int, form: str) -> Run:
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *flood(frame_events)) as port,
        Program(
            "benchmarks.peers.massive_client",
            *(str(port), str(folder / "lines.ndjson"), form),
            cpu=PROGRAM_CPU,
        ) as client,
    ):
        enough = plan.pick(plan.warm_up_events, 1)
        eventually_sync(lambda: client.ask()["events"] >= enough, "the client writes", 60, 0.05)
        before = client.ask()["events"]
        span = harness.watch(client, plan.seconds)
        return Run(figures(span, client.ask()["events"] - before))


def by_peer(plan: Plan, peer: Peer, frame_events: int, rate: float = _FLOOD) -> Run:
    """Measure a program that was given by option: `rate` events a second; without one, as fast as it reads.

    Its file tells what it has done: a line is an event. Only its size is looked at meanwhile; the lines are counted when
    the program has ended.
    """
    fed = units.frames(units.market(SYMBOLS, frame_events, int(plan.pick(0, QUICK_EVENTS))))
    with plan.scratch() as folder, handshakes.listening() as listener:
        file = folder / "peer.out"
        data, index = fed.save(folder)
        with peer.started(folder, handshakes.port_of(listener), handshakes.free_port(), file) as program:
            feed = handshakes.followed(listener)
            silent, far = handshakes.pair()  # the load wants a client
            # The peer stays connected until it has written everything.
            with feed.dup(), far:
                options = ("-d", str(data), "-i", str(index), "-t", "-r", str(rate))
                with Native("load", *options, sockets=[feed, silent]) as load:
                    _warmed_up(load, file, plan.warm_up_events)
                    before_bytes = _size(file)
                    span = harness.watch(program, plan.seconds)
                    written_bytes = _size(file) - before_bytes
                    sent = load.finish()["events"]
                _wait_for_rest(file)
        with file.open("rb") as lines:
            written = sum(block.count(b"\n") for block in iter(lambda: lines.read(_READ_BYTES), b""))
        bytes_per_event = _size(file) / max(1, written)
    if not written_bytes:
        return Run(failures=["it wrote nothing while it was measured"])
    run = Run(figures(span, written_bytes / bytes_per_event))
    run.figures |= {"frame_events": frame_events, "written_mb_per_sec": written_bytes / span.secs / 1e6}
    if written != sent:
        run.failures.append(f"{sent:,} events were sent, and its file has {written:,} lines")
    return run


def _warmed_up(load: Native, file: Path, events: float) -> None:
    eventually_sync(
        lambda: load.ask()["events"] >= events and _size(file) > 0, "the peer reads and writes", 60, 0.05
    )


def _wait_for_rest(file: Path) -> None:
    """Wait until a file grows no more."""
    size = -1
    while size != (size := _size(file)):
        time.sleep(_QUIET_SECS)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def alone(plan: Plan, *options: str, topics: str = "T.*,Q.*") -> Run:
    """Measure how fast the simulator goes when a client throws away what it reads."""
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *options) as port,
        harness.drain(port, 1, topics, cpu=PROGRAM_CPU) as drain,
    ):

        def events() -> float:
            counts = drain.ask()
            each = counts["bytes_per_event"]
            return counts["bytes"][0] / each if each else 0.0

        eventually_sync(lambda: events() >= plan.warm_up_events, "the simulator sends", 60, 0.05)
        before = events()
        span = harness.watch(drain, plan.seconds)
        return Run(figures(span, events() - before))


def _cases(plan: Plan) -> list[Case]:
    return [
        case
        for frame_events in FRAMES
        for case in (
            Case(work(frame_events), RECORDER, partial(recorded, frame_events=frame_events)),
            Case(
                work(frame_events),
                INTERPRETED,
                partial(recorded, frame_events=frame_events, RECORDER_NATIVE=native.NO),
            ),
            Case(work(frame_events), RAW, partial(_peer, frame_events=frame_events, form="raw")),
            Case(work(frame_events), MODELS, partial(_peer, frame_events=frame_events, form="models")),
            *(
                Case(work(frame_events), peer.name, partial(by_peer, peer=peer, frame_events=frame_events))
                for peer in plan.peers
                if peer.records
            ),
            Case(work(frame_events), ALONE, lambda plan, n=frame_events: alone(plan, *flood(n))),
        )
    ]


SCENARIO = Scenario(
    number=1,
    name="record",
    question="How many events a second does one core record, with no drop, and what does one cost?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".3f"),
        Column("cpu_share", "core busy", ".0%"),
        Column("load_share", "load's core busy", ".0%"),
        Column("written_mb_per_sec", "MB/s written"),
        Column("pending_peak_mib", "MiB pending at most", ".1f"),
    ),
    cases=_cases,
    targets=(
        Target("≥ 1.0 M events/s, 10 a frame", work(10), "events_per_sec", at_least=1_000_000),
        Target("≥ 1.2 M events/s, 100 a frame", work(100), "events_per_sec", at_least=1_200_000),
        *(
            Target(
                f"≥ 620 k events/s without native code, {n} a frame",
                work(n),
                "events_per_sec",
                at_least=620_000,
                who=INTERPRETED,
            )
            for n in FRAMES
        ),
        *(
            Target(
                f"≥ 12 × the vendor's Python client writing the same lines, {n} a frame",
                work(n),
                "events_per_sec",
                at_least=12,
                versus=(work(n), RAW),
                form=".1f",
            )
            for n in FRAMES
        ),
    ),
    note="Stocks, `T.*` and `Q.*` of the seeded market, `SINK=ndjson` to files of 256 MiB. The recorder takes what the "
    "simulator sends; where the load's core is busy all the time and the recorder's is not, the simulator is the limit. "
    "The vendor's client runs as its docs show it: a callback for each frame, `json`, a file; `raw` writes the "
    "recorder's lines, `models` its own.",
)
