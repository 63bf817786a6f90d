"""The NATS sink in this process, its servers on the other core: `python -m benchmarks.nats_sink EVENTS BATCH SERVERS`.

The sink takes batches from its loop as it does from the bus, as fast as its servers acknowledge them; decoding is part of
the work. Every event must be acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from nats_servers import Asking, NatsServer, clustered, nats_settings

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from benchmarks.workload import CLUSTER, FRAME_EVENTS, market
from recorder import loop
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.sinks.nats.sink import NatsSink
from recorder.sinks.stage import Stage

PENDING_BYTES_MAX = 32 * 2**20
_BATCHES = 1_000
"""Batches that are unlike each other: more than a message has, so that none compresses better than a market does."""


def main() -> None:
    """Send EVENTS in batches of BATCH events to SERVERS servers; print the figures as JSON."""
    events, batch_events, count = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {LOAD_CPU})  # the servers inherit it
    with (
        tempfile.TemporaryDirectory(prefix="bench-nats-") as folder,
        clustered(Path(folder), count) as servers,
    ):
        os.sched_setaffinity(0, {PROGRAM_CPU})
        print(json.dumps(loop.run(measure(servers, events, batch_events))))


async def measure(servers: Sequence[NatsServer], events: int, batch_events: int) -> dict[str, float]:
    """Send, and wait until all is acknowledged; return the figures."""
    settings = nats_settings(
        servers[0],
        urls=tuple(server.url for server in servers),
        replicas=len(servers),
        max_bytes=8 * 2**30,
        buffer_bytes=4 * PENDING_BYTES_MAX,
    )
    ledger = Ledger()
    sink = NatsSink(settings, (CLUSTER,), ledger, SystemClock(), "bench")
    await sink.open()
    bus = Bus()
    bus.stage = Stage(Selection([], 1), ledger, "host", "0")
    bus.attach(sink)
    run = asyncio.create_task(sink.run())
    frames = [frame for batch in market(_BATCHES) for frame in batch]
    size = batch_events // FRAME_EVENTS
    batches = [frames[place : place + size] for place in range(0, len(frames), size)]
    decoder = Decoder(CLUSTER)
    processes = [psutil.Process(server.process.pid) for server in servers if server.process is not None]
    servers_before = _cpu_secs(processes)
    cpu_before = time.process_time()
    started = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), events // batch_events):
        bus.publish(Batch(CLUSTER, time.time_ns(), batch, decoder, read_ns=0))
        while sink.queue.pending_bytes > PENDING_BYTES_MAX:  # noqa: ASYNC110  (a queue tells nobody)
            await asyncio.sleep(0.001)
    while sink.queue.pending_bytes:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    secs = time.perf_counter() - started
    cpu_secs = time.process_time() - cpu_before
    servers_cpu_secs = _cpu_secs(processes) - servers_before
    sent = sum(sink.stats.recorded.values())
    await sink.close(time.monotonic_ns() + 10_000_000_000)
    await run
    with Asking(servers[0]) as asking:
        state = asking.ask("$JS.API.STREAM.INFO.MD_STOCKS")["state"]
    return {
        "events_per_sec": sent / secs,
        "cpu_us_per_event": cpu_secs / sent * 1e6,
        "servers_cpu_us_per_event": servers_cpu_secs / sent * 1e6,
        "stored_bytes_per_event": state["bytes"] / sent,
        "events_per_message": sent / state["messages"],
        "dropped": sum(sink.stats.dropped.values()),
    }


def _cpu_secs(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    main()
