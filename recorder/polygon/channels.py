"""The channels: one row for each kind of data that the vendor sends. A new channel is one row here, and nothing else.

Source: the vendor's documentation of its WebSocket channels. A channel that has no row is recorded all the same, under
its lower-case code, with symbol and time from wherever such fields usually are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["trade", "quote", "aggregate", "value", "indication", "book", "notice"]


class Channel(NamedTuple):
    """What is known of one channel."""

    code: str
    """The `ev` of its events."""
    kind: Kind
    word: str
    """What stands for it in file names; channels that share a word share files."""
    symbol_field: str
    time_fields: tuple[str, ...] = ("t",)
    """Where its events keep their time; the first field that holds one counts."""
    more_times: tuple[str, ...] = ()
    """Fields with times besides: those of other witnesses of the same event."""
    busy: bool = False
    """Whether something comes every minute while its market is open, if all symbols are subscribed."""


WINDOW: Final = ("t", "e", "s")
"""An aggregate names the begin and the end of its window; other channels use `s` and `e` for something else."""

CHANNELS: Final[Mapping[str, Channel]] = {
    channel.code: channel
    for channel in (
        Channel("T", "trade", "trades", "sym", more_times=("pt", "trft"), busy=True),
        Channel("Q", "quote", "quotes", "sym", busy=True),
        Channel("A", "aggregate", "second_aggs", "sym", WINDOW, busy=True),
        Channel("AM", "aggregate", "minute_aggs", "sym", WINDOW, busy=True),
        Channel("LULD", "notice", "luld", "T"),
        Channel("NOI", "notice", "noi", "T"),
        Channel("FMV", "indication", "fmv", "sym"),
        Channel("LV", "indication", "lv", "sym"),
        Channel("XT", "trade", "trades", "pair", more_times=("r",), busy=True),
        Channel("XQ", "quote", "quotes", "pair", more_times=("r",), busy=True),
        Channel("XL2", "book", "level2", "pair", more_times=("r",)),
        Channel("XAS", "aggregate", "second_aggs", "pair", WINDOW, busy=True),
        Channel("XA", "aggregate", "minute_aggs", "pair", WINDOW, busy=True),
        Channel("C", "quote", "quotes", "p", busy=True),
        Channel("CAS", "aggregate", "second_aggs", "pair", WINDOW, busy=True),
        Channel("CA", "aggregate", "minute_aggs", "pair", WINDOW, busy=True),
        Channel("V", "value", "values", "T", busy=True),
    )
}


def codes_of(kind: Kind) -> frozenset[str]:
    """Return the codes of all channels of a kind."""
    return frozenset(channel.code for channel in CHANNELS.values() if channel.kind == kind)


TRADE_CHANNELS: Final = codes_of("trade")
QUOTE_CHANNELS: Final = codes_of("quote")
FAST_CHANNELS: Final = TRADE_CHANNELS | QUOTE_CHANNELS | codes_of("book")
"""Channels whose events come too fast to be a message of a stream each."""
AGGREGATE_CHANNELS: Final = codes_of("aggregate")
REPLACEABLE_CHANNELS: Final = QUOTE_CHANNELS | AGGREGATE_CHANNELS | codes_of("value") | codes_of("indication")
"""Channels of which an event says it all: a newer one of the same symbol takes the place of the one before."""
BUSY_CHANNELS: Final = frozenset(channel.code for channel in CHANNELS.values() if channel.busy)
