"""The vendor's flat files: for each feed and type the folder, the columns in their order, and what of a record is in each.

Source: the vendor's documentation of flat files, and the heads of files that it has published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from recorder.export.tree import DAY_MS, day_in

NUMBER: Final = """CREATE MACRO _number(v) AS CASE
    WHEN v = trunc(v) AND abs(v) < 1e15 THEN CAST(CAST(v AS BIGINT) AS VARCHAR) ELSE CAST(v AS VARCHAR) END"""
"""A whole number without a point, so that readers take it for one."""


class FlatFile(NamedTuple):
    """One kind of them."""

    folder: str
    columns: Mapping[str, str]
    """By name, in SQL of the columns of our own files."""


_PAIR: Final = "replace(symbol, '/', '-')"
_SIP_TIMESTAMP: Final = {"sip_timestamp": "ts * 1000000"}
_PARTICIPANT_TIMESTAMP: Final = {"participant_timestamp": "ts * 1000000"}
_CONDITIONS: Final = {"conditions": "array_to_string(conditions, ',')"}
_TRADE_SIZE: Final = {"size": "coalesce(decimal_size, _number(size))"}
_PRICE: Final = {"price": "_number(price)"}
_SIDES: Final = {
    "ask_exchange": "ask_exchange",
    "ask_price": "_number(ask_price)",
    "ask_size": "_number(ask_size)",
    "bid_exchange": "bid_exchange",
    "bid_price": "_number(bid_price)",
    "bid_size": "_number(bid_size)",
}
_PRICES: Final = {name: f"_number({name})" for name in ("open", "close", "high", "low")}
_WINDOW_START: Final = {"window_start": "start_ts * 1000000"}


def _bars(ticker: str, volume: str, transactions: str) -> Mapping[str, str]:
    return {
        "ticker": ticker,
        "volume": volume,
        **_PRICES,
        **_WINDOW_START,
        "transactions": transactions,
    }


FLAT_FILES: Final[Mapping[tuple[str, str], FlatFile]] = {
    ("stocks", "T"): FlatFile(
        "us_stocks_sip/trades_v1",
        {
            "ticker": "symbol",
            **_CONDITIONS,
            "correction": "0",  # the wire has none: what is corrected later is not known when a trade comes
            "exchange": "exchange",
            "id": "id",
            "participant_timestamp": "participant_ts * 1000000",
            **_PRICE,
            "sequence_number": "sequence_number",
            **_SIP_TIMESTAMP,
            **_TRADE_SIZE,
            "tape": "tape",
            "trf_id": "coalesce(trf_id, 0)",
            "trf_timestamp": "coalesce(trf_ts * 1000000, 0)",
        },
    ),
    ("stocks", "Q"): FlatFile(
        "us_stocks_sip/quotes_v1",
        {
            "ticker": "symbol",
            **_SIDES,
            **_CONDITIONS,
            "indicators": "array_to_string(indicators, ',')",
            "participant_timestamp": "NULL",
            "sequence_number": "sequence_number",
            **_SIP_TIMESTAMP,
            "tape": "tape",
            "trf_timestamp": "0",
        },
    ),
    ("stocks", "AM"): FlatFile(
        "us_stocks_sip/minute_aggs_v1", _bars("symbol", "coalesce(dv, _number(volume))", "trades")
    ),
    ("options", "T"): FlatFile(
        "us_options_opra/trades_v1",
        {
            "ticker": "symbol",
            **_CONDITIONS,
            "correction": "0",
            "exchange": "exchange",
            **_PRICE,
            **_SIP_TIMESTAMP,
            **_TRADE_SIZE,
        },
    ),
    ("options", "Q"): FlatFile(
        "us_options_opra/quotes_v1",
        {"ticker": "symbol", **_SIDES, "sequence_number": "sequence_number", **_SIP_TIMESTAMP},
    ),
    ("options", "AM"): FlatFile(
        "us_options_opra/minute_aggs_v1", _bars("symbol", "coalesce(dv, _number(volume))", "trades")
    ),
    ("indices", "AM"): FlatFile(
        "us_indices/minute_aggs_v1", {"ticker": "symbol", **_PRICES, **_WINDOW_START}
    ),
    ("crypto", "XT"): FlatFile(
        "global_crypto/trades_v1",
        {
            "ticker": f"'X:' || {_PAIR}",
            **_CONDITIONS,
            "exchange": "exchange",
            "id": "id",
            **_PARTICIPANT_TIMESTAMP,
            **_PRICE,
            "size": "_number(size)",
        },
    ),
    ("crypto", "XA"): FlatFile(
        "global_crypto/minute_aggs_v1", _bars(f"'X:' || {_PAIR}", "_number(volume)", "NULL")
    ),
    ("forex", "C"): FlatFile(
        "global_forex/quotes_v1",
        {
            "ticker": f"'C:' || {_PAIR}",
            "ask_exchange": "exchange",
            "ask_price": "_number(ask_price)",
            "bid_exchange": "exchange",
            "bid_price": "_number(bid_price)",
            **_PARTICIPANT_TIMESTAMP,
        },
    ),
    ("forex", "CA"): FlatFile(
        "global_forex/minute_aggs_v1", _bars(f"'C:' || {_PAIR}", "_number(volume)", "NULL")
    ),
}
"""By feed and type. What stands here nowhere has no flat file."""

_NEW_YORK: Final = frozenset({"stocks", "options", "indices"})
"""Feeds whose days are those of New York; all others have the days of UTC."""


def flat_day(feed: str, at_ms: int) -> int:
    """Return the day of which a flat file has what came then, in days since 1970."""
    return _new_york_day(at_ms // _HOUR_MS) if feed in _NEW_YORK else at_ms // DAY_MS


_HOUR_MS: Final = 3_600_000
"""New York differs from UTC by whole hours, and its days begin with one."""


@lru_cache(4096)
def _new_york_day(hour: int) -> int:
    return day_in(ZoneInfo("America/New_York"), hour * _HOUR_MS)
