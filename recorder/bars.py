"""Millisecond bars: trades in, closed OHLCV bars out; no I/O, and the time is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from heapq import heappop, heappush
from itertools import compress
from operator import attrgetter
from typing import Final

import msgspec

from recorder.conditions import EVERYTHING, HIGH_LOW, OPEN_CLOSE, VOLUME, UpdateRule
from recorder.polygon.clusters import TRADE_CHANNEL
from recorder.polygon.events import TRADE_CHANNELS, Events

VW_DIGITS: Final = 10
"""Significant digits of `vw`; half rounds to even."""

LEAP_MS: Final = 10_000
"""A trade further ahead of event time than this does not move it alone."""
LEAP_TRADES: Final = 3
"""So many trades in a row must be ahead before event time follows."""

_PRICE_END: Final = Decimal("1e15")
_SIZE_END: Final = Decimal("1e18")
"""Numbers at or beyond these are no prices and sizes of any market; they bound what a bar's text can be."""

_SYMBOLS_MAX: Final = 200_000
"""Symbols remembered between their bars; options have more contracts in a year than memory is for."""

# Sums and products stay exact: prices and sizes have at most 40 digits between them, and no window has 10^60 trades.
# Nothing traps, so that no number of a frame can raise; NaN fails every comparison.
_EXACT: Final = Context(prec=100, traps=[])
_ROUNDED: Final = Context(prec=VW_DIGITS, traps=[])
_ZERO: Final = Decimal(0)
_NO_NUMBER: Final = Decimal("NaN")


class Bar(msgspec.Struct, frozen=True, gc=False):
    """A closed bar. `data` is what clients get: one compact JSON object; `end_ms` is exclusive."""

    interval_ms: int
    symbol: str
    start_ms: int
    end_ms: int
    data: bytes


@dataclass(slots=True)
class BarStats:
    """What became of the trades of one cluster. A trade has one entry for each interval that wants its symbol.

    Once no window is open, `entries = in_bars + late + not_counted + unpriced + partial + abandoned`.
    """

    trades: int = 0
    """Trades of wanted symbols, readable or not."""
    unreadable: int = 0
    """Of these: without a time, or with a price, size or conditions that are none."""
    misdated: int = 0
    """Of these: their time was far ahead of all others'."""
    entries: int = 0
    in_bars: int = 0
    late: int = 0
    """Their window had closed."""
    not_counted: int = 0
    """Their conditions let them update nothing."""
    unpriced: int = 0
    """In windows in which no trade could set a price, so that there was no bar."""
    partial: int = 0
    """In windows that had begun before the interval was wanted."""
    abandoned: int = 0
    """In windows that were open when their interval was no longer wanted."""
    bars: int = 0
    open_windows: int = 0


_ABSENT: Final = msgspec.Raw(b"0")


class _Trade(msgspec.Struct, gc=False):
    """What a bar needs of a trade. Decimals keep the digits as they are spelled, in numbers and strings alike."""

    price: Decimal = msgspec.field(name="p")
    size: msgspec.Raw = msgspec.field(name="s", default=_ABSENT)
    """Read only where there is no exact size; most trades of stocks have both."""
    size_exact: Decimal | None = msgspec.field(name="ds", default=None)
    conditions: tuple[int, ...] | None = msgspec.field(name="c", default=None)


_decode_trade = msgspec.json.Decoder(_Trade).decode
_decode_number = msgspec.json.Decoder(Decimal).decode
_decode_trades = msgspec.json.Decoder(list[_Trade]).decode


class _Line:
    """The bars of one symbol and interval."""

    __slots__ = (
        "after_ms",
        "dropped",
        "end_ms",
        "interval_ms",
        "order",
        "prefix",
        "start_ms",
        "window",
    )

    def __init__(self, symbol: str, interval_ms: int, after_ms: int) -> None:
        self.interval_ms = interval_ms
        self.order = (symbol, interval_ms)
        self.after_ms = after_ms
        """Windows that begin at or before this time are not whole."""
        self.dropped = False
        self.start_ms = self.end_ms = -1
        """Of the window of the last trade, which is most often the window of the next."""
        self.window: _Window = _Window(-1, -1)
        name = msgspec.json.encode(symbol).decode()
        self.prefix = f'{{"ev":"MB","T":"b","sym":{name},"S":{name},"interval":{interval_ms},"o":'


_Second = tuple[int, Decimal]


class _Window(msgspec.Struct, gc=False):
    """One bar in the making."""

    end_ms: int
    open_ms: int
    """Of the open so far; the end before there is one."""
    close_ms: int = -1
    open: Decimal | None = None
    close: Decimal = _ZERO
    high: Decimal = _ZERO
    low: Decimal = _ZERO
    volume: Decimal = _ZERO
    value: Decimal = _ZERO
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

    def encode(self, line: _Line) -> bytes:
        """Give the bar as clients get it, once it is settled."""
        vw = _ROUNDED.divide(self.value, self.volume) if self.volume else self.close
        start_ms = self.end_ms - line.interval_ms
        return (
            f'{line.prefix}{self.open!s},"h":{self.high!s},"l":{self.low!s},"c":{self.close!s},'
            f'"v":{_plain(self.volume)},"vw":{_plain(vw)},"n":{self.trades},'
            f'"s":{start_ms},"e":{self.end_ms},"t":{start_ms}}}'
        ).encode()


class _Lines(dict[str, tuple[_Line, ...]]):
    """The lines of each symbol seen; an unwanted one has none. What is missing is made on first use."""

    __slots__ = ("_lines_of",)

    def __init__(self, lines_of: Callable[[str], tuple[_Line, ...]]) -> None:
        super().__init__()
        self._lines_of = lines_of

    def __missing__(self, symbol: str) -> tuple[_Line, ...]:
        found = self[symbol] = self._lines_of(symbol)
        return found


class BarMaker:
    """Makes the bars of one cluster, of every length and symbol that is wanted.

    **Windows.** A trade belongs to the window `[floor(t/n)*n, +n)` of its own time `t`, early or late, until that window
    is closed: when event time has passed its end by `delay_ms`. Whether a trade is late depends on the trades before it
    alone, not on how they were cut into batches.

    **Event time** is the newest trade time seen in the cluster, wanted or not. Once no trade has moved it for `delay_ms`,
    the time that passes moves it on, until a trade sets it again; so while trades flow, live data and a replay give the
    same bars. A call of `close_due` lets two `tick_ms` pass at most: what came while the process was held up has not been
    read yet, and is not late for that. A trade more than `LEAP_MS` ahead waits, and is in a bar only if event time comes
    to it: by itself, or because `LEAP_TRADES` in a row are ahead, whose earliest time it then becomes. If a trade of the
    present comes first, those that waited were misdated and count as that. So begins event time, too, unless the feed
    falls silent after fewer trades.

    **Values.** Open and close are of the first and last trade by trade time; arrival breaks ties. What a trade updates is
    `rule`'s answer (`conditions`); None lets every trade update everything. Where no trade of a window may set open and
    close, those that may set high and low do. A window in which no trade may set a price gives no bar. `v` is the exact
    sum of `ds`, or `s` where that is absent, without trailing zeros. `vw` is the volume-weighted price of the trades that
    add to `v`, so it may lie outside of `l` and `h`, rounded to `VW_DIGITS` significant digits; without volume it is the
    close. `n` counts the trades that add to `v`. Prices keep the digits of the trade (`150.2500`).

    **Beginning in the middle.** An interval's first bar is of the first window that begins after the newest trade seen
    when it was first wanted, so that every bar is whole. No longer wanted, its open windows are given up.

    No trade can make it raise; what became of each is in `stats`. Times to pass in are nanoseconds of one clock; those of
    the trades are Unix ms. Memory is bounded by the trades of the open windows' span, and by `_SYMBOLS_MAX`.
    """

    def __init__(self, cluster: str, *, delay_ms: int, tick_ms: int, rule: UpdateRule | None = None) -> None:
        """`tick_ms` is how often `close_due` is called at least. A cluster without trades has no bars."""
        channel = TRADE_CHANNEL.get(cluster, "")
        self.cluster = cluster
        self.stats = BarStats()
        self._channel = channel if channel in TRADE_CHANNELS else ""
        self._delay_ms = delay_ms
        self._step_ns_max = 2 * tick_ms * 1_000_000
        self._rule = rule

        self._holders: dict[tuple[int, str | None], int] = {}
        self._every: dict[int, int] = {}
        """Intervals wanted for all symbols, and the time after which their windows are whole."""
        self._own: dict[str, dict[int, int]] = {}
        """The same for single symbols."""
        self._made: dict[str, dict[int, _Line]] = {}
        self._lines = _Lines(self._lines_of)
        self._symbols_max = _SYMBOLS_MAX

        self._open: dict[int, dict[_Line, _Window]] = {}
        """Open windows by the time at which they end; `_ends` is a heap of these times."""
        self._ends: list[int] = []
        self._ahead: list[tuple[str, int, _Trade | None]] = []
        self._looked_ns = 0
        self._reset()

    def _reset(self) -> None:
        self._newest_ms = 0
        """The newest trade time, 0 before the first."""
        self._event_ms = 0
        self._leap_ms = 0
        """Trades after this time leap."""
        self._closed_ms = 0
        """Windows that end at or before this time are closed."""
        self._idle_ns = 0

    @property
    def event_ms(self) -> int:
        """The event time, Unix ms; 0 before the first trade."""
        return self._event_ms

    def want(self, interval_ms: int, symbol: str | None = None) -> None:
        """Begin to make bars of a length for a symbol, None for all. Each call is undone by one `unwant`."""
        key = (interval_ms, symbol)
        holders = self._holders.get(key, 0)
        self._holders[key] = holders + 1
        if holders:
            return
        if symbol is None:
            self._every[interval_ms] = self._newest_ms
            self._lines.clear()
        else:
            self._own.setdefault(symbol, {})[interval_ms] = self._newest_ms
            self._lines.pop(symbol, None)

    def unwant(self, interval_ms: int, symbol: str | None = None) -> None:
        """Undo one `want`; one without a `want` is ignored."""
        key = (interval_ms, symbol)
        holders = self._holders.pop(key, 0)
        if holders > 1:
            self._holders[key] = holders - 1
            return
        if not holders:
            return
        if symbol is None:
            del self._every[interval_ms]
            self._lines.clear()
            for name in list(self._made):
                self._drop(name, interval_ms)
        else:
            del self._own[symbol][interval_ms]
            if not self._own[symbol]:
                del self._own[symbol]
            self._lines.pop(symbol, None)
            self._drop(symbol, interval_ms)

    def _drop(self, symbol: str, interval_ms: int) -> None:
        if interval_ms in self._every or interval_ms in self._own.get(symbol, ()):
            return
        line = self._made.get(symbol, {}).pop(interval_ms, None)
        if line is not None:
            line.dropped = True

    def add(self, events: Events, now_ns: int) -> None:
        """Take the trades of one batch. Call `close_due` afterwards for the bars that they closed."""
        channel = self._channel
        count = events.counts.get(channel)
        if not count:
            return
        symbols, times_ms, raws = events.symbols, events.times_ms, events.raws
        if count < len(events):
            picked = [event_channel == channel for event_channel in events.channels]
            symbols = list(compress(symbols, picked))
            times_ms = list(compress(times_ms, picked))
            raws = list(compress(raws, picked))
        lines_of = self._lines
        wanted = [lines_of[symbol] for symbol in symbols]
        trades: Iterable[_Trade | None]
        if all(wanted):
            trades = _read(raws)
        else:
            read = iter(_read(list(compress(raws, wanted))))
            trades = [next(read) if lines else None for lines in wanted]
        newest_ms = self._newest_ms
        with localcontext(_EXACT):
            self._take(zip(symbols, times_ms, wanted, trades, strict=True))
        if self._newest_ms > newest_ms or not newest_ms:
            self._idle_ns = 0
            self._looked_ns = now_ns

    def close_due(self, now_ns: int) -> list[Bar]:
        """Give the bars whose windows have closed, by window end, symbol and interval.

        Call it after each `add` and every `tick_ms`; a clock that jumps costs no bar.
        """
        step_ns = min(now_ns - self._looked_ns, self._step_ns_max)
        self._looked_ns = now_ns
        if step_ns > 0:
            self._idle_ns += step_ns
            idle_ms = self._idle_ns // 1_000_000 - self._delay_ms
            if idle_ms > 0:
                with localcontext(_EXACT):
                    self._pass(idle_ms)
        return self._close(self._closed_ms)

    def flush(self) -> list[Bar]:
        """Close all windows and forget event time: at the end, or when a source starts over."""
        with localcontext(_EXACT):
            self._leap()
        bars = self._close(max(self._ends, default=0))
        self._reset()
        for wanted in (self._every, *self._own.values()):
            for interval_ms in wanted:
                wanted[interval_ms] = 0
        for lines in self._made.values():
            for line in lines.values():
                line.after_ms = 0
        return bars

    def _move(self, time_ms: int) -> None:
        """Let a trade set event time."""
        self._newest_ms = self._event_ms = time_ms
        self._leap_ms = time_ms + LEAP_MS
        if time_ms - self._delay_ms > self._closed_ms:
            self._closed_ms = time_ms - self._delay_ms

    def _pass(self, idle_ms: int) -> None:
        """Let the time that has passed in silence move event time."""
        if not self._newest_ms:
            self._leap()
            return
        self._event_ms = self._newest_ms + idle_ms
        self._leap_ms = self._event_ms + LEAP_MS
        self._closed_ms = max(self._closed_ms, self._event_ms - self._delay_ms)
        if self._ahead and min(time_ms for _, time_ms, _ in self._ahead) <= self._leap_ms:
            self._settle()

    def _leap(self) -> None:
        """Believe the trades that wait; those far ahead of their earliest are still misdated."""
        if self._ahead:
            self._move(min(time_ms for _, time_ms, _ in self._ahead))
            self._idle_ns = 0
            self._settle()
            self._misdate()

    def _settle(self) -> None:
        """Take the waiting trades that event time has come to; they may bring it to others."""
        while ready := [row for row in self._ahead if row[1] <= self._leap_ms]:
            waiting = [row for row in self._ahead if row[1] > self._leap_ms]
            self._ahead = []
            self._take([(symbol, time_ms, self._lines[symbol], trade) for symbol, time_ms, trade in ready])
            self._ahead = waiting

    def _misdate(self) -> None:
        """Give up the trades that wait."""
        for symbol, _, _ in self._ahead:
            if self._lines[symbol]:
                self.stats.trades += 1
                self.stats.misdated += 1
        self._ahead = []

    def _take(self, rows: Iterable[tuple[str, int, tuple[_Line, ...], _Trade | None]]) -> None:
        """Let trades move event time, and add them to their windows."""
        stats = self.stats
        rule = self._rule
        entries = 0
        for symbol, time_ms, lines, trade in rows:
            if time_ms > self._newest_ms or self._ahead:
                if time_ms > self._leap_ms:
                    self._ahead.append((symbol, time_ms, trade))
                    if len(self._ahead) >= LEAP_TRADES:
                        self._leap()
                    continue
                if self._ahead and time_ms > max(self._event_ms - LEAP_MS, 0):
                    self._misdate()
                if time_ms > self._newest_ms:
                    self._move(time_ms)
            if not lines:
                continue
            stats.trades += 1
            if trade is None or time_ms <= 0:
                stats.unreadable += 1
                continue
            price = trade.price
            size = trade.size_exact
            if size is None:
                size = _read_size(trade.size)
            if not (-_PRICE_END < price < _PRICE_END and _ZERO <= size < _SIZE_END):
                stats.unreadable += 1
                continue
            entries += len(lines)
            updates = EVERYTHING
            if trade.conditions and rule is not None:
                updates = rule(trade.conditions, time_ms)
                if not updates:
                    stats.not_counted += len(lines)
                    continue
            value = price * size
            closed_ms = self._closed_ms
            for line in lines:
                start_ms = time_ms - time_ms % line.interval_ms
                if start_ms != line.start_ms or line.end_ms <= closed_ms:
                    found = self._window(line, start_ms)
                    if found is None:
                        continue
                    window = found
                else:
                    window = line.window
                if updates & VOLUME:
                    window.trades += 1
                    window.volume += size
                    window.value += value
                else:
                    window.unsized += 1
                if updates & OPEN_CLOSE:
                    if window.open is None:
                        window.open = window.close = window.high = window.low = price
                        window.open_ms = window.close_ms = time_ms
                        continue
                    if time_ms >= window.close_ms:
                        window.close = price
                        window.close_ms = time_ms
                    elif time_ms < window.open_ms:
                        window.open = price
                        window.open_ms = time_ms
                    if price > window.high:
                        window.high = price
                    elif price < window.low:
                        window.low = price
                elif updates & HIGH_LOW:
                    window.add_second(time_ms, price)
        stats.entries += entries

    def _window(self, line: _Line, start_ms: int) -> _Window | None:
        """Find or open a window; None, counted, if it takes no trades."""
        end_ms = start_ms + line.interval_ms
        if end_ms <= self._closed_ms:
            self.stats.late += 1
            return None
        windows = self._open.get(end_ms)
        window = windows.get(line) if windows else None
        if window is None:
            if start_ms <= line.after_ms:
                self.stats.partial += 1
                return None
            if windows is None:
                windows = self._open[end_ms] = {}
                heappush(self._ends, end_ms)
            window = windows[line] = _Window(end_ms, end_ms)
            self.stats.open_windows += 1
        line.start_ms = start_ms
        line.end_ms = end_ms
        line.window = window
        return window

    def _close(self, until_ms: int) -> list[Bar]:
        bars: list[Bar] = []
        stats = self.stats
        while self._ends and self._ends[0] <= until_ms:
            end_ms = heappop(self._ends)
            windows = self._open.pop(end_ms)
            stats.open_windows -= len(windows)
            for line in sorted(windows, key=_ORDER):
                window = windows[line]
                trades = window.trades + window.unsized
                if line.dropped:
                    stats.abandoned += trades
                elif not window.settle():
                    stats.unpriced += trades
                else:
                    stats.in_bars += trades
                    symbol, interval_ms = line.order
                    bars.append(Bar(interval_ms, symbol, end_ms - interval_ms, end_ms, window.encode(line)))
        stats.bars += len(bars)
        return bars

    def _lines_of(self, symbol: str) -> tuple[_Line, ...]:
        """Give a symbol's lines; those that it has already keep their open windows."""
        if len(self._lines) >= self._symbols_max:
            self._forget_idle()
        wanted = dict(self._own.get(symbol, ()))
        for interval_ms, after_ms in self._every.items():
            wanted[interval_ms] = min(after_ms, wanted.get(interval_ms, after_ms))
        if not wanted:
            return ()
        made = self._made.setdefault(symbol, {})
        for interval_ms, after_ms in wanted.items():
            if interval_ms not in made:
                made[interval_ms] = _Line(symbol, interval_ms, after_ms)
        return tuple(made.values())

    def _forget_idle(self) -> None:
        """Let go of the symbols that have no open window; they are made again when they trade."""
        busy = {line.order[0] for windows in self._open.values() for line in windows}
        self._made = {symbol: lines for symbol, lines in self._made.items() if symbol in busy}
        self._lines.clear()
        # Were all of them busy, looking at all for every new symbol would cost more than the memory.
        self._symbols_max = max(_SYMBOLS_MAX, 2 * len(self._made))

    def __repr__(self) -> str:
        return (
            f"BarMaker({self.cluster}, {len(self._holders)} wanted, event_ms={self._event_ms}, "
            f"open_windows={self.stats.open_windows}, bars={self.stats.bars}, late={self.stats.late})"
        )


_ORDER: Final = attrgetter("order")


def _read(raws: list[msgspec.Raw]) -> Sequence[_Trade | None]:
    """Give what each event says of its trade, None where it cannot be read."""
    try:
        return _decode_trades(b"[%b]" % b",".join(raws))
    except msgspec.MsgspecError:
        return [_read_one(raw) for raw in raws]


def _read_one(raw: msgspec.Raw) -> _Trade | None:
    try:
        return _decode_trade(raw)
    except msgspec.MsgspecError:
        return None


def _read_size(raw: msgspec.Raw) -> Decimal:
    """Give a size, NaN where there is none."""
    try:
        return _decode_number(raw)
    except msgspec.MsgspecError:
        return _NO_NUMBER


def _plain(number: Decimal) -> str:
    """Spell a number without exponent and trailing zeros."""
    text = str(number)
    if "E" in text:
        text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
