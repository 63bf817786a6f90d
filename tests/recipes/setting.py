"""A setting: one field of the section that uses it."""

from __future__ import annotations

from recipes import Insert, Recipe

RECIPE = Recipe(
    "a setting",
    (
        Insert(
            "recorder/settings/sections.py",
            after='"""Longest bar that clients may ask for."""',
            text='''\
    windows_max: Count = option("BAR_WINDOWS_MAX", 10_000)
    """Windows of bars that may be open at a time."""
''',
        ),
    ),
)
