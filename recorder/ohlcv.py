"""What bars are made of: trades as bars see them, who wants bars of what, and one bar in the making."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Final

import msgspec
from msgspec import Raw

from recorder.polygon.rows import array_of, to_object

VW_DIGITS: Final = 10
"""Significant digits of `vw`; half rounds to even."""

PRICE_END: Final = Decimal("1e15")
PRICE_BEGIN: Final = -PRICE_END
SIZE_END: Final = 10**18
"""Numbers at or beyond these are no prices and sizes of any market; they bound what a bar's text can be."""

EXACT: Final = Context(prec=100, traps=[])
"""For all sums and products. They stay exact: a price and a size have fewer than 40 digits between them, and no window
has 10^60 trades. Nothing traps, so that no number of a frame can raise; NaN fails every comparison."""

SYMBOLS_MAX: Final = 200_000
"""Symbols remembered between their bars; options have more contracts in a year than memory is for."""

ZERO: Final = Decimal(0)
_ROUNDED: Final = Context(prec=VW_DIGITS, traps=[])
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
    """The same of a trade whose size may be anything: where the exact one is there, it does not matter."""

    price: Decimal = msgspec.field(name="p")
    size: Raw = msgspec.field(name="s", default=Raw(b"0"))
    size_exact: Decimal | None = msgspec.field(name="ds", default=None)
    conditions: tuple[int, ...] | None = msgspec.field(name="c", default=None)


_decode_trade = msgspec.json.Decoder(_LooseTrade).decode
_decode_trades = msgspec.json.Decoder(list[Trade]).decode
_decode_number = msgspec.json.Decoder(Decimal).decode


def read_trades(fragments: list[bytes]) -> Sequence[Trade | None]:
    """Give what each event says of its trade, None where it cannot be read; for fragments see `rows.fragment_of`."""
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


_Second = tuple[int, Decimal]


class Window(msgspec.Struct, gc=False):
    """One bar in the making."""

    end_ms: int
    open: Decimal | None = None
    """None until there is a trade that may set it; close, high, low and their times mean nothing before."""
    open_ms: int = 0
    close_ms: int = 0
    close: Decimal = ZERO
    high: Decimal = ZERO
    low: Decimal = ZERO
    volume: int | Decimal = 0
    value: Decimal = ZERO
    """The sum of price times size."""
    trades: int = 0
    """Trades that add to the volume."""
    unsized: int = 0
    """Trades that set prices and do not add to the volume."""
    seconds: list[_Second] | None = None
    """First, last, lowest and highest of the trades that may set high and low only."""

    def add_second(self, time_ms: int, price: Decimal) -> None:
        """Note a trade that sets open and close only where no better one comes."""
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

    def settle(self) -> bool:
        """Decide on the prices; tell whether there are any."""
        if self.seconds is not None:
            (_, first), (_, last), (_, low), (_, high) = self.seconds
            if self.open is None:
                self.open, self.close, self.low, self.high = first, last, low, high
            else:
                self.low = min(self.low, low)
                self.high = max(self.high, high)
        return self.open is not None

    def encode(self, prefix: str, start_ms: int) -> bytes:
        """Give the bar as clients get it, once it is settled."""
        # Most bars are of a few trades, so that these are often one number; spelling it costs more than asking.
        opens = str(self.open)
        if self.trades == 1 and not self.unsized and len(opens) <= VW_DIGITS:
            vw = _stripped(opens) if "E" not in opens else _plain(self.close)
        else:
            vw = _plain(_ROUNDED.divide(self.value, self.volume) if self.volume else self.close)
        high = opens if self.high is self.open else str(self.high)
        low = opens if self.low is self.open else str(self.low)
        close = opens if self.close is self.open else str(self.close)
        return (
            f'{prefix}{opens},"h":{high},"l":{low},"c":{close},'
            f'"v":{_plain(self.volume)},"vw":{vw},"n":{self.trades},'
            f'"s":{start_ms},"e":{self.end_ms},"t":{start_ms}}}'
        ).encode()


def _plain(number: int | Decimal) -> str:
    """Spell a number without exponent and trailing zeros."""
    text = str(number)
    if isinstance(number, int):
        return text
    return _stripped(format(number, "f") if "E" in text else text)


def _stripped(text: str) -> str:
    """Leave out trailing zeros behind the point."""
    return text.rstrip("0").rstrip(".") if "." in text else text


class Line:
    """The bars of one symbol and length."""

    __slots__ = (
        "after_ms",
        "dropped",
        "end_ms",
        "interval_ms",
        "order",
        "prefix",
        "start_ms",
        "symbol",
        "window",
    )

    def __init__(self, symbol: str, interval_ms: int, after_ms: int) -> None:
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.order = (symbol, interval_ms)
        """Of bars that end together."""
        self.after_ms = after_ms
        """Windows that begin at or before this time are not whole."""
        self.dropped = False
        """Nobody wants it any more; its open windows give no bars."""
        self.start_ms = self.end_ms = -1
        """Of the window of the last trade, which is most often the window of the next."""
        self.window = Window(-1)
        name = msgspec.json.encode(symbol).decode()
        self.prefix = f'{{"ev":"MB","T":"b","sym":{name},"S":{name},"interval":{interval_ms},"o":'


class Lines(dict[str, tuple[Line, ...]]):
    """The wanted lines of each symbol, none for an unwanted one; made when a symbol is first asked for.

    What is wanted is counted: for a single symbol, or (None) for all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._holders: dict[tuple[int, str | None], int] = {}
        self._every: dict[int, int] = {}
        """Lengths wanted for all symbols, and the time after which their windows are whole."""
        self._own: dict[str, dict[int, int]] = {}
        """The same for single symbols."""
        self._made: dict[str, dict[int, Line]] = {}
        self._symbols_max = SYMBOLS_MAX

    def want(self, interval_ms: int, symbol: str | None, after_ms: int) -> None:
        """Count one who wants a length; the first one's windows begin after `after_ms`."""
        key = (interval_ms, symbol)
        holders = self._holders.get(key, 0)
        self._holders[key] = holders + 1
        if holders:
            return
        if symbol is None:
            self._every[interval_ms] = after_ms
            self.clear()
        else:
            self._own.setdefault(symbol, {})[interval_ms] = after_ms
            self.pop(symbol, None)

    def unwant(self, interval_ms: int, symbol: str | None) -> None:
        """Count one less; with the last one the lines go that nobody wants in another way."""
        key = (interval_ms, symbol)
        holders = self._holders.pop(key, 0)
        if holders > 1:
            self._holders[key] = holders - 1
        elif not holders:
            return
        elif symbol is None:
            del self._every[interval_ms]
            self.clear()
            for name in self._made:
                self._drop(name, interval_ms)
        else:
            del self._own[symbol][interval_ms]
            if not self._own[symbol]:
                del self._own[symbol]
            self.pop(symbol, None)
            self._drop(symbol, interval_ms)

    def _drop(self, symbol: str, interval_ms: int) -> None:
        if interval_ms in self._every or interval_ms in self._own.get(symbol, ()):
            return
        line = self._made.get(symbol, {}).pop(interval_ms, None)
        if line is not None:
            line.dropped = True

    def __missing__(self, symbol: str) -> tuple[Line, ...]:
        wanted = dict(self._own.get(symbol, ()))
        for interval_ms, after_ms in self._every.items():
            wanted[interval_ms] = min(after_ms, wanted.get(interval_ms, after_ms))
        lines: tuple[Line, ...] = ()
        if wanted:
            made = self._made.setdefault(symbol, {})
            for interval_ms, after_ms in wanted.items():
                if interval_ms not in made:
                    made[interval_ms] = Line(symbol, interval_ms, after_ms)
            lines = tuple(made.values())
        self[symbol] = lines
        return lines

    @property
    def wanted_count(self) -> int:
        """How many lengths are wanted, for a symbol or for all."""
        return len(self._holders)

    @property
    def crowded(self) -> bool:
        """Whether it is time to `forget`."""
        return len(self) > self._symbols_max

    def forget(self, busy: set[str]) -> None:
        """Let go of all symbols but those that have open windows; they are made again when they trade."""
        self._made = {symbol: lines for symbol, lines in self._made.items() if symbol in busy}
        self.clear()
        # Were most of them busy, forgetting again and again would cost more than the memory.
        self._symbols_max = max(SYMBOLS_MAX, 2 * len(self._made))

    def start_over(self) -> None:
        """Forget all times: the feed begins anew."""
        for wanted in (self._every, *self._own.values()):
            wanted.update(dict.fromkeys(wanted, 0))
        for lines in self._made.values():
            for line in lines.values():
                line.after_ms = 0
                line.start_ms = line.end_ms = -1
