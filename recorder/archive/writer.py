"""The archive as one thread writes it: files, manifest, rotation by size and time, and patience with the disk."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recorder.archive.catalogue import Silence
from recorder.archive.compressor import Compressor
from recorder.archive.disk import Disk, reason_of
from recorder.archive.entries import rejects_fields, segment_fields
from recorder.archive.head import Head, read_head
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.pressure import Pressure, Relief, ladder
from recorder.archive.record import RecordBatch, Summary, summarise
from recorder.archive.recovery import Recovery
from recorder.archive.retention import Retention
from recorder.archive.segment import ActiveFile, Segment
from recorder.archive.space import SpaceWatch
from recorder.clock import Clock
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.log import RateLimited, get_logger
from recorder.stats import ActiveSegment, ArchiveStats, ClosedSegment, SinkStats, with_newest

if TYPE_CHECKING:
    from recorder.settings import ArchiveSettings

log = get_logger("polygon_archive")

_FLUSH_BYTES: Final = 1 << 20
"""Handed to the OS at once, however many records and milliseconds the settings allow."""
_RETRY_SECS: Final = 0.5
_RETENTION_SECS: Final = 10.0
_TIME_GRACE_NS: Final = 500_000_000
"""Without traffic a period ends so much later, so that what was read before its end is still written into it."""
_CLOCK_JUMP_NS: Final = 5_000_000_000
"""Times that lie so far before the period at hand are a clock set back, not batches of two clusters in a race."""
_CLOSE_PAUSE_SECS: Final = 0.1
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class ArchiveWriter:
    """Writes record batches into an archive that it owns. Used by one thread.

    `open` raises `ArchiveConfigError` when the place cannot be used. After that no method raises for the disk's sake:
    what cannot be written now is kept, in order, `failure` says why, and `tick` tries again. Memory is bounded by the
    caller, who stops calling `write` while `pending_bytes` is too large. `close` gives up what the disk has not
    taken by its deadline: as dropped, in the books and in the manifest.
    """

    def __init__(
        self,
        settings: ArchiveSettings,
        names: FileNames,
        *,
        run_id: str,
        clock: Clock,
        stats: ArchiveStats,
        books: SinkStats,
        run_facts: Mapping[str, Any],
        relief: Relief | None = None,
        disk: Disk | None = None,
        pause: Callable[[float], None] = time.sleep,
        background: bool = True,
    ) -> None:
        """`run_facts` go into the manifest's `run_started`; `relief` is told what to leave out as the disk fills.

        `disk`, `pause` and `background` (whether compression has a thread, or is done by `tick`) are for tests.
        """
        self.failure = ""
        self.bytes_done = 0
        """Bytes of lines, rejects included, that are handed to the OS or given up."""
        self.silences: dict[str, Silence] = {}
        """Once open: since when, and why, each cluster of the runs before has brought nothing."""
        self._settings = settings
        self._names = names
        self._run_id = run_id
        self._clock = clock
        self._stats = stats
        self._books = books
        self._run_facts = run_facts
        self._disk = disk or Disk()
        self._pause = pause
        self._background = background
        self._manifest = Manifest(names.manifest, run_id=run_id, disk=self._disk, clock=clock, stats=stats)
        self._compressor = (
            None
            if settings.compression == "none"
            else Compressor(
                settings.compression,
                folder=names.folder,
                manifest=self._manifest,
                disk=self._disk,
                stats=stats,
                finished=lambda path: self._retention.add(path),
            )
        )
        self._retention = Retention(
            names,
            bytes_max=settings.retain_bytes,
            age_max_secs=settings.retain_secs,
            manifest=self._manifest,
            compressor=self._compressor,
            disk=self._disk,
            clock=clock,
            stats=stats,
        )
        self.relief = relief or Relief(stats.pressure)
        self._space = SpaceWatch(
            Pressure(
                settings.min_free_bytes,
                ladder(
                    compresses=self._compressor is not None,
                    deletes=self._retention.enabled,
                    give=settings.pressure,
                ),
            ),
            self.relief,
            names.folder,
            disk=self._disk,
            clock=clock,
            manifest=self._manifest,
            compressor=self._compressor,
            retention=self._retention,
            rotate=lambda size: self.rotate("pressure", size),
        )
        self._lock_fd: int | None = None
        self._files: dict[str, ActiveFile] = {}
        self._stamps: dict[Path, str] = {}
        """Of each active file, the newest stamp that a run before has given."""
        self._rejects = self._make_file(names.rejects, rejects=True)
        self._interval_ns = settings.flush_interval_ms * 1_000_000
        self._rotate_ns = (settings.rotate_secs or 0) * 1_000_000_000
        stats.rotate_bytes, stats.rotate_secs = settings.max_bytes, settings.rotate_secs
        stats.pressure.min_free_bytes = settings.min_free_bytes
        self._no_space = False
        """Whether the last write was refused for want of space."""
        self._unflushed = 0
        self._flush_due_ns = 0
        self._due_met = False
        """Whether a batch has been handed over already since the interval ended."""
        self._check_due_ns = 0
        self._retry_due_ns = 0
        self._retention_due_ns = 0
        self._warnings = RateLimited(settings.warn_interval_secs)

    @property
    def pending_bytes(self) -> int:
        """Bytes that were taken and are neither handed to the OS nor given up."""
        return sum(file.pending_bytes for file in self._all_files())

    def open(self) -> None:
        """Take possession of the archive: folder, lock, repair, `run_started`. Raises `ArchiveConfigError`."""
        try:
            self._open()
        except (OSError, ArchiveError) as error:
            self._release()
            if isinstance(error, OSError):
                raise ArchiveConfigError(self._explain(error)) from error
            if isinstance(error, ArchiveConfigError):
                raise
            raise ArchiveConfigError(f"cannot use the archive {self._names.template}: {error}") from error

    def write(self, batch: RecordBatch) -> None:
        """Take a batch; hand it to the OS, with what waits, if it is time to."""
        now = self._clock.monotonic_ns()
        for lines in batch.lines:
            self._put(self._file(lines.file), lines.cluster, lines.data, lines.summary, batch.received_ns)
            self._unflushed += lines.summary.records
        if batch.rejects:
            summary = Summary(records=batch.rejects_count, bytes=len(batch.rejects))
            self._put(self._rejects, batch.cluster, batch.rejects, summary, batch.received_ns)
            self._unflushed += batch.rejects_count
        is_due = now >= self._flush_due_ns and not self._due_met
        if is_due or self._unflushed >= self._settings.flush_every or self.pending_bytes >= _FLUSH_BYTES:
            self._due_met = self._due_met or is_due
            self._flush(now)

    def note(self, kind: str, **fields: Any) -> None:
        """Add a line to the manifest, durably; while the disk fails it waits in memory."""
        self._manifest.append(kind, **fields)

    def tick(self) -> float:
        """Do what is due; gives the seconds until something is due again."""
        now = self._clock.monotonic_ns()
        wall = self._clock.wall_ns()
        if self._rotate_ns:
            for file in self._files.values():
                if (
                    file.period_ns is not None
                    and (wall - _TIME_GRACE_NS) // self._rotate_ns > file.period_ns // self._rotate_ns
                ):
                    file.seal("time", "rename")
        if now >= self._check_due_ns:
            self._check_due_ns = now + self._interval_ns
            self._manifest.flush()
            if not self.failure:
                self._check_files(now)
        if now >= self._flush_due_ns:
            # Only here, behind all that had waited for this turn, which a flush in its midst must not put off.
            self._flush_due_ns = now + self._interval_ns
            self._due_met = False
            self._flush(now)
        elif any(file.busy and not file.pending_bytes for file in self._all_files()):
            self._flush(now)
        if self._retention.enabled and now >= self._retention_due_ns:
            self._retention_due_ns = now + int(_RETENTION_SECS * 1e9)
            self._retention.apply()
        if self._space.enabled and now >= self._space.due_ns:
            self._space.look(refused=self._no_space)
        if self._compressor and not self._background:
            self._compressor.work()
        due = min(self._flush_due_ns, self._check_due_ns)
        if self.failure:
            due = max(due, self._retry_due_ns)
        if self._space.enabled:
            due = min(due, self._space.due_ns)
        secs = (due - now) / 1e9
        if self._rotate_ns:
            secs = min(secs, (self._rotate_ns - (wall - _TIME_GRACE_NS) % self._rotate_ns) / 1e9)
        return max(secs, 0.0)

    def rotate(self, reason: str, bytes_min: int = 1) -> None:
        """Seal every active file of records that has so many bytes, now."""
        files = [file for file in self._files.values() if file.planned_bytes >= bytes_min]
        if not files:
            return
        for file in files:
            file.seal(reason, "rename")
        self._flush(self._clock.monotonic_ns())

    def reopen(self) -> None:
        """Close every active file as a segment and open its path again, whatever stands there by now."""
        self._stats.reopens += 1
        for file in self._all_files():
            if file.is_open or file.busy:
                file.seal("reopen", "reopen")
        self._flush(self._clock.monotonic_ns())

    def close(
        self,
        reason: str,
        balance: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None,
        deadline_ns: int,
    ) -> None:
        """Flush, close all segments, note `run_ended` and release the archive, by `deadline_ns` (monotonic) if it can.

        `balance` goes into the manifest; a function is asked for it when everything is written or given up.
        """
        for file in self._all_files():
            file.seal("shutdown", "leave")
        tries = max(1, int(self._secs_until(deadline_ns) / _CLOSE_PAUSE_SECS))
        self._flush(self._clock.monotonic_ns(), forced=True)
        while self.failure and tries:
            tries -= 1
            self._pause(_CLOSE_PAUSE_SECS)
            self._flush(self._clock.monotonic_ns(), forced=True)
        if self.failure:
            self._give_up()
        if self._compressor:
            if not self._background:
                while self._compressor.work():
                    pass
            self._compressor.stop(max(0.0, self._secs_until(deadline_ns)))
        self._manifest.append("run_ended", reason=reason, balance=balance() if callable(balance) else balance)
        self._release()

    def _open(self) -> None:
        self._disk.make_folder(self._names.folder)
        head = self._take_lock()
        unsplit = "{" not in self._names.template and not self._names.split_per_type
        if unsplit:
            self._refuse_unsuitable(Path(self._names.template))
        catalogue, torn = self._manifest.open(head)
        recovery = Recovery(
            self._names,
            catalogue,
            run_id=self._run_id,
            manifest=self._manifest,
            disk=self._disk,
            clock=self._clock,
            stats=self._stats,
        )
        recovery.run(torn)
        self._stamps = recovery.stamps
        self._rejects.follow(self._stamps.get(self._names.rejects, ""))
        self.silences = catalogue.silences_at_start()
        self._manifest.append("run_started", **self._run_facts)
        if unsplit:
            self._file(str(Path(self._names.template)))
        for path in recovery.active:
            self._file(str(path))
        for file in self._files.values():
            file.open()
        if self._manifest.failure:
            raise ArchiveError(self._manifest.failure)
        self._retention.open()
        if self._space.enabled:
            self._space.look()
        if self._compressor:
            for path, sha256 in recovery.plain:
                self._compressor.put(path, sha256)
            if self._background:
                self._compressor.start()
        now = self._clock.monotonic_ns()
        self._flush_due_ns = self._check_due_ns = now + self._interval_ns
        log.info("archive_opened", folder=str(self._names.folder), run_id=self._run_id)

    def _take_lock(self) -> Head | None:
        """Own the archive from here on; gives how far the manifest went when it was owned before."""
        try:
            self._lock_fd = self._disk.lock(self._names.lock)
        except BlockingIOError as error:
            owner = ""
            with suppress(OSError), self._disk.open_read(self._names.lock) as file:
                owner = file.readline(32).decode("ascii", "replace").strip()
            raise ArchiveConfigError(
                f"the archive {self._names.template} is owned by the recorder with pid {owner or 'unknown'};"
                " stop it, or set NDJSON_DEST to another place"
            ) from error
        try:
            head = read_head(self._names.lock, self._disk.open_read)
        except ArchiveError as error:
            log.warning("archive_lock_file_damaged", reason=str(error))
            head = None
        owner_line = b"%d\n" % os.getpid()
        self._disk.truncate(self._lock_fd, 0)
        self._disk.write_all(self._lock_fd, owner_line)
        self._manifest.keep_head(self._lock_fd, len(owner_line))
        return head

    def _refuse_unsuitable(self, path: Path) -> None:
        state = self._disk.stat(path)
        if state is not None and not stat.S_ISREG(state.st_mode):
            what = "a folder" if stat.S_ISDIR(state.st_mode) else "no regular file"
            raise ArchiveConfigError(f"{path} is {what}; NDJSON_DEST must name a file")

    def _explain(self, error: OSError) -> str:
        hints = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the quota is used up",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: f"user {os.geteuid()} may not write there",
            errno.EPERM: f"user {os.geteuid()} may not write there",
            errno.EISDIR: "a folder stands where a file must be",
            errno.ENOTDIR: "a file stands where a folder must be",
            errno.EEXIST: "a file stands where a folder must be",
        }
        hint = hints.get(error.errno or 0, "set NDJSON_DEST to a place that can be written")
        return f"cannot use the archive {self._names.template}: {reason_of(error)}: {hint}"

    def _release(self) -> None:
        for file in self._all_files():
            file.abandon()
        self._manifest.close()
        if self._lock_fd is not None:
            fd, self._lock_fd = self._lock_fd, None
            with suppress(OSError):
                self._disk.close(fd)

    def _file(self, key: str) -> ActiveFile:
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = self._make_file(Path(key), rejects=False)
            file.follow(self._stamps.get(Path(key), ""))
        return file

    def _make_file(self, path: Path, *, rejects: bool) -> ActiveFile:
        return ActiveFile(
            path,
            disk=self._disk,
            clock=self._clock,
            stats=self._stats,
            durable=self._settings.fsync != "never",
            written=self._count_rejects if rejects else self._count_records,
            sealed=self._seal_rejects if rejects else self._seal_segment,
            sum_up=_count_lines if rejects else summarise,
        )

    def _all_files(self) -> Iterable[ActiveFile]:
        yield from self._files.values()
        yield self._rejects

    def _put(self, file: ActiveFile, cluster: str, data: bytes, summary: Summary, received_ns: int) -> None:
        """Queue lines, with rotation where they cross a border of time or size."""
        if (
            self._rotate_ns
            and file.period_ns is not None
            and self._is_other_period(file.period_ns, received_ns)
        ):
            file.seal("time", "rename")
        limit = self._settings.max_bytes
        if limit is None or file.planned_bytes + len(data) <= limit:
            file.put(cluster, data, summary, received_ns)
            return
        sum_up = _count_lines if file is self._rejects else summarise
        begin = 0
        while begin < len(data):
            room = max(0, limit - file.planned_bytes)
            end = len(data) if len(data) - begin <= room else data.rfind(b"\n", begin, begin + room) + 1
            if end <= begin:
                if file.planned_bytes:
                    file.seal("size", "rename")
                    continue
                end = data.index(b"\n", begin) + 1  # one line that is longer than the limit
            part = data[begin:end]
            file.put(cluster, part, sum_up(part), received_ns)
            begin = end

    def _is_other_period(self, period_ns: int | None, received_ns: int) -> bool:
        if period_ns is None:
            return False
        period, received = period_ns // self._rotate_ns, received_ns // self._rotate_ns
        return received > period or received_ns < period * self._rotate_ns - _CLOCK_JUMP_NS

    def _flush(self, now: int, *, forced: bool = False) -> None:
        """Carry out what is queued, for every file; one that cannot does not keep the others from it."""
        if self.failure and now < self._retry_due_ns and not forced:
            self._flush_due_ns = self._retry_due_ns
            return
        self._unflushed = 0
        failure, no_space = "", False
        for file in self._all_files():
            try:
                if file.busy:
                    file.drain()
                if self._settings.fsync == "flush":
                    file.sync()
            except OSError as error:
                failure = failure or f"cannot write {file.path}: {reason_of(error)}"
                no_space = no_space or error.errno in _NO_SPACE
        if no_space and not self._no_space:
            self._space.due_ns = now
        self._no_space = no_space
        self._set_failure(failure, now)

    def _set_failure(self, failure: str, now: int) -> None:
        if failure:
            self._books.write_errors += 1
            self._retry_due_ns = self._flush_due_ns = now + int(_RETRY_SECS * 1e9)
            suppressed = self._warnings.ready(now)
            if suppressed is not None:
                log.warning(
                    "archive_not_written",
                    reason=failure,
                    pending_bytes=self.pending_bytes,
                    suppressed=suppressed,
                )
        elif self.failure:
            log.warning("archive_written_again", after=self.failure)
        self.failure = self._books.failure = failure

    def _check_files(self, now: int) -> None:
        for file in self._all_files():
            try:
                file.check()
            except OSError as error:
                self._set_failure(f"cannot write {file.path}: {reason_of(error)}", now)
        self._stats.active = {
            self._relative(file.path): ActiveSegment(file.size_bytes, file.records, self._rotates_ms(file))
            for file in self._files.values()
        }

    def _rotates_ms(self, file: ActiveFile) -> int | None:
        if not self._rotate_ns or file.period_ns is None:
            return None
        return (file.period_ns // self._rotate_ns + 1) * self._rotate_ns // 1_000_000

    def _give_up(self) -> None:
        """Drop what the disk does not take, and say what."""
        drops: dict[tuple[str, str], list[int]] = {}
        for file in self._all_files():
            for cluster, summary in file.give_up():
                self.bytes_done += summary.bytes
                for channel, count in summary.counts.items():
                    self._books.dropped[cluster, channel] += count
                    self._books.given_up += count
                    drop = drops.setdefault((cluster, channel), [0, summary.first_seq, 0])
                    drop[0] += count
                    drop[2] = summary.last_seq
            file.seal("shutdown", "leave")
        for (cluster, channel), (count, first_seq, last_seq) in drops.items():
            self._manifest.append(
                "drop",
                cluster=cluster,
                channel=channel,
                count=count,
                reason="disk_failure_at_shutdown",
                first_seq=first_seq,
                last_seq=last_seq,
            )
        log.error(
            "archive_records_dropped", count=sum(drop[0] for drop in drops.values()), reason=self.failure
        )
        self._flush(self._clock.monotonic_ns(), forced=True)

    def _count_records(self, cluster: str, summary: Summary) -> None:
        recorded = self._books.recorded
        for channel, count in summary.counts.items():
            recorded[cluster, channel] += count
        self._books.bytes_written += summary.bytes
        self.bytes_done += summary.bytes

    def _count_rejects(self, cluster: str, summary: Summary) -> None:
        self._stats.rejects_written += summary.records
        self.bytes_done += summary.bytes

    def _seal_segment(self, segment: Segment) -> None:
        if not segment.summary.records and not segment.was and segment.reason != "reopen":
            return
        self._stats.rotations[segment.reason] += 1
        name = self._relative(segment.path)
        facts = ClosedSegment(
            name,
            segment.summary.records,
            segment.summary.bytes,
            self._clock.wall_ns() // 1_000_000,
            segment.reason,
        )
        self._stats.recent = with_newest(self._stats.recent, facts)
        was = self._relative(segment.was) if segment.was else ""
        self._manifest.append(
            "segment_closed",
            **segment_fields(
                name,
                segment.summary,
                segment.sha256,
                segment.reason,
                segment.offset,
                was,
                durable=segment.durable,
            ),
        )
        log.info("archive_segment_closed", file=name, records=segment.summary.records, reason=segment.reason)
        if segment.was:
            self._retention.add(segment.path)
        if self._compressor and segment.was:
            self._compressor.put(segment.path, "" if segment.offset else segment.sha256)

    def _seal_rejects(self, segment: Segment) -> None:
        if segment.was:
            self._retention.add(segment.path)
        if not segment.summary.records and not segment.was and segment.reason != "reopen":
            return
        was = self._relative(segment.was) if segment.was else ""
        self._manifest.append(
            "rejects_closed",
            **rejects_fields(
                self._relative(segment.path),
                segment.summary,
                segment.sha256,
                segment.reason,
                segment.offset,
                was,
                durable=segment.durable,
            ),
        )
        log.info("archive_rejects_closed", path=str(segment.path), reason=segment.reason)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._names.folder).as_posix()

    def _secs_until(self, deadline_ns: int) -> float:
        return (deadline_ns - self._clock.monotonic_ns()) / 1e9


def _count_lines(data: bytes) -> Summary:
    return Summary(records=data.count(b"\n"), bytes=len(data))
