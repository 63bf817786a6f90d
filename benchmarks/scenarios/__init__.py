"""All scenarios, in the order of their numbers."""

from __future__ import annotations

from benchmarks.scenario import Scenario
from benchmarks.scenarios import (
    bars,
    clickhouse,
    everything,
    export,
    filtered,
    firehose,
    frames,
    kafka,
    latency,
    library,
    memory,
    nats,
    record,
    replay,
    resume,
    rotation,
    steady,
    verify,
    workers,
    zmq,
)

SCENARIOS: dict[str, Scenario] = {
    module.SCENARIO.name: module.SCENARIO
    for module in (
        *(record, firehose, filtered, latency, memory, bars, rotation, everything),
        *(frames, verify, zmq, workers, steady, resume, nats, kafka, replay, export, library, clickhouse),
    )
}
