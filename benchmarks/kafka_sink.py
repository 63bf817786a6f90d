"""The Kafka sink in this process, its broker on the other core: `python -m benchmarks.kafka_sink EVENTS BATCH SHAPE`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from kafka_brokers import KafkaBroker, kafka_settings
from server_processes import all_of

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from benchmarks.sink_load import BUFFER_BYTES, send
from benchmarks.workload import CLUSTER
from recorder import loop
from recorder.clock import SystemClock
from recorder.sinks.kafka.sink import KafkaSink

_JAVA = ("-Xmx1g",)
"""What a broker has by default."""


def main() -> None:
    """Send EVENTS in batches of BATCH events in SHAPE; print the figures as JSON."""
    events, batch_events = map(int, sys.argv[1:3])
    shape = sys.argv[3]
    os.sched_setaffinity(0, {LOAD_CPU})  # the broker inherits it
    with (
        tempfile.TemporaryDirectory(prefix="bench-kafka-") as folder,
        all_of([KafkaBroker(Path(folder), java=_JAVA)]) as (broker,),
    ):
        os.sched_setaffinity(0, {PROGRAM_CPU})
        print(json.dumps(loop.run(measure(broker, events, batch_events, shape))))


async def measure(broker: KafkaBroker, events: int, batch_events: int, shape: str) -> dict[str, float]:
    """Return the figures."""
    settings = kafka_settings(broker, shape=shape, buffer_bytes=BUFFER_BYTES)
    sent = await send(
        lambda ledger: KafkaSink(settings, (CLUSTER,), ledger, SystemClock(), "bench"),
        [broker.pid],
        events,
        batch_events,
    )
    return {
        **sent.figures(),
        "loop_us_per_event": sent.loop_secs / sent.events * 1e6,
        "broker_cpu_us_per_event": sent.servers_cpu_secs / sent.events * 1e6,
        "stored_bytes_per_event": broker.stored_bytes(settings.topic(CLUSTER)) / sent.events,
    }


if __name__ == "__main__":
    main()
