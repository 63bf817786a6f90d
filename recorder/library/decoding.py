"""Columns of the events of records, by msgspec: of any events, many at once.

The events of a channel have a decoder of their own. Where one does not fit, each is decoded alone, and one that does not fit
field by field, so that an odd value costs its own cell and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from recorder.archive.cutting import Records
from recorder.archive.record import UNREADABLE
from recorder.errors import ArchiveError
from recorder.library.cells import fitting, integer_of, number_text, real_of, time_ms_of, value_of
from recorder.polygon.careful import MS_END, MS_MIN
from recorder.polygon.typed_columns import PAYLOAD, Shape, TypedColumn

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
    "text": str | None,
    "real": float | str | None,
    "integer": int | str | None,
    "time": int | str | None,
    "integers": int | str | list[int] | None,
    "flag": bool | None,
    "levels": list[list[float]] | None,
}
"""As what a value is decoded, where it is of the usual form."""


class _Line(msgspec.Struct, gc=False):
    """What a table takes from a record itself."""

    ingest_ts: int
    type: str
    symbol: str
    feed: str
    ts: int
    seq: int


def columns_of_records(records: Records, columns: Iterable[TypedColumn]) -> list[Any]:
    """Return columns of the records themselves. Raise `ArchiveError` where a payload is not UTF-8."""
    lines = _decode_lines(records.lines())
    return [
        _payloads(records)
        if column is PAYLOAD
        else pa.array([getattr(line, column.field) for line in lines], ARROW_TYPES[column.shape])
        for column in columns
    ]


def _payloads(records: Records) -> Any:
    payloads = records.payloads(0, len(records))
    try:
        return pa.array([payload.decode() for payload in payloads], pa.string())
    except UnicodeDecodeError as error:
        seq, _ = records.first
        raise ArchiveError(
            f"a record is not UTF-8, {seq} or one that follows it: {error}; `recorder verify` says where it stands"
        ) from error


def columns_of_events(records: Records, columns: tuple[TypedColumn, ...]) -> list[Any]:
    """Return columns of the events of one channel."""
    if not columns:
        return []
    events = _events_of(records, columns)
    return [_array([getattr(event, column.name) for event in events], column.shape) for column in columns]


def _events_of(records: Records, columns: tuple[TypedColumn, ...]) -> Sequence[Any]:
    """Return an object for each payload, with its values by the names of their columns."""
    try:
        return _decoder(columns).decode_lines(records.payload_lines())
    except UNREADABLE:
        return [_event_of(payload, columns) for payload in records.payloads(0, len(records))]


def _event_of(payload: bytes, columns: tuple[TypedColumn, ...]) -> Any:
    try:
        return _decoder(columns).decode(payload)
    except UNREADABLE:
        pass
    values: dict[str, Any] = {}
    try:
        raw = _raw_decoder(columns).decode(payload)
        for column in columns:
            value = bytes(getattr(raw, column.name))
            # The unit of a time is known by its magnitude, and so is found once, for all of them.
            is_time = column.shape == "time"
            values[column.name] = number_text(value) if is_time else value_of(value, column.shape)
    except UNREADABLE:
        pass
    return _struct(columns)(**values)


def _array(values: list[Any], shape: Shape) -> Any:
    """Return the values as a column of their shape."""
    if shape == "time":
        return _times(values)
    try:
        if shape == "integers":
            # Arrow takes a text without letters for an empty list.
            values = [_fitted(value, shape) if type(value) is str else value for value in values]
            values = [[value] if type(value) is int else value for value in values]
        return pa.array(values, ARROW_TYPES[shape])
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_fitted(value, shape) for value in values], ARROW_TYPES[shape])


def _fitted(value: Any, shape: Shape) -> Any:
    """Return a value that was decoded, as its column can have it."""
    match value, shape:
        case str(), "real":
            return real_of(value)
        case str(), "integer":
            return integer_of(value)
        case str(), "integers":
            number = integer_of(value)
            return None if number is None else [number]
        case int(), "integer":
            return fitting(value)
        case list(), "integers":
            return None if any(fitting(one) is None for one in value) else value
        case _:
            return value


def _times(values: list[Any]) -> Any:
    """Return the times in milliseconds, as nearly all of them are."""
    try:
        found = pa.array(values, pa.int64())
        bounds = pc.min_max(found).as_py()
        if bounds["min"] is None or MS_MIN <= bounds["min"] <= bounds["max"] < MS_END:
            return found
    except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    return pa.array([None if value is None else time_ms_of(str(value)) for value in values], pa.int64())


def _fields(columns: Iterable[TypedColumn]) -> dict[str, str]:
    return {column.name: column.field for column in columns}


@cache
def _struct(columns: tuple[TypedColumn, ...]) -> Any:
    return msgspec.defstruct(
        "Event",
        [(column.name, _DECODED[column.shape], None) for column in columns],
        rename=_fields(columns),
        gc=False,
    )


@cache
def _decoder(columns: tuple[TypedColumn, ...]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_struct(columns))


@cache
def _raw_decoder(columns: tuple[TypedColumn, ...]) -> msgspec.json.Decoder[Any]:
    struct = msgspec.defstruct(
        "RawEvent",
        [(column.name, msgspec.Raw, msgspec.Raw()) for column in columns],
        rename=_fields(columns),
    )
    return msgspec.json.Decoder(struct)


_decode_lines: Final = msgspec.json.Decoder(_Line).decode_lines
