"""What the serving scenarios share: a program between feed and clients, every byte counted, and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from commands import Running
from waiting import eventually_sync

from benchmarks import harness
from benchmarks.harness import Span
from benchmarks.native import Native, raise_file_limit
from benchmarks.scenario import Column, Plan, Run
from benchmarks.stages import EVERYTHING, Audience, Server, Stage
from benchmarks.units import Market, Units, market

BARE_LOOP: Final = "bare C loop"
STRAIGHT: Final = "load alone"
"""The load writes to itself: what is left where no program is between."""
SYMBOLS: Final = 1_000
FRAME_EVENTS: Final = 10
WINDOW_BYTES: Final = 1 << 20
"""So much is on its way from the feed to the slowest client, at most: no program has to hold more for anybody."""
_QUICK_EVENTS: Final = 20_000
_WARM_UP_SECS: Final = 0.5
_GIVING_UP_SECS: Final = 120.0

COLUMNS: Final = (
    Column("events_per_sec", "events/s in"),
    Column("deliveries_per_sec", "deliveries/s"),
    Column("mb_per_sec", "MB/s out", ",.1f"),
    Column("cpu_us_per_delivery", "CPU µs/delivery", ".4f"),
    Column("cpu_share", "core busy", ".0%"),
    Column("load_share", "load's core busy", ".0%"),
)
PER_EVENT: Final = Column("cpu_us_per_event", "CPU µs/event in", ".3f")


def played(plan: Plan) -> Market:
    """Return what is fed."""
    return market(SYMBOLS, FRAME_EVENTS, int(plan.pick(0, _QUICK_EVENTS)))


@contextmanager
def loaded(
    plan: Plan, server: Server, units: Units, audience: Audience, *options: str
) -> Iterator[tuple[Stage, Native]]:
    """Yield a program under load. Clients that get everything come first."""
    raise_file_limit()
    with plan.scratch() as folder, server(folder, audience) as stage:
        data, index = units.save(folder)
        full = sum(topics == EVERYTHING for topics in audience)
        form = ("-t",) if units.as_sent else ("-o", str(units.overhead))
        with Native(
            "load",
            *("-d", str(data), "-i", str(index), "-f", str(full), *form, *options),
            sockets=[stage.feed, *stage.clients],
        ) as load:
            yield stage, load


def flood(plan: Plan, server: Server, units: Units, audience: Audience) -> Run:
    """Feed a program as fast as its slowest client gets everything; return its figures."""
    window = ("-w", str(WINDOW_BYTES))
    with loaded(plan, server, units, audience, *window) as (stage, load):
        warmed_up(load, WINDOW_BYTES)
        span, before, after = observed(plan, stage, load)
        failures = ended(stage, load, units, audience)
    matches = matches_per_event(units.market, audience)
    secs = (after["at_ns"] - before["at_ns"]) / 1e9
    events_per_sec = (after["events"] - before["events"]) / secs
    deliveries_per_sec = events_per_sec * matches
    figures = {
        "clients": len(audience),
        "events_per_sec": events_per_sec,
        "deliveries_per_sec": deliveries_per_sec,
        "mb_per_sec": (after["bytes"] - before["bytes"]) / secs / 1e6,
        "load_share": span.load_share,
    }
    if stage.program is not None:
        figures |= {
            "cpu_us_per_delivery": span.cpu_share / deliveries_per_sec * 1e6,
            "cpu_us_per_event": span.cpu_share / events_per_sec * 1e6,
            "cpu_share": span.cpu_share,
        }
    return Run(figures, failures)


def paced(plan: Plan, server: Server, units: Units, audience: Audience, rate: int) -> Run:
    """Feed a program `rate` events a second; return how long they took to reach the last client."""
    with loaded(plan, server, units, audience, "-m", "-r", str(rate)) as (stage, load):
        warmed_up(load, units.weight_of_all / units.market.events * rate * _WARM_UP_SECS)
        span, _, after = observed(plan, stage, load)
        failures = ended(stage, load, units, audience)
    if not after["latencies"]:
        return Run(failures=[*failures, "the client got no frame in time"])
    figures = {
        "clients": len(audience),
        "frames_timed": after["latencies"],
        "cpu_us_per_event": span.cpu_share / rate * 1e6,
        "cpu_share": span.cpu_share,
    }
    figures |= {f"{name}_ms": after[f"{name}_ns"] / 1e6 for name in ("p50", "p99", "p999", "max")}
    return Run(figures, failures)


def warmed_up(load: Native, progress: float) -> None:
    """Wait until every client that gets everything has got that much."""
    eventually_sync(
        lambda: (counts := load.ask())["progress"] > progress and counts["slowest"] > progress,
        "the clients read",
        _GIVING_UP_SECS,
        0.05,
    )


def observed(plan: Plan, stage: Stage, load: Native) -> tuple[Span, dict[str, Any], dict[str, Any]]:
    """Let it work; return what the program did, and what the load had counted before and after."""
    before = load.ask()
    span = harness.watch(stage.program or load, plan.seconds)
    return span, before, load.ask()


def ended(stage: Stage, load: Native, units: Units, audience: Audience) -> list[str]:
    """End the load; return what forbids to count the run: anybody cut, anything that a client did not get."""
    counts = load.finish()
    found = [f"{counts['ended']:,} clients cut"] if counts["ended"] else []
    found += unequal(counts, units, audience)
    if isinstance(stage.program, Running):
        found += harness.stop(stage.program)
    return found


def unequal(counts: dict[str, Any], units: Units, audience: Audience) -> list[str]:
    """Compare what each client got with what was fed, byte by byte in sum."""
    weights = {} if units.as_sent else units.topics_weights(counts["units"])
    lacking = wrong = 0
    for topics, got in zip(audience, counts["clients"], strict=True):
        due = counts["progress"] if topics == EVERYTHING else sum(weights.get(topic, 0) for topic in topics)
        wrong += got != due
        lacking += max(0, due - got)
    return [f"{wrong:,} clients did not get what was due, {lacking:,} bytes are missing"] if wrong else []


def matches_per_event(played: Market, audience: Sequence[Sequence[str]]) -> float:
    """Return how many clients get an event, on average."""
    shares = played.shares()
    full = sum(topics == EVERYTHING for topics in audience)
    others = sum(shares[topic] for topics in audience if topics != EVERYTHING for topic in topics)
    return full + others / played.events
