"""NATS_PER_SYMBOL: events of channels with low rates, each a message of its own, under a subject for each symbol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from recorder.bus import Batch
from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.polygon.rows import Rows
from recorder.settings.nats import NatsSettings
from recorder.sinks.nats.symbol_publisher import SymbolEvents, SymbolPublisher
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, LoopSink
from recorder.stream_message import SymbolNames

NAME: Final = "nats-symbols"
_COST_BYTES: Final = 200
"""About what an event takes in memory besides its bytes."""
_WARN_SECS: Final = 5.0

log = get_logger("polygon_clients")


class SymbolSink(LoopSink[SymbolEvents]):
    """Appends each event of some channels to the stream of its cluster, for readers that want single symbols.

    Past `NATS_BUFFER_BYTES` the newest batch is dropped and counted.
    """

    full = "records are dropped: more waits for the NATS servers than NATS_BUFFER_BYTES allows"
    full_reason = "too much waits for the NATS servers"
    late_reason = "not sent before the shutdown's deadline"

    def __init__(
        self, settings: NatsSettings, clusters: Sequence[str], ledger: Ledger, clock: Clock, writer: str
    ) -> None:
        """`writer` names this run of the recorder to the servers."""
        drops = Drops(ledger.sink(NAME), clock, log, _WARN_SECS)
        names = {cluster: SymbolNames.of(settings.stream_prefix, cluster) for cluster in clusters}
        super().__init__(
            NAME,
            SymbolPublisher(settings, names, drops, clock, writer),
            drops,
            QueueLimits(None, settings.buffer_bytes),
        )
        self._channels = frozenset(settings.per_symbol)
        self._names = names
        self._subjects: dict[tuple[str, str, str], str] = {}
        """Of each cluster, channel and symbol that has come."""

    def chosen(self, batch: Batch) -> Rows | None:
        """Return the records of the channels that are wanted; the others are counted as left out."""
        rows = batch.recorded
        if rows is None or self._channels.issuperset(rows.counts):
            return rows
        others = {channel: count for channel, count in rows.counts.items() if channel not in self._channels}
        self.stats.left_out.add(rows.cluster, others)
        return rows.of_channels(self._channels) if len(others) < len(rows.counts) else None

    def item_of(self, batch: Batch, rows: Rows) -> SymbolEvents | None:
        """Return subject and bytes of each record."""
        if not rows:
            return None
        cluster, events = rows.cluster, rows.objects
        subjects = [
            self._subject(cluster, channel, symbol)
            for channel, symbol in zip(rows.channels, rows.symbols, strict=True)
        ]
        size = sum(map(len, events)) + _COST_BYTES * len(events)
        return SymbolEvents(cluster, rows.counts, rows.channels, subjects, events, size)

    def _subject(self, cluster: str, channel: str, symbol: str) -> str:
        key = cluster, channel, symbol
        found = self._subjects.get(key)
        if found is None:
            found = self._subjects[key] = self._names[cluster].subject(channel, symbol)
        return found
