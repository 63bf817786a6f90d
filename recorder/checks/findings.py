"""Findings of the checks: one line each, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Level(Enum):
    """How good or bad a finding is; the values are what is printed."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    level: Level
    text: str
    advice: str = ""
    """What to do; never empty for a warning or a failure."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measurements, for programs; the unit ends the name."""

    def __post_init__(self) -> None:
        assert self.advice or self.level in (Level.OK, Level.SKIPPED), self


def ok(subject: str, text: str, **figures: float) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, text, figures=figures)


def skipped(subject: str, text: str, advice: str = "") -> Finding:
    """It was not looked at."""
    return Finding(subject, Level.SKIPPED, text, advice)


def warning(subject: str, text: str, advice: str, **figures: float) -> Finding:
    """It works, but may not for long, or not as somebody may expect."""
    return Finding(subject, Level.WARNING, text, advice, figures)


def failure(subject: str, text: str, advice: str, **figures: float) -> Finding:
    """It will not work."""
    return Finding(subject, Level.FAILURE, text, advice, figures)
