"""The NATS sink: what its target takes of a batch, and what is dropped before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from recorder.bus import Batch, SessionChange
from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.polygon.rows import Rows, array_of
from recorder.settings.nats import NatsSettings
from recorder.sinks.nats.message import FRAME_COST_BYTES, Frames
from recorder.sinks.nats.publisher import NatsPublisher
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, LoopSink
from recorder.sources.turn import Turn

NAME = "nats"
_WARN_SECS = 5.0

log = get_logger("polygon_clients")


class NatsSink(LoopSink[Frames]):
    """Appends the frames of each cluster to its stream, as they were received, each exactly once.

    Where something is left out (`NDJSON_INCLUDE`, sampled quotes, a full disk), new frames are made of the chosen
    events, byte for byte. Past `NATS_BUFFER_BYTES` the newest batch is dropped, counted, and noted in the stream.
    `open` raises ConfigError where credentials are refused or a stream cannot be used; servers that are away are waited
    for.
    """

    full = "records are dropped: more waits for the NATS servers than NATS_BUFFER_BYTES allows"
    full_reason = "too much waits for the NATS servers"
    late_reason = "not sent before the shutdown's deadline"

    def __init__(
        self,
        settings: NatsSettings,
        clusters: Sequence[str],
        ledger: Ledger,
        clock: Clock,
        writer: str,
        turns: Mapping[str, Turn] = MappingProxyType({}),
    ) -> None:
        """`writer` names this run of the recorder in each message. `turns` are of clusters with one connection for two."""
        drops = Drops(ledger.sink(NAME), clock, log, _WARN_SECS)
        self.publisher = NatsPublisher(settings, clusters, drops, clock, writer, turns)
        self._dropped: dict[str, int] = {}
        """By cluster: events dropped since something was taken."""
        self._offered = ""
        """The cluster of the item that is being offered."""
        super().__init__(NAME, self.publisher, drops, QueueLimits(None, settings.buffer_bytes))

    def item_of(self, batch: Batch, rows: Rows) -> Frames | None:
        """Return the frames that hold the records of a batch."""
        if not rows:
            return None
        frames = batch.data_frames if rows is batch.rows else [array_of(rows.fragments)]
        size = sum(map(len, frames)) + FRAME_COST_BYTES * len(frames)
        cluster = self._offered = rows.cluster
        return Frames(cluster, batch.received_ns, frames, rows.counts, size, self._dropped.get(cluster, 0))

    def session_changed(self, change: SessionChange) -> None:
        """Note that a cluster's connection to the exchange has data, or no longer."""
        self.publisher.session_changed(change)

    def taken(self) -> None:
        """Forget the drops that the item which found room tells of."""
        self._dropped.pop(self._offered, None)

    def refuse(self, item: Frames) -> None:
        """Account for a batch that does not fit into the queue, and have the stream say so."""
        self._note(item)
        super().refuse(item)

    def give_up(self, item: Frames) -> None:
        """Account for an item that is lost in the queue; where the sink goes on, the stream says so."""
        self._note(item)
        super().give_up(item)

    def _note(self, item: Frames) -> None:
        """Have the next item that is taken say that this one is missing before it."""
        known = self._dropped.get(item.cluster, 0)
        self._dropped[item.cluster] = max(known, item.dropped) + sum(item.counts.values())
