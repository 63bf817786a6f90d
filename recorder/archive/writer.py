"""The archive as one thread writes it: taken and repaired, flushed with patience for the disk, and closed."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from recorder.archive.context import ArchiveContext
from recorder.archive.disk import NO_SPACE, reason_of
from recorder.archive.files import ActiveFiles
from recorder.archive.gaps import GapHistory, Silence
from recorder.archive.housekeeping import Housekeeping
from recorder.archive.journal import Journal
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Reached, RecordBatch
from recorder.archive.recovery import Recovery
from recorder.archive.rejoin import recorded_at_start
from recorder.archive.segment_log import RecordLog, SideLog
from recorder.archive.set_back import SetBacks
from recorder.archive.stats import Rotation
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.ledger import SinkStats
from recorder.log import RateLimited, get_logger
from recorder.overlap import Recorded

log = get_logger("polygon_archive")

_FLUSH_BYTES: Final = 1 << 20
"""So much is handed to the OS at once, so that a caller with a deadline gets a say between two writes."""
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
        context: ArchiveContext,
        sink_stats: SinkStats,
        shedding: LoadShedding,
        run_facts: Mapping[str, Any],
        *,
        pause: Callable[[float], None] = time.sleep,
        background: bool = True,
    ) -> None:
        """`shedding` says what to leave out as the disk fills; `run_facts` go into the manifest's `run_started`.

        `pause`, and `background` (whether compression has a thread, or is done by `tick`), are for tests.
        """
        self.failure = ""
        self.write_until_ns: int | None = None
        """Monotonic time at which writing ends, whatever is left; set, by any thread, when the archive is to be closed."""
        self.silences: dict[str, Silence] = {}
        """Once open: since when, and why, each cluster of the runs before has brought nothing."""
        self.recorded: dict[str, Recorded] = {}
        """Once open: by cluster, how far the runs before have recorded the stream of another recorder."""
        self.history = GapHistory()
        """Once open: the gaps of the runs before, and which clusters this run follows."""
        self._context = context
        self._settings = context.settings
        self._names = context.names
        self._disk = context.disk
        self._clock = context.clock
        self._stats = context.stats
        self._manifest = context.manifest
        self._doubt = context.doubt
        self._sink_stats = sink_stats
        self._run_facts = run_facts
        self._pause = pause
        self._lock = context.lock
        self._housekeeping = Housekeeping(
            context, shedding, lambda size: self.rotate("pressure", size), background=background
        )
        self._record_log = RecordLog(context, self._housekeeping, sink_stats)
        self._reject_log = SideLog(context, self._housekeeping, "rejects")
        position_log = SideLog(context, self._housekeeping, "positions")
        self._files = ActiveFiles(context, self._record_log, self._reject_log, position_log)
        self._journal = Journal(context.run_id)
        self._bytes_given_up = 0
        self._set_backs = SetBacks()
        self._interval_ns = self._settings.flush_interval_ms * 1_000_000
        self._check_due_ns = 0
        self._retry_due_ns = 0
        self._no_space = False
        """Whether the last write was refused for want of space."""
        self._warnings = RateLimited(self._settings.warn_interval_secs)
        stats = context.stats
        stats.rotate_bytes, stats.rotate_secs = self._settings.max_bytes, self._settings.rotate_secs

    @property
    def pending_bytes(self) -> int:
        """Bytes that were taken and are neither handed to the OS nor given up."""
        return self._files.pending_bytes

    @property
    def bytes_done(self) -> int:
        """Bytes of lines, rejects included, that are handed to the OS or given up."""
        return self._record_log.bytes_written + self._reject_log.bytes_written + self._bytes_given_up

    def open(self) -> None:
        """Take possession of the archive: folder, lock, repair, `run_started`. Raise `ArchiveConfigError`."""
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
        """Take a batch. The next `tick` hands it to the OS; a large amount that waits goes at once."""
        if set_back := self._set_backs.notice(batch.received_ns // 1_000_000):
            # Before the records are there, so that no reader has them without it.
            self._manifest.append("clock_set_back", **set_back)
            log.warning("archive_clock_set_back", back_ms=set_back["from"] - set_back["to"])
        self._files.put(batch)
        self._journal.add(batch.cluster, batch.reached)
        if self.pending_bytes >= _FLUSH_BYTES:
            self.flush()

    def note(self, cluster: str, reached: Reached) -> None:
        """Take a position of another recorder's stream, up to which nothing more is to be recorded."""
        self._journal.add(cluster, [reached])

    def append(self, kind: str, **fields: Any) -> None:
        """Add a line to the manifest, durably; while the disk fails it waits in memory."""
        self._manifest.append(kind, **fields)

    def tick(self) -> float:
        """Hand over what waits, and do what else is due; return the seconds until something is due again."""
        now = self._clock.monotonic_ns()
        wall = self._clock.wall_ns()
        self._files.seal_ended(wall)
        if now >= self._check_due_ns:
            self._check_due_ns = now + self._interval_ns
            if self._manifest.flush():
                self._doubt.settle()
            if not self.failure:
                self._check_files(now)
        self.flush()
        self._housekeeping.poll(now, refused=self._no_space)
        # What comes from now on may wait for one interval.
        due = self._retry_due_ns if self.failure else now + self._interval_ns
        if self._housekeeping.due_ns is not None:
            due = min(due, self._housekeeping.due_ns)
        return max(min((due - now) / 1e9, self._files.period_left_secs(wall)), 0.0)

    def flush(self, *, forced: bool = False) -> None:
        """Carry out what is queued, for every file; one that cannot does not keep the others from it.

        While the disk fails, that is tried once in a while, unless it is `forced`.
        """
        now = self._clock.monotonic_ns()
        if self.failure and now < self._retry_due_ns and not forced:
            return
        failure, no_space = "", False
        for file in self._files:
            if file is self._files.positions and not failure:
                self._files.note_positions(self._journal.take())
            try:
                if file.busy:
                    file.drain(self.write_until_ns)
                if self._settings.fsync == "flush":
                    file.sync()
            except OSError as error:
                failure = failure or f"cannot write {file.path}: {reason_of(error)}"
                no_space = no_space or error.errno in NO_SPACE
        if no_space and not self._no_space:
            self._housekeeping.measure_soon()
        self._no_space = no_space
        self._set_failure(failure, now)

    def rotate(self, reason: Rotation, bytes_min: int = 1) -> None:
        """Seal every active file of records that has so many bytes, now."""
        if self._files.rotate(reason, bytes_min):
            self.flush()

    def reopen(self) -> None:
        """Close every active file as a segment and open its path again, whatever stands there by now."""
        self._stats.reopens += 1
        self._files.reopen()
        # Also while the disk fails: a file that was moved away must not keep half a line for longer than it has to.
        self.flush(forced=True)

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
            if file is not self._files.positions:
                file.seal("shutdown", "leave")
        tries = max(1, int(self._secs_until(deadline_ns) / _CLOSE_PAUSE_SECS))
        self.flush(forced=True)
        while self.failure and tries and not self._is_too_late():
            tries -= 1
            self._pause(_CLOSE_PAUSE_SECS)
            self.flush(forced=True)
        if self.failure:
            self._give_up()
        # Only now are all of its lines in it.
        self._files.positions.seal("shutdown", "leave")
        self.flush(forced=True)
        self._housekeeping.close(deadline_ns)
        self._manifest.append("run_ended", reason=reason, balance=balance() if callable(balance) else balance)
        if self._manifest.flush():
            self._doubt.settle()
            # As long as the archive is ours: the next recorder puts a newer one.
            self._housekeeping.describe_end(deadline_ns)
        self._release()

    def _open(self) -> None:
        self._disk.make_folder(self._names.folder)
        checkpoint = self._lock.take(self._manifest, self._doubt)
        unsplit = "{" not in self._names.template and not self._names.split_per_type
        if unsplit:
            self._refuse_unsuitable(Path(self._names.template))
        index, torn = self._manifest.open(checkpoint)
        recovery = Recovery(self._context, index)
        recovery.run(torn)
        self.silences = index.silences_at_start()
        self.recorded = recorded_at_start(self._context, index)
        self.history = index.history
        now_ms = self._clock.wall_ns() // 1_000_000
        self.history.run_started(self._context.run_id, now_ms, self._run_facts.get("settings"))
        self._set_backs.notice(now_ms)
        self._manifest.append("run_started", **self._run_facts, boot_id=self._disk.boot_id())
        first = [Path(self._names.template)] if unsplit else []
        self._files.open([*first, *recovery.active], recovery.stamps)
        if self._doubt.inherited:
            # A block of the disk that holds the end of what is in doubt must not take the beginning of what comes.
            self.rotate("fsync_failed")
        if self._manifest.failure:
            raise ArchiveError(self._manifest.failure)
        self._housekeeping.open(recovery.plain, index)
        self._check_due_ns = self._clock.monotonic_ns() + self._interval_ns
        log.info("archive_opened", folder=str(self._names.folder), run_id=self._context.run_id)

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
        what = f"cannot use the archive {self._names.template}: {reason_of(error)}"
        place = "set NDJSON_DEST to a place that can be written"
        hint = hints.get(error.errno or 0)
        return f"{what}: {hint}; mend that, or {place}" if hint else f"{what}: {place}"

    def _release(self) -> None:
        for file in self._files:
            file.abandon()
        self._manifest.close()
        self._doubt.release()
        self._lock.release()

    def _set_failure(self, failure: str, now: int) -> None:
        if failure:
            self._sink_stats.write_errors += 1
            self._retry_due_ns = now + int(_RETRY_SECS * 1e9)
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
        self.failure = self._sink_stats.failure = failure

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
        self._journal.clear()
        for file in self._files:
            for cluster, summary in file.give_up():
                self._bytes_given_up += summary.bytes
                for channel, count in summary.counts.items():
                    self._sink_stats.dropped[cluster, channel] += count
                    self._sink_stats.given_up += count
                    drop = drops.setdefault((cluster, channel), [0, summary.first_seq, 0])
                    drop[0] += count
                    drop[2] = summary.last_seq
            if file is not self._files.positions:
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
        self.flush(forced=True)

    def _is_too_late(self) -> bool:
        return self.write_until_ns is not None and self._clock.monotonic_ns() >= self.write_until_ns

    def _secs_until(self, deadline_ns: int) -> float:
        return (deadline_ns - self._clock.monotonic_ns()) / 1e9
