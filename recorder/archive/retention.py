"""Deletes the oldest rotated files of an archive once they are too many or too old; never an active one."""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from recorder.archive.compressor import Compressor
from recorder.archive.confirmer import Confirmer
from recorder.archive.context import ArchiveContext
from recorder.archive.disk import reason_of
from recorder.archive.layout import ArchiveFile, find_files, parse
from recorder.log import get_logger

log = get_logger("polygon_archive")


@dataclass(slots=True)
class _Known:
    """A rotated file as it was last seen."""

    file: ArchiveFile
    size: int
    changed_secs: float


class Retention:
    """Keeps rotated files, compressed or not, below `bytes_max` together, and each younger than `age_max_secs`.

    A file's age counts from its last record. What waits for compression is left alone until it is compressed. Where files
    are uploaded, one goes only when the bucket was seen to have it, a moment ago; one that has to stay lets others go.
    The files are known from what the archive itself does to them, so that to find nothing to delete needs no look at
    the disk. What somebody else did to them is noticed before anything is deleted.
    """

    def __init__(
        self, context: ArchiveContext, compressor: Compressor | None, confirmer: Confirmer | None
    ) -> None:
        self._names = context.names
        self._bytes_max = context.settings.retain_bytes
        self._age_max_secs = context.settings.retain_secs
        self._lock = context.lock
        self._manifest = context.manifest
        self._compressor = compressor
        self._confirmer = confirmer
        self._disk = context.disk
        self._clock = context.clock
        self._stats = context.stats
        self._asked = 0
        self._known: list[_Known] = []
        """The oldest first."""
        self._noted: set[str] = set()
        """Files that the manifest has as deleted, and that could not be deleted yet."""
        self._news: deque[Path] = deque()
        """Files that appeared since the last look; put there by any thread."""

    @property
    def enabled(self) -> bool:
        """Whether anything is ever deleted."""
        return self._bytes_max is not None or self._age_max_secs is not None

    def open(self) -> None:
        """Find what is there. Raise `OSError`."""
        if self.enabled:
            self._lock.fill_reserve()
            self._news.clear()  # what this start has rotated itself is among all that is there
            self._news.extend(file.path for file in find_files(self._names, self._disk) if file.rotated)

    def add(self, path: Path) -> None:
        """Add a file that was rotated, or that has taken the place of its plain form; from any thread."""
        if self.enabled:
            self._news.append(path)

    @property
    def awaits_answers(self) -> bool:
        """Whether the bucket was asked for files, so that they may be deleted a moment later."""
        return self._asked > 0

    def apply(self) -> None:
        """Delete what is past the limits now. What cannot be deleted is logged and tried again the next time."""
        self._asked = 0
        if not self.enabled:
            return
        try:
            self._add_news()
            if not self._is_due():
                self._stats.upload.kept_files = 0
                return
            self._refresh()
        except OSError as error:
            log.warning("archive_retention_failed", reason=reason_of(error))
            return
        total = self._total()
        now = self._clock.wall_ns() / 1e9
        kept = []
        unconfirmed = 0
        for known in self._known:
            reason = self._reason(known, total, now)
            if not reason or self._in_use(known.file.plain):
                kept.append(known)
                continue
            confirmed = self._confirmer.confirms(known.file.path) if self._confirmer else "yes"
            if confirmed == "yes" and self._delete(known, reason):
                total -= known.size
                continue
            kept.append(known)
            unconfirmed += confirmed == "no"
            if confirmed == "asked":
                self._asked += 1
                total -= known.size  # it goes the next time: no newer one has to go in its place
        self._known = kept
        self._stats.upload.kept_files = unconfirmed

    def _add_news(self) -> None:
        while self._news:
            path = self._news[0]
            state = self._disk.stat(path)
            if state:
                known = _Known(parse(path), state.st_size, state.st_mtime)
                insort(self._known, known, key=lambda known: known.file.age_key)
            self._news.popleft()

    def _is_due(self) -> bool:
        total, now = self._total(), self._clock.wall_ns() / 1e9
        return any(self._reason(known, total, now) for known in self._known)

    def _refresh(self) -> None:
        """Look at the files again: some may be compressed, or gone, which leaves more room for the others."""
        present = []
        for known in self._known:
            state = self._disk.stat(known.file.path)
            if state:
                present.append(_Known(known.file, state.st_size, state.st_mtime))
        self._known = present

    def _total(self) -> int:
        return sum(known.size for known in self._known)

    def _reason(self, known: _Known, total: int, now_secs: float) -> str:
        if self._bytes_max is not None and total > self._bytes_max:
            return "size"
        if self._age_max_secs is not None and now_secs - known.changed_secs > self._age_max_secs:
            return "age"
        return ""

    def _in_use(self, plain: Path) -> bool:
        return self._compressor is not None and self._compressor.holds(plain)

    def _delete(self, known: _Known, reason: str) -> bool:
        file = known.file
        # Noted first: after a crash between the two, the next start deletes what the manifest says is gone.
        name = self._names.relative(file.plain)
        if name not in self._noted:
            self._manifest.append("segment_deleted", file=name, bytes=known.size, reason=reason)
            self._noted.add(name)
        # A crash would turn a deletion that is not on record into a missing file.
        if not self._manifest.flush() and not self._make_room_for_manifest():
            log.warning("archive_retention_failed", path=str(file.path), reason=self._manifest.failure)
            return False
        try:
            self._disk.unlink(file.path)
        except OSError as error:
            log.warning("archive_retention_failed", path=str(file.path), reason=reason_of(error))
            return False
        self._lock.fill_reserve()
        self._noted.discard(name)
        if self._confirmer:
            self._confirmer.forget(file.path)
        self._stats.deleted += 1
        segment = self._stats.find_closed(name)
        if segment is not None:
            segment.deleted = True
        log.info("archive_file_deleted", path=str(file.path), bytes=known.size, reason=reason)
        return True

    def _make_room_for_manifest(self) -> bool:
        """On a full disk, spend the reserve for the manifest's lines; return whether all of them are durable then."""
        return self._manifest.is_full and self._lock.spend_reserve() and self._manifest.flush()
