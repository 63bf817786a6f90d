"""What became of the trades that bars are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recorder.stats import AT, counter, gauge, label, shown


def _left_out(reason: str, about: str) -> Any:
    return counter(
        "polygon_bars_left_out_total",
        "What is in no bar, by reason: trades unreadable (no time, price or size) and misdated (far ahead of all "
        "others); entries late (their window had closed), not_counted (by their conditions), unpriced (no trade "
        "of the window sets a price), partial (the window began before it was wanted) and abandoned (it was no "
        "longer wanted).",
        where={"reason": reason},
        about=about,
    )


@dataclass(slots=True)
class BarStats:
    """What became of the trades of one cluster. A trade has one entry for each interval that wants its symbol.

    Once no window is open, `entries = in_bars + late + not_counted + unpriced + partial + abandoned`.
    """

    cluster: str = label("feed", "Name of the cluster.")
    event_time: int = shown("The newest trade's own time.", unit=AT, default=0, over_workers="newest")
    trades: int = counter("polygon_bars_trades_total", "Trades of symbols of which clients want bars.")
    unreadable: int = _left_out(
        "unreadable", "Of these: without a time, or with an unreadable price, size or condition."
    )
    misdated: int = _left_out("misdated", "Of these: far ahead of the time of all others.")
    entries: int = counter(
        "polygon_bars_entries_total",
        "The readable ones, once for each length of bar that is wanted of the symbol.",
    )
    in_bars: int = counter(
        "polygon_bars_entries_used_total",
        "Entries that are in bars; the rest are in open windows or left out.",
    )
    late: int = _left_out("late", "Entries whose window had closed.")
    not_counted: int = _left_out("not_counted", "Entries that their conditions leave out.")
    unpriced: int = _left_out("unpriced", "Entries in windows in which no trade could set a price.")
    partial: int = _left_out("partial", "Entries in windows that had begun before they were wanted.")
    abandoned: int = _left_out(
        "abandoned", "Entries in windows that were open when no client wanted them any more."
    )
    bars: int = counter("polygon_bars_total", "Bars made.")
    amended: int = counter(
        "polygon_bars_amended_total", "Bars sent again, to clients that asked for it, because of late trades."
    )
    too_late: int = counter(
        "polygon_bars_too_late_total",
        "Late entries of bars that clients want amended, beyond BAR_AMEND_SECS or BAR_AMEND_BYTES.",
    )
    open_windows: int = gauge("polygon_bars_open_windows", "Windows being filled.")
