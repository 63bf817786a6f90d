"""PURE. The tables of a ClickHouse server: their columns, what creates them, and what an existing one must be like."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import PAYLOAD, RECORD_COLUMNS, Shape, TypedColumn, columns_of
from recorder.tables.views import CODES

OTHER: Final = "other"
"""The table of channels that nobody knows, without columns of the payload."""
LOST: Final = "lost"
"""The table of what was deleted before it was sent."""
TABLES: Final = (*CODES, OTHER)
"""Those of records, by the word for the kind of file."""
WORDS: Final[Mapping[str, str]] = {code: channel.word for code, channel in CHANNELS.items()}
DEDUPLICATION_WINDOW: Final = 1000
"""Of so many inserts a table remembers the tokens. One is repeated while it is the last one of its stream."""

_TYPES: Final[Mapping[Shape, str]] = {
    "text": "Nullable(String)",
    "real": "Nullable(Float64)",
    "integer": "Nullable(Int64)",
    "time": "Nullable(Int64)",
    "integers": "Array(Int64)",
    "flag": "Nullable(Bool)",
    "levels": "Array(Array(Float64))",
}
_CODECS: Final[Mapping[Shape, str]] = {
    "text": "ZSTD(1)",
    "real": "ZSTD(1)",
    "integer": "ZSTD(1)",
    "time": "Delta, ZSTD(1)",
    "integers": "ZSTD(1)",
    "flag": "ZSTD(1)",
    "levels": "ZSTD(1)",
}
_RECORD_TYPES: Final[Mapping[str, tuple[str, str]]] = {
    "run_id": ("LowCardinality(String)", "ZSTD(1)"),
    "seq": ("UInt64", "Delta, ZSTD(1)"),
    "ingest_ts": ("Int64", "Delta, ZSTD(1)"),
    "type": ("LowCardinality(String)", "ZSTD(1)"),
    "symbol": ("LowCardinality(String)", "ZSTD(1)"),
    "feed": ("LowCardinality(String)", "ZSTD(1)"),
    "ts": ("Int64", "Delta, ZSTD(1)"),
    "payload": ("String", "ZSTD(3)"),
}
"""Types and codecs of the columns that every record has."""
_STORED_TIMES: Final = ("ingest_ts", "ts")
"""Those whose timestamps are columns of their own: a partition and an index are made of them."""

_MERGE_TREE: Final = "MergeTree"
_KEPT_APART: Final = ("ReplicatedMergeTree", "SharedMergeTree")
"""Engines that note tokens and rows in one step, and keep tokens unless they are told not to."""


def table_of(code: str) -> str:
    """Return the table of a channel."""
    return WORDS.get(code, OTHER)


def codes_of(table: str) -> tuple[str, ...]:
    """Return the channels of a table; none for `OTHER`."""
    return CODES.get(table, ())


def columns(table: str) -> tuple[TypedColumn, ...]:
    """Return the columns that are sent, in their order."""
    return (*RECORD_COLUMNS, *columns_of(codes_of(table)), PAYLOAD)


def type_of(column: TypedColumn) -> str:
    """Return a column's type in ClickHouse."""
    fixed = _RECORD_TYPES.get(column.name)
    return fixed[0] if fixed else _TYPES[column.shape]


def time_name(name: str) -> str:
    """Return what the timestamp beside a column of milliseconds is called: `ingest_time` beside `ingest_ts`."""
    return "time" if name == "ts" else f"{name.removesuffix('_ts')}_time"


def create(table: str) -> str:
    """Return the statement that creates a table of records."""
    lines: list[str] = []
    for column in columns(table):
        codec = _RECORD_TYPES.get(column.name, ("", _CODECS[column.shape]))[1]
        lines.append(f"{_name(column.name)} {type_of(column)} CODEC({codec})")
        if column.shape == "time":
            lines.append(_time_column(column))
    lines += [
        "INDEX time_minmax time TYPE minmax GRANULARITY 1",
        "PROJECTION places (SELECT run_id, feed, max(seq), count(), min(ingest_ts) GROUP BY run_id, feed)",
    ]
    return _statement(
        table,
        lines,
        "PARTITION BY toDate(ingest_time)\nORDER BY (symbol, ts, run_id, seq)",
    )


def create_lost() -> str:
    """Return the statement that creates the table of what was lost."""
    lines = [
        "noted_time DateTime64(3, 'UTC')",
        "run_id LowCardinality(String)",
        "table LowCardinality(String)",
        "records UInt64",
        "first_seq UInt64",
        "last_seq UInt64",
        "from_ts Int64",
        "to_ts Int64",
        "reason String",
    ]
    return _statement(LOST, lines, "ORDER BY (run_id, table, noted_time)")


def _statement(table: str, lines: Iterable[str], layout: str) -> str:
    body = ",\n".join(f"    {line}" for line in lines)
    settings = (
        f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, "
        "fsync_after_insert = 1, fsync_part_directory = 1"
    )
    return (
        f"CREATE TABLE IF NOT EXISTS {_name(table)}\n(\n{body}\n)\n"
        f"ENGINE = {_MERGE_TREE}\n{layout}\nSETTINGS {settings}"
    )


def _time_column(column: TypedColumn) -> str:
    name = _name(time_name(column.name))
    made = f"fromUnixTimestamp64Milli({_name(column.name)}, 'UTC')"
    if column.name in _STORED_TIMES:
        return f"{name} DateTime64(3, 'UTC') DEFAULT {made} CODEC(Delta, ZSTD(1))"
    return f"{name} Nullable(DateTime64(3, 'UTC')) ALIAS {made}"


def unsuitable(table: str, engine: str, engine_full: str, found: Mapping[str, str]) -> Iterator[str]:
    """Yield what an existing table has that cannot be used, each with what to do; `found` has its columns and types."""
    if engine == _MERGE_TREE:
        window = re.search(r"non_replicated_deduplication_window = (\d+)", engine_full)
        if window is None or window[1] == "0":
            yield (
                "it remembers no tokens, so that a retry could double rows; "
                f"ALTER TABLE {_name(table)} MODIFY SETTING non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
            )
    elif engine not in _KEPT_APART:
        engines = ", ".join((_MERGE_TREE, *_KEPT_APART))
        yield f"its engine is {engine}, and must be one of {engines}; name another database"
    if table == LOST:
        return
    for column in columns(table):
        wanted = type_of(column)
        has = found.get(column.name)
        if has is None:
            yield f"the column {column.name} is missing; ALTER TABLE {_name(table)} ADD COLUMN {column.name} {wanted}"
        elif _plain(has) != _plain(wanted):
            yield f"the column {column.name} is {has}, and must be {wanted}; name another database, or alter the column"


def may_forget(engine: str) -> bool:
    """Return whether a server with this engine may, where it dies, keep a token without its rows."""
    return engine == _MERGE_TREE


def _plain(kind: str) -> str:
    """Return a type without what changes how it is stored only."""
    return re.sub(r"LowCardinality\(((?:Nullable\()?\w+\)?)\)", r"\1", kind).replace(" ", "")


def _name(name: str) -> str:
    return f"`{name}`"
