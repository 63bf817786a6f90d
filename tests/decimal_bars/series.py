"""A series of bars as the oracle works with it; which are wanted is the package's own `WantedSeries`."""

from __future__ import annotations

from decimal_bars.window import Window


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
        self.symbol = symbol
        self.interval_ms = interval_ms
        self.order = (symbol, interval_ms)
        """The order of bars that end together."""
        self.after_ms = after_ms
        """Windows that begin at or before this time are not whole."""
        self.dropped = False
        """Nobody wants it any more; its open windows give no bars."""
        self.is_amended = False
        """Whether closed windows are kept, for late trades."""
        self.start_ms = self.end_ms = -1
        """When the window of the last trade began, which is usually the window of the next."""
        self.window = Window(-1)
        self.prefix = f'{{"ev":"MB","T":"b","sym":{name},"S":{name},"interval":{interval_ms},"o":'
