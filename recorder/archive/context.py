"""What the parts of an archive's write path share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from recorder.archive.disk import Disk
from recorder.archive.doubt import SyncDoubt
from recorder.archive.lock import ArchiveLock
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.stats import ArchiveStats
from recorder.clock import Clock
from recorder.objects.store import ObjectStore

if TYPE_CHECKING:
    from recorder.settings import ArchiveSettings


class StoreMaker(Protocol):
    """Makes the store that the settings name."""

    def __call__(self, *, timeout_secs: float = 120, retries: int = 2) -> ObjectStore:
        """Return a store for one thread. Raise `ConfigError` where it cannot be used."""


@dataclass(frozen=True, slots=True)
class ArchiveContext:
    """One archive and one run that writes to it."""

    settings: ArchiveSettings
    names: FileNames
    run_id: str
    lock: ArchiveLock
    manifest: Manifest
    doubt: SyncDoubt
    disk: Disk
    clock: Clock
    stats: ArchiveStats
    store: StoreMaker | None = None
    """Makes what sealed files are uploaded to; None: they are not."""

    @classmethod
    def create(
        cls,
        settings: ArchiveSettings,
        *,
        run_id: str,
        clock: Clock,
        stats: ArchiveStats,
        disk: Disk | None = None,
        store: StoreMaker | None = None,
    ) -> ArchiveContext:
        """Return the context of an archive that is not opened yet; `disk` is for tests."""
        names = FileNames(settings.dest, settings.split_per_type)
        disk = disk or Disk()
        doubt = SyncDoubt(disk)
        manifest = Manifest(names.manifest, run_id=run_id, disk=disk, doubt=doubt, clock=clock, stats=stats)
        lock = ArchiveLock(names, disk)
        return cls(settings, names, run_id, lock, manifest, doubt, disk, clock, stats, store)
