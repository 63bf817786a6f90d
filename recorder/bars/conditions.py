"""Trade conditions: what a trade of the stocks cluster may update in a bar, by the vendor's consolidated rules.

Sources, by what they settle:

- the table: Massive (Polygon.io), REST reference "Condition Codes" (`/v3/reference/conditions`, stocks, trades), fields
  `update_rules.consolidated`; the vendor takes them from the CTA plan (CTS Output Specification, "Sale Condition") and
  the UTP plan (UTP Data Feed Services Specification, "Sale Condition Matrix");
- that the consolidated columns are the right ones, and that several conditions are joined by "and": Massive, Knowledge
  Base, "How does Massive create the OHLCV aggregate bars?", and Blog, "Understanding Trade Eligibility";
- Form T: Massive, Knowledge Base, "Does a Form T trade update a pre-market minute bar's high, low, open and close?".
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from recorder.bars.windows import EVERYTHING, HIGH_LOW, NOTHING, OPEN_CLOSE, VOLUME, Conditions, Stretch
from recorder.polygon.clusters import CLUSTERS

MODES: Final = ("vendor", "all")
"""What `BAR_CONDITIONS` may be."""

FORM_T: Final = 12
"""Extended hours. The table's row holds in regular hours; outside them such a trade sets prices as any other does."""

STOCK_UPDATES: Final[dict[int, int]] = {
    0: EVERYTHING,  # Regular Sale
    1: EVERYTHING,  # Acquisition
    2: VOLUME,  # Average Price Trade
    3: EVERYTHING,  # Automatic Execution
    4: EVERYTHING,  # Bunched Trade
    5: HIGH_LOW | VOLUME,  # Bunched Sold Trade
    6: EVERYTHING,  # CAP Election
    7: VOLUME,  # Cash Sale
    8: EVERYTHING,  # Closing Prints
    9: EVERYTHING,  # Cross Trade
    10: HIGH_LOW | VOLUME,  # Derivatively Priced
    11: EVERYTHING,  # Distribution
    FORM_T: VOLUME,  # Form T / Extended Hours
    13: VOLUME,  # Extended Hours (Sold Out Of Sequence)
    14: EVERYTHING,  # Intermarket Sweep
    15: NOTHING,  # Market Center Official Close
    16: NOTHING,  # Market Center Official Open
    17: EVERYTHING,  # Market Center Opening Trade
    18: EVERYTHING,  # Market Center Reopening Trade
    19: EVERYTHING,  # Market Center Closing Trade
    20: VOLUME,  # Next Day
    21: VOLUME,  # Price Variation Trade
    22: HIGH_LOW | VOLUME,  # Prior Reference Price
    23: EVERYTHING,  # Rule 155 Trade (AMEX)
    24: EVERYTHING,  # Rule 127 (NYSE Only)
    25: EVERYTHING,  # Opening Prints
    27: EVERYTHING,  # Stopped Stock (Regular Trade)
    28: EVERYTHING,  # Re-Opening Prints
    29: VOLUME,  # Seller
    30: EVERYTHING,  # Sold Last
    31: EVERYTHING,  # Sold Last and Stopped Stock
    32: HIGH_LOW | VOLUME,  # Sold (Out Of Sequence)
    33: HIGH_LOW | VOLUME,  # Sold (Out of Sequence) and Stopped Stock
    34: EVERYTHING,  # Split Trade
    35: EVERYTHING,  # Stock Option
    36: EVERYTHING,  # Yellow Flag Regular Trade
    37: VOLUME,  # Odd Lot Trade
    38: OPEN_CLOSE | HIGH_LOW,  # Corrected Consolidated Close (per listing market)
    41: EVERYTHING,  # Trade Thru Exempt
    52: VOLUME,  # Contingent Trade
    53: VOLUME,  # Qualified Contingent Trade
    55: EVERYTHING,  # Opening Reopening Trade Detail
}
"""What a condition leaves to a trade. The vendor's other numbers (57 to 60 short sale restriction, 62 to 71 financial
status) say nothing about the trade and have no rules, so they change nothing here; neither does a number that is new.
"""

_KNOWN_MAX: Final = 65_536
"""Combinations kept; the feed has a few hundred."""


class _Known(dict[Conditions, int]):
    """What trades update in regular hours, or outside them, by their conditions; a combination is added up when it comes."""

    def __init__(self, *, is_regular: bool) -> None:
        super().__init__()
        self._is_regular = is_regular

    def __missing__(self, conditions: Conditions) -> int:
        updates = EVERYTHING
        for condition in conditions:
            if self._is_regular or condition != FORM_T:
                updates &= STOCK_UPDATES.get(condition, EVERYTHING)
        if len(self) >= _KNOWN_MAX:
            self.clear()
        self[conditions] = updates
        return updates


class StockRule:
    """The vendor's rule for stocks. Every condition of a trade must allow an update.

    The exchanges' early closes are not known here: on these few afternoons Form T trades set no prices until 16:00.
    """

    def __init__(self) -> None:
        self._regular = _Known(is_regular=True)
        self._extended = _Known(is_regular=False)

    def stretch(self, ts_ms: int) -> Stretch:
        """Return what conditions say at a time, and from when until when they say the same."""
        begin_ms, end_ms, is_regular = hours_at(ts_ms)
        return begin_ms, end_ms, self._regular if is_regular else self._extended

    def __call__(self, conditions: Conditions, ts_ms: int) -> int:
        """Return what a trade updates."""
        return self.stretch(ts_ms)[2][conditions]

    def __repr__(self) -> str:
        return f"StockRule({len(self._regular.keys() | self._extended.keys())} combinations seen)"


def update_rule(cluster: str, mode: str) -> StockRule | None:
    """Return the rule for a cluster, None where every trade updates everything. `mode` is one of `MODES`."""
    return StockRule() if CLUSTERS[cluster].consolidated and mode == "vendor" else None


_DAY_MS: Final = 86_400_000
_OPEN_MS: Final = (9 * 60 + 30) * 60_000
_CLOSE_MS: Final = 16 * 60 * 60_000
_DAY_SECS: Final = 86_400
_NOON_SECS: Final = 17 * 3600
"""About noon in New York."""
_NEW_YORK: Final = ZoneInfo("America/New_York")


def hours_at(ts_ms: int) -> tuple[int, int, bool]:
    """Return the stretch that a time lies in, its end excluded, and whether that is 09:30 to 16:00 in New York."""
    midnight_ms = ts_ms - ts_ms % _DAY_MS
    behind_ms = _new_york_behind_ms(ts_ms // _DAY_MS)
    open_ms, close_ms = midnight_ms + _OPEN_MS + behind_ms, midnight_ms + _CLOSE_MS + behind_ms
    if ts_ms < open_ms:
        return midnight_ms, open_ms, False
    if ts_ms < close_ms:
        return open_ms, close_ms, True
    return close_ms, midnight_ms + _DAY_MS, False


@lru_cache(maxsize=64)
def _new_york_behind_ms(day: int) -> int:
    """Return how far New York is behind UTC in the trading hours of a day since 1970.

    The clocks change on Sunday nights, and trading hours are within one UTC day, so that any of their moments will do.
    """
    noon = datetime.fromtimestamp(day * _DAY_SECS + _NOON_SECS, _NEW_YORK)
    behind = -(noon.utcoffset() or timedelta())
    return behind // timedelta(milliseconds=1)
