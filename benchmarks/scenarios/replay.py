"""Scenario 15: how fast an archive is replayed, how exactly it keeps its pace, and what memory that takes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from commands import KEY, Running, running
from waiting import eventually_sync

from benchmarks import harness
from benchmarks.drain import connected
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_EVENTS: Final = 1_000_000
_QUICK_EVENTS: Final = 20_000
_FRAME_EVENTS: Final = 10
_RATE: Final = 5_000
"""Events a second of the archives whose pace is measured, as they were recorded."""
_RECORDED_SECS: Final = {1: 1.0, 10: 5.0}
"""How long is recorded for a pace, as a multiple of the time to measure."""
_READ_BYTES: Final = 1 << 20
_GIVING_UP_SECS: Final = 60.0
_COMPLETE: Final = b'"status":"replay_complete"'
_EVENT: Final = b'"ev":"'
_STATUS: Final = b'"ev":"status"'
_TIME: Final = slice(13, 26)
"""Of a record: the digits of `ingest_ts`."""
_FILE_BYTES: Final = "32MiB"
"""So that nearly all of the archive is compressed."""
_SAMPLE_SECS: Final = 0.1

FLOODS: Final = {"none": "max, plain", "zstd": "max, zstd"}
"""Compression of the archive, and the name of the work."""


def paced(rate: int) -> str:
    """Return the name of a pace."""
    return f"{rate}x, {_RATE * rate // 1000} k events/s"


@contextmanager
def _recorded(plan: Plan, compression: str, events: int, *load: str) -> Iterator[Path]:
    """Yield the folder of an archive of that many events at least."""
    variables = (
        {"NDJSON_COMPRESSION": compression, "NDJSON_MAX_BYTES": _FILE_BYTES} if compression != "none" else {}
    )
    with plan.scratch() as folder:
        stall = ("--fault", f"stall:after={events}")
        with (
            harness.exchange(folder, "--frame-events", str(_FRAME_EVENTS), *load, *stall) as exchange,
            harness.recorder(exchange, folder, **variables) as recorder,
        ):
            eventually_sync(lambda: recorder.received() >= events, "the whole market", _GIVING_UP_SECS, 0.05)
            eventually_sync(
                lambda: not recorder.metric("polygon_compress_pending_files"),
                "all compressed",
                _GIVING_UP_SECS,
                0.05,
            )
            failures = harness.stop(recorder)
        if failures:
            raise harness.Broken(f"the recording failed: {failures}")
        yield folder


@contextmanager
def _replaying(folder: Path, speed: str) -> Iterator[Running]:
    """Yield a replay that waits for its client, and goes on serving behind its end."""
    options = ("--free-ports", "--key", KEY, "--wait-for-clients", "1", "--linger", "60", "--speed", speed)
    variables = {"ROLES": "firehose,ops", "LOG_FORMAT": "json", "CLIENT_PING_INTERVAL_SECS": "86400"}
    prefix = harness.on(harness.PROGRAM_CPU)
    with running("replay", str(folder), *options, cwd=folder, prefix=prefix, **variables) as replay:
        replay.wait_for("started")
        yield replay


def _flooded(plan: Plan, compression: str) -> Run:
    """Replay as fast as one client takes it."""
    events = int(plan.pick(_EVENTS, _QUICK_EVENTS))
    with _recorded(plan, compression, events, "--rate", "0") as folder, _replaying(folder, "max") as replay:
        before = harness.look(replay)
        with connected(int(replay.port_of("firehose")), "/stocks", "*") as client:
            took_secs, size_bytes, memory, end = _read_all(client, replay)
            span = harness.Span(before, harness.look(replay))
            peak_mib = _peak_mib(replay)
            failures = harness.stop(replay)
        sent = int(json.loads(end.rpartition(b'"events":')[2].partition(b",")[0]))
        if sent < events:
            failures.append(f"{events - sent:,} events are missing")
    return Run(
        {
            "events_per_sec": sent / took_secs,
            "mb_per_sec": size_bytes / took_secs / 1e6,
            "cpu_us_per_event": span.cpu_secs / sent * 1e6,
            "peak_mib": peak_mib,
            "growth_mib": peak_mib - next(mib for size, mib in memory if size >= size_bytes / 2),
        },
        failures,
    )


def _peak_mib(replay: Running) -> float:
    return harness.memory(replay.process.pid).peak_bytes / 2**20


def _read_all(client: socket.socket, replay: Running) -> tuple[float, int, list[tuple[int, float]], bytes]:
    """Read to the end of a replay.

    Return how long that took from the first event on, how much it was, the peak of the memory after how much of it, and
    the last bytes.
    """
    client.settimeout(_GIVING_UP_SECS)
    began_secs, looked_secs, size_bytes, end = 0.0, 0.0, 0, b""
    memory: list[tuple[int, float]] = []
    while _COMPLETE not in end or b"}" not in end.partition(_COMPLETE)[2]:
        data = client.recv(_READ_BYTES)
        if not data:
            raise harness.Broken("the replay has closed the connection")
        now_secs = time.monotonic()
        if not began_secs and (b'"ev":"T"' in data or b'"ev":"Q"' in data):
            began_secs = now_secs
        size_bytes += len(data)
        if now_secs - looked_secs >= _SAMPLE_SECS:
            looked_secs = now_secs
            memory.append((size_bytes, _peak_mib(replay)))
        end = (end + data)[-1024:]
    memory.append((size_bytes, _peak_mib(replay)))
    return time.monotonic() - began_secs, size_bytes, memory, end


def _kept_pace(plan: Plan, rate: int) -> Run:
    """Replay at a pace, and compare when each event comes with when it was recorded."""
    events = int(_RATE * plan.seconds * _RECORDED_SECS[rate])
    load = ("--rate", str(_RATE), "--no-bursts")
    with _recorded(plan, "none", events, *load) as folder, _replaying(folder, str(rate)) as replay:
        with connected(int(replay.port_of("firehose")), "/stocks", "*") as client:
            arrivals = _arrivals(client)
        peak_mib = _peak_mib(replay)
        failures = harness.stop(replay)
        lines = (folder / "polygon.ndjson").read_bytes().splitlines()
        due_secs = [int(line[_TIME]) / 1000 / rate for line in lines]
    if arrivals[-1][1] != len(due_secs):
        failures.append(f"{arrivals[-1][1]:,} of {len(due_secs):,} events came")
    errors_ms = pacing_errors_ms(due_secs, arrivals)
    return Run(
        {
            "events_per_sec": len(due_secs) / (arrivals[-1][0] - arrivals[0][0]),
            "error_p50_ms": errors_ms[len(errors_ms) // 2],
            "error_p99_ms": errors_ms[len(errors_ms) * 99 // 100],
            "error_max_ms": errors_ms[-1],
            "peak_mib": peak_mib,
        },
        failures,
    )


def _arrivals(client: socket.socket) -> list[tuple[float, int]]:
    """Return after each read when it was, and how many events have come in all, until the end of the replay."""
    client.settimeout(_GIVING_UP_SECS)
    found: list[tuple[float, int]] = []
    count, carry, end = 0, b"", b""
    while _COMPLETE not in end:
        data = client.recv(_READ_BYTES)
        at_secs = time.monotonic()
        if not data:
            raise harness.Broken("the replay has closed the connection")
        # What a read cuts is counted with the next one.
        whole, bracket, rest = (carry + data).rpartition(b"]")
        whole, carry = whole + bracket, rest
        came = whole.count(_EVENT) - whole.count(_STATUS)
        if came:
            count += came
            found.append((at_secs, count))
        end = (end + data)[-1024:]
    return found


def pacing_errors_ms(due_secs: list[float], arrivals: list[tuple[float, int]]) -> list[float]:
    """Return by how much each event was later than the most punctual one, rising."""
    late_secs: list[float] = []
    before = 0
    for at_secs, count in arrivals:
        late_secs += [at_secs - due for due in due_secs[before:count]]
        before = count
    first = min(late_secs)
    return sorted((late - first) * 1000 for late in late_secs)


def _cases(plan: Plan) -> list[Case]:
    return [
        *(
            Case(work, RECORDER, partial(_flooded, compression=compression))
            for compression, work in FLOODS.items()
        ),
        *(Case(paced(rate), RECORDER, partial(_kept_pace, rate=rate)) for rate in _RECORDED_SECS),
    ]


SCENARIO = Scenario(
    number=15,
    name="replay",
    question="How fast, and how exactly, does an archive come once more?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("mb_per_sec", "MB/s out", ",.1f"),
        Column("cpu_us_per_event", "CPU µs/event", ".3f"),
        Column("error_p50_ms", "late by, p50, ms", ".2f"),
        Column("error_p99_ms", "p99, ms", ".2f"),
        Column("error_max_ms", "most, ms", ".1f"),
        Column("peak_mib", "peak, MiB", ",.0f"),
        Column("growth_mib", "of it in the second half", ",.1f"),
    ),
    cases=_cases,
    targets=(
        Target("≥ 700,000 events/s, plain", FLOODS["none"], "events_per_sec", at_least=700_000),
        Target("≥ 400,000 events/s, zstd", FLOODS["zstd"], "events_per_sec", at_least=400_000),
        *(
            Target(f"p99 late by ≤ 5 ms at {rate}x", paced(rate), "error_p99_ms", at_most=5, form=".2f")
            for rate in _RECORDED_SECS
        ),
        Target("memory is flat", FLOODS["none"], "growth_mib", at_most=8, form=",.1f"),
    ),
    note="A million trades and quotes of stocks, recorded beforehand in frames of 10, replayed to one client of the "
    "firehose on the other core: each file is decompressed, held against its checksum and decoded, and every payload goes "
    "into the checksum at the end. Time counts from the first event to `replay_complete`. The pace is that of archives "
    "recorded at 5,000 events/s; an event is late by what it comes later than the most punctual of all, measured at the "
    "client.",
)
