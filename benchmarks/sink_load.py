"""A sink in this process that takes batches as from the bus, as fast as its servers, on the other core, acknowledge them.

Decoding is part of the work. Every event must be acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.workload import CLUSTER, FRAME_EVENTS, market
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.sinks.sink import QueueSink
from recorder.sinks.stage import Stage

PENDING_BYTES_MAX = 32 * 2**20
BUFFER_BYTES = 4 * PENDING_BYTES_MAX
"""What the sink may keep in memory: more than it is ever given."""
_BATCHES = 1_000
"""Batches that are unlike each other: more than a message has, so that none compresses better than a market does."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What it took to send events."""

    events: int
    dropped: int
    secs: float
    loop_secs: float
    """Of CPU, of the loop's thread."""
    cpu_secs: float
    """Of CPU, of this process."""
    servers_cpu_secs: float

    def figures(self) -> dict[str, float]:
        """Return what any sink has to show."""
        return {
            "events_per_sec": self.events / self.secs,
            "cpu_us_per_event": self.cpu_secs / self.events * 1e6,
            "dropped": self.dropped,
        }


async def send(
    make_sink: Callable[[Ledger], QueueSink[Any]],
    servers: Sequence[int],
    events: int,
    batch_events: int,
) -> Sent:
    """Send events in batches, and wait until all are acknowledged. `servers` are the numbers of their processes."""
    ledger = Ledger()
    sink = make_sink(ledger)
    await sink.open()
    bus = Bus()
    bus.stage = Stage(Selection([], 1), ledger, "host", "0")
    bus.attach(sink)
    run = asyncio.create_task(sink.run())
    frames = [frame for batch in market(_BATCHES) for frame in batch]
    size = batch_events // FRAME_EVENTS
    batches = [frames[place : place + size] for place in range(0, len(frames), size)]
    decoder = Decoder(CLUSTER)
    processes = [psutil.Process(pid) for pid in servers]
    servers_before = cpu_secs_of(processes)
    cpu_before, loop_before = time.process_time(), time.thread_time()
    started = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), events // batch_events):
        bus.publish(Batch(CLUSTER, time.time_ns(), batch, decoder, read_ns=0))
        while sink.queue.pending_bytes > PENDING_BYTES_MAX:  # noqa: ASYNC110  (a queue tells nobody)
            await asyncio.sleep(0.001)
    while sink.queue.pending_bytes:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    secs = time.perf_counter() - started
    cpu_secs, loop_secs = time.process_time() - cpu_before, time.thread_time() - loop_before
    servers_cpu_secs = cpu_secs_of(processes) - servers_before
    await sink.close(time.monotonic_ns() + 10_000_000_000)
    await run
    stats = sink.stats
    return Sent(
        sum(stats.recorded.values()),
        sum(stats.dropped.values()),
        secs,
        loop_secs,
        cpu_secs,
        servers_cpu_secs,
    )


def cpu_secs_of(processes: Sequence[psutil.Process]) -> float:
    """Return how much CPU time processes have had."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)
