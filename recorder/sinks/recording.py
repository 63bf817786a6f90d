"""Events to records, once for all sinks: include and sampling, then `seq`, then each sink takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from typing import Protocol

from recorder.archive.policy import Selection
from recorder.archive.record import Columns, Formatter, reject_line
from recorder.bus import Batch, SessionChange
from recorder.ledger import Ledger
from recorder.polygon.events import Events


class Records:
    """What is recorded of one batch. Formatted when a sink first asks, and shared by the sinks that ask the same."""

    def __init__(
        self,
        cluster: str,
        received_ns: int,
        columns: Columns,
        counts: dict[str, int],
        rejects: bytes,
        rejects_count: int,
        formatter: Formatter,
    ) -> None:
        self.cluster = cluster
        self.received_ns = received_ns
        self.ingest_ms = received_ns // 1_000_000
        self.columns = columns
        self.counts = counts
        """Records by channel."""
        self.rejects = rejects
        """Whole lines for the reject file."""
        self.rejects_count = rejects_count
        self.formatter = formatter

    def __len__(self) -> int:
        return len(self.columns.bodies)

    @cached_property
    def data(self) -> bytes:
        """All lines in the order of arrival."""
        return self.format(self.columns)

    def format(self, columns: Columns) -> bytes:
        """Give the lines of some of the events."""
        return self.formatter.format(self.ingest_ms, columns)

    def __repr__(self) -> str:
        return f"Records({self.cluster}, {self.counts})"


class RecordSink(Protocol):
    """Takes records: at once, without waiting, without raising. What is full drops the newest and counts."""

    def accept(self, records: Records) -> None:
        """Take the records of one batch."""

    def session_changed(self, change: SessionChange) -> None:
        """Take note that an upstream session began or ended."""


class Recording:
    """The consumer that turns batches into records and hands them to every sink.

    `seq` counts over all clusters, after include and sampling: a hole in what a sink wrote is a loss.
    """

    def __init__(
        self,
        selection: Selection,
        ledger: Ledger,
        sinks: Sequence[RecordSink],
        hostname: str,
        app_version: str,
    ) -> None:
        self._selection = selection
        self._ledger = ledger
        self._sinks = tuple(sinks)
        self._hostname = hostname
        self._app_version = app_version
        self._formatters: dict[str, Formatter] = {}
        self.seq = 0
        """The last number given."""

    def accept(self, batch: Batch) -> None:
        """Make the records of a batch and hand them on."""
        events = batch.events
        if not len(events) and not events.rejects:
            return
        records = self._records(batch, events)
        for sink in self._sinks:
            sink.accept(records)

    def session_changed(self, change: SessionChange) -> None:
        """Pass it on."""
        for sink in self._sinks:
            sink.session_changed(change)

    def _records(self, batch: Batch, events: Events) -> Records:
        cluster = batch.cluster
        ledger = self._ledger
        for channel, count in events.counts.items():
            ledger.channel(cluster, channel).received += count
        rejects = b""
        if events.rejects:
            books = ledger.channel(cluster, "")
            books.received += len(events.rejects)
            books.rejected += len(events.rejects)
            ingest_ms = batch.received_ns // 1_000_000
            rejects = b"".join(
                [reject_line(ingest_ms, cluster, reject.reason, reject.raw) for reject in events.rejects]
            )
        columns = Columns(
            events.channels,
            events.symbols,
            events.times_ms,
            events.bodies,
            range(0),
            events.has_line_breaks,
            events.distinct_times_ms,
        )
        counts = events.counts
        if not self._selection.takes_all:
            columns, counts = self._select(cluster, events)
        first = self.seq + 1
        self.seq += len(columns.bodies)
        columns.seqs = range(first, self.seq + 1)
        return Records(
            cluster,
            batch.received_ns,
            columns,
            counts,
            rejects,
            len(events.rejects),
            self._formatter(cluster),
        )

    def _select(self, cluster: str, events: Events) -> tuple[Columns, dict[str, int]]:
        """Leave out what the operator does not want, and account for it."""
        included = self._selection.filter(events)
        kept = self._selection.sample(cluster, events, included)
        takers = Counter(compress(events.channels, included))
        counts = dict(Counter(compress(events.channels, kept)))
        for channel, received in events.counts.items():
            books = self._ledger.channel(cluster, channel)
            taken = takers[channel]
            books.filtered += received - taken
            books.sampled_out += taken - counts.get(channel, 0)
        columns = Columns(
            list(compress(events.channels, kept)),
            list(compress(events.symbols, kept)),
            list(compress(events.times_ms, kept)),
            list(compress(events.bodies, kept)),
            range(0),
            events.has_line_breaks,
        )
        return columns, counts

    def _formatter(self, cluster: str) -> Formatter:
        found = self._formatters.get(cluster)
        if found is None:
            found = self._formatters[cluster] = Formatter(cluster, self._hostname, self._app_version)
        return found

    def __repr__(self) -> str:
        return f"Recording(seq={self.seq}, sinks={len(self._sinks)})"
