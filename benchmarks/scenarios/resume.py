"""Scenario 14: how fast a client gets what it missed, from memory and from the archive, and what that costs."""

from __future__ import annotations

import json
import socket
import time
from functools import partial

from waiting import eventually_sync

from benchmarks import harness
from benchmarks.drain import connected
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_EVENTS = 3_000_000
"""A minute of 50 k events/s."""
_QUICK_EVENTS = 20_000
_FRAME_EVENTS = 10
_READ_BYTES = 1 << 20
_GIVING_UP_SECS = 60.0
_COMPLETE = b'"status":"resume_complete"'
TOPICS = {"firehose": "*", "filtered": "T.*"}


ARCHIVE = {
    "ROLES": "archive,firehose,filtered,ops",
    "RESUME_BUFFER_BYTES": "0",
    "NDJSON_MAX_BYTES": "32MiB",
    "NDJSON_COMPRESSION": "zstd",
}
MEMORY = {"ROLES": "firehose,filtered,ops", "RESUME_BUFFER_BYTES": "1GiB"}


def work(port: str, *, archived: bool = False) -> str:
    """Return the name of a case."""
    return f"{port}, {TOPICS[port]}{', from zstd' if archived else ''}"


def _resumed(plan: Plan, port: str, *, archived: bool) -> Run:
    events = int(plan.pick(_EVENTS, _QUICK_EVENTS))
    load = ("--rate", "0", "--frame-events", str(_FRAME_EVENTS), "--fault", f"stall:after={events}")
    with (
        plan.scratch() as folder,
        harness.exchange(folder, *load) as exchange,
        harness.recorder(exchange, folder, **(ARCHIVE if archived else MEMORY)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= events, "the whole market", _GIVING_UP_SECS, 0.05)
        received = recorder.received()
        if archived:
            eventually_sync(
                lambda: (
                    not recorder.metric("polygon_sink_pending_bytes")
                    and not recorder.metric("polygon_compress_pending_files")
                ),
                "an archive at rest",
                _GIVING_UP_SECS,
                0.05,
            )
        with connected(int(recorder.port_of(port)), "/stocks", "-") as client:
            before = harness.look(recorder)
            began = time.monotonic()
            _ask(client, TOPICS[port])
            first_secs, size_bytes, end = _read_all(client, began)
            secs = time.monotonic() - began
            span = harness.Span(before, harness.look(recorder))
        count = int(json.loads(end.rpartition(b'"count":')[2].partition(b"}")[0]))
        # From the archive, frames are made anew, of as many events as fit.
        sent = (received if archived else count * _FRAME_EVENTS) if port == "firehose" else count
        failures = harness.stop(recorder)
    return Run(
        {
            "events_per_sec": sent / secs,
            "mb_per_sec": size_bytes / secs / 1e6,
            "cpu_us_per_event": span.cpu_secs / sent * 1e6,
            "first_ms": first_secs * 1000,
            "secs": secs,
        },
        failures,
    )


def _ask(client: socket.socket, topics: str) -> None:
    """Ask for all that is kept."""
    payload = json.dumps({"action": "subscribe", "params": topics, "since": 0, "partial": True}).encode()
    client.sendall(bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload)


def _read_all(client: socket.socket, began: float) -> tuple[float, int, bytes]:
    """Read to the end of the past; return when the first data came, how much it was, and the last bytes."""
    client.settimeout(_GIVING_UP_SECS)
    first_secs, size_bytes, end = 0.0, 0, b""
    while _COMPLETE not in end or b"}" not in end.partition(_COMPLETE)[2]:
        data = client.recv(_READ_BYTES)
        if not data:
            raise harness.Broken("the recorder has closed the connection")
        if not first_secs and b'"ev":"T"' in data:
            first_secs = time.monotonic() - began
        size_bytes += len(data)
        end = (end + data)[-512:]
    return first_secs, size_bytes, end


SCENARIO = Scenario(
    number=14,
    name="resume",
    question="How fast does a client that was cut get what it missed?",
    columns=(
        Column("events_per_sec", "events/s"),
        Column("mb_per_sec", "MB/s out", ",.1f"),
        Column("cpu_us_per_event", "CPU µs/event", ".3f"),
        Column("first_ms", "first event, ms", ".1f"),
        Column("secs", "s", ".2f"),
    ),
    cases=lambda plan: [
        Case(work(port, archived=archived), RECORDER, partial(_resumed, port=port, archived=archived))
        for archived in (False, True)
        for port in TOPICS
    ],
    targets=(
        Target(
            "≥ 700,000 events/s from memory, firehose", work("firehose"), "events_per_sec", at_least=700_000
        ),
        Target(
            "≥ 400,000 events/s from zstd, firehose",
            work("firehose", archived=True),
            "events_per_sec",
            at_least=400_000,
        ),
    ),
    note="Three million trades and quotes of stocks in frames of 10, a minute of 50 k events/s, all in memory "
    "(`RESUME_BUFFER_BYTES`), or none of it there and all in an archive of files of 32 MiB, compressed with zstd; the "
    "exchange is silent then, and one client on the other core asks for all of it. Time counts from the request to "
    "`resume_complete`.",
)
