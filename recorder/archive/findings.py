"""What verification finds: gaps, drops, losses, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from recorder.archive.check import FileReport


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without data of a cluster, between two sessions; Unix ms."""

    cluster: str
    from_ms: int
    to_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Records that were lost against our will, and counted."""

    run_id: str
    cluster: str
    channel: str
    count: int
    reason: str
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Records that a killed run had not handed to the disk yet, told by the hole in its sequence numbers."""

    run_id: str
    first_seq: int
    last_seq: int


@dataclass(slots=True)
class Report:
    """What verification found."""

    files: list[FileReport] = field(default_factory=list)
    """Of records."""
    rejects: list[FileReport] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with no file in particular: the manifest, missing files, sequence numbers."""
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the archive is what it says it is."""
        return not self.problems and not any(file.problems for file in [*self.files, *self.rejects])

    @property
    def records(self) -> int:
        """Records in all files."""
        return sum(file.records for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of plain content in all files of records."""
        return sum(file.bytes for file in self.files)
