"""The NATS sink in this process, its servers on the other core: `python -m benchmarks.nats_sink EVENTS BATCH SERVERS`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nats_servers import Asking, NatsServer, clustered, nats_settings

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU
from benchmarks.sink_load import BUFFER_BYTES, send
from benchmarks.workload import CLUSTER
from recorder import loop
from recorder.clock import SystemClock
from recorder.sinks.nats.sink import NatsSink


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
    """Return the figures."""
    settings = nats_settings(
        servers[0],
        urls=tuple(server.url for server in servers),
        replicas=len(servers),
        max_bytes=8 * 2**30,
        buffer_bytes=BUFFER_BYTES,
    )
    sent = await send(
        lambda ledger: NatsSink(settings, (CLUSTER,), ledger, SystemClock(), "bench"),
        [server.pid for server in servers],
        events,
        batch_events,
    )
    with Asking(servers[0]) as asking:
        state = asking.ask("$JS.API.STREAM.INFO.MD_STOCKS")["state"]
    return {
        **sent.figures(),
        "servers_cpu_us_per_event": sent.servers_cpu_secs / sent.events * 1e6,
        "stored_bytes_per_event": state["bytes"] / sent.events,
        "events_per_message": sent.events / state["messages"],
    }


if __name__ == "__main__":
    main()
