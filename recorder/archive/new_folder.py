"""The folder of a new archive: under another name until everything in it is durable; whole, or not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from recorder.archive.disk import NO_SPACE, Disk, reason_of
from recorder.archive.doubt import SyncDoubt
from recorder.archive.lock import ArchiveLock
from recorder.archive.manifest import Manifest
from recorder.archive.policy import FileNames
from recorder.archive.stats import ArchiveStats
from recorder.clock import SystemClock
from recorder.errors import ArchiveConfigError, ArchiveError, NoRoom, RecorderError

UNFINISHED_ENDING: Final = ".unfinished"
"""Ends the name of the folder in which an archive is made, beside the one that it becomes."""


class _RecordedTime(SystemClock):
    """The time of what is recorded, so that the manifest of old records does not speak of today."""

    def __init__(self) -> None:
        self.now_ms = 0

    def wall_ns(self) -> int:
        return self.now_ms * 1_000_000


class NewFolder:
    """An archive is made in a folder beside `folder`, which gets its name once everything in it is durable.

    A folder that an earlier try has left unfinished is emptied first. `with` leaves nothing behind where an error ends it.
    Every method raises `ArchiveError`, and `NoRoom` where the disk is full.
    """

    def __init__(self, folder: Path, run_id: str, *, stem: str, disk: Disk | None = None) -> None:
        """`folder` is missing or empty; the manifest is `STEM.manifest.ndjson`, and its lines are of `run_id`."""
        self._folder = folder
        self._unfinished = folder.with_name(folder.name + UNFINISHED_ENDING)
        self._disk = disk or Disk()
        self._clock = _RecordedTime()
        self._names = FileNames(str(self._unfinished / f"{stem}.ndjson"), split_per_type=False)
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
        self._is_finished = False

    def __enter__(self) -> Self:
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
        if not self._is_finished:
            try:
                self._empty()
                self._names.lock.unlink(missing_ok=True)
                self._unfinished.rmdir()
            except OSError:
                pass  # the next try empties it, and its name says what it is
        self._release()

    def _note(self, kind: str, at_ms: int, **fields: Any) -> None:
        """Add a line to the manifest, of something that happened then, Unix ms."""
        self._clock.now_ms = at_ms
        self._manifest.append(kind, **fields)
        self._raise_failure()

    def _finish(self, check: Callable[[Path], None] | None = None) -> None:
        """Rename the folder to its name, once `check` has found it whole. Raise `OSError`, `ArchiveError` or `NoRoom`."""
        self._manifest.close()
        self._raise_failure()
        if check is not None:
            self._release()
            check(self._unfinished)
        self._disk.rename(self._unfinished, self._folder)
        self._is_finished = True
        self._disk.sync_folder(self._folder.parent)

    def _is_ours(self, path: Path) -> bool:
        """Return whether an earlier try may have left a file."""
        raise NotImplementedError

    def _open(self) -> None:
        self._disk.make_folder(self._unfinished)
        strange = [path for path in self._unfinished.rglob("*") if path.is_file() and not self._is_ours(path)]
        if strange:
            raise ArchiveConfigError(f"{strange[0]} is in the way; remove it, or name another destination")
        self._lock.take(self._manifest, self._doubt)
        self._empty()
        self._manifest.open()

    def _empty(self) -> None:
        for path in sorted(self._unfinished.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            elif self._is_ours(path) and path != self._names.lock:
                self._disk.unlink(path)

    def _raise_failure(self) -> None:
        if self._manifest.failure:
            raise self._error(self._manifest.failure, is_full=self._manifest.is_full)

    def _failed(self, error: OSError) -> RecorderError:
        return self._error(reason_of(error), is_full=error.errno in NO_SPACE)

    def _error(self, reason: str, *, is_full: bool) -> RecorderError:
        text = f"cannot make {self._folder}: {reason}; nothing of it was left behind"
        return (
            NoRoom(f"{text}: make room, or name another place with --to") if is_full else ArchiveError(text)
        )

    def _release(self) -> None:
        self._manifest.close()
        self._doubt.release()
        self._lock.release()


def refuse_destination(folder: Path, manifests: Iterable[Path]) -> None:
    """Raise `ArchiveConfigError` where a new archive cannot be made, of others with these manifests."""
    if folder.name in ("", ".."):
        raise ArchiveConfigError(f"{folder} has no name of its own; name a new folder with --to")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ArchiveConfigError(f"{folder} exists and is not an empty folder; name a new one with --to")
    there = folder.resolve()
    for manifest in manifests:
        if there.is_relative_to(manifest.resolve().parent):
            raise ArchiveConfigError(
                f"{folder} is inside the archive {manifest.parent}; name another place with --to"
            )
