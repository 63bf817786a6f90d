"""What one run has written into one file, and who keeps account of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recorder.archive.record import Summary
from recorder.archive.stats import Rotation


@dataclass(frozen=True, slots=True)
class Segment:
    """What one run has written into one file, closed."""

    path: Path
    """Where it stands now."""
    was: Path | None
    """The active file's name, where closing renamed it."""
    offset: int
    sha256: str
    summary: Summary
    reason: Rotation
    durable: bool
    """False after a failed fsync: the kernel may have dropped what it had taken."""


class SegmentLog(Protocol):
    """Keeps account of what a file has taken."""

    def sum_up(self, data: bytes) -> Summary:
        """Return what whole lines amount to."""

    def written(self, cluster: str, summary: Summary) -> None:
        """Count lines that were handed to the operating system."""

    def closed(self, segment: Segment) -> None:
        """Put a closed segment on record."""
