"""One way of reading an archive, by us or by a peer: `python -m benchmarks.reading WORK PATH` prints what it took as JSON.

PATH is the folder of an archive; peers read its largest file, which has the bulk of it. What it takes to import things does
not count. A table is one of trades and quotes, with the columns of docs/api.md.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import polars
import pyarrow

import recorder
from recorder.library import arrow
from recorder.polygon.typed_columns import RECORD_COLUMNS, Shape, columns_of
from recorder.query.session import Query
from recorder.tables import dataset
from recorder.tables.sealed import open_sealed

_IMPORTED: Final = (arrow, dataset)
"""What would be imported when it is first used."""
_SUM: Final = "SELECT count(*), sum(price * size) FROM trades"
_DUCKDB_TYPES: Final[dict[Shape, str]] = {"text": "VARCHAR", "real": "DOUBLE", "integers": "BIGINT[]"}
_POLARS_TYPES: Final[dict[Shape, Any]] = {
    "text": polars.String,
    "real": polars.Float64,
    "integers": polars.List(polars.Int64),
}
_COLUMNS: Final = [column for column in columns_of("TQ") if column.name != "conditions"]
"""Those that peers can have: conditions are a list in trades, and a number in quotes."""


def main() -> None:
    """Do the work, and say what it took."""
    work, path = sys.argv[1], Path(sys.argv[2])
    pyarrow.set_cpu_count(1)
    before_mb, began, began_cpu = _rss_mb(), time.monotonic(), time.process_time()
    records = WORKS[work](path)
    secs, cpu_secs = time.monotonic() - began, time.process_time() - began_cpu
    found = {
        "records": records,
        "secs": secs,
        "cpu_secs": cpu_secs,
        "rss_mb": _rss_mb(),
        "before_mb": before_mb,
    }
    print(json.dumps(found))


def _payloads(path: Path) -> int:
    return sum(1 for _ in recorder.open_archive(path).records().payloads())


def _records(path: Path) -> int:
    return sum(1 for _ in recorder.open_archive(path).records())


def _one_symbol(path: Path) -> int:
    """Return how many records were looked through."""
    archive = recorder.open_archive(path)
    assert sum(1 for _ in archive.records(symbols="A"))
    return sum(archive.counts.values())


def _arrow_batches(path: Path) -> int:
    return sum(batch.num_rows for batch in recorder.open_archive(path).records().arrow_batches())


def _arrow_table(path: Path) -> int:
    return int(recorder.open_archive(path).records().to_arrow().num_rows)


def _query_sum(path: Path) -> int:
    """Return how many records were looked through."""
    assert _answers(path, _SUM)[0][0]
    return open_sealed(path).count("events")


def _answers(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with Query(open_sealed(path), sql).opened() as opened:
        return [row for rows in opened.answer().rows for row in rows]


def _duckdb(path: Path) -> tuple[duckdb.DuckDBPyConnection, str]:
    """Return DuckDB on one core, and its table of the lines."""
    fields = ", ".join(
        f'"{field}" {_DUCKDB_TYPES.get(shape, "BIGINT")}' for field, shape in sorted(_fields().items())
    )
    own = ", ".join(f"{name}: '{kind}'" for name, kind in _own("VARCHAR", "BIGINT"))
    lines = f"read_ndjson('{_largest(path)}', columns={{{own}, payload: 'STRUCT({fields})'}})"
    return duckdb.connect(config={"threads": 1}), lines


def _duckdb_table(path: Path) -> int:
    connection, lines = _duckdb(path)
    found = connection.execute(f"SELECT * EXCLUDE payload, unnest(payload) FROM {lines}")  # noqa: S608
    return int(found.to_arrow_table().num_rows)


def _duckdb_sum(path: Path) -> int:
    connection, lines = _duckdb(path)
    sql = f"SELECT sum(payload.p * payload.s) FILTER (type = 'T'), count(*) FROM {lines}"  # noqa: S608
    [(found, count)] = connection.execute(sql).fetchall()
    assert found
    return int(count)


def _polars(path: Path) -> polars.LazyFrame:
    fields = {field: _POLARS_TYPES.get(shape, polars.Int64) for field, shape in sorted(_fields().items())}
    schema = {**dict(_own(polars.String, polars.Int64)), "payload": polars.Struct(fields)}
    return polars.scan_ndjson(_largest(path), schema=schema)


def _polars_table(path: Path) -> int:
    found = _polars(path).select(
        polars.exclude("payload"), polars.col("payload").struct.field("*").name.prefix("payload_")
    )
    return found.collect().height


def _polars_sum(path: Path) -> int:
    payload = polars.col("payload").struct
    found = _polars(path).select(
        polars.len().alias("count"),
        (payload.field("p") * payload.field("s")).filter(polars.col("type") == "T").sum().alias("sum"),
    )
    [(count, total)] = found.collect().rows()
    assert total
    return int(count)


def _fields() -> dict[str, Shape]:
    """Return the fields of trades and quotes; one that is two things takes the first one's."""
    return {column.field: column.shape for column in reversed(_COLUMNS)}


def _own(text: Any, number: Any) -> Iterator[tuple[str, Any]]:
    for column in RECORD_COLUMNS[1:]:
        yield column.name, text if column.shape == "text" else number


def _largest(path: Path) -> Path:
    return max(path.glob("polygon*.ndjson"), key=lambda file: file.stat().st_size)


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


WORKS: Final[dict[str, Callable[[Path], int]]] = {
    "payloads": _payloads,
    "records": _records,
    "one symbol": _one_symbol,
    "arrow batches": _arrow_batches,
    "arrow table": _arrow_table,
    "query sum": _query_sum,
    "duckdb table": _duckdb_table,
    "duckdb sum": _duckdb_sum,
    "polars table": _polars_table,
    "polars sum": _polars_sum,
}

if __name__ == "__main__":
    main()
