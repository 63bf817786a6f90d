"""Records as a table: typed columns of what is in the payloads (polygon/typed_columns.py), and the payloads themselves.

Native code makes the columns of what it has cut; all others, and records with a value of an unusual form, are decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from recorder.archive.cutting import DecodedRecords, Records
from recorder.errors import PackageMissing
from recorder.plugins import installing
from recorder.polygon.typed_columns import (
    PAYLOAD,
    PAYLOAD_COLUMNS,
    RECORD_COLUMNS,
    TypedColumn,
    columns_of,
    timestamp_name,
)

if TYPE_CHECKING:
    import pandas
    import polars

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise PackageMissing(f"tables need pyarrow ({error}): {installing('pyarrow')}") from error

from recorder.library import buffers
from recorder.library.decoding import ARROW_TYPES, columns_of_events, columns_of_records

Blocks = Iterable[tuple[str, Records]]
"""Records of a run, many at once."""

_ROWS_MAX: Final = 65_536
"""Rows of a batch."""
_BYTES_MAX: Final = 64 << 20
"""Of the payloads of a batch, give or take a block of records."""
_PARTS_MAX: Final = 64
"""Blocks that wait in memory for a batch, though little of each may be chosen."""
_TIMESTAMP: Final = pa.timestamp("ms", tz="UTC")
_RUN: Final = RECORD_COLUMNS[0]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is made of records of some types."""

    schema: Any
    columns: tuple[TypedColumn, ...]
    """Those that are read, less the run."""
    events: dict[str, tuple[TypedColumn, ...]]
    """By type, those of its events."""
    kinds: tuple[str, ...]
    keys: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    """As native code is told."""


def schema_of(
    types: Iterable[str], *, timestamps: bool = False, names: Collection[str] | None = None
) -> pa.Schema:
    """Return the columns of a table of these types. What is in them depends on nothing else.

    With `timestamps` each column of times in Unix ms has one of timestamps behind it. `names` are those to have of them.
    """
    fields = []
    for column in (*RECORD_COLUMNS, *columns_of(types), PAYLOAD):
        fields.append((column.name, ARROW_TYPES[column.shape]))
        if timestamps and column.shape == "time":
            fields.append((timestamp_name(column), _TIMESTAMP))
    return pa.schema([field for field in fields if names is None or field[0] in names])


def table(blocks: Blocks, types: Sequence[str]) -> pa.Table:
    """Return all records as one table."""
    return pa.Table.from_batches(batches(blocks, types), schema_of(types))


def batches(
    blocks: Blocks, types: Sequence[str], *, timestamps: bool = False, names: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield them, with the columns of `schema_of`, in parts of `_ROWS_MAX` rows or about `_BYTES_MAX`."""
    plan = _plan(tuple(types), timestamps, None if names is None else frozenset(names))
    for tables in _tables(blocks, plan):
        # What is put together is copied, also where it is one piece.
        whole = tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()
        yield from whole.to_batches()


def _tables(blocks: Blocks, plan: _Plan) -> Iterator[list[pa.Table]]:
    """Yield what makes a batch: mostly one table."""
    tables: list[pa.Table] = []
    parts: list[tuple[str, Records]] = []
    count = size = 0
    for run_id, records in blocks:
        begin = 0
        while begin < len(records):
            end = min(len(records), begin + _ROWS_MAX - count)
            parts.append((run_id, records.part(begin, end)))
            count += end - begin
            size += records.payload_bytes(begin, end)
            begin = end
            if count == _ROWS_MAX or size >= _BYTES_MAX:
                yield [*tables, *_tables_of(parts, plan)]
                tables, parts, count, size = [], [], 0, 0
            elif len(parts) == _PARTS_MAX:
                tables += _tables_of(parts, plan)
                parts = []
    if count:
        yield [*tables, *_tables_of(parts, plan)]


def _tables_of(parts: list[tuple[str, Records]], plan: _Plan) -> Iterator[pa.Table]:
    for (run_id, is_decoded), group in groupby(
        parts, lambda part: (part[0], isinstance(part[1], DecodedRecords))
    ):
        records = [records for _, records in group]
        if is_decoded:
            yield from (_decoded(run_id, each, plan) for each in records)
        else:
            yield _tabulated(run_id, records, plan)


def to_polars(found: pa.Table) -> polars.DataFrame:
    """Return a table as a frame of Polars."""
    _require("polars")
    import polars

    frame = polars.from_arrow(found)
    assert isinstance(frame, polars.DataFrame)
    return frame


def to_pandas(found: pa.Table) -> pandas.DataFrame:
    """Return a table as a frame of pandas. Whole numbers stay whole where some are missing."""
    _require("pandas")
    import pandas

    nullable = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    frame: pandas.DataFrame = found.to_pandas(types_mapper=nullable.get)
    return frame


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise PackageMissing(f"this table needs {package}: {installing(package)}")


@cache
def _plan(types: tuple[str, ...], timestamps: bool, names: frozenset[str] | None) -> _Plan:
    schema = schema_of(types, timestamps=timestamps, names=names)

    def is_read(column: TypedColumn) -> bool:
        is_timestamp = column.shape == "time" and timestamp_name(column) in schema.names
        return column.name in schema.names or is_timestamp

    own = tuple(filter(is_read, RECORD_COLUMNS[1:]))
    of_events = tuple(filter(is_read, columns_of(types)))
    payload = (PAYLOAD,) if PAYLOAD.name in schema.names else ()
    columns = (*own, *of_events, *payload)
    events = {code: tuple(filter(is_read, PAYLOAD_COLUMNS.get(code, ()))) for code in types}
    kinds = tuple(buffers.kind_of(column, is_of_event=column in of_events) for column in columns)
    return _Plan(schema, columns, events, kinds, buffers.keys_of(columns, events.items()))


def _tabulated(run_id: str, parts: list[Records], plan: _Plan) -> pa.Table:
    """Return what native code has cut."""
    types = [ARROW_TYPES[column.shape] for column in plan.columns]
    found, odd = buffers.columns_of(parts, plan.kinds, plan.keys, types)
    count = sum(map(len, parts))
    whole = _arranged(run_id, plan, dict(zip(plan.columns, found, strict=True)), count)
    if not odd:
        return whole
    # Each of the odd ones is taken from behind the others.
    order = list(range(count))
    for place, row in enumerate(odd):
        order[row] = count + place
    apart = [_decoded(run_id, picked, plan) for picked in _picked(parts, odd)]
    return pa.concat_tables([whole, *apart]).combine_chunks().take(pa.array(order, pa.int64()))


def _picked(parts: list[Records], rows: list[int]) -> Iterator[Records]:
    """Yield the records that stand in these rows of all parts together."""
    begin = 0
    for part in parts:
        end = begin + len(part)
        places = [row - begin for row in rows[bisect_left(rows, begin) : bisect_left(rows, end)]]
        if places:
            yield part.pick(places)
        begin = end


def _decoded(run_id: str, records: Records, plan: _Plan) -> pa.Table:
    """Return records as they are decoded, in their order."""
    codes = [code for code, _ in records.names()]
    types = sorted(set(codes))
    if len(types) == 1:
        return _decoded_of_type(run_id, types[0], records, plan)
    places = {code: [place for place, own in enumerate(codes) if own == code] for code in types}
    parts = [_decoded_of_type(run_id, code, records.pick(places[code]), plan) for code in types]
    order = pc.sort_indices(pa.array([place for code in types for place in places[code]], pa.int64()))
    return pa.concat_tables(parts).combine_chunks().take(order)


def _decoded_of_type(run_id: str, code: str, records: Records, plan: _Plan) -> pa.Table:
    own = [column for column in plan.columns if column in RECORD_COLUMNS or column is PAYLOAD]
    events = plan.events.get(code, ())
    found = dict(zip(own, columns_of_records(records, own), strict=True))
    found |= zip(events, columns_of_events(records, events), strict=True)
    return _arranged(run_id, plan, found, len(records))


def _arranged(run_id: str, plan: _Plan, found: dict[TypedColumn, Any], count: int) -> pa.Table:
    """Return what was found as a table: with the run, timestamps, and nulls where nothing was found."""
    columns = {column.name: values for column, values in found.items()}
    for column, values in found.items():
        if column.shape == "time" and timestamp_name(column) in plan.schema.names:
            columns[timestamp_name(column)] = _timestamps(values)
    if _RUN.name in plan.schema.names:
        columns[_RUN.name] = pa.repeat(run_id, count)
    arrays = [
        columns[each.name] if each.name in columns else pa.nulls(count, each.type) for each in plan.schema
    ]
    return pa.Table.from_arrays(arrays, schema=plan.schema)


def _timestamps(times: Any) -> Any:
    """Return Unix ms as timestamps; 0 is no time."""
    if pc.min(times).as_py() == 0:
        times = pc.if_else(pc.equal(times, 0), pa.scalar(None, pa.int64()), times)
    return times.view(_TIMESTAMP)
