"""The Kafka sink in this process, its broker on the other core: `python -m benchmarks.kafka_sink EVENTS BATCH SHAPE`.

The sink takes batches from its loop as it does from the bus, as fast as its broker acknowledges them; decoding is part of
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
from pathlib import Path

import psutil
from kafka_brokers import KafkaBroker, kafka_settings

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from benchmarks.workload import CLUSTER, FRAME_EVENTS, market
from recorder import loop
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.sinks.kafka.sink import KafkaSink
from recorder.sinks.stage import Stage

PENDING_BYTES_MAX = 32 * 2**20
_BATCHES = 1_000
"""Batches that are unlike each other: more than a message has, so that none compresses better than a market does."""
_HEAP = "1g"
"""What a broker has by default."""


def main() -> None:
    """Send EVENTS in batches of BATCH events in SHAPE; print the figures as JSON."""
    events, batch_events = map(int, sys.argv[1:3])
    shape = sys.argv[3]
    os.sched_setaffinity(0, {LOAD_CPU})  # the broker inherits it
    with tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder:
        broker = KafkaBroker(Path(folder), heap=_HEAP)
        try:
            broker.start()
            os.sched_setaffinity(0, {PROGRAM_CPU})
            print(json.dumps(loop.run(measure(broker, events, batch_events, shape))))
        finally:
            broker.stop()


async def measure(broker: KafkaBroker, events: int, batch_events: int, shape: str) -> dict[str, float]:
    """Send, and wait until all is acknowledged; return the figures."""
    settings = kafka_settings(broker, shape=shape, buffer_bytes=4 * PENDING_BYTES_MAX)
    ledger = Ledger()
    sink = KafkaSink(settings, (CLUSTER,), ledger, SystemClock(), "bench")
    await sink.open()
    bus = Bus()
    bus.stage = Stage(Selection([], 1), ledger, "host", "0")
    bus.attach(sink)
    run = asyncio.create_task(sink.run())
    frames = [frame for batch in market(_BATCHES) for frame in batch]
    size = batch_events // FRAME_EVENTS
    batches = [frames[place : place + size] for place in range(0, len(frames), size)]
    decoder = Decoder(CLUSTER)
    assert broker.process is not None
    process = psutil.Process(broker.process.pid)
    broker_before = sum(process.cpu_times()[:2])
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
    broker_secs = sum(process.cpu_times()[:2]) - broker_before
    sent = sum(sink.stats.recorded.values())
    await sink.close(time.monotonic_ns() + 10_000_000_000)
    await run
    return {
        "events_per_sec": sent / secs,
        "loop_us_per_event": loop_secs / sent * 1e6,
        "cpu_us_per_event": cpu_secs / sent * 1e6,
        "broker_cpu_us_per_event": broker_secs / sent * 1e6,
        "stored_bytes_per_event": broker.stored_bytes(settings.topic(CLUSTER)) / sent,
        "dropped": sum(sink.stats.dropped.values()),
    }


if __name__ == "__main__":
    main()
