"""Scenario 8: archive, firehose, filtered and bars at once, on one core."""

from __future__ import annotations

from functools import partial

from benchmarks import handshakes, harness
from benchmarks.scenario import ALONE, RECORDER, Case, Column, Plan, Run, Scenario, Target
from benchmarks.scenarios.record import alone, figures, flood
from recorder.simulator.listings import listed

_FRAME_EVENTS = 100
_SYMBOLS = 1000
_TOPICS_EACH = 20
_SEED = 1
"""The simulator's own, so that its symbols are known."""
FIREHOSE_CLIENTS = FILTERED_CLIENTS = 100
LOADS = {
    "flood": flood(_FRAME_EVENTS),
    "250 k events/s": ("--rate", "250000", "--no-bursts", "--frame-events", str(_FRAME_EVENTS)),
    "100 k events/s": ("--rate", "100000", "--no-bursts", "--frame-events", str(_FRAME_EVENTS)),
}
MARKET = ("--symbols", str(_SYMBOLS), "--seed", str(_SEED))


def topics(client: int) -> str:
    """Return the topics of a filtered client: trades or quotes of symbols, spread over the market."""
    symbols = [entry.symbol for entry in listed("stocks", _SEED, _SYMBOLS)]
    chosen = [
        symbols[(client * _TOPICS_EACH // 2 + turn // 2) % len(symbols)] for turn in range(_TOPICS_EACH)
    ]
    return ",".join(f"{'TQ'[turn % 2]}.{symbol}" for turn, symbol in enumerate(chosen))


def _served(plan: Plan, load: str) -> Run:
    firehose, filtered = int(plan.pick(FIREHOSE_CLIENTS, 10)), int(plan.pick(FILTERED_CLIENTS, 10))
    # The market opens when all clients are there: beside a flood, who comes late hardly gets a turn.
    port = handshakes.free_port()
    with (
        plan.scratch() as folder,
        harness.recorder(port, folder, ROLES="archive,firehose,filtered,bars,ops") as recorder,
        harness.drain(int(recorder.port_of("firehose")), firehose, "*") as all_,
        harness.drain(int(recorder.port_of("filtered")), filtered, *map(topics, range(filtered))) as some,
        harness.drain(int(recorder.port_of("bars")), 1, "100Ms.*") as bars,
    ):
        for name, clients in (("firehose", firehose), ("filtered", filtered), ("bars", 1)):
            harness.clients_subscribed(recorder, name, clients)
        with harness.exchange(folder, *MARKET, *LOADS[load], "--port", str(port)):
            harness.warmed_up(recorder, plan.warm_up_events)
            span = harness.watch(recorder, plan.seconds)
            failures = harness.stop(recorder, all_, some, bars)
        run = Run(figures(span, span.counted("polygon_events_total")), failures)
        run.figures |= {
            "deliveries_per_sec": span.per_sec("polygon_server_events_total"),
            "served_mb_per_sec": span.per_sec("polygon_server_sent_bytes_total") / 1e6,
            "bars_per_sec": span.per_sec("polygon_bars_total"),
            "pass_p99_ms": span.percentile("polygon_pass_duration_seconds", 0.99) * 1e3,
        }
        return run


def _cases(plan: Plan) -> list[Case]:
    cases = [Case(load, RECORDER, partial(_served, load=load)) for load in LOADS]
    return [*cases, Case("flood", ALONE, lambda plan: alone(plan, *MARKET, *flood(_FRAME_EVENTS)))]


SCENARIO = Scenario(
    number=8,
    name="everything",
    question="What does one core do when it records, serves and makes bars at once?",
    columns=(
        Column("events_per_sec", "events/s in"),
        Column("deliveries_per_sec", "deliveries/s"),
        Column("served_mb_per_sec", "MB/s served"),
        Column("bars_per_sec", "bars/s"),
        Column("cpu_us_per_event", "CPU µs/event", ".2f"),
        Column("cpu_share", "core busy", ".0%"),
        Column("load_share", "load's core busy", ".0%"),
        Column("pass_p99_ms", "pass p99, ms", ".1f"),
    ),
    cases=_cases,
    targets=(
        Target(
            "≥ 250 k events/s: archive, 100 firehose clients, 100 filtered, bars",
            "flood",
            "events_per_sec",
            at_least=250_000,
        ),
    ),
    note="100 clients of the firehose; 100 filtered with 20 topics each of 1,000 symbols; one with `100Ms.*`. While "
    "flooding, the simulator waits for the recorder alone: clients that the load's core does not let read are cut, "
    "and the run fails. A worker that serves (SERVE_WORKERS=1) would need a core beside the load's and the recorder's; "
    "scenario 12 shows what it takes off.",
)
