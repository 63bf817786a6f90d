"""What an archive does besides writing: it compresses and deletes sealed files, and yields as the disk fills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recorder.archive.compressor import Compressor
from recorder.archive.disk import Disk
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.pressure import LoadShedding, Pressure, ladder
from recorder.archive.retention import Retention
from recorder.archive.space import SpaceWatch
from recorder.archive.stats import ArchiveStats
from recorder.clock import Clock

if TYPE_CHECKING:
    from recorder.settings import ArchiveSettings

_RETENTION_SECS: Final = 10.0


class Upkeep:
    """Compression, retention and the watch on free space, each when it is due. Used by the archive's thread.

    Compression has a thread of its own; without one (`background`, for tests) `tick` does its work. Nothing here but
    `open` raises for the disk's sake.
    """

    def __init__(
        self,
        settings: ArchiveSettings,
        names: FileNames,
        *,
        shedding: LoadShedding,
        rotate: Callable[[int], None],
        manifest: Manifest,
        disk: Disk,
        clock: Clock,
        stats: ArchiveStats,
        background: bool,
    ) -> None:
        """`shedding` is told what to leave out; `rotate(size)` rotates every active file that is at least so large."""
        self._clock = clock
        self._background = background
        self.compressor = (
            None
            if settings.compression == "none"
            else Compressor(
                settings.compression,
                folder=names.folder,
                manifest=manifest,
                disk=disk,
                stats=stats,
                finished=lambda path: self.retention.add(path),
            )
        )
        self.retention = Retention(
            names,
            bytes_max=settings.retain_bytes,
            age_max_secs=settings.retain_secs,
            manifest=manifest,
            compressor=self.compressor,
            disk=disk,
            clock=clock,
            stats=stats,
        )
        steps = ladder(
            compresses=self.compressor is not None,
            deletes=self.retention.enabled,
            give=settings.pressure,
        )
        self._space = SpaceWatch(
            Pressure(settings.min_free_bytes, steps),
            shedding,
            names.folder,
            disk=disk,
            clock=clock,
            manifest=manifest,
            compressor=self.compressor,
            retention=self.retention,
            rotate=rotate,
        )
        self._retention_due_ns = 0

    @property
    def due_ns(self) -> int | None:
        """When free space is looked at next; None if it never is. What else there is to do may wait for any tick."""
        return self._space.due_ns if self._space.enabled else None

    def open(self, plain: list[tuple[Path, str]]) -> None:
        """Learn what is there and begin to work; `plain` are sealed files, and checksums, to be compressed.

        Raises `OSError`.
        """
        self.retention.open()
        if self._space.enabled:
            self._space.look()
        if self.compressor:
            for path, sha256 in plain:
                self.compressor.put(path, sha256)
            if self._background:
                self.compressor.start()

    def add(self, path: Path, sha256: str) -> None:
        """Take over a file of records that was rotated; `sha256` as for `Compressor.put`."""
        self.retention.add(path)
        if self.compressor:
            self.compressor.put(path, sha256)

    def add_rejects(self, path: Path) -> None:
        """Take over a file of rejects that was rotated; these stay plain."""
        self.retention.add(path)

    def look_soon(self, now_ns: int) -> None:
        """Look at free space in the next tick: a write was refused for want of it."""
        self._space.due_ns = now_ns

    def tick(self, now_ns: int, *, refused: bool) -> None:
        """Do what is due; `refused` says that the last write found no space."""
        if self.retention.enabled and now_ns >= self._retention_due_ns:
            self._retention_due_ns = now_ns + int(_RETENTION_SECS * 1e9)
            self.retention.apply()
        if self._space.enabled and now_ns >= self._space.due_ns:
            self._space.look(refused=refused)
        if self.compressor and not self._background:
            self.compressor.work()

    def close(self, deadline_ns: int) -> None:
        """Compress what still can be by the deadline (monotonic); the rest is left to the next start."""
        if self.compressor is None:
            return
        if not self._background:
            while self.compressor.work():
                pass
        self.compressor.stop(max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9))
