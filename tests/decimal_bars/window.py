"""A bar, and one in the making: what a window keeps of its trades, and the text of the bar."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

import msgspec

VW_DIGITS: Final = 10
"""Significant digits of `vw`; half rounds to even."""
_ROUNDED: Final = Context(prec=VW_DIGITS, traps=[])
_ZERO: Final = Decimal(0)

_Second = tuple[int, Decimal]


class Window(msgspec.Struct, gc=False):
    """One bar in the making.

    Open and close are of the first and last trade by trade time; arrival breaks ties. The conditions of a trade say what
    it updates. If no trade of a window may set open and close, those that may set high and low do. A window in which no
    trade may set a price gives no bar. `v` is the exact sum of `ds`, or of `s` where that is absent, without trailing
    zeros. `vw` is the volume-weighted price of the trades that add to `v`, rounded to `VW_DIGITS` significant digits, so
    it may lie outside of `l` and `h`; without volume it is the close. `n` counts the trades that add to `v`. Prices keep
    the digits of the trade (`150.2500`).
    """

    end_ms: int
    open: Decimal | None = None
    """None until there is a trade that may set it; close, high, low and their times mean nothing before."""
    open_ms: int = 0
    close_ms: int = 0
    close: Decimal = _ZERO
    high: Decimal = _ZERO
    low: Decimal = _ZERO
    volume: int | Decimal = 0
    value: Decimal = _ZERO
    """The sum of price times size."""
    trades: int = 0
    """Trades that add to the volume."""
    unsized: int = 0
    """Trades that set prices and do not add to the volume."""
    seconds: list[_Second] | None = None
    """First, last, lowest and highest of the trades that may set high and low only."""

    def add_second(self, time_ms: int, price: Decimal) -> None:
        """Add a trade that sets open and close only where no better one comes."""
        if self.seconds is None:
            self.seconds = [(time_ms, price)] * 4
            return
        first, last, low, high = self.seconds
        trade = (time_ms, price)
        if time_ms < first[0]:
            self.seconds[0] = trade
        if time_ms >= last[0]:
            self.seconds[1] = trade
        if price < low[1]:
            self.seconds[2] = trade
        if price > high[1]:
            self.seconds[3] = trade

    @property
    def has_price(self) -> bool:
        """Whether some trade may set a price, so that there is a bar."""
        return self.open is not None or self.seconds is not None

    def _with_seconds(self, seconds: list[_Second]) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        """Return open, high, low and close where some trades may set high and low only."""
        (_, first), (_, last), (_, low), (_, high) = seconds
        if self.open is None:
            return first, high, low, last
        return self.open, max(self.high, high), min(self.low, low), self.close

    def encode(self, prefix: str, start_ms: int, suffix: str = "}") -> bytes:
        """Return the bar as clients get it; the window must have a price, and may take more trades afterwards."""
        opening, highest, lowest, closing = self.open, self.high, self.low, self.close
        if self.seconds is not None:
            opening, highest, lowest, closing = self._with_seconds(self.seconds)
        # Most bars are of a few trades, so that these are often one number; spelling it costs more than asking.
        opens = str(opening)
        if self.trades == 1 and not self.unsized and len(opens) <= VW_DIGITS:
            vw = _stripped(opens) if "E" not in opens else _plain(closing)
        else:
            vw = _plain(_ROUNDED.divide(self.value, self.volume) if self.volume else closing)
        high = opens if highest is opening else str(highest)
        low = opens if lowest is opening else str(lowest)
        close = opens if closing is opening else str(closing)
        return (
            f'{prefix}{opens},"h":{high},"l":{low},"c":{close},'
            f'"v":{_plain(self.volume)},"vw":{vw},"n":{self.trades},'
            f'"s":{start_ms},"e":{self.end_ms},"t":{start_ms}{suffix}'
        ).encode()


def _plain(number: int | Decimal) -> str:
    """Return a number as text, without exponent and trailing zeros."""
    text = str(number)
    if isinstance(number, int):
        return text
    return _stripped(format(number, "f") if "E" in text else text)


def _stripped(text: str) -> str:
    """Return the text of a number without the zeros that end its fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text
