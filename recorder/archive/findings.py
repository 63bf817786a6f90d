"""What verification finds: files, gaps, drops, losses, and what is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from recorder.archive.gaps import Gap
from recorder.archive.layout import Kind
from recorder.archive.record import Summary

_PROBLEMS_MAX: Final = 20
"""Problems of one file that are spelled out; the rest is counted."""


@dataclass(slots=True)
class FileReport:
    """One file of records."""

    path: str
    kind: Kind = "records"
    records: int = 0
    """Lines, of rejects too."""
    bytes: int = 0
    """Of the plain content."""
    sha256: str = ""
    """Of the plain content."""
    segments: int = 0
    """What the manifest has of it; 0 if it does not know the file."""
    first_ingest_ts: int = 0
    last_ingest_ts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    problems_count: int = 0
    """All of them; `problems` has the first few."""
    is_unread: bool = False
    """Whether it could not be read to its end. That is its first problem, and what was read of it may be whole."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and is no fault: a tail that the next start repairs, a file that was moved."""

    @property
    def is_damaged(self) -> bool:
        """Whether its content is not what it must be, as far as it could be read."""
        return self.problems_count > self.is_unread

    def add_problem(self, text: str) -> None:
        """Add something that is wrong."""
        self.problems_count += 1
        if self.problems_count <= _PROBLEMS_MAX:
            self.problems.append(text)

    def add(self, summary: Summary) -> None:
        """Add the next records of the file."""
        if not summary.records:
            return
        self.first_ingest_ts = self.first_ingest_ts or summary.first_ingest_ts
        self.last_ingest_ts = summary.last_ingest_ts
        self.records += summary.records
        self.counts.update(summary.counts)


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
    """Records that a killed run had not handed to the disk yet: a hole in its sequence numbers."""

    run_id: str
    first_seq: int
    last_seq: int

    @property
    def count(self) -> int:
        """Records."""
        return self.last_seq - self.first_seq + 1


@dataclass(slots=True)
class Report:
    """What verification found."""

    files: list[FileReport] = field(default_factory=list)
    """Of records."""
    rejects: list[FileReport] = field(default_factory=list)
    positions: list[FileReport] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What is wrong with no file in particular: the manifest, missing files, sequence numbers."""
    notes: list[str] = field(default_factory=list)

    def files_of(self, kind: Kind) -> list[FileReport]:
        """Return the files of a kind."""
        return {"records": self.files, "rejects": self.rejects, "positions": self.positions}[kind]

    @property
    def every_file(self) -> list[FileReport]:
        """The files of all kinds."""
        return [*self.files, *self.rejects, *self.positions]

    @property
    def ok(self) -> bool:
        """Whether the archive is what it says it is."""
        return not self.is_damaged and not self.unread

    @property
    def is_damaged(self) -> bool:
        """Whether the archive, as far as it could be read, is not what it says it is."""
        return bool(self.problems) or any(file.is_damaged for file in self.every_file)

    @property
    def unread(self) -> list[FileReport]:
        """The files that could not be read to their end."""
        return [file for file in self.every_file if file.is_unread]

    @property
    def dropped(self) -> int:
        """Records that the manifest says were dropped."""
        return sum(drop.count for drop in self.drops)

    @property
    def lost_in_crashes(self) -> int:
        """Records that runs which were killed had not handed to the disk."""
        return sum(loss.count for loss in self.losses)

    @property
    def records_lost(self) -> int:
        """Records that were received and are not in the archive, against anybody's will, with an explanation."""
        return self.dropped + self.lost_in_crashes

    @property
    def records(self) -> int:
        """Records in all files."""
        return sum(file.records for file in self.files)

    @property
    def bytes(self) -> int:
        """Bytes of plain content in all files of records."""
        return sum(file.bytes for file in self.files)
