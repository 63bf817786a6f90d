"""What a load takes, in machines, bandwidth, storage and money, from what was measured: `python -m benchmarks.scaling`.

`make docs` writes the tables of docs/scaling.md with it. The costs are medians of benchmarks/results; what nobody can
measure here (machines, prices, hours, how full a core may be) is an option.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from benchmarks.page import DOCS, marked
from benchmarks.scenario import RECORDER, kept

PAGE: Final = DOCS / "scaling.md"
CLIENTS: Final = (100, 1_000, 10_000, 100_000, 1_000_000)
EVENTS_PER_SEC: Final = (50_000, 250_000, 1_000_000)
_MB: Final = 1e6
_DAY_SECS: Final = 86_400
_MONTH_DAYS: Final = 30.4
_MONTH_HOURS: Final = _MONTH_DAYS * 24
_REPLICAS: Final = 3


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is not measured."""

    share: float = 0.002
    """Part of all events that a client takes: 20 symbols of 10,000."""
    usage: float = 0.5
    """How full a core may be on average, so that an opening of the market fits."""
    cores: int = 16
    """Cores of a machine."""
    memory_gib: float = 32
    """Memory of a machine."""
    gbit_per_sec: float = 10
    """Network of a machine, of which the same part is used as of a core."""
    connections: int = 50_000
    """Clients of a machine: CLIENTS_MAX, and half of the descriptors that a process is usually allowed."""
    market_hours: float = 6.5
    """Hours a day with the rate of the table."""
    market_days: float = 21
    """Days a month with them."""
    stream_days: float = 7
    """Days that the stream keeps."""
    machine_per_hour: float = 0.60
    """Money for an hour of a machine."""
    stored_per_gb_month: float = 0.08
    """Money for a gigabyte of disk, for a month."""
    sent_per_gb: float = 0.01
    """Money for a gigabyte that leaves the machine."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. All µs are of one core."""

    record_us: float
    """An event into the archive, decoding included."""
    append_us: float
    """An event into a stream with three servers, decoding included."""
    servers_us: float
    """An event, all three servers together."""
    stored_bytes: float
    """An event in the stream, on each server."""
    pass_on_us: float
    """An event that a process decodes and serves to a single client."""
    joined_us: float
    """An event to a client that takes everything, beside many others."""
    write_us: float
    """One write to a client's socket."""
    passes_per_sec: float
    """How often a process that is busy writes to each client: it reads more at a time, the busier it is."""
    client_kib: float
    event_bytes: float
    record_bytes: float
    """An event in the archive, compressed with zstd."""

    @classmethod
    def measured(cls, results: Sequence[Mapping[str, Any]]) -> Costs:
        """Return the costs that these results have."""

        def of(scenario: str, work: str) -> Mapping[str, float]:
            [found] = [
                row["median"]
                for result in results
                if result["scenario"] == scenario
                for row in result["rows"]
                if (row["work"], row["who"]) == (work, RECORDER)
            ]
            return dict(found)

        record = of("record", "100 events a frame")
        stream = of("nats", "3 servers, as many replicas")
        joined = of("firehose", "1,000 clients")
        chosen = of("filtered", "1,000 clients, 20 symbols each")
        single = of("filtered", "1 client, `*`")
        # Each frame is written to each of the hundred clients by itself at this rate.
        written = of("latency", "firehose, 10 k events/s, with 99 others")
        frames_per_sec = written["rate_firehose_100"] / _FRAME_EVENTS
        write_us = written["cpu_share"] * 1e6 / (frames_per_sec * written["clients"])
        base_us = chosen["events_per_sec"] * single["cpu_us_per_event"]
        serving_us = max(0.0, chosen["cpu_share"] * 1e6 - base_us)
        return cls(
            record_us=record["cpu_us_per_event"],
            append_us=stream["cpu_us_per_event"],
            servers_us=stream["servers_cpu_us_per_event"],
            stored_bytes=stream["stored_bytes_per_event"],
            pass_on_us=single["cpu_us_per_event"],
            joined_us=joined["cpu_us_per_delivery"],
            write_us=write_us,
            passes_per_sec=serving_us / (write_us * chosen["clients"]),
            client_kib=of("memory", "5,000 idle clients")["kib_per_client"],
            event_bytes=joined["mb_per_sec"] * _MB / joined["deliveries_per_sec"],
            record_bytes=record["written_mb_per_sec"]
            * _MB
            / record["events_per_sec"]
            / of("rotation", "flood, rotation, zstd")["size_ratio"],
        )

    def client_us_per_sec(self, deliveries_per_sec: float) -> float:
        """Return what a second of one client costs: bytes, or writes where they are many for the bytes."""
        writes_per_sec = min(deliveries_per_sec, self.passes_per_sec)
        return max(deliveries_per_sec * self.joined_us, writes_per_sec * self.write_us)


_FRAME_EVENTS: Final = 10
"""Events of a frame in the latency scenario."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What taking the events in, keeping and passing them on takes, whatever the number of clients."""

    recorder_cores: float
    servers_cores: float
    into_mbit_per_sec: float
    stream_gb: float
    archive_gb_per_day: float
    money_per_month: float
    breaks_first: str


@dataclass(frozen=True, slots=True)
class Serving:
    """What a number of clients takes."""

    cores: float
    shape: str
    machines: int
    gbit_per_sec: float
    money_per_month: float
    breaks_first: str


def upstream(costs: Costs, assumed: Assumptions, events_per_sec: float) -> Upstream:
    """Return what the events take before anybody is served: archive and stream, each on three machines or disks."""
    recorder_cores = events_per_sec * (costs.record_us + costs.append_us) / 1e6
    day_events = events_per_sec * assumed.market_hours * 3600
    stream_gb = day_events * costs.stored_bytes * assumed.stream_days / 1e9
    archive_gb = day_events * costs.record_bytes / 1e9
    # Two recorders that count as one, three servers of the stream; the archive of a month on either recorder.
    machines = 2 + _REPLICAS
    stored_gb = stream_gb * _REPLICAS + 2 * archive_gb * assumed.market_days
    money = machines * assumed.machine_per_hour * _MONTH_HOURS + stored_gb * assumed.stored_per_gb_month
    if recorder_cores > 1:
        breaks = "the recorder: more than one core; divide the clusters or topics among recorders"
    elif recorder_cores > assumed.usage:
        breaks = f"the recorder: more than {assumed.usage:.0%} of its core"
    else:
        breaks = "nothing"
    return Upstream(
        recorder_cores=recorder_cores,
        servers_cores=events_per_sec * costs.servers_us / 1e6,
        into_mbit_per_sec=events_per_sec * costs.stored_bytes * 8 / 1e6,
        stream_gb=stream_gb,
        archive_gb_per_day=archive_gb,
        money_per_month=money,
        breaks_first=breaks,
    )


def serving(costs: Costs, assumed: Assumptions, clients: int, events_per_sec: float, share: float) -> Serving:
    """Return what the clients take, each of whom is sent this share of the events."""
    deliveries_per_sec = events_per_sec * share
    client_cores = costs.client_us_per_sec(deliveries_per_sec) / 1e6
    base_cores = events_per_sec * costs.pass_on_us / 1e6
    free_cores = assumed.usage - base_cores
    gbit_per_sec = clients * deliveries_per_sec * costs.event_bytes * 8 / 1e9
    alone_cores = base_cores + events_per_sec * costs.record_us / 1e6 + clients * client_cores
    if free_cores <= 0:
        limits = {"CPU: each process decodes everything": math.inf}
    else:
        # One core of a machine takes the events in for the others.
        of_machine = {
            "CPU": (assumed.cores - 1) * free_cores / client_cores,
            "network": assumed.gbit_per_sec * assumed.usage / (gbit_per_sec / clients),
            "memory": assumed.memory_gib * assumed.usage * 2**20 / costs.client_kib,
            "connections": assumed.connections,
        }
        limits = {name: clients / most for name, most in of_machine.items()}
    breaks, needed = max(limits.items(), key=lambda limit: limit[1])
    fits_alone = alone_cores <= assumed.usage and all(
        part <= 1 for name, part in limits.items() if name != "CPU"
    )
    if fits_alone:
        shape, machines = "one process", 1
    elif needed <= 1:
        workers = math.ceil(clients * client_cores / free_cores)
        shape, machines = f"{workers} worker{'s' * (workers > 1)}", 1
    elif math.isinf(needed):
        shape, machines = "recorders of a part each", 0
    else:
        machines = math.ceil(needed)
        shape = f"{machines:,} tiers"
    seconds = assumed.market_hours * 3600 * assumed.market_days
    sent_gb = gbit_per_sec / 8 * seconds
    money = machines * assumed.machine_per_hour * _MONTH_HOURS + sent_gb * assumed.sent_per_gb
    return Serving(
        cores=clients * client_cores,
        shape=shape,
        machines=machines,
        gbit_per_sec=gbit_per_sec,
        money_per_month=money,
        breaks_first=breaks,
    )


def tables(costs: Costs, assumed: Assumptions) -> str:
    """Return the tables of the page."""
    return "\n".join(
        [
            *_upstream_table(costs, assumed),
            "",
            f"Clients that take {assumed.share:.2g} of all events each, such as 20 symbols of 10,000:",
            "",
            *_serving_table(costs, assumed, assumed.share),
            "",
            "Clients that take everything:",
            "",
            *_serving_table(costs, assumed, 1.0),
            "",
            *_used(costs, assumed),
            "",
        ]
    )


def _upstream_table(costs: Costs, assumed: Assumptions) -> Iterator[str]:
    yield (
        "| events/s | cores of a recorder | cores of three servers | into the stream, Mbit/s | "
        f"stream of {assumed.stream_days:g} days, GB a server | archive, GB a day | money a month | breaks first |"
    )
    yield "|---:|---:|---:|---:|---:|---:|---:|---|"
    for rate in EVENTS_PER_SEC:
        one = upstream(costs, assumed, rate)
        yield (
            f"| {rate:,} | {one.recorder_cores:.2f} | {one.servers_cores:.2f} | {one.into_mbit_per_sec:,.0f} | "
            f"{one.stream_gb:,.0f} | {one.archive_gb_per_day:,.0f} | {one.money_per_month:,.0f} | {one.breaks_first} |"
        )


def _serving_table(costs: Costs, assumed: Assumptions, share: float) -> Iterator[str]:
    yield "| clients | events/s | cores | what serves them | sent, Gbit/s | money a month | breaks first |"
    yield "|---:|---:|---:|---|---:|---:|---|"
    for clients in CLIENTS:
        for rate in EVENTS_PER_SEC:
            one = serving(costs, assumed, clients, rate, share)
            yield (
                f"| {clients:,} | {rate:,} | {_number(one.cores)} | {one.shape} | {_number(one.gbit_per_sec)} | "
                f"{one.money_per_month:,.0f} | {one.breaks_first} |"
            )


def _used(costs: Costs, assumed: Assumptions) -> Iterator[str]:
    yield (
        f"Measured ([performance.md](performance.md)): an event costs {costs.record_us:.2f} µs into the archive, "
        f"{costs.append_us:.2f} µs into the stream and {costs.servers_us:.2f} µs at its three servers together, and "
        f"{costs.pass_on_us:.2f} µs in each process that serves it; {costs.joined_us:.4f} µs for each client that takes "
        f"everything, or {costs.write_us:.1f} µs for a write, of which a busy process makes about "
        f"{costs.passes_per_sec:.0f} a second for each client. A client takes {costs.client_kib:.0f} KiB. An event has "
        f"{costs.event_bytes:.0f} bytes on the wire, {costs.stored_bytes:.1f} in the stream, {costs.record_bytes:.0f} in "
        "the archive."
    )
    yield ""
    yield (
        f"Assumed, and an option each: cores are {assumed.usage:.0%} full on average, and so are networks and memory; a "
        f"machine has {assumed.cores} cores, {assumed.memory_gib:g} GiB, {assumed.gbit_per_sec:g} Gbit/s, and takes "
        f"{assumed.connections:,} clients; the rate lasts {assumed.market_hours:g} hours on {assumed.market_days:g} days a "
        f"month; a machine costs {assumed.machine_per_hour:.2f} an hour, a gigabyte {assumed.stored_per_gb_month:.2f} a "
        f"month on disk, and {assumed.sent_per_gb:.2f} once it is sent."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def render_markdown() -> str:
    """Return docs/scaling.md with its tables, as the results have them."""
    return marked(PAGE.read_text(encoding="utf-8"), "tables", tables(Costs.measured(kept()), Assumptions()))


def main() -> None:
    """Print the tables, with assumptions of your own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    for one in fields(Assumptions):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    print(tables(Costs.measured(kept()), Assumptions(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
