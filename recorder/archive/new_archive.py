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
from recorder.archive.disk import Disk
from recorder.archive.entries import segment_fields
from recorder.archive.layout import TMP_SUFFIX, free_rotated_path
from recorder.archive.new_folder import NewFolder
from recorder.archive.record import Summary, summarise
from recorder.archive.set_back import SetBacks
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter
from recorder.version import VERSION

_STEM: Final = "polygon"
_read_of: Final = attrgetter("ingest_ts", "feed")


class NewArchive(NewFolder):
    """Writes records of other archives, as one run."""

    def __init__(
        self, folder: Path, run_id: str, *, segment_bytes: int, codec: str, disk: Disk | None = None
    ) -> None:
        """`codec` is `none`, `gzip` or `zstd`."""
        super().__init__(folder, run_id, stem=_STEM, disk=disk)
        self._segment_bytes = segment_bytes
        self._codec = codec
        self._set_backs = SetBacks()
        self._formatters: dict[str, Formatter] = {}
        self._seq = 0
        self._fd: int | None = None
        self._path = self._unfinished
        self._digest = hashlib.sha256()
        self._summary = Summary.of_segment()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None:
            self._disk.close(self._fd)
        super().__exit__(kind, error, trace)

    def note(self, kind: str, at_ms: int, **fields: Any) -> None:
        """Add a line to the manifest, of something that happened then, Unix ms."""
        self._note(kind, at_ms, **fields)

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

    def leave_out(self, count: int) -> tuple[int, int]:
        """Leave numbers out for records that nobody has; return the first and the last."""
        first = self._seq + 1
        self._seq += count
        return first, self._seq

    def finish(self, until_ms: int) -> None:
        """Make everything durable, and give the folder its name; `until_ms` is when the last of it happened."""
        try:
            if self._fd is not None:
                self._seal()
            self.note("run_ended", until_ms, reason="merged", balance=None)
            self._finish()
        except OSError as error:
            raise self._failed(error) from error

    def _is_ours(self, path: Path) -> bool:
        return path.name.startswith(f"{_STEM}.") and path.parent == self._unfinished

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
