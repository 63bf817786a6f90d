"""PURE. Millisecond bars: trades in, closed OHLCV bars out. There is no I/O, and time is passed in."""

from recorder.bars.maker import LEAP_MS, LEAP_TRADES, BarMaker
from recorder.bars.stats import BarStats
from recorder.bars.trades import Trades, trades_of
from recorder.bars.window import Bar

__all__ = ["LEAP_MS", "LEAP_TRADES", "Bar", "BarMaker", "BarStats", "Trades", "trades_of"]
