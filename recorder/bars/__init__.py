"""PURE. Millisecond bars: trades in, closed OHLCV bars out. There is no I/O, and time is passed in."""

from recorder.bars.bar import Bar
from recorder.bars.maker import BarMaker, Progress
from recorder.bars.stats import BarStats
from recorder.bars.trades import Trades, trades_of
from recorder.bars.windows import LEAP_MS, LEAP_TRADES

__all__ = ["LEAP_MS", "LEAP_TRADES", "Bar", "BarMaker", "BarStats", "Progress", "Trades", "trades_of"]
