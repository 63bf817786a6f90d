"""The records that were chosen of an archive: one by one, their bytes alone, or as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from recorder.archive.cutting import Records
from recorder.archive.proofs import Proofs
from recorder.archive.recording import RecordedRun, Recording
from recorder.errors import NotRecorded
from recorder.library.reader import Choice, SegmentReader, type_counts

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Record(msgspec.Struct, gc=False):
    """One record: docs/records.md says what its fields are."""

    ingest_ts: int
    """Unix ms: when the bytes were read from the socket."""
    type: str
    """The channel."""
    symbol: str
    feed: str
    """The cluster."""
    ts: int
    """Unix ms: when it happened; 0 if the event has no time."""
    seq: int
    """It counts from 1 in each run."""
    raw: msgspec.Raw = msgspec.field(name="payload")
    """The event as a view of what was read, which it keeps in memory: about a MiB."""
    run_id: str = ""

    @property
    def payload(self) -> bytes:
        """The event, byte for byte."""
        return bytes(self.raw)

    def __repr__(self) -> str:
        where = f"{self.run_id}:{self.seq}, {self.ingest_ts}, {self.feed}"
        return f"Record({where}, {self.type}:{self.symbol}, {self.payload!r})"


class Selection:
    """Records in the order in which they came, archive by archive and run by run. It can be read any number of times.

    What is read raises `ArchiveError` where a file cannot be read, and `Altered`, a kind of it, where one is not what was
    written: nothing of that file has been yielded then. `NotRecorded` follows the last record where no record of a symbol,
    or of a type that the manifest may count as `other`, is in the files that were read.
    """

    def __init__(
        self,
        path: Path,
        recordings: Sequence[Recording],
        choice: Choice,
        proofs: Proofs,
        types: tuple[str, ...],
    ) -> None:
        self._path = path
        self._recordings = recordings
        self._choice = choice
        self._proofs = proofs
        self._types = types if choice.types is None else choice.types
        self._doubtful_types = set(choice.types or ()).difference(types)

    def __iter__(self) -> Iterator[Record]:
        """Yield each record."""
        for run_id, records in self._blocks():
            found = _decode_lines(records.lines())
            for record in found:
                record.run_id = run_id
            yield from found

    def payloads(self) -> Iterator[bytes]:
        """Yield each event, byte for byte: several times faster than whole records."""
        for _, records in self._blocks():
            yield from records.payloads(0, len(records))

    def count(self) -> int:
        """Return how many records there are. Without a symbol and a time, the manifest knows, and no file is read."""
        choice = self._choice
        if self._doubtful_types or choice != Choice(types=choice.types):
            return sum(len(records) for _, records in self._blocks())
        count = 0
        for segment in (segment for recording in self._recordings for segment in recording.segments):
            counts = segment.counts or type_counts(SegmentReader(self._proofs, Choice()), segment)
            if choice.types is None:
                count += sum(counts.values())
            elif counts.get("other") and choice.may_be_in(counts):
                count += sum(len(records) for records in SegmentReader(self._proofs, choice)(segment))
            else:
                count += sum(counts.get(code, 0) for code in set(choice.types))
        return count

    def arrow_batches(self) -> Iterator[pyarrow.RecordBatch]:
        """Yield tables of at most 65,536 rows and about 64 MiB, so that memory is bounded; `to_arrow` says what is in them.

        Raise `PackageMissing` without pyarrow.
        """
        from recorder.library.arrow import batches

        return batches(self._blocks(), self._types)

    def to_arrow(self) -> pyarrow.Table:
        """Return a table in memory: the record's fields, the columns of its types (docs/api.md), and the exact `payload`.

        Raise `PackageMissing` without pyarrow.
        """
        from recorder.library.arrow import table

        return table(self._blocks(), self._types)

    def to_polars(self) -> polars.DataFrame:
        """Return the same for Polars. Raise `PackageMissing` without polars and pyarrow."""
        from recorder.library.arrow import to_polars

        return to_polars(self.to_arrow())

    def to_pandas(self) -> pandas.DataFrame:
        """Return the same for pandas, with its nullable integers. Raise `PackageMissing` without pandas and pyarrow."""
        from recorder.library.arrow import to_pandas

        return to_pandas(self.to_arrow())

    def _blocks(self) -> Iterator[tuple[str, Records]]:
        """Yield records, many at once, each with their run."""
        choice = self._choice
        read = SegmentReader(self._proofs, choice, self._doubtful_types)
        for recording in self._recordings:
            for run in recording.runs:
                chosen = [segment for segment in run.segments if choice.may_be_in(segment.counts)]
                parts = RecordedRun(run.run_id, chosen).records(
                    start_ms=choice.start_ms, end_ms=choice.end_ms, read=read
                )
                for records in parts:
                    yield run.run_id, records
        missed = read.missed() if read.has_read else []
        if missed:
            raise NotRecorded(
                f"{self._path}: no record of {', '.join(missed)} is in the files that were read"
            )

    def __repr__(self) -> str:
        return f"Selection({str(self._path)!r}, {self._choice})"


_decode_lines: Final = msgspec.json.Decoder(Record).decode_lines
