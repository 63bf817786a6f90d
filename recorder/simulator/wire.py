"""Events in the vendor's words, with marks where running numbers and times go when they are sent.

Field names and shapes follow the vendor's documentation of each channel; what only the exchange knows (conditions,
venues, sizes) is drawn from an event's own random bits, so that the text of an event depends on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from recorder.simulator.listings import Listed
from recorder.simulator.windows import Window

TIME: Final = "\x01"
"""Where the event's time in milliseconds goes."""
NUMBER: Final = "\x02"
"""Where all but the last three digits of the event's number go."""
TIME_AND_NUMBER: Final = "\x03"
"""Time, the key `q`, and the number, in one piece: three stamps of four are this one."""
RECEIVED: Final = "\x04"
"""Where the time goes at which the exchange received the event."""
MARKS: Final = (TIME, NUMBER, TIME_AND_NUMBER, RECEIVED)
RECEIVED_AFTER_MS: Final = 35

_NUMBER_DIGITS: Final = 9
STAMP_SIZES: Final = (13, _NUMBER_DIGITS, 13 + len(',"q":') + _NUMBER_DIGITS, 13)
"""Bytes of each stamp; they never change, so neither does the size of a frame."""
FIRST_NUMBER: Final = 10 ** (_NUMBER_DIGITS + 2)
"""The number of a market's first event."""
NUMBERS: Final = 9 * FIRST_NUMBER
"""How many numbers there are; then they begin again."""
NUMBER_BLOCK: Final = 1_000


def stamps(time_ms: int, number: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what replaces the marks, in the order of `MARKS`, in the thousand of events that `number` is in."""
    time = b"%d" % time_ms
    block = b"%d" % (number // NUMBER_BLOCK)
    return time, block, time + b',"q":' + block, b"%d" % (time_ms + RECEIVED_AFTER_MS)


Word = Callable[[Listed, int, int, str], str]
"""Returns an event's text from symbol, price, random bits and the last three digits of its number."""
AggregateWord = Callable[[str, Listed, Window, Window, int, int], str]
"""Returns an aggregate's text from channel, symbol, window, the day so far, and the window's start and end."""


@dataclass(frozen=True, slots=True)
class Words:
    """How one cluster speaks."""

    mix: Mapping[str, float]
    """The share of each channel in the events; the first one's prices make the aggregates."""
    word: Mapping[str, Word]
    size: Callable[[int], int]
    """The size of a trade, from its bits; in units of the cluster's own."""
    aggregate: AggregateWord
    second: str
    minute: str
    main: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "main", next(iter(self.mix)))


def decimal(units: int, decimals: int) -> str:
    """Write an integer of 10^-decimals as a JSON number with two decimals or more, exactly."""
    whole, rest = divmod(units, 10**decimals)
    digits = f"{rest:0{decimals}d}"
    while len(digits) > 2 and digits[-1] == "0":
        digits = digits[:-1]
    return f"{whole}.{digits}"


_MICRO: Final = 1_000_000
_STOCK_VENUES: Final = (4, 11, 12, 8, 19, 10, 3, 2, 7, 15, 17, 20, 21, 4, 4, 4)
_PLAIN_CONDITIONS: Final = ("", "", "", "", "", "", '"c":[14,41],', '"c":[14,41],', '"c":[14],', '"c":[12],',
                            '"c":[12,14],', '"c":[10],', '"c":[53],', '"c":[17,41],', '"c":[22],', '"c":[2],')  # fmt: skip
_ODD_CONDITIONS: Final = ('"c":[37],', '"c":[37],', '"c":[14,37,41],', '"c":[12,37],')


def _stock_size(bits: int) -> int:
    """Return millionths of a share: mostly round lots, a quarter odd lots, a few fractions."""
    kind, rest = bits >> 12 & 255, bits >> 20 & 0xFFFF_FFFF
    if kind < 140:
        return 100 * _MICRO
    if kind < 205:
        return (rest % 99 + 1) * _MICRO
    if kind < 240:
        return (rest % 8 + 2) * 100 * _MICRO
    if kind < 246:
        return (rest % 90 + 10) * 100 * _MICRO
    return rest % (3 * _MICRO) + 1


def _stock_trade(listed: Listed, price: int, bits: int, low: str) -> str:
    size = _stock_size(bits)
    whole = (size + _MICRO // 2) // _MICRO
    fraction = f',"ds":"{size // _MICRO}.{size % _MICRO:06d}"' if size % _MICRO else ""
    conditions = (
        _ODD_CONDITIONS[bits >> 52 & 3] if size < 100 * _MICRO else _PLAIN_CONDITIONS[bits >> 52 & 15]
    )
    venue = _STOCK_VENUES[bits >> 56 & 15]
    facility = f',"trfi":{201 + (bits >> 60 & 1)},"trft":{TIME}' if venue == 4 else ""
    return (
        f'{{"ev":"T","sym":"{listed.symbol}","x":{venue},"i":"{NUMBER}{low}","z":{1 + listed.price % 3},'
        f'"p":{decimal(price, listed.decimals)},"s":{whole},{conditions}'
        f'"t":{TIME_AND_NUMBER}{low}{facility}{fraction}}}'
    )


def _stock_quote(listed: Listed, price: int, bits: int, low: str) -> str:
    bid, ask = _sides(listed, price, bits)
    sides = bits >> 58
    bid_text = f'"bx":{_STOCK_VENUES[bits >> 20 & 15]},"bp":{bid},"bs":{(bits >> 24 & 15) + 1},'
    ask_text = f'"ax":{_STOCK_VENUES[bits >> 28 & 15]},"ap":{ask},"as":{(bits >> 32 & 15) + 1},'
    return (
        f'{{"ev":"Q","sym":"{listed.symbol}",{"" if sides == 0 else bid_text}{"" if sides == 1 else ask_text}'
        f'"c":{1 if sides == 2 else 0},{_INDICATORS[bits >> 36 & 7]}"t":{TIME_AND_NUMBER}{low},'
        f'"z":{1 + listed.price % 3}}}'
    )


_INDICATORS: Final = ('"i":[604],', '"i":[604],', "", "", "", "", "", '"i":[601,604],')


def _sides(listed: Listed, price: int, bits: int) -> tuple[str, str]:
    """Return bid and ask around a price."""
    below = max(listed.tick, price - (bits >> 40 & 3) * listed.tick)
    return decimal(below, listed.decimals), decimal(
        below + ((bits >> 42 & 7) + 1) * listed.tick, listed.decimals
    )


def _luld(listed: Listed, price: int, _bits: int, low: str) -> str:
    high, least = decimal(price * 105 // 100, listed.decimals), decimal(price * 95 // 100, listed.decimals)
    return (
        f'{{"ev":"LULD","T":"{listed.symbol}","h":{high},"l":{least},"i":[16],"z":3,'
        f'"t":{TIME}642800,"q":{NUMBER}{low}}}'
    )


def _imbalance(listed: Listed, price: int, bits: int, _low: str) -> str:
    return (
        f'{{"ev":"NOI","T":"{listed.symbol}","t":{TIME}223600,"at":930,"a":"M","i":{bits >> 20 & 4095},"x":10,'
        f'"o":{bits >> 32 & 4095},"p":{bits >> 44 & 4095},"b":{decimal(price, listed.decimals)}}}'
    )


def _fair_value(listed: Listed, price: int, _bits: int, _low: str) -> str:
    return f'{{"ev":"FMV","fmv":{decimal(price, listed.decimals)},"sym":"{listed.symbol}","t":{TIME}000000}}'


def _stock_aggregate(channel: str, listed: Listed, window: Window, day: Window, start: int, end: int) -> str:
    volume, rest = divmod(window.volume, _MICRO)
    day_volume, day_rest = divmod(day.volume, _MICRO)
    fractions = f',"dv":"{volume}.{rest:06d}"' if rest else ""
    if day_rest:
        fractions += f',"dav":"{day_volume}.{day_rest:06d}"'
    return (
        f'{{"ev":"{channel}","sym":"{listed.symbol}","v":{_whole(window.volume)},"av":{_whole(day.volume)},'
        f'{_prices(listed, window, day)},"z":{_whole(window.volume // window.count)},'
        f'"s":{start},"e":{end}{fractions}}}'
    )


def _whole(size: int) -> int:
    """Round millionths to whole shares, half up."""
    return (size + _MICRO // 2) // _MICRO


def _prices(listed: Listed, window: Window, day: Window) -> str:
    places = listed.decimals
    return (
        f'"op":{decimal(day.open, places)},"vw":{decimal(window.average, places)},"o":{decimal(window.open, places)},'
        f'"c":{decimal(window.close, places)},"h":{decimal(window.high, places)},"l":{decimal(window.low, places)},'
        f'"a":{decimal(day.average, places)}'
    )


def _contracts(bits: int) -> int:
    """Return whole contracts: mostly few, seldom many."""
    return (bits >> 20) % 9 + 1 if bits >> 12 & 15 else (bits >> 20) % 400 + 10


def _option_trade(listed: Listed, price: int, bits: int, low: str) -> str:
    condition = (209, 227, 232, 233)[bits >> 52 & 3]
    return (
        f'{{"ev":"T","sym":"{listed.symbol}","x":{300 + (bits >> 56 & 15)},"p":{decimal(price, listed.decimals)},'
        f'"s":{_contracts(bits)},"c":[{condition}],"t":{TIME_AND_NUMBER}{low}}}'
    )


def _option_quote(listed: Listed, price: int, bits: int, low: str) -> str:
    bid, ask = _sides(listed, price, bits)
    return (
        f'{{"ev":"Q","sym":"{listed.symbol}","bx":{300 + (bits >> 20 & 15)},"ax":{300 + (bits >> 24 & 15)},'
        f'"bp":{bid},"ap":{ask},"bs":{(bits >> 28 & 63) + 1},"as":{(bits >> 34 & 63) + 1},'
        f'"t":{TIME_AND_NUMBER}{low}}}'
    )


def _option_aggregate(channel: str, listed: Listed, window: Window, day: Window, start: int, end: int) -> str:
    return (
        f'{{"ev":"{channel}","sym":"{listed.symbol}","v":{window.volume},"av":{day.volume},'
        f'{_prices(listed, window, day)},"z":{window.volume // window.count},"s":{start},"e":{end}}}'
    )


def _future_trade(listed: Listed, price: int, bits: int, low: str) -> str:
    return (
        f'{{"ev":"T","sym":"{listed.symbol}","p":{decimal(price, listed.decimals)},"s":{_contracts(bits)},'
        f'"t":{TIME_AND_NUMBER}{low}}}'
    )


def _future_quote(listed: Listed, price: int, bits: int, _low: str) -> str:
    bid, ask = _sides(listed, price, bits)
    return (
        f'{{"ev":"Q","sym":"{listed.symbol}","bp":{bid},"bs":{(bits >> 28 & 63) + 1},"bt":{TIME},'
        f'"ap":{ask},"as":{(bits >> 34 & 63) + 1},"at":{TIME},"t":{TIME}}}'
    )


def _future_aggregate(
    channel: str, listed: Listed, window: Window, _day: Window, start: int, end: int
) -> str:
    places = listed.decimals
    return (
        f'{{"ev":"{channel}","sym":"{listed.symbol}","v":{window.volume},"dv":"{decimal(window.value, places)}",'
        f'"o":"{decimal(window.open, places)}","c":"{decimal(window.close, places)}",'
        f'"h":"{decimal(window.high, places)}","l":"{decimal(window.low, places)}",'
        f'"n":{window.count},"s":{start},"e":{end}}}'
    )


_COIN_UNITS: Final = 10**8
_POWERS: Final = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_UUID_VENUE: Final = 6
"""The venue whose trade ids are UUIDs; the others count."""


def _coin_size(bits: int) -> int:
    """Return hundred-millionths of a coin, over eight orders of magnitude."""
    return ((bits >> 20) % 9_000 + 1_000) * _POWERS[bits >> 12 & 7] // 100


def _coin_trade(listed: Listed, price: int, bits: int, low: str) -> str:
    venue = (1, 2, _UUID_VENUE, 23)[bits >> 52 & 3]
    trade = f"{NUMBER}{low}"
    if venue == _UUID_VENUE:
        digits = f"{bits:016x}"
        trade = f'"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-9{digits[1:4]}-{trade}"'
    return (
        f'{{"ev":"XT","pair":"{listed.symbol}","p":{decimal(price, listed.decimals)},"t":{TIME},'
        f'"s":{_coin_size(bits) / _COIN_UNITS!r},"c":[{1 + (bits >> 54 & 1)}],"i":{trade},"x":{venue},'
        f'"r":{RECEIVED}}}'
    )


def _coin_quote(listed: Listed, price: int, bits: int, _low: str) -> str:
    bid, ask = _sides(listed, price, bits)
    return (
        f'{{"ev":"XQ","pair":"{listed.symbol}","bp":{bid},"bs":{((bits >> 20 & 4095) + 1) / 1000!r},'
        f'"ap":{ask},"as":{((bits >> 28 & 4095) + 1) / 1000!r},"t":{TIME},"x":1,"r":{RECEIVED}}}'
    )


def _coin_book(listed: Listed, price: int, bits: int, _low: str) -> str:
    bid, ask = _sides(listed, price, bits)
    return (
        f'{{"ev":"XL2","pair":"{listed.symbol}","t":{TIME},"r":{RECEIVED},"x":1,'
        f'"b":[[{bid},0.18635],[{bid},{(bits >> 20 & 4095) / 1000!r}]],"a":[[{ask},3.5527483]]}}'
    )


def _coin_aggregate(channel: str, listed: Listed, window: Window, _day: Window, start: int, end: int) -> str:
    places = listed.decimals
    return (
        f'{{"ev":"{channel}","pair":"{listed.symbol}","v":{window.volume / _COIN_UNITS!r},'
        f'"vw":{decimal(window.average, places)},"z":{window.volume // window.count // _COIN_UNITS},'
        f'"o":{decimal(window.open, places)},"c":{decimal(window.close, places)},'
        f'"h":{decimal(window.high, places)},"l":{decimal(window.low, places)},"s":{start},"e":{end}}}'
    )


def _one(_bits: int) -> int:
    """Return the size of an event that has none, so that aggregates count events."""
    return 1


def _currency_quote(listed: Listed, price: int, bits: int, _low: str) -> str:
    ask = decimal(price + ((bits >> 42 & 7) + 1) * listed.tick, listed.decimals)
    return f'{{"ev":"C","p":"{listed.symbol}","x":48,"a":{ask},"b":{decimal(price, listed.decimals)},"t":{TIME}}}'


def _currency_aggregate(
    channel: str, listed: Listed, window: Window, _day: Window, start: int, end: int
) -> str:
    places = listed.decimals
    return (
        f'{{"ev":"{channel}","pair":"{listed.symbol}","o":{decimal(window.open, places)},'
        f'"c":{decimal(window.close, places)},"h":{decimal(window.high, places)},'
        f'"l":{decimal(window.low, places)},"v":{window.count},"s":{start},"e":{end}}}'
    )


def _index_value(listed: Listed, price: int, _bits: int, _low: str) -> str:
    return f'{{"ev":"V","val":{decimal(price, listed.decimals)},"T":"{listed.symbol}","t":{TIME}}}'


def _index_aggregate(channel: str, listed: Listed, window: Window, day: Window, start: int, end: int) -> str:
    places = listed.decimals
    return (
        f'{{"ev":"{channel}","sym":"{listed.symbol}","op":{decimal(day.open, places)},'
        f'"o":{decimal(window.open, places)},"c":{decimal(window.close, places)},'
        f'"h":{decimal(window.high, places)},"l":{decimal(window.low, places)},"s":{start},"e":{end}}}'
    )


WORDS: Final[Mapping[str, Words]] = {
    "stocks": Words(
        mix={"T": 0.2, "Q": 0.797, "LULD": 0.001, "NOI": 0.001, "FMV": 0.001},
        word={"T": _stock_trade, "Q": _stock_quote, "LULD": _luld, "NOI": _imbalance, "FMV": _fair_value},
        size=_stock_size,
        aggregate=_stock_aggregate,
        second="A",
        minute="AM",
    ),
    "options": Words(
        mix={"T": 0.1, "Q": 0.899, "FMV": 0.001},
        word={"T": _option_trade, "Q": _option_quote, "FMV": _fair_value},
        size=_contracts,
        aggregate=_option_aggregate,
        second="A",
        minute="AM",
    ),
    "futures": Words(
        mix={"T": 0.25, "Q": 0.75},
        word={"T": _future_trade, "Q": _future_quote},
        size=_contracts,
        aggregate=_future_aggregate,
        second="A",
        minute="AM",
    ),
    "crypto": Words(
        mix={"XT": 0.3, "XQ": 0.69, "XL2": 0.01},
        word={"XT": _coin_trade, "XQ": _coin_quote, "XL2": _coin_book},
        size=_coin_size,
        aggregate=_coin_aggregate,
        second="XAS",
        minute="XA",
    ),
    "forex": Words(
        mix={"C": 1.0},
        word={"C": _currency_quote},
        size=_one,
        aggregate=_currency_aggregate,
        second="CAS",
        minute="CA",
    ),
    "indices": Words(
        mix={"V": 1.0},
        word={"V": _index_value},
        size=_one,
        aggregate=_index_aggregate,
        second="A",
        minute="AM",
    ),
}
