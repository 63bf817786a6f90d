"""Trades as bars see them: price, size and conditions, the numbers as mantissa and scale."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import compress
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from recorder.bars.windows import NEGATIVE_ZERO, SCALE_MAX, UNREADABLE, Conditions, Number, Numbers
from recorder.polygon.rows import Rows, ScannedRows, array_of, to_object

PRICE_END: Final = Decimal("1e15")
PRICE_BEGIN: Final = -PRICE_END
SIZE_END: Final = Decimal("1e18")
"""Prices and sizes of any market lie within these bounds, and have at most `SCALE_MAX` digits behind the point. Both
together bound the text of a bar, too."""

_MANTISSA_END: Final = 10**15
UNREADABLE_NUMBER: Final = (0, UNREADABLE)

_KNOWN_MAX: Final = 32_768
"""Numbers kept of each kind; most trades have a price and a size that others had before."""


class Trades(NamedTuple):
    """The trades of one batch as columns."""

    symbols: list[str]
    times_ms: list[int]
    fragments: list[bytes]
    """What has not been read yet; none where native code has read it."""
    read: Numbers | None = None
    """What native code has read."""

    def numbers(self, wanted: Sequence[object]) -> Numbers:
        """Return what the trades say that are wanted, by a column that is true for them."""
        if self.read is None:
            # Reading costs as much as all the rest, so only what is wanted is read.
            return read_numbers(self.fragments if all(wanted) else list(compress(self.fragments, wanted)))
        if all(wanted):
            return self.read
        prices, sizes, conditions = self.read
        return (
            list(compress(prices, wanted)),
            list(compress(sizes, wanted)),
            list(compress(conditions, wanted)),
        )


def trades_of(rows: Rows, channel: str) -> Trades | None:
    """Return the trades of a batch, which come on one channel; None if it has none."""
    count = rows.counts.get(channel)
    if not count:
        return None
    if isinstance(rows, ScannedRows) and (trades := _scanned(rows, channel)) is not None:
        return trades
    if count == len(rows):
        return Trades(rows.symbols, rows.times_ms, rows.fragments)
    picked = [row_channel == channel for row_channel in rows.channels]
    return Trades(
        list(compress(rows.symbols, picked)),
        list(compress(rows.times_ms, picked)),
        list(compress(rows.fragments, picked)),
    )


def _scanned(rows: ScannedRows, channel: str) -> Trades | None:
    """Return trades whose numbers native code has read; None where one of them needs a closer look."""
    columns = rows.block.trades(channel)
    if columns is None:
        return None
    symbols, times_ms, prices, price_scales, sizes, size_scales, conditions = columns
    # No scale is negative, and no mantissa has more than 18 digits: these are within all bounds.
    if not (min(prices) > -_MANTISSA_END and max(prices) < _MANTISSA_END and min(sizes) >= 0):
        return None
    numbers = (
        list(zip(prices, price_scales, strict=True)),
        list(zip(sizes, size_scales, strict=True)),
        list(map(_conditions.__getitem__, conditions)),
    )
    return Trades(symbols, times_ms, [], numbers)


class _KnownConditions(dict[str, Conditions | None]):
    """Conditions by their text."""

    def __missing__(self, text: str) -> Conditions | None:
        if len(self) >= _KNOWN_MAX:
            self.clear()
        self[text] = conditions = tuple(map(int, text.split(","))) if text else None
        return conditions


_conditions: Final = _KnownConditions()


class _Trade(msgspec.Struct, gc=False):
    """What a bar needs of a trade. The text of a number is kept: it says how the number is spelled."""

    price: Raw = msgspec.field(name="p")
    size: Raw = msgspec.field(name="s", default=Raw(b"0"))
    """Counts where there is no exact size; most trades of stocks have both."""
    size_exact: Raw = msgspec.field(name="ds", default=Raw(b""))
    conditions: Conditions | None = msgspec.field(name="c", default=None)


_decode_trade = msgspec.json.Decoder(_Trade).decode
_decode_trades = msgspec.json.Decoder(list[_Trade]).decode
_decode_number = msgspec.json.Decoder(Decimal).decode


_ABSENT: Final = (b"", b"null")
_UNREADABLE_TRADE: Final = _Trade(Raw(b"null"))
_PLAIN: Final = re.compile(rb'("?)(0|[1-9][0-9]{0,14})(?:\.([0-9]{1,30}))?\1')
"""A number as most are, alone or in a string, within all bounds."""


class _Known(dict[bytes, Number]):
    """Numbers by their text; one is read when it first comes."""

    def __init__(self, is_within: Callable[[Decimal], bool]) -> None:
        super().__init__()
        self._is_within = is_within

    def read(self, texts: list[bytes]) -> list[Number]:
        """Return the numbers of texts."""
        if len(self) >= _KNOWN_MAX:
            self.clear()
        return list(map(self.__getitem__, texts))

    def __missing__(self, text: bytes) -> Number:
        plain = _PLAIN.fullmatch(text)
        if plain is not None:
            _, whole, fraction = plain.groups(b"")
            number = int(whole + fraction), len(fraction)
        else:
            number = self._read_carefully(text)
        self[text] = number
        return number

    def _read_carefully(self, text: bytes) -> Number:
        try:
            number = _decode_number(text)
        except (msgspec.MsgspecError, RecursionError):
            return UNREADABLE_NUMBER
        if not number.is_finite() or not self._is_within(number):
            return UNREADABLE_NUMBER
        sign, digits, exponent = number.as_tuple()
        scale = -int(exponent)
        if abs(scale) > SCALE_MAX:
            return UNREADABLE_NUMBER
        mantissa = int("".join(map(str, digits)))
        if sign and not mantissa:
            scale += NEGATIVE_ZERO
        return -mantissa if sign else mantissa, scale


_prices: Final = _Known(lambda price: PRICE_BEGIN < price < PRICE_END)
_sizes: Final = _Known(lambda size: 0 <= size < SIZE_END)


def read_numbers(fragments: list[bytes]) -> Numbers:
    """Return what each fragment says of its trade; where it cannot be read, the scale is `UNREADABLE`."""
    if not fragments:
        return [], [], []
    try:
        trades = _decode_trades(array_of(fragments))
    except (msgspec.MsgspecError, RecursionError):
        trades = [_read_trade(fragment) for fragment in fragments]
    prices, counts, exacts, conditions = zip(*map(astuple, trades), strict=True)
    sizes = _texts(counts)
    if any(exacts):
        exact_texts = _texts(exacts)
        sizes = [size if exact in _ABSENT else exact for size, exact in zip(sizes, exact_texts, strict=True)]
    return _prices.read(_texts(prices)), _sizes.read(sizes), list(conditions)


def _read_trade(fragment: bytes) -> _Trade:
    try:
        return _decode_trade(to_object(fragment))
    except (msgspec.MsgspecError, RecursionError):
        return _UNREADABLE_TRADE


def _texts(raws: Sequence[Raw]) -> list[bytes]:
    # One join and one split cost half of a call for each.
    texts = b"\n".join(raws).split(b"\n")
    return texts if len(texts) == len(raws) else list(map(bytes, raws))
