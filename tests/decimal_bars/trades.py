"""Trades as bars see them: price, size and conditions, the numbers exact."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Final

import msgspec
from msgspec import Raw

from recorder.polygon.rows import array_of, to_object

PRICE_END: Final = Decimal("1e15")
PRICE_BEGIN: Final = -PRICE_END
SIZE_END: Final = 10**18
"""Prices and sizes of any market lie within these bounds, which bound the text of a bar, too."""

EXACT: Final = Context(prec=400, traps=[])
"""For all sums and products. They stay exact: a number that is read has at most 40 digits behind the point.
Nothing traps, so that no number of a frame can raise; NaN fails every
comparison."""

_NO_NUMBER: Final = Decimal("NaN")


class Trade(msgspec.Struct, gc=False):
    """What a bar needs of a trade. Decimals keep the digits as they are spelled, in numbers and strings alike."""

    price: Decimal = msgspec.field(name="p")
    size: int | Decimal = msgspec.field(name="s", default=0)
    """Counts where there is no exact size; most trades of stocks have both. NaN if it is no number.

    Whole ones stay int: made and added at a fraction of the cost.
    """
    size_exact: Decimal | None = msgspec.field(name="ds", default=None)
    conditions: tuple[int, ...] | None = msgspec.field(name="c", default=None)


class _LooseTrade(msgspec.Struct, gc=False):
    """The same of a trade whose size may be anything: it does not matter where the exact one exists."""

    price: Decimal = msgspec.field(name="p")
    size: Raw = msgspec.field(name="s", default=Raw(b"0"))
    size_exact: Decimal | None = msgspec.field(name="ds", default=None)
    conditions: tuple[int, ...] | None = msgspec.field(name="c", default=None)


_decode_trade = msgspec.json.Decoder(_LooseTrade).decode
_decode_trades = msgspec.json.Decoder(list[Trade]).decode
_decode_number = msgspec.json.Decoder(Decimal).decode


def read_trades(fragments: list[bytes]) -> Sequence[Trade | None]:
    """Return what each fragment says of its trade; None where it cannot be read."""
    if not fragments:
        return []
    try:
        return _decode_trades(array_of(fragments))
    except (msgspec.MsgspecError, RecursionError):
        return [_read_trade(fragment) for fragment in fragments]


def _read_trade(fragment: bytes) -> Trade | None:
    try:
        trade = _decode_trade(to_object(fragment))
    except (msgspec.MsgspecError, RecursionError):
        return None
    return Trade(trade.price, _read_size(trade.size), trade.size_exact, trade.conditions)


def _read_size(raw: Raw) -> Decimal:
    try:
        return _decode_number(raw)
    except (msgspec.MsgspecError, RecursionError):
        return _NO_NUMBER
