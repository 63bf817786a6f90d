"""The Kafka sink: what its target takes of a batch, in the shape that KAFKA_SHAPE names."""

from __future__ import annotations

from collections.abc import Sequence

from recorder.bus import Batch
from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.polygon.rows import Rows, array_of
from recorder.settings.kafka import KafkaSettings
from recorder.sinks.kafka.publisher import KafkaPublisher
from recorder.sinks.kafka.shapes import (
    FRAME_COST_BYTES,
    FramesItem,
    FramesShape,
    RecordsItem,
    RecordsShape,
)
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, ThreadSink

NAME = "kafka"
_WARN_SECS = 5.0

log = get_logger("polygon_clients")


class KafkaSink(ThreadSink[FramesItem | RecordsItem]):
    """Sends the frames of each cluster, or its records, to a topic; each once, as long as the brokers keep what they have.

    Where something is left out (`NDJSON_INCLUDE`, sampled quotes, a full disk), new frames are made of the chosen
    events, byte for byte. Past `KAFKA_BUFFER_BYTES` the newest batch is dropped and counted; in the topic it is a hole
    in the numbers. `open` raises ConfigError where options, credentials or a topic cannot be used; brokers that are
    away are waited for.
    """

    full = "records are dropped: more waits for the Kafka brokers than KAFKA_BUFFER_BYTES allows"
    full_reason = "too much waits for the Kafka brokers"
    late_reason = "not sent before the shutdown's deadline"

    def __init__(
        self, settings: KafkaSettings, clusters: Sequence[str], ledger: Ledger, clock: Clock, writer: str
    ) -> None:
        """`writer` names this run of the recorder in each message of frames."""
        drops = Drops(ledger.sink(NAME), clock, log, _WARN_SECS)
        self._is_of_frames = settings.shape == "frames"
        shape = FramesShape(settings.linger_ms, writer) if self._is_of_frames else RecordsShape()
        self.publisher = KafkaPublisher(settings, clusters, shape, drops, clock)
        self._next_first = dict.fromkeys(clusters, 1)
        super().__init__(NAME, self.publisher, drops, QueueLimits(None, settings.buffer_bytes))

    def item_of(self, batch: Batch, rows: Rows) -> FramesItem | RecordsItem | None:
        """Return the frames that hold the records of a batch, numbered; or the records."""
        if not rows:
            return None
        cluster = rows.cluster
        if not self._is_of_frames:
            return RecordsItem(cluster, batch.lines, rows.channels, rows.symbols, rows.counts)
        first, events = self._next_first[cluster], len(rows)
        self._next_first[cluster] = first + events
        frames = batch.data_frames if rows is batch.rows else [array_of(rows.fragments)]
        size = sum(map(len, frames)) + FRAME_COST_BYTES * len(frames)
        return FramesItem(cluster, batch.received_ns, frames, rows.counts, size, first, events)
