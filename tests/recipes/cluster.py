"""A cluster: one row of its table. Where its market keeps hours of its own, these are computed in a second file."""

from __future__ import annotations

from recipes import Insert, Recipe, Replace

RECIPE = Recipe(
    "a cluster",
    (
        Insert(
            "recorder/polygon/clusters.py",
            after='Cluster("indices", ("V", "A", "AM"), "listed", prefix="I:", prefix_sent=True),',
            text='        Cluster("bonds", ("T", "Q"), "weekdays", prefix="B:", prefix_sent=True),',
        ),
        Replace(
            "recorder/polygon/clusters.py",
            old='"forex", "always"]',
            text='"forex", "always", "weekdays"]',
        ),
        Insert(
            "recorder/market_hours/calendar.py",
            after="            return _forex(first, last)",
            text="""\
        case "weekdays":
            days = (first + timedelta(days=n) for n in range((last - first).days + 1))
            return [(_ns(day, time(8), NEW_YORK), _ns(day, time(17), NEW_YORK)) for day in days if day.weekday() < 5]
""",
        ),
    ),
)
