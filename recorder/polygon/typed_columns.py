"""PURE. The columns of a table of records: what each is called, of which shape it is, and the field that it comes from.

Source: the vendor's documentation of its WebSocket channels. Whoever makes tables of an archive makes them of this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Shape = Literal["text", "real", "integer", "time", "integers", "flag", "levels"]
"""What is in a column. What the exchange sent in another form is nothing there, and stands in the payload.

- `text`: what a JSON string says, or a number as it is spelled
- `real`: a number of 64 bits with a fraction, also where the exchange sent it as a string
- `integer`: a whole number of 64 bits, also where it came as a string
- `time`: Unix ms, whatever the unit on the wire is
- `integers`: a list of whole numbers; a single one is a list of one
- `flag`: true or false
- `levels`: a list of lists of numbers with fractions: price and size
"""


class TypedColumn(NamedTuple):
    """A column of a table of records."""

    name: str
    """It means the same, and has the same shape, in every channel."""
    shape: Shape
    field: str
    """Where it comes from: a field of the record, or of the event in its payload."""


RECORD_COLUMNS: Final = (
    TypedColumn("run_id", "text", ""),
    TypedColumn("seq", "integer", "seq"),
    TypedColumn("ingest_ts", "time", "ingest_ts"),
    TypedColumn("type", "text", "type"),
    TypedColumn("symbol", "text", "symbol"),
    TypedColumn("feed", "text", "feed"),
    TypedColumn("ts", "time", "ts"),
)
"""Those of every record, which come first. The run is the manifest's."""

PAYLOAD: Final = TypedColumn("payload", "text", "payload")
"""The last column of every table: the event, byte for byte."""

_EXCHANGE: Final = TypedColumn("exchange", "integer", "x")
_RECEIVED: Final = TypedColumn("received_ts", "time", "r")
_TRADE: Final = (
    _EXCHANGE,
    TypedColumn("id", "text", "i"),
    TypedColumn("price", "real", "p"),
    TypedColumn("size", "real", "s"),
    TypedColumn("conditions", "integers", "c"),
)
_SIDES: Final = (
    TypedColumn("bid_price", "real", "bp"),
    TypedColumn("bid_size", "real", "bs"),
    TypedColumn("ask_price", "real", "ap"),
    TypedColumn("ask_size", "real", "as"),
)
_TAPE: Final = (
    TypedColumn("sequence_number", "integer", "q"),
    TypedColumn("tape", "integer", "z"),
)
_WINDOW: Final = (
    TypedColumn("open", "real", "o"),
    TypedColumn("close", "real", "c"),
    TypedColumn("high", "real", "h"),
    TypedColumn("low", "real", "l"),
    TypedColumn("volume", "real", "v"),
    TypedColumn("vwap", "real", "vw"),
    TypedColumn("average_size", "real", "z"),
    TypedColumn("start_ts", "time", "s"),
    TypedColumn("end_ts", "time", "e"),
)
_DAY: Final = (
    TypedColumn("accumulated_volume", "real", "av"),
    TypedColumn("day_open", "real", "op"),
    TypedColumn("day_vwap", "real", "a"),
    TypedColumn("dv", "text", "dv"),  # the exact volume of stocks, the dollars of futures
    TypedColumn("dav", "text", "dav"),
    TypedColumn("trades", "integer", "n"),
    TypedColumn("otc", "flag", "otc"),
)

PAYLOAD_COLUMNS: Final[Mapping[str, tuple[TypedColumn, ...]]] = {
    "T": (
        *_TRADE,
        TypedColumn("decimal_size", "text", "ds"),
        *_TAPE,
        TypedColumn("participant_ts", "time", "pt"),
        TypedColumn("trf_id", "integer", "trfi"),
        TypedColumn("trf_ts", "time", "trft"),
    ),
    "Q": (
        TypedColumn("bid_exchange", "integer", "bx"),
        TypedColumn("ask_exchange", "integer", "ax"),
        *_SIDES,
        TypedColumn("conditions", "integers", "c"),
        TypedColumn("indicators", "integers", "i"),
        *_TAPE,
        TypedColumn("bid_ts", "time", "bt"),
        TypedColumn("ask_ts", "time", "at"),
    ),
    "A": (*_WINDOW, *_DAY),
    "AM": (*_WINDOW, *_DAY),
    "LULD": (
        TypedColumn("high", "real", "h"),
        TypedColumn("low", "real", "l"),
        TypedColumn("indicators", "integers", "i"),
        *_TAPE,
    ),
    "NOI": (
        TypedColumn("auction_time", "integer", "at"),
        TypedColumn("auction_type", "text", "a"),
        TypedColumn("symbol_id", "integer", "i"),
        _EXCHANGE,
        TypedColumn("imbalance", "real", "o"),
        TypedColumn("paired", "real", "p"),
        TypedColumn("clearing_price", "real", "b"),
    ),
    "FMV": (TypedColumn("value", "real", "fmv"),),
    "LV": (TypedColumn("value", "real", "val"),),
    "XT": (*_TRADE, _RECEIVED),
    "XQ": (*_SIDES, _EXCHANGE, _RECEIVED),
    "XL2": (
        TypedColumn("bids", "levels", "b"),
        TypedColumn("asks", "levels", "a"),
        _EXCHANGE,
        _RECEIVED,
    ),
    "XAS": _WINDOW,
    "XA": _WINDOW,
    "C": (
        _EXCHANGE,
        TypedColumn("bid_price", "real", "b"),
        TypedColumn("ask_price", "real", "a"),
        TypedColumn("indicators", "integers", "i"),
    ),
    "CAS": _WINDOW,
    "CA": _WINDOW,
    "V": (TypedColumn("value", "real", "val"),),
}
"""Those of each channel. Time and symbol are the record's; a field that stands here nowhere is in the payload alone."""


def columns_of(codes: Iterable[str]) -> tuple[TypedColumn, ...]:
    """Return the columns that a table of several channels has between those of the record and the payload.

    A channel that nobody knows has none. The field is that of the first channel that has the column.
    """
    found: dict[str, TypedColumn] = {}
    for code in codes:
        for column in PAYLOAD_COLUMNS.get(code, ()):
            found.setdefault(column.name, column)
    return tuple(found.values())


def timestamp_name(column: TypedColumn) -> str:
    """Return what a column of times is called where it has timestamps: `bid_time` of `bid_ts`, `time` of `ts`."""
    assert column.shape == "time"
    return column.name.removesuffix("ts") + "time"
