"""One Parquet file of an export while it is written: typed columns, the exact payloads, row groups of bounded size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from recorder.archive.cutting import Records
from recorder.archive.disk import Disk
from recorder.archive.recorded_segment import Segment
from recorder.errors import ArchiveError, ConfigError, PackageMissing
from recorder.export.tree import OTHER, Partition, Written
from recorder.plugins import installing
from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import PAYLOAD

try:
    import pyarrow as pa
    import pyarrow.compute as pc

    from recorder.export.parquet_file import ROW_GROUP_ROWS, ParquetFile
    from recorder.library.arrow import batches, schema_of
except (ImportError, PackageMissing) as error:
    raise ConfigError(f"`recorder export` needs pyarrow: {installing('pyarrow')}") from error

_HEADER_BYTES: Final = 256
"""Of a line, less its payload; about."""


class Part:
    """A file that gets the records of one partition. Nobody reads it before it is finished."""

    def __init__(self, partition: Partition, segment: Segment, source: str, path: Path, disk: Disk) -> None:
        """`source` is what the column of this name says. Raise `OSError`."""
        self._waiting: list[Records] = []
        self._waiting_rows = self._payload_bytes = 0
        self._partition = partition
        self._segment = segment
        self._source = source
        self._path = path
        self._file = ParquetFile(path, _schema(partition, segment, source), ("seq",), disk)

    @property
    def waiting_bytes(self) -> int:
        """What is in memory of its records, about."""
        return self._payload_bytes + self._waiting_rows * _HEADER_BYTES

    def add(self, records: Records) -> None:
        """Take the next records. Raise `OSError`."""
        begin, count = 0, len(records)
        while begin < count:
            end = min(count, begin + ROW_GROUP_ROWS - self._waiting_rows)
            some = records if end - begin == count else records.part(begin, end)
            self._waiting.append(some)
            self._waiting_rows += end - begin
            self._payload_bytes += some.payload_bytes(0, len(some))
            begin = end
            if self._waiting_rows == ROW_GROUP_ROWS:
                self.write_waiting()

    def write_waiting(self) -> None:
        """Write what is in memory as a row group. Raise `OSError`."""
        if not self._waiting:
            return
        blocks = ((self._segment.run_id, records) for records in self._waiting)
        found = pa.Table.from_batches(batches(blocks, _codes(self._partition), timestamps=True))
        payload_bytes = pc.sum(pc.binary_length(found[PAYLOAD.name])).as_py()
        if found.num_rows != self._waiting_rows or payload_bytes != self._payload_bytes:
            raise ArchiveError(f"{self._segment.path}: its columns do not agree with its records")
        self._file.write(_as_exported(found, self._partition, self._source))
        self._waiting.clear()
        self._waiting_rows = self._payload_bytes = 0

    def finish(self) -> Written:
        """Make the file whole and durable. Raise `OSError`."""
        self.write_waiting()
        rows, size_bytes = self._file.finish()
        return Written(self._path, self._partition, rows, size_bytes)

    def discard(self) -> None:
        """Let go of the file, and delete it."""
        self._file.discard()


def _codes(partition: Partition) -> tuple[str, ...]:
    return (partition.type,) if partition.type in CHANNELS else ()


def _schema(partition: Partition, segment: Segment, source: str) -> Any:
    """Return the columns of a partition's files, whatever is in them, and what they are of."""
    like = schema_of(_codes(partition), timestamps=True).empty_table()
    of = {"feed": partition.feed, "type": partition.type, "run_id": segment.run_id}
    about = {"first_seq": str(segment.first_seq), "sha256": segment.sha256}
    return _as_exported(like, partition, source).schema.with_metadata(
        {f"recorder.{key}": value for key, value in {**of, **about}.items()}
    )


def _as_exported(found: Any, partition: Partition, source: str) -> Any:
    """Return a table less what the names of its folders say, and with where its records are from."""
    columns: dict[str, Any] = {}
    for name in found.column_names:
        if name == "type" and partition.type == OTHER:
            columns["channel"] = found[name]
        elif name not in ("type", "feed"):
            columns[name] = found[name]
        if name == "run_id":
            columns["source"] = pa.repeat(source, found.num_rows)
    return pa.table(columns)
