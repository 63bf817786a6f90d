"""The layouts of an export: where the files of segments stand, and which day a record belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from recorder.export.flat_columns import flat_day
from recorder.export.tree import DayOf, utc_day


class Layout(NamedTuple):
    """One of them."""

    name: str
    place: str
    """Where the folders of feeds are, relative to the tree."""
    day_of: DayOf


HIVE: Final = Layout("hive", "", utc_day)
FLATFILE: Final = Layout("flatfile", "_export.parts/", flat_day)
"""Of a day's file nothing can be taken back: the files that it is made of stay beside it."""

LAYOUTS: Final[Mapping[str, Layout]] = {layout.name: layout for layout in (HIVE, FLATFILE)}
