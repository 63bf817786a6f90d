"""The table of all log events: what `event` says, at which level, what it means and what to do. It makes docs/logs.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from recorder.log_events.archive import ARCHIVE
from recorder.log_events.clients import BARS, CLIENTS
from recorder.log_events.event import LEVELS, TARGETS, Group, Level, LogEvent, Target
from recorder.log_events.process import CONFIG, LIBRARIES, STATS
from recorder.log_events.records import RECORDS
from recorder.log_events.upstream import UPSTREAM

GROUPS: Final[tuple[Group, ...]] = (CONFIG, UPSTREAM, RECORDS, ARCHIVE, CLIENTS, BARS, STATS)
"""By target."""

EVENTS: Final[Mapping[str, LogEvent]] = {
    event.name: event for event in (*LIBRARIES, *(event for group in GROUPS for event in group))
}


def message_of(name: str) -> str:
    """Return what a person reads of an event; of one that is not in the table, as a plug-in logs it, its name in words."""
    event = EVENTS.get(name)
    return event.message if event is not None else name.replace("_", " ")


__all__ = [
    "EVENTS",
    "GROUPS",
    "LEVELS",
    "LIBRARIES",
    "TARGETS",
    "Group",
    "Level",
    "LogEvent",
    "Target",
    "message_of",
]
