"""The records of a view as DuckDB reads them: it asks for some of the columns, and often for some of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyarrow.dataset import Dataset

from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.library.arrow import Blocks, batches, schema_of
from recorder.library.reader import Choice, SegmentReader


class RecordSet(Dataset):  # type: ignore[misc]
    """The records of some channels in some segments; each scan reads the segments again.

    DuckDB takes any dataset of Arrow, and asks it for a scanner.
    """

    def __init__(self, segments: Sequence[Segment], choice: Choice, proofs: Proofs) -> None:
        """Where no types are chosen all records are meant, and there are no columns of events."""
        self._segments = segments
        self._choice = choice
        self._types = choice.types or ()
        self._proofs = proofs
        self._schema = schema_of(self._types)
        self._rows_read = 0
        self._scans = 0
        self.failure: BaseException | None = None
        """What ended a scan. DuckDB passes on its text alone."""

    @property
    def percent_read(self) -> float:
        """How much was read of what was asked for by now. What is not sealed is left out of the account."""
        rows = sum(
            count
            for segment in self._segments
            for code, count in segment.counts.items()
            if self._choice.types is None or code in self._types
        )
        return min(100.0, 100.0 * self._rows_read / (rows * self._scans or 1))

    @property
    def schema(self) -> pa.Schema:
        """All columns."""
        return self._schema

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_: object) -> _Scan:  # noqa: A002 - its name
        """Return what yields some of the columns, of the rows for which `filter` holds."""
        return _Scan(self, self._schema.names if columns is None else columns, filter)

    def read(self, columns: Sequence[str], condition: Any) -> Iterator[pa.RecordBatch]:
        """Yield the rows, many at once."""
        # A name may stand in the condition as the value of something, which costs time and nothing else.
        said = str(condition)
        names = {*columns, *(name for name in self._schema.names if condition is not None and name in said)}
        try:
            for batch in batches(self._blocks(), self._types, names=names):
                if condition is None:
                    yield batch.select(columns)
                else:
                    rows = pa.Table.from_batches([batch]).filter(condition)
                    yield from rows.select(columns).to_batches()
        except (Exception, KeyboardInterrupt) as error:
            self.failure = error
            raise

    def _blocks(self) -> Blocks:
        self._scans += 1
        choice = self._choice
        read = SegmentReader(self._proofs, choice)
        for segment in self._segments:
            for records in read(segment):
                self._rows_read += len(records)
                yield segment.run_id, records.between(choice.start_ms, choice.end_ms)


class _Scan:
    """What DuckDB takes for a scanner of Arrow."""

    def __init__(self, records: RecordSet, columns: Sequence[str], condition: Any) -> None:
        self._records = records
        self._columns = columns
        self._condition = condition
        self.projected_schema = pa.schema([records.schema.field(name) for name in columns])

    def to_reader(self) -> pa.RecordBatchReader:
        """Return the rows to take."""
        rows = self._records.read(self._columns, self._condition)
        return pa.RecordBatchReader.from_batches(self.projected_schema, rows)
