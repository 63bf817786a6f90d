"""Checks a manifest: whether its chain holds, up to the end that its recorder knew; and collects what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk, identity, is_locked
from recorder.archive.findings import Drop, Report
from recorder.archive.gaps import Gap
from recorder.archive.layout import MANIFEST_ENDING
from recorder.archive.manifest_checkpoint import LOCK_SUFFIX, ManifestCheckpoint, read_checkpoint
from recorder.archive.manifest_index import Entry, ManifestIndex, goes_on_behind_a_line, read_manifest
from recorder.archive.place import HERE, Place
from recorder.archive.reader import lines, read_blocks
from recorder.errors import ArchiveError, Unreadable
from recorder.words import moment_text

_LINE_START: Final = b'{"kind":'
_READS_MAX: Final = 10
"""The lock file may be read while its recorder writes it. Then it is read again, so often at most."""


class ManifestCheck:
    """The manifest of one archive. What is wrong with it goes into the report, and so do its gaps and drops.

    The end that the lock file knows is read when this is made, before the manifest itself: a recorder at work can only
    have added lines since.
    """

    def __init__(self, path: Path, report: Report, *, is_live: bool, place: Place = HERE) -> None:
        """`is_live` says that a recorder is at work, or may be; otherwise the lock file tells. Raise `Unreadable`.

        A copy elsewhere is as it is: nobody can say whether a recorder is at work, and there is no lock file.
        """
        self._path = path
        self._lock = path.with_name(path.name.removesuffix(MANIFEST_ENDING) + LOCK_SUFFIX)
        self._report = report
        self._place = place
        self.drops: list[Drop] = []
        self.unfinished: str | None = None
        """Once read: the run that was killed or still writes. What it left undone is no fault of the archive."""
        self.is_live = is_live or (not place.is_copy and is_locked(self._lock))
        """Whether a recorder is at work."""
        self._state = self._stat()
        self._checkpoint = None if place.is_copy else self._read_checkpoint()

    @property
    def began_to_move(self) -> bool:
        """Whether a recorder has been at work since this was made, though none was before."""
        if self.is_live or self._place.is_copy:
            return False
        return is_locked(self._lock) or self.has_changed

    @property
    def has_changed(self) -> bool:
        """Whether the manifest has more lines than when this was made, or is another file."""
        return self._stat() != self._state

    def read(self) -> ManifestIndex:
        """Check the manifest line by line; return the sum of it. Raise `ArchiveError` where it cannot be read."""
        index = ManifestIndex()
        torn: list[bytes] = []
        for entry in read_manifest(self._lines(self._checkpoint, torn), self._line_problem):
            index.add(entry)
            if entry.kind == "gap":
                self._report.gaps.append(
                    Gap(entry.cluster, entry.from_ms, entry.to_ms, entry.reason, entry.run_id)
                )
            elif entry.kind == "drop":
                self._add_drop(entry)
        if self._checkpoint and not self._checkpoint.reached:
            self._problem(
                f"{self._path.name}: its end is not the one that the recorder wrote: lines after it were"
                f" removed, or it was altered ({self._lock.name} says {self._checkpoint.size_bytes} bytes)"
            )
        if torn:
            self._check_torn(torn[0])
        if index.shifted:
            self._note(
                f"{self._path}: {len(index.shifted)} of {len(index.runs)} runs may have recorded a replay with shifted"
                f" times (ALLOW_SHIFTED): its events did not happen when they say; the last is {index.shifted[-1]}"
            )
        last = index.last_run
        self.unfinished = None if last is None or last.ended else last.run_id
        if self.unfinished and self._place.is_copy:
            self._note(
                f"run {self.unfinished} had not ended when {self._path} was put there at"
                f" {moment_text(index.history.last_ms)}: what it had not sealed is not there"
            )
        elif self.unfinished and not self.is_live and self._checkpoint is None:
            self._note(
                f"run {self.unfinished} has no end; whether the manifest lost its last lines cannot be told"
            )
        return index

    def read_again(self) -> ManifestIndex:
        """Return what the manifest says by now, without a word on what is wrong with it."""
        now = ManifestIndex()
        for entry in read_manifest(self._lines(), lambda number, what: None):
            now.add(entry)
        return now

    def _stat(self) -> tuple[tuple[int, int] | None, int]:
        state = Disk().stat(self._path)
        return identity(state), state.st_size if state else 0

    def _read_checkpoint(self) -> ManifestCheckpoint | None:
        for attempt in range(_READS_MAX):
            try:
                return read_checkpoint(self._lock)
            except Unreadable:
                raise
            except ArchiveError as error:
                if attempt == _READS_MAX - 1:
                    self._problem(str(error))
        return None

    def _add_drop(self, entry: Entry) -> None:
        drop = Drop(
            entry.run_id,
            entry.cluster,
            entry.channel,
            entry.count,
            entry.reason,
            entry.first_seq,
            entry.last_seq,
        )
        self._report.drops.append(drop)
        self.drops.append(drop)

    def _check_torn(self, torn: bytes) -> None:
        text = f"{self._path.name}: the last line is torn"
        begun = torn.startswith(_LINE_START) or _LINE_START.startswith(torn)
        if not begun or goes_on_behind_a_line(torn) or self._place.is_copy:
            self._problem(text)
        elif not self.is_live:
            self._note(f"{text}; the next start cuts it")

    def _lines(
        self, checkpoint: ManifestCheckpoint | None = None, torn: list[bytes] | None = None
    ) -> Iterator[bytes]:
        """Yield the whole lines; what stands behind them goes into `torn`."""
        for line in lines(read_blocks(self._path, self._place.open), str(self._path)):
            if not line.endswith(b"\n"):
                if torn is not None:
                    torn.append(line)
                return
            if checkpoint:
                checkpoint.add(line)
            yield line

    def _line_problem(self, number: int, what: str) -> None:
        self._problem(f"{self._path.name}, line {number}: {what}")

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)
