"""What the archive's files, and the disk under them, count."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from recorder.stats import Histogram

FSYNC_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


@dataclass(slots=True)
class PressureStats:
    """The disk under the archive as it fills: what is free, what is done about it, and what that has cost."""

    step: int = 0
    """How far up the ladder; 0: there is space."""
    word: str = "none"
    """The step's name."""
    needed_bytes: int = 0
    """Free bytes at which the step is undone."""
    free_bytes: int | None = None
    """None where nobody looks."""
    free_inodes: int | None = None
    """None where the file system has no limit."""
    min_free_bytes: int = 0
    """What is left free in any case; 0: nothing."""
    losing: bool = False
    """Whether events are left out at this step."""
    transitions: Counter[str] = field(default_factory=Counter)
    """Changes, by the step they led to."""
    sampled_out: int = 0
    """Quotes left out while a step asked for it."""
    dropped: int = 0
    """Events that came while recording was paused."""


class ActiveSegment(NamedTuple):
    """A file that is being written."""

    bytes: int
    records: int
    rotates_ms: int | None = None
    """Wall clock at which it is rotated by time; None while it is empty, and where only its size counts."""


@dataclass(slots=True)
class ClosedSegment:
    """A file that was finished in this run."""

    file: str
    """As it was named before compression, relative to the archive's folder."""
    records: int
    bytes: int
    closed_ms: int
    reason: str
    compressed_bytes: int | None = None
    """None as long as it is plain."""
    deleted: bool = False
    """Whether retention has deleted it."""


@dataclass(slots=True)
class ArchiveStats:
    """The files of the archive."""

    rotations: Counter[str] = field(default_factory=Counter)
    """Closed segments by reason."""
    rejects_written: int = 0
    reopens: int = 0
    vanished: int = 0
    """Active files that were moved or deleted without a signal."""
    fsync_errors: int = 0
    compressed: int = 0
    compress_errors: int = 0
    compress_pending: int = 0
    compress_bytes_in: int = 0
    compress_bytes_out: int = 0
    deleted: int = 0
    """Segments deleted by retention."""
    recovered: int = 0
    """Files that a crash had left and that the start finished."""
    manifest_errors: int = 0
    fsync_seconds: Histogram = field(default_factory=lambda: Histogram(FSYNC_SECONDS))
    active: dict[str, ActiveSegment] = field(default_factory=dict)
    """By file name."""
    recent: tuple[ClosedSegment, ...] = ()
    """The newest last."""
    rotate_bytes: int | None = None
    """Size at which a file is rotated; None: at any."""
    rotate_secs: int | None = None
    """Length of the periods that have files of their own; None: there are none."""
    pressure: PressureStats = field(default_factory=PressureStats)

    def closed(self, file: str) -> ClosedSegment | None:
        """Give a segment that was closed not long ago."""
        return next((segment for segment in self.recent if segment.file == file), None)
