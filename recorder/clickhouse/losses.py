"""Records that will never reach a table: those of files that were deleted or damaged before they were sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from recorder.archive.manifest_index import Entry
from recorder.archive.recorded_segment import Segment
from recorder.clickhouse.schema import table_of
from recorder.clickhouse.tables import Tables
from recorder.log import get_logger

log = get_logger("polygon_archive")


class _Sealed(Protocol):
    """A segment, whether or not its file is there."""

    @property
    def first_seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def counts(self) -> Mapping[str, int]: ...


@dataclass(slots=True)
class Account:
    """What one run has ever sealed of one table."""

    run_id: str
    table: str
    records: int = 0
    first_seq: int = 0
    last_seq: int = 0
    gone: int = 0
    """Of these, the records of which nothing is there any more."""
    from_ms: int = 0
    to_ms: int = 0
    """When what is gone came, Unix ms."""

    def lacks(self, records: int, first_ms: int, last_ms: int) -> None:
        """Count what is gone of one segment."""
        self.gone += records
        self.from_ms = min(self.from_ms or first_ms, first_ms)
        self.to_ms = max(self.to_ms, last_ms)


def accounts(
    segments: Iterable[Segment],
    gone: Iterable[Entry],
    damaged: Iterable[Segment],
    oldest_ms: Mapping[str, int],
) -> list[Account]:
    """Return the accounts that have something that is gone; of the segments that are there, `damaged` counts as gone.

    `oldest_ms` is when the oldest record of each table came. What began before that was never meant to be there, or was
    deleted there since.
    """
    found: dict[tuple[str, str], Account] = {}
    for entry in gone:
        first_ms, last_ms = entry.first_ingest_ts, entry.last_ingest_ts
        for account in _of(entry.run_id, entry, first_ms, oldest_ms, found):
            account.lacks(_count(entry, account.table), first_ms, last_ms)
    passed_over = {(one.run_id, one.active, one.first_seq) for one in damaged}
    for segment in segments:
        first_ms, last_ms = segment.first_ingest_ms, segment.last_ingest_ms
        if segment.sha256:
            for account in _of(segment.run_id, segment, first_ms, oldest_ms, found):
                if (segment.run_id, segment.active, segment.first_seq) in passed_over:
                    account.lacks(_count(segment, account.table), first_ms, last_ms)
    return [account for account in found.values() if account.gone]


def _of(
    run_id: str,
    sealed: _Sealed,
    first_ms: int,
    oldest_ms: Mapping[str, int],
    found: dict[tuple[str, str], Account],
) -> Iterator[Account]:
    for table in {table_of(code) for code, count in sealed.counts.items() if count}:
        if first_ms < oldest_ms.get(table, first_ms + 1):
            continue
        account = found.setdefault((run_id, table), Account(run_id, table))
        account.records += _count(sealed, table)
        account.first_seq = min(account.first_seq or sealed.first_seq, sealed.first_seq)
        account.last_seq = max(account.last_seq, sealed.last_seq)
        yield account


def _count(sealed: _Sealed, table: str) -> int:
    return sum(count for code, count in sealed.counts.items() if table_of(code) == table)


async def find_lost(tables: Tables, found: Iterable[Account], now_ms: int) -> int:
    """Hold accounts against what is in the tables; put on record, and return, how many records are lost and new as that."""
    lost = 0
    for account in found:
        rows = await tables.count(account.table, account.run_id, account.first_seq, account.last_seq)
        known = await tables.known_lost(account.table, account.run_id)
        records = min(account.records - rows, account.gone) - known
        if records <= 0:
            continue
        lost += records
        row: dict[str, Any] = {
            "run_id": account.run_id,
            "table": account.table,
            "records": records,
            "from_ts": account.from_ms,
            "to_ts": account.to_ms,
        }
        log.error("clickhouse_lost", **row)
        await tables.note_lost(
            {
                "noted_time": now_ms,
                **row,
                "first_seq": account.first_seq,
                "last_seq": account.last_seq,
                "reason": "deleted, missing or damaged before it was sent",
            }
        )
    return lost
