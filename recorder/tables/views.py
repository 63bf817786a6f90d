"""The views that SQL sees: one for each kind of file, with typed columns, the exact payload, and macros over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson

from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import PAYLOAD_COLUMNS, RECORD_COLUMNS, Shape, TypedColumn, columns_of

EVENTS: Final = "events"
"""The view of all records, whatever their type, without columns of the payload."""

CODES: Final[Mapping[str, tuple[str, ...]]] = {
    word: tuple(code for code, channel in CHANNELS.items() if channel.word == word)
    for word in dict.fromkeys(channel.word for channel in CHANNELS.values())
}
"""The channels that each of the other views has."""

MACROS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "quotes_asof": (
        ("trades", "quotes"),
        # Of the quotes of one millisecond the one that came last is in force.
        """CREATE MACRO quotes_asof() AS TABLE
           SELECT trades.*, last_quote.ts AS quote_ts, quote.bid_price, quote.bid_size, quote.ask_price, quote.ask_size
           FROM trades ASOF LEFT JOIN (
               SELECT feed, symbol, ts, arg_max(
                   struct_pack(bid_price := bid_price, bid_size := bid_size, ask_price := ask_price, ask_size := ask_size),
                   (ingest_ts, seq)) AS quote
               FROM quotes GROUP BY feed, symbol, ts
           ) AS last_quote
           ON trades.feed = last_quote.feed AND trades.symbol = last_quote.symbol AND trades.ts >= last_quote.ts""",
    ),
    "bars": (
        ("trades",),
        """CREATE MACRO bars("interval") AS TABLE
           SELECT feed, symbol, time_bucket("interval", make_timestamp_ms(ts)) AS start,
                  arg_min(price, (ts, ingest_ts, seq)) AS open, max(price) AS high, min(price) AS low,
                  arg_max(price, (ts, ingest_ts, seq)) AS close, sum(size) AS volume,
                  sum(price * size) / nullif(sum(size), 0) AS vwap, count(*) AS trades
           FROM (SELECT * REPLACE (coalesce(TRY_CAST(decimal_size AS DOUBLE), size) AS size) FROM trades)
           WHERE ts > 0 AND price IS NOT NULL
           GROUP BY ALL ORDER BY ALL""",
    ),
}
"""By name: the views that a macro reads, and what creates it."""

TYPES: Final[Mapping[Shape, str]] = {
    "text": "VARCHAR",
    "real": "DOUBLE",
    "integer": "BIGINT",
    "time": "BIGINT",
    "integers": "BIGINT[]",
    "flag": "BOOLEAN",
    "levels": "DOUBLE[][]",
}

_WIRE: Final[Mapping[Shape, object]] = {
    "text": "VARCHAR",
    "real": "DOUBLE",
    # As DuckDB reads integers it rounds: what has a fraction is to be none.
    "integer": "VARCHAR",
    "time": "VARCHAR",
    "integers": "JSON",
    "flag": "BOOLEAN",
    "levels": [["DOUBLE"]],
}
"""As what a field is taken off the payload."""

CONVERSIONS: Final = (
    """CREATE MACRO _integer(v) AS CASE
       WHEN regexp_full_match(v, '-?[0-9]+') THEN TRY_CAST(v AS BIGINT)
       WHEN abs(TRY_CAST(v AS DOUBLE)) < 9007199254740992 AND TRY_CAST(v AS DOUBLE) = trunc(TRY_CAST(v AS DOUBLE))
       THEN CAST(TRY_CAST(v AS DOUBLE) AS BIGINT) END""",
    """CREATE MACRO _ms(i) AS CASE
       WHEN i <= 0 THEN NULL
       WHEN i < 100000000000 THEN i * 1000
       WHEN i < 100000000000000 THEN i
       WHEN i < 100000000000000000 THEN i // 1000
       ELSE i // 1000000 END""",
    """CREATE MACRO _integers(j) AS CASE
       WHEN json_type(j) = 'ARRAY' THEN list_transform(from_json(j, '["VARCHAR"]'), lambda x: _integer(x))
       WHEN _integer(json_extract_string(j, '$')) IS NOT NULL THEN [_integer(json_extract_string(j, '$'))] END""",
    # Of a number DuckDB makes another text, so that the payload is asked for its own.
    """CREATE MACRO _text(v, payload, field) AS CASE
       WHEN v IS NOT NULL AND regexp_full_match(v, '-?[0-9][-+.0-9eE]*') AND NOT regexp_full_match(v, '-?[1-9][0-9]*')
       THEN coalesce(nullif(regexp_extract(payload, '"' || field || '"\\s*:\\s*(-?[0-9][-+.0-9eE]*)', 1), ''), v)
       ELSE v END""",
)
"""What makes columns of fields."""


def view_columns(name: str) -> tuple[TypedColumn, ...]:
    """Return the columns of a view, less the payload, which is the last one."""
    return (*RECORD_COLUMNS, *(columns_of(CODES[name]) if name != EVENTS else ()))


def view_sql(name: str, folder: Path) -> str:
    """Return what creates a view over the lines of the files in `folder`, which has a folder `run_id=…` for each run."""
    columns = view_columns(name)
    lines = (
        f"read_csv({quoted(f'{folder}/*/*')}, columns = {{'line': 'VARCHAR'}}, delim = chr(1), quote = '', escape = '', "
        "header = false, auto_detect = false, hive_partitioning = true, hive_types = {'run_id': 'VARCHAR'})"
    )
    codes = CODES.get(name, ())
    shown = ", ".join(f'{_expression(column, codes)} AS "{column.name}"' for column in columns)
    chosen = f" WHERE record.type IN ({', '.join(map(quoted, codes))})" if codes else ""
    record = f"json_transform(line, {quoted(_structure(codes))}) AS record"
    # The first key and the last one of their names are the record's own, whatever the event has between them.
    payload = """regexp_extract(line, '"payload":(.*),"hostname":"', 1) AS payload"""
    read = f"SELECT run_id, {record}, {payload} FROM {lines}"  # noqa: S608 - made of the tables of columns
    return f"CREATE VIEW {name} AS SELECT {shown}, payload FROM ({read}){chosen}"  # noqa: S608 - the same


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _structure(codes: Sequence[str]) -> str:
    """Return how DuckDB is to read a line, in its own JSON."""
    header: dict[str, object] = {
        column.name: _WIRE["text"] if column.shape == "text" else "BIGINT"
        for column in RECORD_COLUMNS
        if column.name != "run_id"
    }
    payload = {
        column.field: _WIRE[column.shape] for code in codes for column in PAYLOAD_COLUMNS.get(code, ())
    }
    return orjson.dumps(header | ({"payload": payload} if payload else {})).decode()


def _expression(column: TypedColumn, codes: Sequence[str]) -> str:
    if column in RECORD_COLUMNS:
        return "run_id" if column.name == "run_id" else f'record."{column.name}"'
    by_field: dict[str, list[str]] = {}
    for code, field in _fields(column.name, codes):
        by_field.setdefault(field, []).append(code)
    cases = " ".join(
        f"WHEN record.type IN ({', '.join(map(quoted, of))}) THEN {_converted(column.shape, field)}"
        for field, of in by_field.items()
    )
    return f"CASE {cases} END"


def _fields(name: str, codes: Sequence[str]) -> Iterator[tuple[str, str]]:
    for code in codes:
        for column in PAYLOAD_COLUMNS.get(code, ()):
            if column.name == name:
                yield code, column.field


def _converted(shape: Shape, field: str) -> str:
    value = f'record.payload."{field}"'
    if shape == "text":
        return f"_text({value}, payload, {quoted(field)})"
    if shape == "integer":
        return f"_integer({value})"
    if shape == "time":
        return f"_ms(_integer({value}))"
    return f"_integers({value})" if shape == "integers" else value
