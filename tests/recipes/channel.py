"""A channel: one row of its table."""

from __future__ import annotations

from recipes import Insert, Recipe

RECIPE = Recipe(
    "a channel",
    (
        Insert(
            "recorder/polygon/channels.py",
            after='Channel("LULD", "notice", "luld", "T"),',
            text='        Channel("AUC", "notice", "auctions", "ticker", ("at", "t")),',
        ),
    ),
)
