"""The ZMQ sink in this process, one subscriber in another, over TCP: `python -m benchmarks.zmq_sink RECORDS BATCH`.

The sink takes batches from its loop as it does from the bus; formatting the lines is part of the work. It is fed as
fast as its edge takes them, and its queue for the subscriber holds all of them: the figures are what the sink sends and
what a subscriber in Python takes, and every record must arrive.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from typing import Any

import zmq

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from recorder import loop
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.settings import ZmqSettings
from recorder.sinks.stage import Stage
from recorder.sinks.zmq import ZmqSink

PENDING_BYTES_MAX = 32 * 2**20
SWITCH_INTERVAL_SECS = 0.0005
"""As the recorder sets it."""


def main() -> None:
    """Send RECORDS in batches of BATCH events; print the figures as JSON."""
    count, batch_events = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {PROGRAM_CPU})
    sys.setswitchinterval(SWITCH_INTERVAL_SECS)
    print(json.dumps(loop.run(measure(count - count % batch_events, batch_events))))


def take(endpoint: str, count: int, results: Any) -> None:
    """Be the subscriber; return the seconds from the first record taken to the last."""
    os.sched_setaffinity(0, {LOAD_CPU})
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.rcvhwm = 0
    socket.subscribe(b"T:")
    socket.connect(endpoint)
    socket.recv_multipart()
    results.put(None)
    first = time.perf_counter()
    for _ in range(count):
        socket.recv_multipart()
    results.put(time.perf_counter() - first)
    context.destroy(linger=0)


async def measure(count: int, batch_events: int) -> dict[str, float]:
    """Send, and wait until all has arrived; return the figures."""
    settings = ZmqSettings(
        endpoint="tcp://127.0.0.1:*",
        bind=True,
        channel_cap=1_000_000,
        snd_hwm=count + 1_000_000,
        warn_interval_secs=1,
        topic_prefix="",
        buffer_bytes=2 * PENDING_BYTES_MAX,
    )
    ledger = Ledger()
    sink = ZmqSink(settings, ledger, SystemClock())
    await sink.open()
    bus = Bus()
    bus.stage = Stage(Selection([], 1), ledger, "host", "0")
    bus.attach(sink)
    event = b'{"ev":"T","sym":"AAPL","i":"50578","x":4,"p":150.25,"s":100,"t":1760375617662,"q":%d,"z":3,"c":[12]}'
    frame = b"[" + b",".join([event % n for n in range(batch_events)]) + b"]"
    decoder = Decoder("stocks")
    run = asyncio.create_task(sink.run())
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    subscriber = context.Process(target=take, args=(sink.publisher.endpoint, count, results), daemon=True)
    subscriber.start()
    while results.empty():  # it takes what comes once its subscription is here
        bus.publish(
            Batch("stocks", time.time_ns(), [frame[: frame.find(b"}") + 1] + b"]"], decoder, read_ns=0)
        )
        await asyncio.sleep(0.01)
    results.get()
    before = sink.stats.recorded["stocks", "T"]
    cpu_before = time.process_time()
    started = time.perf_counter()
    for _ in range(count // batch_events):
        bus.publish(Batch("stocks", time.time_ns(), [frame], decoder, read_ns=0))
        while sink.queue.pending_bytes > PENDING_BYTES_MAX:  # noqa: ASYNC110  (a queue tells nobody)
            await asyncio.sleep(0.001)
    while sink.queue.pending_bytes:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    sent_secs = time.perf_counter() - started
    cpu_secs = time.process_time() - cpu_before
    sent = sink.stats.recorded["stocks", "T"] - before
    taken_secs = await asyncio.to_thread(results.get)
    await sink.close(time.monotonic_ns() + 10_000_000_000)
    await run
    return {
        "sent_per_sec": sent / sent_secs,
        "taken_per_sec": count / taken_secs,
        "cpu_us_per_record": cpu_secs / sent * 1e6,
        "dropped": sum(sink.stats.dropped.values()),
    }


if __name__ == "__main__":
    main()
