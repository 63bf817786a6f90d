"""Records Polygon.io (Massive.com) real-time market data into rotating NDJSON archives.

What programs use of it: `follow` for what comes, and `open_archive` for what was recorded, what these return, and the
errors by which they end. docs/clients.md and docs/api.md have examples.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recorder.archive.gaps import Gap
    from recorder.client.follower import Follower, follow
    from recorder.client.parts import Event, LeftOut, Lost
    from recorder.errors import (
        Altered,
        ArchiveError,
        Incomplete,
        KeyRefused,
        NoArchive,
        NotRecorded,
        PackageMissing,
        RecorderError,
        StoreAway,
        StoreError,
        StoreRefused,
        TlsFailed,
        TopicsRefused,
        Unreadable,
    )
    from recorder.library.archive import Archive, ArchiveRun, ArchiveSegment, open_archive
    from recorder.library.selection import Record, Selection

__all__ = [
    "Altered",
    "Archive",
    "ArchiveError",
    "ArchiveRun",
    "ArchiveSegment",
    "Event",
    "Follower",
    "Gap",
    "Incomplete",
    "KeyRefused",
    "LeftOut",
    "Lost",
    "NoArchive",
    "NotRecorded",
    "PackageMissing",
    "Record",
    "RecorderError",
    "Selection",
    "StoreAway",
    "StoreError",
    "StoreRefused",
    "TlsFailed",
    "TopicsRefused",
    "Unreadable",
    "follow",
    "open_archive",
]

_HOMES = {
    "recorder.archive.gaps": ("Gap",),
    "recorder.client.follower": ("Follower", "follow"),
    "recorder.client.parts": ("Event", "LeftOut", "Lost"),
    "recorder.errors": (
        "Altered",
        "ArchiveError",
        "Incomplete",
        "KeyRefused",
        "NoArchive",
        "NotRecorded",
        "PackageMissing",
        "RecorderError",
        "StoreAway",
        "StoreError",
        "StoreRefused",
        "TlsFailed",
        "TopicsRefused",
        "Unreadable",
    ),
    "recorder.library.archive": ("Archive", "ArchiveRun", "ArchiveSegment", "open_archive"),
    "recorder.library.selection": ("Record", "Selection"),
}


def __getattr__(name: str) -> object:
    """Import what a program asks for when it does: the commands start without it."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
