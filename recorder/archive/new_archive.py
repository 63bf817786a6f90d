"""A new archive of sealed segments, of one run that takes its records from other archives; whole, or not there."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from recorder.archive.codec import compressed_path
from recorder.archive.compression import Job, compress_file
from recorder.archive.cutting import RecordedEvent
from recorder.archive.disk import Disk, reason_of
from recorder.archive.doubt import SyncDoubt
from recorder.archive.entries import segment_fields
from recorder.archive.layout import TMP_SUFFIX, free_rotated_path
from recorder.archive.lock import ArchiveLock
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.record import Summary, summarise
from recorder.archive.set_back import SetBacks
from recorder.archive.stats import ArchiveStats
from recorder.clock import SystemClock
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter
from recorder.version import VERSION

UNFINISHED_ENDING: Final = ".unfinished"
"""Ends the name of the folder in which an archive is made, beside the one that it becomes."""
_STEM: Final = "polygon"
_read_of: Final = attrgetter("ingest_ts", "feed")


class _RecordedTime(SystemClock):
    """The time of what is recorded, so that the manifest of old records does not speak of today."""

    def __init__(self) -> None:
        self.now_ms = 0

    def wall_ns(self) -> int:
        return self.now_ms * 1_000_000


class NewArchive:
    """Writes records into a folder beside `folder`, which gets its name once everything in it is durable.

    A folder that an earlier try has left unfinished is emptied first. `with` leaves nothing behind where an error ends it.
    Every method raises `ArchiveError`: also for a full disk.
    """

    def __init__(
        self, folder: Path, run_id: str, *, segment_bytes: int, codec: str, disk: Disk | None = None
    ) -> None:
        """`folder` is missing or empty; `codec` is `none`, `gzip` or `zstd`."""
        self._folder = folder
        self._unfinished = folder.with_name(folder.name + UNFINISHED_ENDING)
        self._segment_bytes = segment_bytes
        self._codec = codec
        self._disk = disk or Disk()
        self._clock = _RecordedTime()
        self._names = FileNames(str(self._unfinished / f"{_STEM}.ndjson"), split_per_type=False)
        self._lock = ArchiveLock(self._names, self._disk)
        self._doubt = SyncDoubt(self._disk)
        self._manifest = Manifest(
            self._names.manifest,
            run_id=run_id,
            disk=self._disk,
            doubt=self._doubt,
            clock=self._clock,
            stats=ArchiveStats(),
        )
        self._set_backs = SetBacks()
        self._formatters: dict[str, Formatter] = {}
        self._seq = 0
        self._fd: int | None = None
        self._path = self._unfinished
        self._digest = hashlib.sha256()
        self._summary = Summary.of_segment()
        self._is_finished = False

    def __enter__(self) -> NewArchive:
        try:
            self._open()
        except OSError as error:
            self._release()
            raise self._failed(error) from error
        except ArchiveError:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            self._disk.close(self._fd)
        if not self._is_finished:
            try:
                self._empty()
                self._names.lock.unlink(missing_ok=True)
                self._unfinished.rmdir()
            except OSError:
                pass  # the next try empties it, and its name says what it is
        self._release()

    def note(self, kind: str, at_ms: int, **fields: Any) -> None:
        """Add a line to the manifest, of something that happened then, Unix ms."""
        self._clock.now_ms = at_ms
        self._manifest.append(kind, **fields)
        if self._manifest.failure:
            raise ArchiveError(f"cannot make {self._folder}: {self._manifest.failure}")

    def write(self, events: Sequence[RecordedEvent]) -> None:
        """Take records, in their order; they are numbered anew."""
        for event in events:
            if set_back := self._set_backs.notice(event.ingest_ts):
                self.note("clock_set_back", event.ingest_ts, **set_back)
        data = b"".join(
            [
                self._lines(ingest_ms, feed, list(group))
                for (ingest_ms, feed), group in groupby(events, _read_of)
            ]
        )
        try:
            if self._fd is not None and self._summary.bytes + len(data) > self._segment_bytes:
                self._seal()
            if self._fd is None:
                self._path = free_rotated_path(Path(self._names.template), events[0].ingest_ts, self._disk)
                self._fd = self._disk.create(self._path)
            self._disk.write_all(self._fd, data)
        except OSError as error:
            raise self._failed(error) from error
        self._digest.update(data)
        self._summary.add(summarise(data))

    def finish(self, until_ms: int) -> None:
        """Make everything durable, and give the folder its name; `until_ms` is when the last of it happened."""
        try:
            if self._fd is not None:
                self._seal()
            self.note("run_ended", until_ms, reason="merged", balance=None)
            self._manifest.close()
            if self._manifest.failure:
                raise ArchiveError(f"cannot make {self._folder}: {self._manifest.failure}")
            self._disk.rename(self._unfinished, self._folder)
            self._is_finished = True
            self._disk.sync_folder(self._folder.parent)
        except OSError as error:
            raise self._failed(error) from error

    def _open(self) -> None:
        self._disk.make_folder(self._unfinished)
        strange = [path for path in self._unfinished.iterdir() if not _is_ours(path)]
        if strange:
            raise ArchiveConfigError(f"{strange[0]} is in the way; remove it, or name another destination")
        self._lock.take(self._manifest, self._doubt)
        self._empty()
        self._manifest.open()

    def _empty(self) -> None:
        for path in self._unfinished.iterdir():
            if _is_ours(path) and path != self._names.lock:
                self._disk.unlink(path)

    def _lines(self, ingest_ms: int, feed: str, events: list[RecordedEvent]) -> bytes:
        rows = Rows.of(
            feed, [(Header(event.type, event.symbol, event.ts), bytes(event.payload)) for event in events]
        )
        rows.seqs = list(range(self._seq + 1, self._seq + 1 + len(events)))
        self._seq += len(events)
        formatter = self._formatters.get(feed)
        if formatter is None:
            formatter = self._formatters[feed] = Formatter(feed, socket.gethostname(), VERSION)
        return formatter.format(ingest_ms, rows)

    def _seal(self) -> None:
        """Close the file, put it on record, and compress it. Raise `OSError` or `ArchiveError`."""
        fd, self._fd = self._fd, None
        if fd is None:
            return
        try:
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.sync_folder(self._unfinished)
        summary, sha256 = self._summary, self._digest.hexdigest()
        self._summary, self._digest = Summary.of_segment(), hashlib.sha256()
        name = self._names.relative(self._path)
        self.note(
            "segment_closed", summary.last_ingest_ts, **segment_fields(name, summary, sha256, "size", 0)
        )
        if self._codec == "none":
            return
        target = compressed_path(self._path, self._codec)
        temporary = target.with_name(target.name + TMP_SUFFIX)
        packed = compress_file(Job(self._path, temporary, self._codec, sha256), self._disk)
        self._disk.rename(temporary, target)
        self._disk.unlink(self._path)
        self._disk.sync_folder(self._unfinished)
        facts: Mapping[str, Any] = {"bytes": packed.bytes, "sha256": packed.sha256}
        self.note("segment_compressed", summary.last_ingest_ts, file=name, codec=self._codec, **facts)

    def _failed(self, error: OSError) -> ArchiveError:
        return ArchiveError(f"cannot make {self._folder}: {reason_of(error)}; nothing of it was left behind")

    def _release(self) -> None:
        self._manifest.close()
        self._doubt.release()
        self._lock.release()


def _is_ours(path: Path) -> bool:
    return path.name.startswith(f"{_STEM}.") and path.is_file()
