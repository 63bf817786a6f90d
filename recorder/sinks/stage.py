"""The stage before the sinks: which events become records, under which number, and what the books say of the others."""

from __future__ import annotations

from collections import Counter
from itertools import compress

from recorder.archive.policy import Selection
from recorder.bus import Batch
from recorder.ledger import Ledger
from recorder.polygon.rows import Rows
from recorder.records import Formatter


class Stage:
    """Runs once with each batch, before any sink has it, so that all sinks share one selection and one numbering.

    `seq` counts over all clusters, after include patterns and sampling: a hole in what a sink wrote is a loss.
    `position` counts every event, before anything is left out.
    """

    def __init__(self, selection: Selection, ledger: Ledger, hostname: str, app_version: str) -> None:
        """`hostname` and `app_version` stand in each record."""
        self._selection = selection
        self._ledger = ledger
        self._hostname = hostname
        self._app_version = app_version
        self._formatters: dict[str, Formatter] = {}
        self.position = 0
        """The last position given."""
        self.seq = 0
        """The last record number given."""

    def __call__(self, batch: Batch) -> None:
        """Choose and number the records of a batch, and count what arrived and what is left out."""
        rows = batch.rows
        if not len(rows) and not rows.rejects:
            return
        cluster = rows.cluster
        ledger = self._ledger
        for channel, count in rows.counts.items():
            ledger.channel(cluster, channel).received += count
        if rows.rejects:
            balance = ledger.channel(cluster, "")
            balance.received += len(rows.rejects)
            balance.rejected += len(rows.rejects)
        first = self.position + 1
        self.position += len(rows)
        rows.positions = range(first, self.position + 1)
        recorded = rows if self._selection.takes_all else self._select(rows)
        first = self.seq + 1
        self.seq += len(recorded)
        recorded.seqs = range(first, self.seq + 1)
        batch.record(recorded, self._formatter(cluster).format)

    def _select(self, rows: Rows) -> Rows:
        """Leave out what the operator does not want, and account for it."""
        cluster = rows.cluster
        included = self._selection.filter(rows)
        kept = self._selection.sample(cluster, rows, included)
        recorded = rows.where(kept)
        takers = Counter(compress(rows.channels, included))
        for channel, received in rows.counts.items():
            balance = self._ledger.channel(cluster, channel)
            taken = takers[channel]
            balance.filtered += received - taken
            balance.sampled_out += taken - recorded.counts.get(channel, 0)
        return recorded

    def _formatter(self, cluster: str) -> Formatter:
        found = self._formatters.get(cluster)
        if found is None:
            found = self._formatters[cluster] = Formatter(cluster, self._hostname, self._app_version)
        return found

    def __repr__(self) -> str:
        return f"Stage(seq={self.seq}, position={self.position})"
