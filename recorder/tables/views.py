"""The views that SQL sees: one for each kind of file, with typed columns, the exact payload, and macros over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import RECORD_COLUMNS, Shape, TypedColumn, columns_of

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


def view_columns(name: str) -> tuple[TypedColumn, ...]:
    """Return the columns of a view, less the payload, which is the last one."""
    return (*RECORD_COLUMNS, *(columns_of(CODES[name]) if name != EVENTS else ()))


def quoted(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
