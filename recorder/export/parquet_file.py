"""A Parquet file while it is written: how its columns are encoded, and each byte by way of the disk that tests replace."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from recorder.archive.disk import Disk
from recorder.errors import ArchiveError
from recorder.polygon.typed_columns import PAYLOAD

ROW_GROUP_ROWS: Final = 122_880
"""What DuckDB, and others with it, read at once."""
_WRITE_BYTES: Final = 1 << 20
_UNLIKE: Final = frozenset({"seq", "payload", "id", "decimal_size"})
"""Columns of which hardly two values are equal, besides times: a dictionary of them is in vain."""


class ParquetFile:
    """Takes tables of one schema. Nobody reads the file before it is finished."""

    def __init__(self, path: Path, schema: Any, sorted_by: Sequence[str], disk: Disk) -> None:
        """`sorted_by` are the columns by which the rows rise. Raise `OSError`."""
        self._path = path
        self._schema = schema
        self._disk = disk
        self._rows = 0
        self._file = _File(path, disk)
        self._out = io.BufferedWriter(self._file, _WRITE_BYTES)
        self._writer = pq.ParquetWriter(
            self._out,
            schema,
            compression="zstd",
            write_page_checksum=True,
            sorting_columns=[pq.SortingColumn(schema.get_field_index(name)) for name in sorted_by],
            **_encodings(schema),
        )

    def write(self, table: Any) -> None:
        """Write the next rows, as a row group of their own or as several. Raise `OSError`."""
        self._writer.write_table(table.cast(self._schema), ROW_GROUP_ROWS)
        self._rows += table.num_rows

    def finish(self) -> tuple[int, int]:
        """Make the file whole and durable; return its rows and its bytes. Raise `OSError`."""
        self._writer.close()
        self._out.flush()
        self._file.finish()
        if pq.read_metadata(self._path).num_rows != self._rows:
            raise ArchiveError(f"{self._path}: its rows differ from those that were written")
        return self._rows, self._path.stat().st_size

    def discard(self) -> None:
        """Let go of the file, and delete it."""
        self._file.discard()
        self._writer.close()
        self._disk.unlink(self._path)


class _File(io.RawIOBase):
    """What pyarrow writes to: each call reaches the disk, until nothing is wanted of it any more."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        self._fd: int | None = disk.create(path)

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        return self._disk.write(self._fd, view) if self._fd is not None else len(view)

    def finish(self) -> None:
        """Make it durable, and close it."""
        fd, self._fd = self._fd, None
        assert fd is not None
        try:
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def discard(self) -> None:
        """Close it; what is still written to it goes nowhere."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)


def _encodings(schema: Any) -> dict[str, Any]:
    """Return how the columns are written: times and numbers that rise by their differences, what repeats by a dictionary."""
    rising = {field.name for field in schema if field.name == "seq" or _is_time(field)}
    return {
        "use_dictionary": [path for path in _paths(schema) if path.partition(".")[0] not in rising | _UNLIKE],
        "column_encoding": dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        # A reader that looks for a payload reads them all; their bounds would only lengthen the file.
        "write_statistics": [path for path in _paths(schema) if path != PAYLOAD.name],
    }


def _is_time(field: Any) -> bool:
    return bool(pa.types.is_timestamp(field.type)) or field.name == "ts" or field.name.endswith("_ts")


def _paths(schema: Any) -> list[str]:
    """Return the names of the columns as Parquet has them, those within lists, too."""
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    parquet = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [parquet.column(place).path for place in range(len(parquet))]
