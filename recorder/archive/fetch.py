"""Brings the files of an archive back from a bucket, byte for byte, into a folder that is an archive again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recorder.archive.bucket import place_of
from recorder.archive.check import holds_segments
from recorder.archive.disk import NO_SPACE, Disk, reason_of
from recorder.archive.doubt import SyncDoubt
from recorder.archive.gone import records_of
from recorder.archive.layout import MANIFEST_ENDING, TMP_SUFFIX
from recorder.archive.look import Look, look_at
from recorder.archive.manifest import Manifest
from recorder.archive.manifest_checkpoint import LOCK_SUFFIX
from recorder.archive.manifest_index import NEVER_MS, Entry, ManifestIndex
from recorder.archive.reader import Content
from recorder.archive.recorded import manifests_of
from recorder.archive.stats import ArchiveStats
from recorder.archive.workers import Progress
from recorder.clock import SystemClock
from recorder.errors import Altered, ArchiveConfigError, ArchiveError, Incomplete, NoRoom, RecorderError

_BLOCK_BYTES: Final = 1 << 20
_UNFINISHED: Final = ".unfinished"
"""Ends the name of the manifest until all files are there."""
NOT_FETCHED: Final = "not_fetched"
"""Why a file is not there that is in the bucket."""
NOT_UPLOADED: Final = "not_uploaded"
"""Why records are lost that were in no file of the bucket."""


@dataclass(slots=True)
class Fetched:
    """What was brought back."""

    folder: Path
    files: int = 0
    bytes: int = 0
    files_before: int = 0
    """Those of them that were there already."""
    files_left: int = 0
    """Those that were not asked for."""
    records_lost: int = 0
    """Records that are in no file of the bucket."""
    problems: list[str] = field(default_factory=list)
    """What the bucket has lost."""
    notes: list[str] = field(default_factory=list)


class Fetch:
    """One archive of a bucket, as it comes into a folder.

    Each file has its name once it is whole and durable, and the manifest comes last. So a fetch that ended early is no
    archive yet, and the next one goes on where it was.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        *,
        start_ms: int = 0,
        end_ms: int = NEVER_MS,
        is_partial: bool = False,
    ) -> None:
        """Look at the archive, and choose the files that may have records of a time, Unix ms. Raise `ArchiveError`.

        With `is_partial`, what the bucket has lost is a problem that is noted, and the rest is brought.
        """
        self._place = place_of(path)
        manifests = manifests_of(path, self._place)
        if len(manifests) > 1:
            names = ", ".join(map(str, manifests))
            raise ArchiveConfigError(f"{path} has several archives; name the manifest of one: {names}")
        self._manifest_path = manifests[0]
        self._look: Final[Look] = look_at(self._manifest_path, place=self._place)
        self._disk = Disk()
        problems = [*self._look.read.report.problems]
        problems += [f"{name} is missing" for name, _ in self._look.located.missing]
        if problems and not is_partial:
            raise Incomplete(
                f"{path}: {problems[0]}; --partial brings the rest; `recorder verify {path}` says more"
            )
        self._is_partial = is_partial
        known = self._look.located.known
        self._entries: dict[Path, list[Entry]] = {
            paths[0]: self._look.index.files[name] for name, paths in known.items()
        }
        self._sums = {one.path: one.packed.sha256 for one in self._look.segments if one.packed is not None}
        for entry in self._look.index.uploaded.values():
            self._sums[self._manifest_path.parent / entry.object] = entry.sha256
        is_all = not start_ms and end_ms == NEVER_MS
        timely = {one.path for one in self._look.segments if one.may_have(start_ms, end_ms)}
        self._chosen = sorted(one for one in self._entries if is_all or one in timely)
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._total_bytes = sum(self._place.size_bytes(one) or 0 for one in self._chosen)
        self.found = Fetched(folder, files_left=len(self._entries) - len(self._chosen))
        self.found.problems += problems
        self.found.notes += self._look.read.report.notes
        self._folder = folder

    def run(self, jobs: int, progress: Progress | None = None) -> None:
        """Bring the files, `jobs` at a time, and the manifest.

        Raise `ArchiveError`, and `NoRoom` where the disk is full.
        """
        try:
            self._disk.make_folder(self._folder)
            self._refuse_unsuitable()
            lock = self._disk.lock(self._folder / (self._stem + LOCK_SUFFIX))
        except BlockingIOError as error:
            raise ArchiveConfigError(f"{self._folder}: another process is at work there") from error
        except OSError as error:
            raise self._failed(error) from error
        try:
            with ThreadPoolExecutor(jobs) as pool:
                try:
                    for _ in pool.map(lambda path: self._bring(path, progress), self._chosen):
                        pass
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            self._write_manifest()
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(lock)

    @property
    def _stem(self) -> str:
        return self._manifest_path.name.removesuffix(MANIFEST_ENDING)

    def _target(self, path: Path) -> Path:
        return self._folder / path.relative_to(self._manifest_path.parent).as_posix()

    def _refuse_unsuitable(self) -> None:
        ours = {self._target(path) for path in self._entries}
        ours |= {path.with_name(path.name + TMP_SUFFIX) for path in ours}
        ours |= {self._folder / (self._stem + LOCK_SUFFIX), self._unfinished_manifest}
        for path in self._disk.list_files(self._folder, deep=True):
            if path == self._folder / self._manifest_path.name:
                raise ArchiveConfigError(f"{self._folder} has an archive already; name a new folder")
            if path not in ours:
                raise ArchiveConfigError(f"{path} is in the way; name a new folder, or remove it")

    @property
    def _unfinished_manifest(self) -> Path:
        return self._folder / (self._manifest_path.name + _UNFINISHED)

    def _bring(self, path: Path, progress: Progress | None) -> None:
        """Bring one file, unless it is there. Raise `OSError` or `ArchiveError`."""
        target, size_bytes = self._target(path), self._place.size_bytes(path) or 0
        if is_there := self._is_there(path, target, size_bytes):
            self._tell(progress, size_bytes)
        else:
            try:
                self._copy(path, target, size_bytes, progress)
            except (Altered, FileNotFoundError) as error:
                if not self._is_partial:
                    raise Incomplete(f"{error}; --partial brings the rest") from error
                with self._lock:
                    self.found.problems.append(str(error))
                return
        with self._lock:
            self.found.files += 1
            self.found.bytes += size_bytes
            self.found.files_before += is_there

    def _is_there(self, path: Path, target: Path, size_bytes: int) -> bool:
        state = self._disk.stat(target)
        if state is None or state.st_size != size_bytes:
            return False
        if not (expected := self._sums.get(path, "")):
            return holds_segments(target, self._entries[path])
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == expected

    def _copy(self, path: Path, target: Path, size_bytes: int, progress: Progress | None) -> None:
        self._disk.make_folder(target.parent)
        unfinished = target.with_name(target.name + TMP_SUFFIX)
        content = Content()
        fd = self._disk.create(unfinished)
        try:
            with self._place.open_once(path) as file:
                while block := file.read(_BLOCK_BYTES):
                    self._disk.write_all(fd, block)
                    content.add(block)
                    self._tell(progress, len(block))
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        expected = self._sums.get(path, "")
        is_it = content.sha256 == expected if expected else holds_segments(unfinished, self._entries[path])
        if content.bytes != size_bytes or not is_it:
            self._disk.unlink(unfinished)
            raise Altered(f"{path}: it is not what was uploaded; `recorder verify {path.parent}` says more")
        if last_ms := max(entry.last_ingest_ts for entry in self._entries[path]):
            self._disk.set_mtime(unfinished, last_ms * 1_000_000)  # by which retention takes its age
        self._disk.rename(unfinished, target)
        self._disk.sync_folder(target.parent)

    def _tell(self, progress: Progress | None, count: int) -> None:
        with self._lock:
            self._done_bytes += count
            if progress is not None:
                progress(min(self._done_bytes, self._total_bytes), self._total_bytes)

    def _write_manifest(self) -> None:
        """Write the bucket's manifest, and behind its lines what of it is not here. Raise `OSError` or `ArchiveError`."""
        fd = self._disk.create(self._unfinished_manifest)
        try:
            with self._place.open(self._manifest_path) as file:
                self._disk.write_all(fd, file.read())
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        doubt = SyncDoubt(self._disk)
        manifest = Manifest(
            self._unfinished_manifest,
            run_id=self._look.index.last_run.run_id if self._look.index.last_run is not None else "",
            disk=self._disk,
            doubt=doubt,
            clock=SystemClock(),
            stats=ArchiveStats(),
        )
        try:
            manifest.open()
            for kind, fields in self._absent():
                manifest.append(kind, **fields)
            if manifest.failure:
                raise ArchiveError(manifest.failure)
        finally:
            manifest.close()
            doubt.release()
        self._disk.rename(self._unfinished_manifest, self._folder / self._manifest_path.name)
        self._disk.sync_folder(self._folder)

    def _absent(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what the manifest has to say of what is not here: files that were left, and records that are lost."""
        index = self._look.index
        for path in sorted(self._entries.keys() - set(self._chosen)):
            name = self._entries[path][-1].file
            yield (
                "segment_deleted",
                {"file": name, "bytes": self._place.size_bytes(path), "reason": NOT_FETCHED},
            )
        for name, entries in self._look.located.not_copied:
            if entries[-1].kind == "segment_closed":
                for entry in entries:
                    yield self._lost(entry.run_id, entry.records, entry.first_seq, entry.last_seq)
            yield "segment_deleted", {"file": name, "bytes": entries[-1].end, "reason": NOT_UPLOADED}
        run = index.last_run
        if run is not None and not run.ended:
            count, first, last = _unsealed(index, run.run_id)
            if count > 0:
                yield self._lost(run.run_id, count, first, last)

    def _lost(self, run_id: str, count: int, first: int, last: int) -> tuple[str, dict[str, Any]]:
        self.found.records_lost += count
        numbers = {"count": count, "first_seq": first, "last_seq": last}
        clusters = ",".join(sorted(self._look.index.opened_by)) or "unknown"
        return "drop", {
            "run_id": run_id,
            "cluster": clusters,
            "channel": "*",
            "reason": NOT_UPLOADED,
            **numbers,
        }

    def _failed(self, error: OSError) -> RecorderError:
        text = f"cannot write to {self._folder}: {reason_of(error)}"
        if error.errno in NO_SPACE:
            return NoRoom(f"{text}: make room, and fetch again: what is there stays")
        return ArchiveError(f"{text}; fetch again to go on")


def _unsealed(index: ManifestIndex, run_id: str) -> tuple[int, int, int]:
    """Return how many records a run that goes on had not sealed, up to the last number; and between which numbers they are.

    What is written to several files is sealed at several times.
    """
    entries = [entry for file in [*index.files.values(), *index.moved, index.deleted] for entry in file]
    entries = [
        one for one in entries if one.kind == "segment_closed" and one.run_id == run_id and one.records
    ]
    if not entries:
        return 0, 0, 0
    dropped = sum(one.count for one in index.runs[run_id].drops if one.channel)
    last = max(one.last_seq for one in entries)
    return last - records_of(entries) - dropped, 1, last
