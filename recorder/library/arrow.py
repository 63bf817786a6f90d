"""Records as a table: typed columns of what is in the payloads (polygon/typed_columns.py), and the payloads themselves.

Payloads are decoded many at once, each channel's with its own decoder. Those that do not fit are decoded field by field, so
that an odd value costs its own cell and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import msgspec

from recorder.archive.cutting import Records
from recorder.archive.record import UNREADABLE
from recorder.errors import PackageMissing
from recorder.plugins import installing
from recorder.polygon.careful import to_ms
from recorder.polygon.typed_columns import (
    PAYLOAD,
    PAYLOAD_COLUMNS,
    RECORD_COLUMNS,
    Shape,
    TypedColumn,
    columns_of,
)

if TYPE_CHECKING:
    import pandas
    import polars

try:
    import pyarrow as pa
    import pyarrow.compute as pc
except ImportError as error:
    raise PackageMissing(f"tables need pyarrow ({error}): {installing('pyarrow')}") from error

Blocks = Iterable[tuple[str, Records]]
"""Records of a run, many at once."""

_ROWS: Final = 65_536
"""Rows of a batch."""
_INTEGER_MIN: Final = -(1 << 63)
_INTEGER_END: Final = 1 << 63
_MS_MIN: Final = 100_000_000_000
_MS_END: Final = 100_000_000_000_000

ARROW_TYPES: Final[dict[Shape, Any]] = {
    "text": pa.string(),
    "real": pa.float64(),
    "integer": pa.int64(),
    "time": pa.int64(),
    "integers": pa.list_(pa.int64()),
    "flag": pa.bool_(),
    "levels": pa.list_(pa.list_(pa.float64())),
}
_DECODED: Final[dict[Shape, Any]] = {
    "text": str | int | None,
    "real": float | None,
    "integer": int | None,
    "time": int | None,
    "integers": int | list[int] | None,
    "flag": bool | None,
    "levels": list[list[float]] | None,
}
"""As what a value is decoded, where it fits."""


class _Line(msgspec.Struct, gc=False):
    """What a table takes from a record itself."""

    ingest_ts: int
    type: str
    symbol: str
    feed: str
    ts: int
    seq: int


def schema_of(types: Iterable[str]) -> pa.Schema:
    """Return the columns of a table of these types. What is in them depends on nothing else."""
    columns = (*RECORD_COLUMNS, *columns_of(types), PAYLOAD)
    return pa.schema([(column.name, ARROW_TYPES[column.shape]) for column in columns])


def table(blocks: Blocks, types: Sequence[str]) -> pa.Table:
    """Return all records as one table."""
    return pa.Table.from_batches(batches(blocks, types), schema_of(types))


def batches(blocks: Blocks, types: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield them as tables of `_ROWS` rows, the last one smaller."""
    schema = schema_of(types)
    waiting: list[pa.Table] = []
    count = 0
    for run_id, records in blocks:
        part = _table(run_id, records, schema)
        waiting.append(part)
        count += part.num_rows
        while count >= _ROWS:
            whole = pa.concat_tables(waiting)
            yield from whole.slice(0, _ROWS).combine_chunks().to_batches()
            count -= _ROWS
            waiting = [whole.slice(_ROWS)] if count else []
    if count:
        yield from pa.concat_tables(waiting).combine_chunks().to_batches()


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


def _table(run_id: str, records: Records, schema: pa.Schema) -> pa.Table:
    """Return the records of one run in their order."""
    names = records.names()
    codes = sorted({code for code, _ in names})
    if len(codes) == 1:
        return _table_of_type(run_id, codes[0], records, schema)
    places = {code: [place for place, (own, _) in enumerate(names) if own == code] for code in codes}
    parts = [_table_of_type(run_id, code, records.pick(places[code]), schema) for code in codes]
    order = pc.sort_indices(pa.array([place for code in codes for place in places[code]], pa.int64()))
    return pa.concat_tables(parts).combine_chunks().take(order)


def _table_of_type(run_id: str, code: str, records: Records, schema: pa.Schema) -> pa.Table:
    lines = _decode_lines(records.lines())
    columns: dict[str, Any] = {
        column.name: pa.array([getattr(line, column.field) for line in lines], ARROW_TYPES[column.shape])
        for column in RECORD_COLUMNS
        if column.field
    }
    columns["run_id"] = pa.repeat(run_id, len(lines))
    columns[PAYLOAD.name] = pa.array(records.payloads(0, len(records)), pa.binary()).cast(pa.string())
    typed = PAYLOAD_COLUMNS.get(code, ())
    if typed:
        events = _events_of(code, records)
        for column in typed:
            columns[column.name] = _array([getattr(event, column.name) for event in events], column.shape)
    missing = {field.name: pa.nulls(len(lines), field.type) for field in schema if field.name not in columns}
    return pa.table({**columns, **missing}).select(schema.names)


def _events_of(code: str, records: Records) -> Sequence[Any]:
    """Return an object for each payload, with its values by the names of their columns."""
    try:
        return _decoder(code).decode_lines(records.payload_lines())
    except (*UNREADABLE, RecursionError):
        return [_event_of(code, payload) for payload in records.payloads(0, len(records))]


def _event_of(code: str, payload: bytes) -> Any:
    try:
        return _decoder(code).decode(payload)
    except (*UNREADABLE, RecursionError):
        pass
    try:
        raw = _raw_decoder(code).decode(payload)
    except (*UNREADABLE, RecursionError):
        raw = None
    return _struct(code)(
        **{
            column.name: _value_of(bytes(getattr(raw, column.name)), column.shape)
            for column in PAYLOAD_COLUMNS[code]
            if raw is not None
        }
    )


def _value_of(raw: bytes, shape: Shape) -> Any:
    """Return a value as its column has it; None where it does not fit, or is not there."""
    if not raw:
        return None
    try:
        if shape == "text" and raw[:1] in b"-0123456789":
            return raw.decode()
        if shape == "time":
            return to_ms(msgspec.json.decode(raw, type=int | float, strict=False))
        return msgspec.json.decode(raw, type=_DECODED[shape], strict=False)
    except (*UNREADABLE, RecursionError):
        return None


def _array(values: list[Any], shape: Shape) -> Any:
    """Return the values as a column of their shape."""
    match shape:
        case "text":
            return pa.array([value if value is None else str(value) for value in values], pa.string())
        case "real":
            found = pa.array(values, pa.float64())
            return pc.if_else(pc.is_finite(found), found, pa.scalar(None, pa.float64()))
        case "integer":
            return _integers(values)
        case "time":
            return _times(values)
        case "integers":
            lists = [[value] if isinstance(value, int) else value for value in values]
            try:
                return pa.array(lists, ARROW_TYPES[shape])
            except (OverflowError, pa.ArrowInvalid):
                fitting = [one if one is None or all(map(_fits, one)) else None for one in lists]
                return pa.array(fitting, ARROW_TYPES[shape])
        case _:
            return pa.array(values, ARROW_TYPES[shape])


def _integers(values: list[Any]) -> Any:
    try:
        return pa.array(values, pa.int64())
    except (OverflowError, pa.ArrowInvalid):
        return pa.array([value if value is None or _fits(value) else None for value in values], pa.int64())


def _times(values: list[Any]) -> Any:
    """Return the times in milliseconds, as nearly all of them are."""
    found = _integers(values)
    bounds = pc.min_max(found).as_py()
    if bounds["min"] is None or _MS_MIN <= bounds["min"] <= bounds["max"] < _MS_END:
        return found
    return pa.array([value and (to_ms(value) or None) for value in found.to_pylist()], pa.int64())


def _fits(value: int) -> bool:
    return _INTEGER_MIN <= value < _INTEGER_END


def _fields(columns: Iterable[TypedColumn]) -> dict[str, str]:
    return {column.name: column.field for column in columns}


@cache
def _struct(code: str) -> Any:
    columns = PAYLOAD_COLUMNS[code]
    return msgspec.defstruct(
        f"Payload{code}",
        [(column.name, _DECODED[column.shape], None) for column in columns],
        rename=_fields(columns),
        gc=False,
    )


@cache
def _decoder(code: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_struct(code), strict=False)


@cache
def _raw_decoder(code: str) -> msgspec.json.Decoder[Any]:
    columns = PAYLOAD_COLUMNS[code]
    struct = msgspec.defstruct(
        f"Raw{code}",
        [(column.name, msgspec.Raw, msgspec.Raw()) for column in columns],
        rename=_fields(columns),
    )
    return msgspec.json.Decoder(struct)


_decode_lines: Final = msgspec.json.Decoder(_Line).decode_lines
