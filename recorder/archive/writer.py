"""The archive as one thread writes it: taken and repaired, flushed with patience for the disk, and closed."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recorder.archive.closing import Closing
from recorder.archive.disk import NO_SPACE, Disk, reason_of
from recorder.archive.files import ActiveFiles, Callbacks
from recorder.archive.lock import ArchiveLock
from recorder.archive.manifest import Manifest
from recorder.archive.manifest_index import Silence
from recorder.archive.policy import FileNames
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import RecordBatch, Summary
from recorder.archive.recovery import Recovery
from recorder.archive.stats import ArchiveStats, Rotation
from recorder.archive.upkeep import Upkeep
from recorder.clock import Clock
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.ledger import SinkStats
from recorder.log import RateLimited, get_logger

if TYPE_CHECKING:
    from recorder.settings import ArchiveSettings

log = get_logger("polygon_archive")

_FLUSH_BYTES: Final = 1 << 20
"""Handed to the OS at once, however many records and milliseconds the settings allow."""
_RETRY_SECS: Final = 0.5
_CLOSE_PAUSE_SECS: Final = 0.1


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
        shedding: LoadShedding | None = None,
        disk: Disk | None = None,
        pause: Callable[[float], None] = time.sleep,
        background: bool = True,
    ) -> None:
        """`run_facts` go into the manifest's `run_started`; `shedding` is told what to leave out as the disk fills.

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
        self._manifest = Manifest(names.manifest, run_id=run_id, disk=self._disk, clock=clock, stats=stats)
        self._lock = ArchiveLock(names, self._disk)
        self.shedding = shedding or LoadShedding(stats.pressure)
        self._upkeep = Upkeep(
            settings,
            names,
            shedding=self.shedding,
            rotate=lambda size: self.rotate("pressure", size),
            manifest=self._manifest,
            disk=self._disk,
            clock=clock,
            stats=stats,
            background=background,
        )
        closing = Closing(names, manifest=self._manifest, upkeep=self._upkeep, clock=clock, stats=stats)
        self._files = ActiveFiles(
            settings,
            names,
            disk=self._disk,
            clock=clock,
            stats=stats,
            records=Callbacks(self._count_records, closing.records_closed),
            rejects=Callbacks(self._count_rejects, closing.rejects_closed),
        )
        self._interval_ns = settings.flush_interval_ms * 1_000_000
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
        self._warnings = RateLimited(settings.warn_interval_secs)

    @property
    def pending_bytes(self) -> int:
        """Bytes that were taken and are neither handed to the OS nor given up."""
        return self._files.pending_bytes

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
        self._unflushed += self._files.put(batch)
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
        self._files.seal_ended(wall)
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
        elif any(file.busy and not file.pending_bytes for file in self._files):
            self._flush(now)
        self._upkeep.tick(now, refused=self._no_space)
        due = min(self._flush_due_ns, self._check_due_ns)
        if self.failure:
            due = max(due, self._retry_due_ns)
        if self._upkeep.due_ns is not None:
            due = min(due, self._upkeep.due_ns)
        secs = min((due - now) / 1e9, self._files.period_left_secs(wall))
        return max(secs, 0.0)

    def rotate(self, reason: Rotation, bytes_min: int = 1) -> None:
        """Seal every active file of records that has so many bytes, now."""
        if self._files.rotate(reason, bytes_min):
            self._flush(self._clock.monotonic_ns())

    def reopen(self) -> None:
        """Close every active file as a segment and open its path again, whatever stands there by now."""
        self._stats.reopens += 1
        self._files.reopen()
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
        for file in self._files:
            file.seal("shutdown", "leave")
        tries = max(1, int(self._secs_until(deadline_ns) / _CLOSE_PAUSE_SECS))
        self._flush(self._clock.monotonic_ns(), forced=True)
        while self.failure and tries:
            tries -= 1
            self._pause(_CLOSE_PAUSE_SECS)
            self._flush(self._clock.monotonic_ns(), forced=True)
        if self.failure:
            self._give_up()
        self._upkeep.close(deadline_ns)
        self._manifest.append("run_ended", reason=reason, balance=balance() if callable(balance) else balance)
        self._release()

    def _open(self) -> None:
        self._disk.make_folder(self._names.folder)
        checkpoint = self._lock.take(self._manifest)
        unsplit = "{" not in self._names.template and not self._names.split_per_type
        if unsplit:
            self._refuse_unsuitable(Path(self._names.template))
        index, torn = self._manifest.open(checkpoint)
        recovery = Recovery(
            self._names,
            index,
            run_id=self._run_id,
            manifest=self._manifest,
            disk=self._disk,
            clock=self._clock,
            stats=self._stats,
        )
        recovery.run(torn)
        self.silences = index.silences_at_start()
        self._manifest.append("run_started", **self._run_facts)
        first = [Path(self._names.template)] if unsplit else []
        self._files.open([*first, *recovery.active], recovery.stamps)
        if self._manifest.failure:
            raise ArchiveError(self._manifest.failure)
        self._upkeep.open(recovery.plain)
        now = self._clock.monotonic_ns()
        self._flush_due_ns = self._check_due_ns = now + self._interval_ns
        log.info("archive_opened", folder=str(self._names.folder), run_id=self._run_id)

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
        for file in self._files:
            file.abandon()
        self._manifest.close()
        self._lock.release()

    def _flush(self, now: int, *, forced: bool = False) -> None:
        """Carry out what is queued, for every file; one that cannot does not keep the others from it."""
        if self.failure and now < self._retry_due_ns and not forced:
            self._flush_due_ns = self._retry_due_ns
            return
        self._unflushed = 0
        failure, no_space = "", False
        for file in self._files:
            try:
                if file.busy:
                    file.drain()
                if self._settings.fsync == "flush":
                    file.sync()
            except OSError as error:
                failure = failure or f"cannot write {file.path}: {reason_of(error)}"
                no_space = no_space or error.errno in NO_SPACE
        if no_space and not self._no_space:
            self._upkeep.look_soon(now)
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
        for file in self._files:
            try:
                file.check()
            except OSError as error:
                self._set_failure(f"cannot write {file.path}: {reason_of(error)}", now)
        self._stats.active = self._files.active()

    def _give_up(self) -> None:
        """Drop what the disk does not take, and say what."""
        drops: dict[tuple[str, str], list[int]] = {}
        for file in self._files:
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

    def _secs_until(self, deadline_ns: int) -> float:
        return (deadline_ns - self._clock.monotonic_ns()) / 1e9
