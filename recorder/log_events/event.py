"""What the table of log events is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

Target = Literal[
    "polygon_events",
    "polygon_stats",
    "polygon_config",
    "polygon_upstream",
    "polygon_archive",
    "polygon_clients",
    "polygon_bars",
]
"""Who speaks. A level can be set for each."""

TARGETS: Final[tuple[Target, ...]] = get_args(Target)

Level = Literal["debug", "info", "warning", "error", "critical"]

LEVELS: Final[tuple[Level, ...]] = get_args(Level)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of log line."""

    name: str
    """`event` in the log. It is stable: alerts and queries may rely on it."""
    level: Level
    message: str
    """What a person reads first. A call may put a sentence of its own in its place."""
    meaning: str
    """When it happens, and what it tells."""
    action: str = ""
    """What the operator does now; empty if there is nothing to do."""
    also: tuple[Level, ...] = ()
    """Other levels on which it is logged."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Every level on which it is logged, the mildest first."""
        return tuple(level for level in LEVELS if level in (self.level, *self.also))


@dataclass(frozen=True, slots=True)
class Group:
    """The events of one target."""

    target: Target
    about: str
    events: tuple[LogEvent, ...]

    def __iter__(self) -> Iterator[LogEvent]:
        return iter(self.events)
