"""Columns of records by native code, which fills the buffers of Arrow; what it leaves is for `decoding`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from recorder import native
from recorder.archive.cutting import Records
from recorder.polygon.typed_columns import RECORD_COLUMNS, TypedColumn

_INNER = pa.list_(pa.float64())


def kind_of(column: TypedColumn, *, is_of_event: bool) -> str:
    """Return what native code calls a column."""
    return column.shape if is_of_event else column.field


def keys_of(
    columns: Sequence[TypedColumn], channels: Iterable[tuple[str, Sequence[TypedColumn]]]
) -> tuple[tuple[str, tuple[tuple[str, int], ...]], ...]:
    """Return to which of the columns the fields of each channel's events belong."""
    places = {column.name: place for place, column in enumerate(columns) if column not in RECORD_COLUMNS}
    return tuple(
        (code, tuple((column.field, places[column.name]) for column in own if column.name in places))
        for code, own in channels
    )


def columns_of(
    parts: Sequence[Records],
    kinds: tuple[str, ...],
    keys: tuple[tuple[str, tuple[tuple[str, int], ...]], ...],
    types: Sequence[Any],
) -> tuple[list[Any], list[int]]:
    """Return the columns of all parts, which native code has cut, and the places of the records that it cannot read.

    What stands in the columns at these places is of no use.
    """
    found, odd = native.module().tabulate(tuple(parts), kinds, keys)
    count = sum(map(len, parts))
    return [_array(buffers, type_, count) for buffers, type_ in zip(found, types, strict=True)], odd


def _array(buffers: tuple[Any, ...], type_: Any, count: int) -> Any:
    nulls, *parts = buffers
    if nulls == count:
        return pa.nulls(count, type_)
    held = [None if part is None else pa.py_buffer(part) for part in parts]
    if not pa.types.is_list(type_):
        return pa.Array.from_buffers(type_, count, held, nulls)
    values = _values(type_.value_type, held[2:])
    return pa.Array.from_buffers(type_, count, held[:2], nulls, children=[values])


def _values(type_: Any, held: list[Any]) -> Any:
    """Return what is in lists: none of it is null."""
    if not pa.types.is_list(type_):
        return pa.Array.from_buffers(type_, held[0].size // 8, [None, held[0]], 0)
    inner = _values(type_.value_type, held[1:])
    return pa.Array.from_buffers(type_, held[0].size // 4 - 1, [None, held[0]], 0, children=[inner])
