"""Scenario 6: bars of 100 ms and of a second of every symbol, and whether any trade is missing from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from waiting import eventually_sync

from benchmarks import handshakes, harness
from benchmarks.harness import Metrics, Program
from benchmarks.scenario import ALONE, RECORDER, Case, Column, Plan, Run, Scenario, Target
from benchmarks.scenarios.record import INTERPRETED, alone, figures
from recorder import native

_SYMBOLS = 8000
_FRAME_EVENTS = 100
_INTERVALS_MS = (100, 1000)
_TOPICS = ",".join(f"{interval}Ms.*" for interval in _INTERVALS_MS)
_LOAD = ("--symbols", str(_SYMBOLS), "--rate", "0", "--frame-events", str(_FRAME_EVENTS))
_LEFT_OUT = "polygon_bars_left_out_total"
VENDOR, EVERY = "the vendor's conditions", "every trade counts, each checked"


class _Trade(msgspec.Struct):
    """What is added up of a trade in the simulator's log."""

    s: Decimal
    ds: Decimal | None = None


class _Logged(msgspec.Struct):
    frame: list[_Trade]


def _made(plan: Plan, conditions: str, checked: bool, **settings: str) -> Run:
    """Measure; then let the market end, so that every window closes, and account for every trade."""
    with ExitStack() as stack:
        folder = stack.enter_context(plan.scratch())
        # The market opens when the client is there, so that no window has begun before it.
        port = handshakes.free_port()
        recorder = stack.enter_context(
            harness.recorder(
                port,
                folder,
                ROLES="bars,ops",
                SUBSCRIPTION="T.*",
                BAR_CONDITIONS=conditions,
                BAR_SILENCE_MAX_MS="1000",  # At the end nobody is left to answer a ping.
                **settings,
            )
        )
        client = stack.enter_context(
            Program("benchmarks.bar_client", recorder.port_of("bars"), _TOPICS, cpu=harness.LOAD_CPU)
        )
        harness.clients_subscribed(recorder, "bars", 1)
        log = folder / "sent.ndjson"
        options = (*_LOAD, "--port", str(port), *(("--log", str(log)) if checked else ()))
        with harness.exchange(folder, *options):
            harness.warmed_up(recorder, plan.warm_up_events)
            span = harness.watch(recorder, plan.seconds)
        eventually_sync(
            lambda: recorder.metric("polygon_connected") + recorder.metric("polygon_bars_open_windows") == 0,
            "every window is closed",
            every_secs=0.05,
        )
        _all_taken(client)
        metrics = Metrics(recorder.get("/metrics")[1])
        got = client.finish()
        run = Run(figures(span, span.counted("polygon_trades_total")), harness.stop(recorder))
        run.figures |= {
            "bars_per_sec": span.per_sec("polygon_bars_total"),
            "late": metrics.total(_LEFT_OUT, reason="late"),
            **_accounts(metrics, got),
        }
        if checked:
            run.failures += _held_against(log, metrics, got)
        if run.figures["missing"]:
            run.failures.append(f"{run.figures['missing']:,.0f} trades are missing from bars")
        return run


def _accounts(metrics: Metrics, got: dict[str, Any]) -> dict[str, float]:
    """Count the entries (a trade has one for each length of bar) that are in no bar for no reason, or in bars too often."""
    entries = metrics.total("polygon_bars_entries_total")
    trades = metrics.total("polygon_trades_total") - sum(
        metrics.total(_LEFT_OUT, reason=reason) for reason in ("unreadable", "misdated")
    )
    left_out = sum(
        metrics.total(_LEFT_OUT, reason=reason)
        for reason in ("late", "not_counted", "unpriced", "partial", "abandoned")
    )
    used = metrics.total("polygon_bars_entries_used_total")
    bars = metrics.total("polygon_bars_total")
    return {
        "missing": abs(entries - used - left_out)
        + abs(trades * len(_INTERVALS_MS) - entries)
        + abs(bars - sum(got["bars"].values())),
        "trades": trades,
    }


def _held_against(log: Path, metrics: Metrics, got: dict[str, Any]) -> list[str]:
    """Hold the sums of the client's bars against what the simulator says it has sent."""
    found = []
    received = int(metrics.total("polygon_trades_total"))
    sent, volume = _sent(log, received)
    if sent != received:
        found.append(f"{sent:,} trades sent, {received:,} received")
    late = metrics.total(_LEFT_OUT, reason="late")
    in_bars = sum(got["trades"].values())
    if in_bars + late != sent * len(_INTERVALS_MS):
        found.append(f"{sent:,} trades sent, {in_bars:,} in bars of {_TOPICS}, {late:,.0f} late")
    for interval, sum_ in got["volume"].items():
        if not late and Decimal(sum_) != volume:
            found.append(f"volume {volume} sent, {sum_} in bars of {interval} ms")
    return found


def _sent(log: Path, count: int) -> tuple[int, Decimal]:
    """Return number and volume of the first `count` trades of the simulator's log; the end of it never left the socket."""
    decode = msgspec.json.Decoder(_Logged).decode
    every = (trade for line in _lines(log) for trade in decode(line).frame)
    trades, volume = 0, Decimal(0)
    for trade in islice(every, count):
        trades += 1
        volume += trade.s if trade.ds is None else trade.ds
    return trades, volume


def _lines(log: Path) -> Iterator[bytes]:
    with log.open("rb") as file:
        yield from (line for line in file if b'"frame"' in line)


def _all_taken(client: Program) -> None:
    """Wait until nothing more comes to the client."""
    seen = -1

    def quiet() -> bool:
        nonlocal seen
        before, seen = seen, client.ask()["bytes"]
        return before == seen

    eventually_sync(quiet, "the client has everything", every_secs=0.3)


SCENARIO = Scenario(
    number=6,
    name="bars",
    question="How many trades a second become bars of 100 ms and of a second of 8,000 symbols, and is any missing?",
    columns=(
        Column("events_per_sec", "trades/s"),
        Column("bars_per_sec", "bars/s"),
        Column("cpu_us_per_event", "CPU µs/trade", ".2f"),
        Column("cpu_share", "core busy", ".0%"),
        Column("load_share", "load's core busy", ".0%"),
        Column("trades", "trades in all"),
        Column("missing", "missing"),
        Column("late", "late"),
    ),
    cases=lambda plan: [
        Case(VENDOR, RECORDER, partial(_made, conditions="vendor", checked=False)),
        Case(
            VENDOR,
            INTERPRETED,
            partial(_made, conditions="vendor", checked=False, RECORDER_NATIVE=native.NO),
        ),
        Case(EVERY, RECORDER, partial(_made, conditions="all", checked=True)),
        Case(VENDOR, ALONE, lambda plan: alone(plan, *_LOAD, topics="T.*")),
    ],
    targets=(
        Target("≥ 600 k trades/s, 8,000 symbols", VENDOR, "events_per_sec", at_least=600_000),
        Target(
            "≥ 250 k trades/s without native code, 8,000 symbols",
            VENDOR,
            "events_per_sec",
            at_least=250_000,
            who=INTERPRETED,
        ),
        Target("no trade missing", VENDOR, "missing", at_most=0),
        Target("no trade missing, against the simulator's log", EVERY, "missing", at_most=0),
    ),
    note="`T.*` of 8,000 symbols as fast as the recorder takes it, one client with `100Ms.*` and `1000Ms.*`. At the end the "
    "market stops, every window closes, and each trade is accounted for: in a bar that reached the client, or left out "
    "for a counted reason. In the last row of ours trades and exact volumes of bars are held against the simulator's own "
    "log, which makes it slower.",
)
