"""Windows of trades over integers: event time, what each window keeps of its trades, and the text of its bar.

A number is a mantissa and a scale, which counts the digits behind the point: `150.2500` is 1502500 and 4, `1E+3` is 1 and
-3. Python's integers cannot overflow, so every sum and every product is exact.

This is plain typed Python over ints and strings, because mypyc compiles it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from recorder.bars.stats import BarStats

OPEN_CLOSE: Final = 1
"""The trade may set the open and the close."""
HIGH_LOW: Final = 2
"""The trade may set the high and the low; the open and close too in a bar where no other trade may."""
VOLUME: Final = 4
"""The trade adds to the volume, and so to the volume-weighted price and the number of trades."""
NOTHING: Final = 0
EVERYTHING: Final = 7
"""All three."""

Conditions = tuple[int, ...]
Updates = dict[Conditions, int]
"""What a trade with some conditions updates: a sum of the three, or `NOTHING`. It learns what it is asked for."""
Stretch = tuple[int, int, Updates]
"""From when and until before when, in Unix ms, conditions say the same, and what they say."""
UpdateRule = Callable[[int], Stretch]
"""Returns the stretch that a time lies in."""
Number = tuple[int, int]
"""Mantissa and scale."""
Numbers = tuple[list[Number], list[Number], list[Conditions | None]]
"""Prices, sizes and conditions of some trades, as columns."""

LEAP_MS: Final = 10_000
"""A trade further ahead of event time than this does not move it alone."""
LEAP_TRADES: Final = 3
"""Event time follows once this many trades in a row are ahead."""
NEVER_MS: Final = 1 << 62

SCALE_MAX: Final = 40
"""Digits behind the point that a number may have; with the bounds of `trades`, this bounds every number here."""
NEGATIVE_ZERO: Final = 1 << 10
"""Is added to the scale of a zero that is spelled with a minus: an integer has no sign of zero."""
UNREADABLE: Final = 1 << 20
"""The scale of a price or size that is no number, or one of no market."""
VW_DIGITS: Final = 10
"""Significant digits of `vw`; half rounds to even."""

_UNREADABLE_MIN: Final = UNREADABLE - SCALE_MAX
_NEGATIVE_ZERO_MIN: Final = NEGATIVE_ZERO - SCALE_MAX

_VW_END: Final = 10_000_000_000
_TENS: Final[list[int]] = [10**digits for digits in range(4 * SCALE_MAX)]


class Window:
    """One bar in the making.

    Open and close are of the first and last trade by trade time; arrival breaks ties. The conditions of a trade say what
    it updates. If no trade of a window may set open and close, those that may set high and low do. A window in which no
    trade may set a price gives no bar. `v` is the exact sum of `ds`, or of `s` where that is absent, without trailing
    zeros. `vw` is the volume-weighted price of the trades that add to `v`, rounded to `VW_DIGITS` significant digits, so
    it may lie outside of `l` and `h`; without volume it is the close. `n` counts the trades that add to `v`. Prices keep
    the digits of the trade (`150.2500`).
    """

    __slots__ = (
        "close",
        "close_ms",
        "close_scale",
        "closed",
        "end_ms",
        "high",
        "high_scale",
        "low",
        "low_scale",
        "open",
        "open_ms",
        "open_scale",
        "rev",
        "scale",
        "seconds",
        "sent",
        "size_scale",
        "trades",
        "unsized",
        "value",
        "volume",
    )

    def __init__(self, end_ms: int, scale: int) -> None:
        """`scale` may be any; that of the first price saves work."""
        self.end_ms = end_ms
        self.scale = scale
        """The finest of all prices; the mantissas of the prices here are of this scale, so that they compare."""
        self.size_scale = 0
        """The finest of all sizes, and the scale of the volume."""
        self.open_ms = -1
        """-1 until there is a trade that may set the open; the prices and their times mean nothing before."""
        self.close_ms = 0
        self.open = self.high = self.low = self.close = 0
        self.open_scale = self.high_scale = self.low_scale = self.close_scale = 0
        """The scales that the trades had, which say how many digits a price is spelled with."""
        self.volume = 0
        self.value = 0
        """The sum of price times size, of both scales together."""
        self.trades = 0
        """Trades that add to the volume."""
        self.unsized = 0
        """Trades that set prices and do not add to the volume."""
        self.seconds: list[tuple[int, int, int]] | None = None
        """First, last, lowest and highest of the trades that may set high and low only: time, mantissa and scale."""
        self.closed = False
        """Whether its first bar has been made."""
        self.rev = 0
        """How often its bar was sent again, where late trades amend it."""
        self.sent: bytes | None = None
        """Its bar before the late trades of this batch; None while there are none, empty if it had no price."""

    def align(self, price: int, scale: int) -> int:
        """Return the mantissa of a price at the scale of the window, which is made finer if need be."""
        if not price:
            return 0
        finer = scale - self.scale
        if finer <= 0:
            return price * _TENS[-finer]
        factor = _TENS[finer]
        self.open *= factor
        self.high *= factor
        self.low *= factor
        self.close *= factor
        self.value *= factor
        self.scale = scale
        return price

    def align_size(self, size: int, scale: int) -> int:
        """Return the mantissa of a size at the scale of the volume, which is made finer if need be."""
        if not size:
            return 0
        finer = scale - self.size_scale
        if finer <= 0:
            return size * _TENS[-finer]
        factor = _TENS[finer]
        self.volume *= factor
        self.value *= factor
        self.size_scale = scale
        return size

    def begin(self, time_ms: int, price: int, scale: int) -> None:
        """Set all prices; the mantissa is of the scale of the window, `scale` that of the trade."""
        self.open = self.high = self.low = self.close = price
        self.open_scale = self.high_scale = self.low_scale = self.close_scale = scale
        self.open_ms = self.close_ms = time_ms

    def add_second(self, time_ms: int, price: int, scale: int) -> None:
        """Add a trade that sets open and close only where no better one comes."""
        trade = (time_ms, price, scale)
        seconds = self.seconds
        if seconds is None:
            self.seconds = [trade, trade, trade, trade]
            return
        if time_ms < seconds[0][0]:
            seconds[0] = trade
        if time_ms >= seconds[1][0]:
            seconds[1] = trade
        if _is_less(price, scale, seconds[2][1], seconds[2][2]):
            seconds[2] = trade
        if _is_less(seconds[3][1], seconds[3][2], price, scale):
            seconds[3] = trade

    @property
    def has_price(self) -> bool:
        """Whether some trade may set a price, so that there is a bar."""
        return self.open_ms >= 0 or self.seconds is not None

    def copy(self) -> Window:
        """Return a window with the same trades, which takes others from now on."""
        other = Window(self.end_ms, self.scale)
        other.size_scale = self.size_scale
        other.open_ms, other.close_ms = self.open_ms, self.close_ms
        other.open, other.open_scale = self.open, self.open_scale
        other.high, other.high_scale = self.high, self.high_scale
        other.low, other.low_scale = self.low, self.low_scale
        other.close, other.close_scale = self.close, self.close_scale
        other.volume, other.value = self.volume, self.value
        other.trades, other.unsized = self.trades, self.unsized
        if self.seconds is not None:
            other.seconds = list(self.seconds)
        other.closed, other.rev, other.sent = self.closed, self.rev, self.sent
        return other

    def _with_seconds(self, seconds: list[tuple[int, int, int]]) -> Window:
        """Return the window as if trades that may set high and low only had set what no other trade has set better."""
        settled = self.copy()
        settled.seconds = None
        for _, price, scale in seconds:
            settled.align(price, scale)
        first, last, low, high = seconds[0], seconds[1], seconds[2], seconds[3]
        lowest = settled.align(low[1], low[2])
        highest = settled.align(high[1], high[2])
        if self.open_ms < 0:
            settled.open, settled.open_scale = settled.align(first[1], first[2]), first[2]
            settled.close, settled.close_scale = settled.align(last[1], last[2]), last[2]
        if self.open_ms < 0 or lowest < settled.low:
            settled.low, settled.low_scale = lowest, low[2]
        if self.open_ms < 0 or highest > settled.high:
            settled.high, settled.high_scale = highest, high[2]
        return settled

    def _own(self, price: int, scale: int) -> int:
        """Return the mantissa of a price at the scale that its trade had."""
        return price if scale == self.scale or not price else price // _TENS[self.scale - scale]

    def encode(self, prefix: str, suffix: str) -> bytes:
        """Return the bar as clients get it; the window must have a price, and may take more trades afterwards.

        `prefix` ends before the open, `suffix` begins behind the number of trades.
        """
        if self.seconds is not None:
            return self._with_seconds(self.seconds).encode(prefix, suffix)
        opening, open_scale = self.open, self.open_scale
        opens = spelled(self._own(opening, open_scale), open_scale)
        # Most bars are of a few trades, so that these are often one number; spelling it costs more than asking.
        high = low = close = opens
        if self.high != opening or self.high_scale != open_scale:
            high = spelled(self._own(self.high, self.high_scale), self.high_scale)
        if self.low != opening or self.low_scale != open_scale:
            low = spelled(self._own(self.low, self.low_scale), self.low_scale)
        if self.close != opening or self.close_scale != open_scale:
            close = spelled(self._own(self.close, self.close_scale), self.close_scale)
        volume = str(self.volume) if not self.size_scale else plain(self.volume, self.size_scale)
        if self.volume and (self.trades > 1 or self.unsized or not -_VW_END < opening < _VW_END):
            vw = quotient(self.value, self.scale, self.volume)
        elif "E" in close:
            vw = plain(self._own(self.close, self.close_scale), self.close_scale)
        else:
            vw = close.rstrip("0").rstrip(".") if "." in close else close
        text = f'{prefix}{opens},"h":{high},"l":{low},"c":{close},"v":{volume},"vw":{vw},"n":{self.trades}{suffix}'
        return text.encode()


def _is_less(one: int, one_scale: int, other: int, other_scale: int) -> bool:
    """Return whether one number is smaller than another."""
    # A zero compares as it is; its scale may say that it is a negative one.
    if one_scale == other_scale or not one or not other:
        return one < other
    if one_scale < other_scale:
        return one * _TENS[other_scale - one_scale] < other
    return one < other * _TENS[one_scale - other_scale]


def spelled(mantissa: int, scale: int) -> str:
    """Return a number as the decimal specification spells it: its digits as they are, an exponent where it must be.

    https://speleotrove.com/decimal/daconvs.html, "to-scientific-string".
    """
    if not scale:
        return str(mantissa)
    if mantissa < 0:
        return "-" + spelled(-mantissa, scale)
    if scale >= _NEGATIVE_ZERO_MIN:
        return "-" + spelled(0, scale - NEGATIVE_ZERO)
    digits = str(mantissa)
    count = len(digits)
    if 0 < scale < count:
        return digits[:-scale] + "." + digits[-scale:]
    exponent = count - 1 - scale
    if scale > 0 and exponent >= -6:
        return "0." + "0" * (scale - count) + digits
    point = "." if count > 1 else ""
    return f"{digits[:1]}{point}{digits[1:]}E{'+' if exponent > 0 else '-'}{abs(exponent)}"


def plain(mantissa: int, scale: int) -> str:
    """Return a number without exponent, and without the zeros that end its fraction."""
    if not scale:
        return str(mantissa)
    if mantissa < 0:
        return "-" + plain(-mantissa, scale)
    if not mantissa:
        return "-0" if scale >= _NEGATIVE_ZERO_MIN else "0"
    if scale < 0:
        return str(mantissa * _TENS[-scale])
    digits = str(mantissa)
    if len(digits) <= scale:
        digits = "0" * (scale + 1 - len(digits)) + digits
    return (digits[:-scale] + "." + digits[-scale:]).rstrip("0").rstrip(".")


def quotient(value: int, scale: int, volume: int) -> str:
    """Return value / volume, rounded to `VW_DIGITS` significant digits, as plain text.

    The volume is positive; `scale` is that of the value less that of the volume.
    """
    if value < 0:
        return "-" + quotient(-value, scale, volume)
    if not value:
        return "0"
    # With as many digits more, the quotient has VW_DIGITS of them, or one more.
    missing = VW_DIGITS + len(str(volume)) - len(str(value))
    if missing > 0:
        value *= _TENS[missing]
    else:
        volume *= _TENS[-missing]
    scale += missing
    found = value // volume
    if found >= _VW_END:
        volume *= 10
        scale -= 1
        found = value // volume
    twice = 2 * (value - found * volume)
    if twice > volume or (twice == volume and found & 1):
        found += 1
    return plain(found, scale)


class BarSeries:
    """The bars of one symbol and length."""

    __slots__ = (
        "after_ms",
        "dropped",
        "end_ms",
        "interval_ms",
        "is_amended",
        "order",
        "prefix",
        "start_ms",
        "symbol",
        "window",
    )

    def __init__(self, symbol: str, name: str, interval_ms: int, after_ms: int) -> None:
        """`name` is the symbol as JSON has it."""
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.order = f"{symbol}\0{interval_ms:012d}"
        """The order of bars that end together: by symbol, then by length."""
        self.after_ms = after_ms
        """Windows that begin at or before this time are not whole."""
        self.dropped = False
        """Nobody wants it any more; its open windows give no bars."""
        self.is_amended = False
        """Whether closed windows are kept, for late trades."""
        self.start_ms = -1
        self.end_ms = -1
        """When the window of the last trade began, which is usually the window of the next."""
        self.window = Window(-1, 0)
        self.prefix = f'{{"ev":"MB","T":"b","sym":{name},"S":{name},"interval":{interval_ms},"o":'


def times_of(start_ms: int, end_ms: int) -> str:
    """Return the times of a window as bars have them."""
    return f',"s":{start_ms},"e":{end_ms},"t":{start_ms}'


_ORDER: Final = attrgetter("order")
_SORTED_PER_CLOSED: Final = 8


class Border:
    """The windows that end at one time, which has passed: they take no more trades, and their bars are due."""

    def __init__(self, end_ms: int, windows: dict[BarSeries, Window]) -> None:
        self.end_ms = end_ms
        self.windows = windows
        self._waiting: list[BarSeries] = []
        """The series of these windows, the next one last; empty until they are sorted."""

    def sort(self) -> int:
        """Put the windows in order; return with how many that are closed this compares in time."""
        if self._waiting:
            return 0
        self._waiting = sorted(self.windows, key=_ORDER, reverse=True)
        return len(self._waiting) // _SORTED_PER_CLOSED

    def close(
        self, windows_max: int, stats: BarStats
    ) -> tuple[list[int], list[str], list[int], list[int], list[bytes]]:
        """Return the bars of the next windows, by symbol and length, as columns of what `Bar` has; they are sorted."""
        lengths_ms: list[int] = []
        symbols: list[str] = []
        starts_ms: list[int] = []
        texts: list[bytes] = []
        abandoned = unpriced = in_bars = 0
        suffixes: dict[int, str] = {}
        waiting = self._waiting
        for _ in range(min(windows_max, len(waiting))):
            series = waiting.pop()
            window = self.windows.pop(series)
            window.closed = True
            trades = window.trades + window.unsized
            if series.dropped:
                abandoned += trades
            elif window.open_ms < 0 and window.seconds is None:
                unpriced += trades
            else:
                in_bars += trades
                interval_ms = series.interval_ms
                start_ms = self.end_ms - interval_ms
                suffix = suffixes.get(interval_ms)
                if suffix is None:
                    suffix = suffixes[interval_ms] = times_of(start_ms, self.end_ms) + "}"
                lengths_ms.append(interval_ms)
                symbols.append(series.symbol)
                starts_ms.append(start_ms)
                texts.append(window.encode(series.prefix, suffix))
        stats.abandoned += abandoned
        stats.unpriced += unpriced
        stats.in_bars += in_bars
        stats.bars += len(texts)
        return lengths_ms, symbols, starts_ms, [self.end_ms] * len(texts), texts

    def __len__(self) -> int:
        return len(self.windows)


class Windows:
    """The open windows of one cluster, and the event time by which they close.

    `BarMaker` says what the rules are. Times are Unix ms; the clock of the recorder is not known here.
    """

    def __init__(
        self,
        delay_ms: int,
        stats: BarStats,
        series_of: dict[str, tuple[BarSeries, ...]],
        rule: UpdateRule | None,
        amended_window: Callable[[BarSeries, int], Window | None],
    ) -> None:
        """`amended_window` returns the closed window of a series that begins at a time, None if it is not to be amended."""
        self._delay_ms = delay_ms
        self._stats = stats
        self._series_of = series_of
        self._rule = rule
        self._stretch: Stretch = (0, 0, {})
        """That of the last trade with conditions."""
        self._amended_window = amended_window
        self.open: dict[int, dict[BarSeries, Window]] = {}
        """Open windows by the time at which they end; `ends` is a heap of these times."""
        self.ends: list[int] = []
        self.due: list[Border] = []
        """What has closed since somebody last took it from here, in order."""
        self._ahead: list[tuple[str, int, Number, Number, Conditions | None]] = []
        """Trades that wait: symbol, time, price, size, conditions."""
        self.reset()

    def reset(self) -> None:
        """Forget event time, and all that waits for it."""
        self.open.clear()
        self.ends.clear()
        self._ahead = []
        self.newest_ms = 0
        """The newest trade time, 0 before the first."""
        self.event_ms = 0
        self.leap_ms = 0
        """Trades after this time leap."""
        self.closed_ms = 0
        """Windows that end at or before this time are closed."""

    @property
    def ahead_ms(self) -> int:
        """The earliest time of the trades that wait; `NEVER_MS` if none does."""
        return min([row[1] for row in self._ahead], default=NEVER_MS)

    def only_time_passes(self, times_ms: list[int]) -> bool:
        """Let trades that are in no bar move event time all at once; return False if they are to be added one by one."""
        if self._ahead or not self.newest_ms:
            return False
        newest_ms = max(times_ms)
        if newest_ms > self.leap_ms:
            return False
        if newest_ms > self.newest_ms:
            self._move(newest_ms)
        return True

    def advance(self, idle_ms: int) -> bool:
        """Let time that has passed in silence move event time; return whether a trade that waited moved it."""
        if not self.newest_ms:
            self.leap()
            return True
        reach_ms = self.ahead_ms - LEAP_MS
        # However far a watermark reaches, time passes over no trade that waits.
        event_ms = max(self.event_ms, min(self.newest_ms + idle_ms, reach_ms))
        self.event_ms = event_ms
        self.leap_ms = event_ms + LEAP_MS
        self.closed_ms = max(self.closed_ms, event_ms - self._delay_ms)
        if reach_ms > event_ms:
            return False
        self._settle()
        return True

    def add(
        self,
        symbols: list[str],
        times_ms: list[int],
        wanted: list[tuple[BarSeries, ...]],
        numbers: Numbers,
    ) -> None:
        """Let trades move event time, and add them to their windows. `numbers` are those of wanted trades alone."""
        stats = self._stats
        rule = self._rule
        since_ms, until_ms, known = self._stretch
        prices, sizes, conditions = numbers
        trades = entries = 0
        read = zip(prices, sizes, conditions)
        newest_ms, closed_ms, anybody_ahead = self.newest_ms, self.closed_ms, bool(self._ahead)
        for symbol, time_ms, series in zip(symbols, times_ms, wanted):
            if series:
                (price, scale), (size, size_scale), condition = next(read)
            else:
                price, scale, size, size_scale, condition = 0, UNREADABLE, 0, 0, None
            # Most trades are of the newest millisecond or older, and move nothing.
            if time_ms > newest_ms or anybody_ahead:
                is_ahead = time_ms > self.leap_ms
                if is_ahead:
                    row = (symbol, time_ms, (price, scale), (size, size_scale), condition)
                    self._ahead.append(row)
                    if len(self._ahead) >= LEAP_TRADES:
                        self.leap()
                else:
                    self._move_to(time_ms)
                newest_ms, closed_ms, anybody_ahead = self.newest_ms, self.closed_ms, bool(self._ahead)
                if is_ahead:
                    continue
            if not series:
                continue
            trades += 1
            if scale + size_scale >= _UNREADABLE_MIN or time_ms <= 0:
                stats.unreadable += 1
                continue
            entries += len(series)
            updates = EVERYTHING
            if condition and rule is not None:
                if not since_ms <= time_ms < until_ms:
                    stretch = self._stretch = rule(time_ms)
                    since_ms, until_ms, known = stretch
                updates = known[condition]
                if not updates:
                    stats.not_counted += len(series)
                    continue
            for one in series:
                if one.start_ms <= time_ms < one.end_ms and one.end_ms > closed_ms:
                    # The window of the last trade: no look-up for nearly all of them.
                    window = one.window
                else:
                    found = self._window(one, time_ms - time_ms % one.interval_ms, scale)
                    if found is None:
                        continue
                    window = found
                aligned = price if scale == window.scale else window.align(price, scale)
                if updates & VOLUME:
                    amount = size if size_scale == window.size_scale else window.align_size(size, size_scale)
                    window.trades += 1
                    window.volume += amount
                    window.value += aligned * amount
                else:
                    window.unsized += 1
                if updates & OPEN_CLOSE:
                    if time_ms >= window.close_ms:
                        if window.open_ms < 0:
                            window.begin(time_ms, aligned, scale)
                            continue
                        window.close = aligned
                        window.close_scale = scale
                        window.close_ms = time_ms
                    elif time_ms < window.open_ms:
                        window.open = aligned
                        window.open_scale = scale
                        window.open_ms = time_ms
                    if aligned > window.high:
                        window.high = aligned
                        window.high_scale = scale
                    elif aligned < window.low:
                        window.low = aligned
                        window.low_scale = scale
                elif updates & HIGH_LOW:
                    window.add_second(time_ms, price, scale)
        stats.trades += trades
        stats.entries += entries

    def leap(self) -> None:
        """Believe the trades that wait; those far ahead of their earliest are still misdated."""
        if self._ahead:
            self._move(self.ahead_ms)
            self._settle()
            self._misdate()

    def gather(self, until_ms: int) -> None:
        """Make what is open and ends by a time due."""
        while self.ends and self.ends[0] <= until_ms:
            end_ms = heappop(self.ends)
            border = Border(end_ms, self.open.pop(end_ms))
            self._stats.open_windows -= len(border)
            self.due.append(border)

    def _move(self, time_ms: int) -> None:
        """Let a trade set event time."""
        self.newest_ms = self.event_ms = time_ms
        self.leap_ms = time_ms + LEAP_MS
        if time_ms - self._delay_ms > self.closed_ms:
            self.closed_ms = time_ms - self._delay_ms

    def _move_to(self, time_ms: int) -> None:
        """Let a trade that does not leap move event time."""
        # A straggler of long ago says nothing about the present, and so nothing about those that wait.
        if self._ahead and time_ms > max(self.event_ms - LEAP_MS, 0):
            self._misdate()
        if time_ms > self.newest_ms:
            self._move(time_ms)

    def _settle(self) -> None:
        """Take the waiting trades that event time has come to; they may bring it to others."""
        while True:
            ready = [row for row in self._ahead if row[1] <= self.leap_ms]
            if not ready:
                return
            waiting = [row for row in self._ahead if row[1] > self.leap_ms]
            self._ahead = []
            wanted = [self._series_of[row[0]] for row in ready]
            read = [row for row in ready if self._series_of[row[0]]]
            numbers = [row[2] for row in read], [row[3] for row in read], [row[4] for row in read]
            self.add([row[0] for row in ready], [row[1] for row in ready], wanted, numbers)
            self._ahead = waiting

    def _misdate(self) -> None:
        """Leave out the trades that wait: they are misdated."""
        for row in self._ahead:
            if self._series_of[row[0]]:
                self._stats.trades += 1
                self._stats.misdated += 1
        self._ahead = []

    def _window(self, series: BarSeries, start_ms: int, scale: int) -> Window | None:
        """Return the window that begins then, opened if need be; None, counted, if it takes no trades."""
        end_ms = start_ms + series.interval_ms
        if end_ms <= self.closed_ms:
            self._stats.late += 1
            return self._amended_window(series, start_ms) if series.is_amended else None
        windows = self.open.get(end_ms)
        window = windows.get(series) if windows is not None else None
        if window is None:
            if start_ms <= series.after_ms:
                # It had begun before it was wanted, so that its first trades are missing.
                self._stats.partial += 1
                return None
            if windows is None:
                windows = self.open[end_ms] = {}
                heappush(self.ends, end_ms)
            window = windows[series] = Window(end_ms, scale if scale < _NEGATIVE_ZERO_MIN else 0)
            self._stats.open_windows += 1
        series.start_ms = start_ms
        series.end_ms = end_ms
        series.window = window
        return window
