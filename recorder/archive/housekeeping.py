"""What an archive does besides writing: it compresses, uploads and deletes sealed files, and yields as the disk fills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from recorder.archive.codec import codec_of
from recorder.archive.compressor import Compressor
from recorder.archive.confirmer import Confirmer
from recorder.archive.context import ArchiveContext
from recorder.archive.disk import Space, reason_of
from recorder.archive.layout import find_files
from recorder.archive.manifest_index import Entry, ManifestIndex
from recorder.archive.pressure import LoadShedding, Pressure, Step, ladder, min_free_bytes
from recorder.archive.retention import Retention
from recorder.archive.uploader import Uploader
from recorder.log import get_logger
from recorder.words import size_text

log = get_logger("polygon_archive")

_RETENTION_SECS: Final = 10.0
_ANSWER_SECS: Final = 1.0
"""The bucket answers within this time, if it does."""
_SPACE_SECS: Final = 1.0


class Housekeeping:
    """Compression, uploads, retention and the watch on free space, each when it is due. Used by the archive's thread.

    Compression and uploads have threads of their own; without (`background`, for tests) `poll` does their work. Nothing
    here but `open` raises for the disk's sake. Every change of the step of disk pressure is in the manifest, the log and the
    stats; where free space cannot be measured, the step stays as it is.
    """

    def __init__(
        self,
        context: ArchiveContext,
        shedding: LoadShedding,
        rotate: Callable[[int], None],
        *,
        background: bool,
    ) -> None:
        """`rotate(size)` rotates every active file that is at least so large."""
        settings = context.settings
        self._names = context.names
        self._folder = context.names.folder
        self._disk = context.disk
        self._clock = context.clock
        self._manifest = context.manifest
        self._shedding = shedding
        self._rotate = rotate
        self._background = background
        self.compressor = (
            Compressor(settings.compression, context, self._add_final)
            if settings.compression != "none"
            else None
        )
        self.uploader: Uploader | None = None
        self._confirmer: Confirmer | None = None
        if context.store is not None:
            self.uploader = Uploader(context, context.store)
            self._confirmer = Confirmer(context, context.store, self.uploader)
        self.retention = Retention(context, self.compressor, self._confirmer)
        steps = ladder(
            compresses=self.compressor is not None,
            deletes=self.retention.enabled,
            give=settings.pressure,
        )
        self._min_free_bytes = settings.min_free_bytes
        self._pressure = Pressure(0, steps)
        self._retention_due_ns = 0
        self._space_due_ns = 0

    @property
    def due_ns(self) -> int | None:
        """When free space is measured next; None if it never is. The rest may wait for any `poll`."""
        return self._space_due_ns if self._watches_space else None

    @property
    def _watches_space(self) -> bool:
        return self._pressure.min_free_bytes > 0

    def open(self, plain: list[tuple[Path, str]], index: ManifestIndex) -> None:
        """Find what is there and begin to work; `plain` are sealed files, and checksums, to be compressed.

        `index` is what the manifest says. Raise `OSError`, and `ArchiveConfigError` where the bucket is another archive's.
        """
        self.retention.open()
        asked = self._min_free_bytes
        capacity_bytes = self._disk.capacity_bytes(self._folder) if asked is None else 0
        self._pressure.min_free_bytes = min_free_bytes(asked, capacity_bytes)
        self._shedding.stats.min_free_bytes = self._pressure.min_free_bytes
        if self._watches_space:
            # Before the first record: restarts must not use up what is to stay free.
            self._measure(refused=False)
        if self.compressor:
            for path, sha256 in plain:
                self.compressor.put(path, sha256)
            if self._background:
                self.compressor.start()
        if self.uploader and self._confirmer:
            self._open_uploads(
                self.uploader, {path for path, _ in plain} if self.compressor else set(), index
            )
            if self._background:
                self.uploader.start()
                self._confirmer.start()

    def _open_uploads(self, uploader: Uploader, to_compress: set[Path], index: ManifestIndex) -> None:
        """Queue the sealed files that are not on record as uploaded, the oldest first; some once they are compressed."""
        uploader.open(index)
        for file in find_files(self._names, self._disk):
            name = self._names.relative(file.plain)
            if file.rotated and not file.temporary and file.path not in to_compress and name in index.files:
                uploader.put(file.path, _sha256_on_disk(file.path, name, index))

    def _add_final(self, path: Path, sha256: str) -> None:
        """Take over a sealed file in its last form; from any thread."""
        self.retention.add(path)
        if self.uploader:
            self.uploader.put(path, sha256)

    def add(self, path: Path, sha256: str) -> None:
        """Take over a file of records that was rotated; `sha256` as for `Compressor.put`."""
        if self.compressor:
            self.retention.add(path)
            self.compressor.put(path, sha256)
        else:
            self._add_final(path, sha256)

    def add_side(self, path: Path, sha256: str) -> None:
        """Take over a file of rejects or positions that was rotated; these stay plain."""
        self._add_final(path, sha256)

    def measure_soon(self) -> None:
        """Measure free space at the next `poll`: a write was refused for want of it."""
        self._space_due_ns = 0

    def poll(self, now_ns: int, *, refused: bool) -> None:
        """Do what is due; `refused` says that the last write found no space."""
        if self.retention.enabled and now_ns >= self._retention_due_ns:
            self.retention.apply()
            secs = _ANSWER_SECS if self.retention.awaits_answers else _RETENTION_SECS
            self._retention_due_ns = now_ns + int(secs * 1e9)
        if self._watches_space and now_ns >= self._space_due_ns:
            self._measure(refused=refused)
        if not self._background:
            for worker in (self.compressor, self.uploader, self._confirmer):
                if worker:
                    worker.work()

    def close(self, deadline_ns: int) -> None:
        """Compress what still can be by the deadline (monotonic); the rest, and uploads, are left to the next start."""
        if self.compressor:
            if not self._background:
                while self.compressor.work():
                    pass
            self.compressor.stop(self._left_secs(deadline_ns))
        for uploading in (self._confirmer, self.uploader):
            if uploading:
                uploading.stop(self._left_secs(deadline_ns))

    def describe_end(self, deadline_ns: int) -> None:
        """Let the bucket have what the manifest says last, if it takes it by the deadline; after `close`."""
        if self.uploader:
            self.uploader.describe_end(self._left_secs(deadline_ns))

    def _left_secs(self, deadline_ns: int) -> float:
        return max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9)

    def _measure(self, *, refused: bool) -> None:
        """Measure free space, and do what follows from it."""
        now = self._clock.monotonic_ns()
        self._space_due_ns = now + int(_SPACE_SECS * 1e9)
        try:
            space = self._disk.space(self._folder)
        except OSError as error:
            log.warning("archive_space_unknown", path=str(self._folder), reason=reason_of(error))
            return
        before = self._pressure.step
        step = self._pressure.poll(space, now, refused=refused)
        stats = self._shedding.stats
        stats.free_bytes, stats.free_inodes = space
        if step is not before:
            self._change(before, step, space, refused=refused)
        if step >= Step.COMPRESS and Step.COMPRESS in self._pressure.steps:
            # What is plain could be smaller. A least size keeps each measurement from leaving a crumb.
            entered = before < Step.COMPRESS
            self._rotate(1 if entered else max(1, self._pressure.min_free_bytes // 4))
        if step >= Step.DELETE:
            self.retention.apply()

    def _change(self, before: Step, step: Step, space: Space, *, refused: bool) -> None:
        shedding, stats = self._shedding, self._shedding.stats
        shedding.follow(self._pressure)
        stats.step, stats.word = int(step), step.word
        stats.needed_bytes = self._pressure.left_at(step) if step else 0
        stats.losing = shedding.paused or shedding.quotes_kept_one_in != 1
        stats.transitions[step.word] += 1
        facts: dict[str, Any] = {
            "step": step.word,
            "before": before.word,
            "free_bytes": space.bytes,
            "free_inodes": space.inodes,
            "reason": self._reason(before, step, space, refused=refused),
            "sampled_out": stats.sampled_out,
            "dropped": stats.dropped,
        }
        self._manifest.append("pressure", **facts)
        floor = f"NDJSON_MIN_FREE_BYTES is {size_text(self._pressure.min_free_bytes)}"
        if step is Step.STOP:
            message = f"recording is paused: {size_text(space.bytes)} are free, and {floor}"
            log.error("archive_disk_pressure", message=message, **facts)
        elif step > before:
            message = f"the disk fills: {size_text(space.bytes)} are free, and {floor}"
            log.warning("archive_disk_pressure", message=message, **facts)
        else:
            log.info("archive_disk_pressure", message=f"there is space again; {floor}", **facts)
        if self.compressor:
            self.compressor.retry()

    def _reason(self, before: Step, step: Step, space: Space, *, refused: bool) -> str:
        if step < before:
            return "space_is_back"
        if refused:
            return "write_refused"
        return "free_bytes" if space.bytes < self._pressure.entered_below(step) else "free_inodes"

    def __repr__(self) -> str:
        return f"Housekeeping({self._folder}, {self._pressure!r}, {self._shedding!r})"


def _sha256_on_disk(path: Path, name: str, index: ManifestIndex) -> str:
    """Return the checksum that a sealed file has as it lies on disk; empty where the manifest does not say it."""
    compressed: Entry | None = index.compressed.get(name)
    if codec_of(path) != "none":
        return compressed.sha256 if compressed is not None and compressed.codec == codec_of(path) else ""
    segments = index.files.get(name, [])
    return segments[0].sha256 if len(segments) == 1 and not segments[0].offset else ""
