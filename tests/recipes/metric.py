"""A metric that `/status` shows: one field of the stats class of the part that counts, and the line that counts."""

from __future__ import annotations

from recipes import Insert, Recipe

RECIPE = Recipe(
    "a metric",
    (
        Insert(
            "recorder/bars.py",
            after='bars: int = counter("polygon_bars_total", "Bars made.")',
            text='    closings: int = counter("polygon_bars_closings_total", "Times at which windows were due.")',
        ),
        Insert("recorder/bars.py", after="stats.bars += len(bars)", text="        stats.closings += 1"),
    ),
)
