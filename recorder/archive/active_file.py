"""One active file: takes lines in order, hands each to the OS once, and closes segments between two lines."""

from __future__ import annotations

import errno
import hashlib
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final, Literal

import msgspec

from recorder.archive.context import ArchiveContext
from recorder.archive.disk import identity, reason_of
from recorder.archive.layout import free_rotated_path, ms_of
from recorder.archive.record import UNREADABLE, Summary
from recorder.archive.segment import Segment, SegmentLog
from recorder.archive.stats import Rotation
from recorder.log import get_logger

_STAMP_RACE_MS: Final = 1_000
"""Segments opened this close to each other are stamped one after the other. A longer way back is a clock set back."""

log = get_logger("polygon_archive")

_WRITE_BYTES: Final = 1 << 18
"""One write; its bytes are hashed right after it, while the processor's cache has them. Smaller pieces are joined up to
this, so that each write of a slow disk can be seen to be progress."""
_EDGE_BYTES: Final = 1 << 16

After = Literal["rename", "reopen", "leave"]
"""What becomes of a closed file: a name of its own; opened again under its name, whatever stands there; nothing."""


@dataclass(frozen=True, slots=True)
class _Piece:
    cluster: str
    data: bytes
    summary: Summary


@dataclass(frozen=True, slots=True)
class _Seal:
    reason: Rotation
    then: After


@dataclass(frozen=True, slots=True)
class _Closed:
    """A segment whose file is closed, and that does not have its name yet."""

    segment: Segment
    file: tuple[int, int] | None
    opened_ms: int


class _IngestTime(msgspec.Struct):
    ingest_ts: int


class ActiveFile:
    """The file that takes the lines of one name, and the segments that it becomes.

    `put` and `seal` only queue; `drain` carries out what is queued, in order, as far as the disk lets it. It raises
    `OSError` then, and the next call goes on where it stopped: every line ends up in the archive once and whole,
    the rest of a half-written line included. Where another program moved or deleted the file, what is queued goes to a
    new file of that name.
    """

    def __init__(self, path: Path, context: ArchiveContext, segment_log: SegmentLog) -> None:
        self.path = path
        self.pending_bytes = 0
        self.planned_bytes = 0
        """How large the active file will be when everything queued is carried out."""
        self.period_ns: int | None = None
        """A time in the period that the records in the active file belong to, everything queued included."""
        self._disk = context.disk
        self._doubt = context.doubt
        self._clock = context.clock
        self._stats = context.stats
        self._sync_on_close = context.settings.fsync != "never"
        self._log = segment_log
        self._queue: deque[_Piece | _Seal] = deque()
        self._fd: int | None = None
        self._size = 0
        self._torn = 0
        """Bytes of the first queued line that are in the file already."""
        self._until_ns: int | None = None
        """Of the `drain` at hand: when writing ends (monotonic)."""
        self._doubtful = False
        """Whether a call failed, so that the file may have changed or be gone."""
        self._unsynced = False
        self._opened_ms = 0
        self._offset = 0
        self._durable = True
        self._hash = hashlib.sha256()
        self._summary = Summary.of_segment()
        self._closed: _Closed | None = None

    @property
    def busy(self) -> bool:
        """Whether something is queued."""
        return bool(self._queue)

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._fd is not None

    @property
    def size_bytes(self) -> int:
        """How large the file is now."""
        return self._size if self._fd is not None else 0

    @property
    def records(self) -> int:
        """How many records this run has written into the active file."""
        return self._summary.records

    def follow(self, stamp: str) -> None:
        """Stamp what is written from now on later than `stamp`, the newest of the runs before; empty: there is none."""
        with suppress(ValueError):
            self._opened_ms = ms_of(stamp)

    def put(self, cluster: str, data: bytes, summary: Summary, received_ns: int) -> None:
        """Queue whole lines; they are not copied."""
        self._queue.append(_Piece(cluster, data, summary))
        self.pending_bytes += len(data)
        self.planned_bytes += len(data)
        if self.period_ns is None:
            self.period_ns = received_ns

    def seal(self, reason: Rotation, then: After) -> None:
        """Queue the closing of what is in the file by then. An empty file is not renamed."""
        if then == "rename" and not self.planned_bytes:
            return
        self._queue.append(_Seal(reason, then))
        if then == "rename":
            self.planned_bytes = 0
            self.period_ns = None

    def drain(self, until_ns: int | None = None) -> None:
        """Carry out what is queued. Raise `OSError` where the disk refuses; what was done until then stays done.

        Nothing is written any more from `until_ns` on (monotonic), which counts as a refusal.
        """
        self._until_ns = until_ns
        try:
            if self._doubtful:
                self._resume()
            while self._queue:
                first = self._queue[0]
                if isinstance(first, _Seal):
                    # It leaves the queue when all of it is done. What was done before a call failed stands in
                    # `_closed`, so that the next try does not repeat it.
                    self._carry_out(first)
                    self._queue.popleft()
                else:
                    self._write_pieces()
        except OSError:
            self._doubtful = True
            raise

    def sync(self) -> None:
        """Make durable what was handed over.

        Raise `OSError` if that fails. The segment is closed as not durable then, and what follows goes to a new file:
        a second fsync would prove nothing about the pages that the first one lost.
        """
        if self._fd is None or not self._unsynced:
            return
        try:
            self._fsync(self._fd)
        except OSError:
            self._give_name_to_failed()
            raise

    def open(self) -> None:
        """Open the file now rather than at the first line. Raise `OSError`."""
        if self._fd is not None:
            return
        # Where a call failed as the last file was left: it must not be taken up again.
        self._give_name()
        self._disk.make_folder(self.path.parent)
        fd = self._disk.open_append(self.path)
        try:
            size = self._disk.stat_open(fd).st_size
            opened_ms, last_ms = self._edge_times(size)
            if not size and self._sync_on_close:
                # A file that was just made has no durable name: a power loss would take it, synced lines and all.
                self._disk.sync_folder(self.path.parent)
        except BaseException:
            self._disk.close(fd)
            raise
        self._fd = fd
        # What an earlier run has written into the file stays its segment; this run's begins behind it.
        self._size = self._offset = size
        # Files of one name are stamped in the order of their records, also where a slow disk opens them late.
        queued_ms = next(
            (step.summary.first_ingest_ts for step in self._queue if isinstance(step, _Piece)), 0
        )
        before_ms = self._opened_ms
        self._opened_ms = opened_ms or queued_ms or self._clock.wall_ns() // 1_000_000
        if 0 <= before_ms - self._opened_ms < _STAMP_RACE_MS:
            # Names sort by time also where several segments are filled within one millisecond.
            self._opened_ms = before_ms + 1
        self._durable = True
        self._hash = hashlib.sha256()
        self._summary = Summary.of_segment()
        if not any(isinstance(step, _Seal) for step in self._queue):
            # Rotation was planned as if the file were empty. Behind a seal it will be, whatever is in this one.
            self.planned_bytes = size + self.pending_bytes
            if last_ms:
                self.period_ns = last_ms * 1_000_000

    def check(self) -> bool:
        """Return whether the file is still there under its name; if not, leave it. Raise `OSError`."""
        if self._fd is None:
            return True
        state = self._disk.stat_open(self._fd)
        if identity(self._disk.stat(self.path)) == identity(state) and state.st_size >= self._size:
            return True
        if state.st_size < self._size:
            # `copytruncate`, or a hand: with O_APPEND the next line would go to the new end, perhaps behind half a line, and
            # offsets would be wrong.
            log.error(
                "archive_file_truncated", path=str(self.path), bytes_expected=self._size, bytes=state.st_size
            )
            self._durable = False
        else:
            # Whatever NDJSON_NO_REOPEN says: it is about signals, and here lines would go where nobody looks for them.
            log.warning(
                "archive_file_vanished",
                path=str(self.path),
                message="another program moved or deleted the file; a new one of this name takes what comes",
            )
        self._stats.vanished += 1
        self._abandon_name()
        return False

    def give_up(self) -> list[tuple[str, Summary]]:
        """Forget what is queued, and leave no half line behind if the disk lets us; return what is lost."""
        lost = [(step.cluster, step.summary) for step in self._queue if isinstance(step, _Piece)]
        self._queue.clear()
        self.pending_bytes = 0
        self._cut_torn()
        self._report_closed()
        self._doubtful = False
        self.planned_bytes = self._size
        return lost

    def abandon(self) -> None:
        """Let go of the file as it is."""
        if self._fd is not None:
            self._close_file()

    def _write_pieces(self) -> None:
        self.open()
        fd = self._fd
        if fd is None:  # pragma: no cover - open() returned
            return
        pieces: list[bytes] = []
        length = 0
        for step in self._queue:
            if isinstance(step, _Seal) or length >= _WRITE_BYTES:
                break
            pieces.append(step.data)
            length += len(step.data)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        view = memoryview(data)
        done = self._torn
        whole = 0
        try:
            while done < length:
                if self._until_ns is not None and self._clock.monotonic_ns() >= self._until_ns:
                    raise TimeoutError(errno.ETIMEDOUT, "no time was left for it", str(self.path))
                count = self._disk.write(fd, view[done : done + _WRITE_BYTES])
                # Counted at once: if the next write fails, these bytes are in the file all the same.
                done += count
                self._size += count
                self._unsynced = True
                # Whole lines alone are hashed and accounted for. The file may have to be left in the middle of a line,
                # and then the segment ends before that line.
                border = data.rfind(b"\n", whole, done) + 1
                if border > whole:
                    self._hash.update(view[whole:border])
                    whole = border
        finally:
            self._torn = done - whole
            self._account_for(whole)

    def _account_for(self, count: int) -> None:
        """Account for the first `count` queued bytes, which are whole lines, as written."""
        while count:
            piece = self._queue.popleft()
            if isinstance(piece, _Seal):  # pragma: no cover - only pieces were joined
                raise TypeError("a seal cannot be written")
            data, summary = piece.data, piece.summary
            if len(data) > count:
                # The disk took the piece in part. The rest stays first in the queue, summed up anew.
                rest = data[count:]
                self._queue.appendleft(_Piece(piece.cluster, rest, self._log.sum_up(rest)))
                data, summary = data[:count], self._log.sum_up(data[:count])
            count -= len(data)
            self.pending_bytes -= len(data)
            self._summary.add(summary)
            self._log.written(piece.cluster, summary)

    def _carry_out(self, seal: _Seal) -> None:
        """Do what is left to do of a seal. Where a call fails, the next try goes on there."""
        if self._closed is None and self._fd is not None:
            if self._size:
                self._close_segment(seal.reason)
            elif seal.then != "rename":
                self._close_file()
        if seal.then == "rename" or (self._closed is not None and not self._closed.segment.durable):
            # A power loss may leave zeros of what is not durable. The first line of what follows must not join them.
            self._give_name()
        else:
            self._report_closed()
        if seal.then == "reopen":
            self.open()

    def _close_segment(self, reason: Rotation) -> None:
        """Make the file durable and close it. What is left to do is kept in `_closed`."""
        fd = self._fd
        if fd is None:
            return
        # Before the descriptor is gone: by the name alone, another program's file could be renamed in place of this one.
        file = identity(self._disk.stat_open(fd))
        if self._unsynced and self._durable and self._sync_on_close:
            try:
                self._fsync(fd)
            except OSError:
                reason = "fsync_failed"
        self._close_file()
        segment = Segment(
            self.path, None, self._offset, self._hash.hexdigest(), self._summary, reason, self._durable
        )
        self._closed = _Closed(segment, file, self._opened_ms)

    def _close_file(self) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        self._unsynced = False
        try:
            self._disk.close(fd)
        except OSError as error:
            # Network file systems report lost writes here.
            log.error("archive_close_failed", path=str(self.path), reason=reason_of(error))
            self._durable = False

    def _give_name(self) -> None:
        """Rename the closed file, unless another one stands under its name by now."""
        closed = self._closed
        if closed is None:
            return
        if identity(self._disk.stat(self.path)) == closed.file:
            target = free_rotated_path(self.path, closed.opened_ms, self._disk)
            self._disk.rename(self.path, target)
            # From here on the name is given: a failure below must not have it given again, to whatever is there then.
            renamed = replace(closed.segment, path=target, was=self.path)
            self._closed = _Closed(renamed, None, closed.opened_ms)
            if self._sync_on_close:
                try:
                    self._disk.sync_folder(target.parent)
                except OSError as error:
                    self._stats.fsync_errors += 1
                    log.error("archive_folder_fsync_failed", path=str(target.parent), reason=reason_of(error))
        self._report_closed()

    def _report_closed(self) -> None:
        if self._closed is not None:
            segment, self._closed = self._closed.segment, None
            self._summary = Summary.of_segment()
            self._log.closed(segment)
            self._doubt.told(self.path)

    def _fsync(self, fd: int) -> None:
        begin = perf_counter()
        try:
            with self._doubt.syncing(self.path):
                self._disk.sync(fd)
        except OSError as error:
            self._stats.fsync_errors += 1
            self._durable = False
            log.error("archive_fsync_failed", path=str(self.path), reason=reason_of(error))
            raise
        finally:
            self._stats.fsync_seconds.observe(perf_counter() - begin)
        self._unsynced = False

    def _give_name_to_failed(self) -> None:
        """Close the segment whose fsync failed before anything else that is queued, so that nothing is added to it."""
        self._queue.appendleft(_Seal("fsync_failed", "rename"))
        if not any(isinstance(step, _Seal) for step in list(self._queue)[1:]):
            self.planned_bytes = self.pending_bytes
            self.period_ns = None
        self.drain(self._until_ns)

    def _resume(self) -> None:
        """After a failure: go on in the same file, behind exactly what was reported as written, or in a new one."""
        fd = self._fd
        if fd is not None and self.check() and self._disk.stat_open(fd).st_size > self._size:
            self._disk.truncate(fd, self._size)
        self._doubtful = False

    def _abandon_name(self) -> None:
        """Close the file that another program has moved or cut. A line that is torn there is written whole to the next file.

        What was cut still has the name, and gets another one, so that nothing is added to what is left of it.
        """
        self._cut_torn()
        if self._size:
            self._close_segment("reopen")
        else:
            self._close_file()
        self._size = 0
        self._give_name()

    def _cut_torn(self) -> None:
        """Take half a line off the end of the file; where the disk refuses, readers of a moved file meet it."""
        if self._torn and self._fd is not None:
            self._size -= self._torn
            try:
                if self._disk.stat_open(self._fd).st_size > self._size:
                    self._disk.truncate(self._fd, self._size)
            except OSError as error:
                log.warning("archive_line_left_torn", path=str(self.path), reason=reason_of(error))
        self._torn = 0

    def _edge_times(self, size: int) -> tuple[int, int]:
        """Return the ingest times of the first and the last line; 0 for a line that is not there or has none."""
        if not size:
            return 0, 0
        with self._disk.open_read(self.path) as file:
            first = file.read(_EDGE_BYTES)
            file.seek(max(0, size - _EDGE_BYTES))
            last = file.read(_EDGE_BYTES)
        return _ingest_ms(first.partition(b"\n")[0]), _ingest_ms(last.rstrip(b"\n").rpartition(b"\n")[2])


def _ingest_ms(line: bytes) -> int:
    try:
        return msgspec.json.decode(line, type=_IngestTime).ingest_ts
    except UNREADABLE:
        return 0
