"""The layouts of an export: where the files of segments stand, and which day a record belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from recorder.export.flat_columns import flat_day
from recorder.export.tree import DayOf, utc_day

_HOUR_MS: Final = 3_600_000
_SEALED_MS: Final = 2 * _HOUR_MS
"""Hardly a recorder takes longer to seal what it has written. What comes later is taken up once more."""


class Layout(NamedTuple):
    """One of them."""

    name: str
    place: str
    """Where the folders of feeds are, relative to the tree."""
    day_of: DayOf
    ends_late_ms: int = 0
    """So long after a day has ended in UTC, it has ended wherever its feed is."""

    def is_over(self, folder: str, at_ms: int) -> bool:
        """Return whether the day of a folder ended long enough ago that its last records are sealed."""
        date = datetime.fromisoformat(folder.rpartition("date=")[2]).replace(tzinfo=UTC)
        ended_ms = (date + timedelta(days=1)).timestamp() * 1000 + self.ends_late_ms
        return at_ms > ended_ms + _SEALED_MS


HIVE: Final = Layout("hive", "", utc_day)
FLATFILE: Final = Layout("flatfile", "_export.parts/", flat_day, 5 * _HOUR_MS)
"""Of a day's file nothing can be taken back: the files that it is made of stay beside it."""

LAYOUTS: Final[Mapping[str, Layout]] = {layout.name: layout for layout in (HIVE, FLATFILE)}
