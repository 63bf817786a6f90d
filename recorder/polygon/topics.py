"""Topics and patterns: what is asked for upstream (`T.AAPL`), and what is chosen from what came (`T:ES*`)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from recorder.polygon.clusters import SYMBOL_PREFIXES

WILDCARD: Final = "*"
_CHANNEL: Final = re.compile(r"[A-Z][A-Za-z0-9]*")
_SEPARATOR: Final = re.compile(r"[.:]")


class Topic(NamedTuple):
    """One upstream subscription: a channel, and a symbol or `*`. Its text is what is sent."""

    channel: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.channel}.{self.symbol}"


class Pattern(NamedTuple):
    """What chooses events: a channel or `*`, and a symbol, the beginning of one followed by `*`, or `*`."""

    channel: str
    symbol: str

    def matches(self, channel: str, symbol: str) -> bool:
        """Return whether an event of this channel and symbol is chosen. `EUR-USD` is `EUR/USD`."""
        if self.channel not in (WILDCARD, channel):
            return False
        wanted = _one_spelling(self.symbol)
        if wanted.endswith(WILDCARD):
            return _one_spelling(symbol).startswith(wanted[:-1])
        return _one_spelling(symbol) == wanted

    def __str__(self) -> str:
        return f"{self.channel}:{self.symbol}"


def parse_topic(text: str) -> Topic:
    """Read `T.AAPL`, `T.*`, or `T:AAPL` with the separator of patterns.

    The split is at the first separator: symbols have dots and colons of their own (`T.BRK.B`, `T.O:SPY…`).
    A pair is asked for with a hyphen, even if written as it is delivered: `C.EUR/USD` becomes `C.EUR-USD`.

    Raise ValueError with words for whoever wrote it.
    """
    channel, symbol = _split(text, "a topic is a channel and a symbol, such as T.AAPL or T.*")
    if not _CHANNEL.fullmatch(channel):
        raise ValueError(f"{text!r}: {_CHANNEL_RULE}")
    if symbol != WILDCARD and WILDCARD in symbol:
        raise ValueError(f"{text!r}: the exchange knows * only as the whole symbol, as in {channel}.*")
    return Topic(channel, _one_spelling(symbol))


def parse_pattern(text: str) -> Pattern:
    """Read `T:ES*`, `*:AAPL`, `T:*`, `*` for everything; `T.ES*` with the separator of topics means the same.

    Raise ValueError with words for whoever wrote it.
    """
    if text.strip() == WILDCARD:
        return Pattern(WILDCARD, WILDCARD)
    channel, symbol = _split(text, "a pattern is a channel and a symbol, such as T:ES*, *:AAPL or T:*")
    if channel != WILDCARD and not _CHANNEL.fullmatch(channel):
        raise ValueError(f"{text!r}: {_CHANNEL_RULE}, or *")
    if WILDCARD in symbol[:-1]:
        raise ValueError(f"{text!r}: * stands for the end of a symbol, so nothing can follow it")
    return Pattern(channel, symbol)


_CHANNEL_RULE: Final = "a channel is a code such as T, Q, AM or XT"


def _split(text: str, shape: str) -> tuple[str, str]:
    text = text.strip()
    separator = _SEPARATOR.search(text)
    if separator is None:
        raise ValueError(f"{text!r}: {shape}")
    channel, symbol = text[: separator.start()], text[separator.end() :]
    if separator.group() == ":" and channel in SYMBOL_PREFIXES:
        raise ValueError(f"{text!r} is a symbol without a channel; {shape}")
    if not symbol:
        raise ValueError(f"{text!r} names no symbol; {shape}")
    if "," in symbol or not symbol.isprintable() or any(map(str.isspace, symbol)):
        raise ValueError(f"{text!r}: a symbol has no comma, space or control character")
    return channel, symbol


def _one_spelling(symbol: str) -> str:
    """Return a pair as it is asked for: the vendor delivers `EUR/USD` to a client that asks for `EUR-USD`."""
    return symbol.replace("/", "-")
