"""A manifest under verification: whether its chain holds to the end that its recorder knew, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from recorder.archive.catalogue import Catalogue, goes_on_behind_a_line, read_manifest
from recorder.archive.disk import is_locked
from recorder.archive.findings import Drop, Gap, Report
from recorder.archive.head import LOCK_SUFFIX, Head, read_head
from recorder.archive.layout import MANIFEST_ENDING
from recorder.archive.reader import lines, read_blocks
from recorder.errors import ArchiveError

_LINE_START: Final = b'{"kind":'
_READS_MAX: Final = 10
"""A head may be read while it is written, and is read again then, so often at most."""


class ManifestCheck:
    """The manifest of one archive. What is wrong with it goes into the report, and so do its gaps and drops.

    How far it goes at least is noted when this is made; `read` holds it against that, and a recorder at work can only
    have added to it meanwhile.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._lock = path.with_name(path.name.removesuffix(MANIFEST_ENDING) + LOCK_SUFFIX)
        self._report = report
        self.drops: list[Drop] = []
        self.unfinished: str | None = None
        """Once read: the run that was killed or still writes; what it left undone is no fault of the archive."""
        self.live = False
        """Once read: whether that run still writes."""
        self._head = self._read_head()

    def read(self) -> Catalogue:
        """Check the manifest line by line; gives the sum of it. Raises `ArchiveError` where it cannot be read."""
        catalogue = Catalogue()
        torn: list[bytes] = []
        for entry in read_manifest(self._lines(self._head, torn), self._tell):
            catalogue.add(entry)
            if entry.kind == "gap":
                gap = Gap(entry.cluster, entry.from_ms, entry.to_ms, entry.reason)
                self._report.gaps.append(gap)
            elif entry.kind == "drop":
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
        if self._head and not self._head.reached:
            self._problem(
                f"{self._path.name}: its end is not the one that the recorder wrote: lines after it were"
                f" removed, or it was altered ({self._lock.name} says {self._head.size_bytes} bytes)"
            )
        if torn:
            self._judge_torn(torn[0])
        last = catalogue.last_run
        self.unfinished = None if last is None or last.ended else last.run_id
        self.live = self.unfinished is not None and is_locked(self._lock)
        if self.unfinished and not self.live and self._head is None:
            self._note(
                f"run {self.unfinished} has no end; whether the manifest lost its last lines cannot be told"
            )
        return catalogue

    def read_again(self) -> Catalogue:
        """Give what the manifest says by now, without a word on what is wrong with it."""
        now = Catalogue()
        for entry in read_manifest(self._lines(), lambda number, what: None):
            now.add(entry)
        return now

    def _read_head(self) -> Head | None:
        for attempt in range(_READS_MAX):
            try:
                return read_head(self._lock)
            except ArchiveError as error:
                if attempt == _READS_MAX - 1:
                    self._problem(str(error))
        return None

    def _judge_torn(self, torn: bytes) -> None:
        text = f"{self._path.name}: the last line is torn"
        begun = torn.startswith(_LINE_START) or _LINE_START.startswith(torn)
        if begun and not goes_on_behind_a_line(torn):
            self._note(f"{text}; the next start cuts it")
        else:
            self._problem(text)

    def _lines(self, head: Head | None = None, torn: list[bytes] | None = None) -> Iterator[bytes]:
        """Yield the whole lines; what stands behind them goes into `torn`."""
        for line in lines(read_blocks(self._path)):
            if not line.endswith(b"\n"):
                if torn is not None:
                    torn.append(line)
                return
            if head:
                head.add(line)
            yield line

    def _tell(self, number: int, what: str) -> None:
        self._problem(f"{self._path.name}, line {number}: {what}")

    def _note(self, text: str) -> None:
        self._report.notes.append(text)

    def _problem(self, text: str) -> None:
        self._report.problems.append(text)
