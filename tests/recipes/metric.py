"""A metric that `/status` shows: one field of the stats class of the part that counts, and the line that counts."""

from __future__ import annotations

from recipes import Insert, Recipe

RECIPE = Recipe(
    "a metric",
    (
        Insert(
            "recorder/ledger.py",
            after='write_errors: int = counter("polygon_sink_write_errors_total", "Writes that failed.")',
            text='    drop_runs: int = counter("polygon_sink_drop_runs_total", "Times at which drops began.")',
        ),
        Insert(
            "recorder/ledger.py",
            after="run = DropRun(cluster, channel, reason, at_ms, at_ms, count)",
            text="                self.drop_runs += 1",
        ),
    ),
)
