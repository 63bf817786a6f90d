"""The NATS source in this process, its server on the other core: `python -m benchmarks.nats_source EVENTS BATCH`.

First it reads what is in a stream, as fast as it comes, with decoding as part of the work. Then events are appended at a
pace, and each is timed from the moment at which the sink takes it to the one at which the source passes it on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil
from nats_servers import NatsServer, clustered, nats_settings

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from benchmarks.sink_load import BUFFER_BYTES, PENDING_BYTES_MAX, cpu_secs_of
from benchmarks.workload import CLUSTER, FRAME_EVENTS, market
from recorder import loop
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus, SessionChange
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.settings import NatsSettings
from recorder.sinks.nats.sink import NatsSink
from recorder.sinks.stage import Stage
from recorder.sources.nats.source import NatsSource
from recorder.sources.nats.stats import StreamStats
from recorder.sources.source import SourceContext
from recorder.sources.stats import FeedStats

_BATCHES = 1_000
_PACED = 500
"""Batches that are timed."""
_PACE_SECS = 0.01


class Taker:
    """Counts what the source passes on, and when."""

    def __init__(self) -> None:
        self.events = 0
        self.at_ns: list[int] = []

    def accept(self, batch: Batch) -> None:
        self.events += len(batch.rows)
        self.at_ns += [time.perf_counter_ns()] * len(batch.frames)

    def session_changed(self, change: SessionChange) -> None: ...


class Writer:
    """A sink with its bus."""

    def __init__(self, settings: NatsSettings) -> None:
        ledger = Ledger()
        self.sink = NatsSink(settings, (CLUSTER,), ledger, SystemClock(), "bench")
        self._bus = Bus()
        self._bus.stage = Stage(Selection([], 1), ledger, "host", "0")
        self._bus.attach(self.sink)
        self._decoder = Decoder(CLUSTER)

    def publish(self, frames: list[bytes]) -> None:
        self._bus.publish(Batch(CLUSTER, time.time_ns(), frames, self._decoder, read_ns=0))

    async def drained(self, pending_bytes: int = 0) -> None:
        while self.sink.queue.pending_bytes > pending_bytes:  # noqa: ASYNC110  (a queue tells nobody)
            await asyncio.sleep(0.001)


def main() -> None:
    """Read EVENTS that were appended in batches of BATCH; print the figures as JSON."""
    events, batch_events = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {LOAD_CPU})  # the server inherits it
    with tempfile.TemporaryDirectory(prefix="bench-nats-") as folder, clustered(Path(folder), 1) as [server]:
        os.sched_setaffinity(0, {PROGRAM_CPU})
        print(json.dumps(loop.run(measure(server, events, batch_events))))


async def measure(server: NatsServer, events: int, batch_events: int) -> dict[str, float]:
    """Write, read, then write at a pace; return the figures."""
    settings = nats_settings(server, max_bytes=8 * 2**30, buffer_bytes=BUFFER_BYTES, start="all")
    writer = Writer(settings)
    await writer.sink.open()
    writing = asyncio.create_task(writer.sink.run())
    frames = [frame for batch in market(_BATCHES) for frame in batch]
    size = batch_events // FRAME_EVENTS
    batches = [frames[place : place + size] for place in range(0, len(frames), size)]
    for batch in itertools.islice(itertools.cycle(batches), events // batch_events):
        writer.publish(batch)
        await writer.drained(PENDING_BYTES_MAX)
    await writer.drained()

    bus, taker = Bus(), Taker()
    bus.stage = Stage(Selection([], 1), Ledger(), "host", "0")
    bus.attach(taker)
    context = SourceContext(bus, CLUSTER, FeedStats(CLUSTER, (1.0,), (1.0,)), SystemClock(), {})
    source = NatsSource(context, settings, StreamStats(CLUSTER, ""))
    process = [psutil.Process(server.pid)]
    server_before, cpu_before, started = cpu_secs_of(process), time.process_time(), time.perf_counter()
    reading = asyncio.create_task(source.run())
    await _until(taker, events)
    secs, cpu_secs = time.perf_counter() - started, time.process_time() - cpu_before
    server_cpu_secs = cpu_secs_of(process) - server_before

    taker.at_ns.clear()
    sent_ns: list[int] = []
    for batch in itertools.islice(itertools.cycle(batches), _PACED):
        sent_ns += [time.perf_counter_ns()] * len(batch)
        writer.publish(batch)
        await asyncio.sleep(_PACE_SECS)
    await _until(taker, events + _PACED * batch_events)
    late_ms = sorted((got - sent) / 1e6 for sent, got in zip(sent_ns, taker.at_ns, strict=True))
    reading.cancel()
    await asyncio.wait([reading])
    await writer.sink.close(time.monotonic_ns() + 10_000_000_000)
    await writing
    return {
        "events_per_sec": events / secs,
        "cpu_us_per_event": cpu_secs / events * 1e6,
        "servers_cpu_us_per_event": server_cpu_secs / events * 1e6,
        "latency_p50_ms": late_ms[len(late_ms) // 2],
        "latency_p99_ms": late_ms[len(late_ms) * 99 // 100],
        "dropped": 0,
    }


async def _until(taker: Taker, events: int) -> None:
    while taker.events < events:  # noqa: ASYNC110  (a counter tells nobody)
        await asyncio.sleep(0.002)


if __name__ == "__main__":
    main()
