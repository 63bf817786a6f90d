"""Watches the space that is left for an archive, and carries out what the ladder of disk pressure says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from recorder.archive.compressor import Compressor
from recorder.archive.disk import Disk, Space, reason_of
from recorder.archive.manifest import Manifest
from recorder.archive.pressure import LoadShedding, Pressure, Step
from recorder.archive.retention import Retention
from recorder.clock import Clock
from recorder.log import get_logger

log = get_logger("polygon_archive")

_LOOK_NS: Final = 1_000_000_000


class SpaceWatch:
    """Looks once a second, on the archive's thread. Every change of step is in the manifest, the log and the stats.

    Nothing here raises for the disk's sake; where free space cannot be told, the step stays as it is.
    """

    def __init__(
        self,
        pressure: Pressure,
        shedding: LoadShedding,
        folder: Path,
        *,
        disk: Disk,
        clock: Clock,
        manifest: Manifest,
        compressor: Compressor | None,
        retention: Retention,
        rotate: Callable[[int], None],
    ) -> None:
        """`rotate(size)` rotates every active file that is at least so large."""
        self.due_ns = 0
        self._pressure = pressure
        self._shedding = shedding
        self._folder = folder
        self._disk = disk
        self._clock = clock
        self._manifest = manifest
        self._compressor = compressor
        self._retention = retention
        self._rotate = rotate

    @property
    def enabled(self) -> bool:
        """Whether anything is to be left free."""
        return self._pressure.min_free_bytes > 0

    def look(self, *, refused: bool = False) -> None:
        """Measure, and do what follows; `refused` says that the last write found no space."""
        now = self._clock.monotonic_ns()
        self.due_ns = now + _LOOK_NS
        try:
            space = self._disk.space(self._folder)
        except OSError as error:
            log.warning("archive_space_unknown", path=str(self._folder), reason=reason_of(error))
            return
        before = self._pressure.step
        step = self._pressure.look(space, now, refused=refused)
        stats = self._shedding.stats
        stats.free_bytes, stats.free_inodes = space
        if step is not before:
            self._change(before, step, space, refused=refused)
        if step >= Step.COMPRESS and Step.COMPRESS in self._pressure.steps:
            # What is plain could be smaller; not below a size that would leave a crumb at each look.
            entered = before < Step.COMPRESS
            self._rotate(1 if entered else max(1, self._pressure.min_free_bytes // 4))
        if step >= Step.DELETE:
            self._retention.apply()

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
        tell = log.error if step is Step.STOP else log.warning
        tell("archive_disk_pressure", **facts)
        if self._compressor:
            self._compressor.retry()

    def _reason(self, before: Step, step: Step, space: Space, *, refused: bool) -> str:
        if step < before:
            return "space_is_back"
        if refused:
            return "write_refused"
        return "free_bytes" if space.bytes < self._pressure.entered_below(step) else "free_inodes"

    def __repr__(self) -> str:
        return f"SpaceWatch({self._folder}, {self._pressure!r}, {self._shedding!r})"
