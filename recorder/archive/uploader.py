"""Puts sealed files into a bucket one by one: each is proven there, then on record here, then described there."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from recorder.archive.bucket_thread import BucketThread
from recorder.archive.codec import plain_path
from recorder.archive.context import ArchiveContext, StoreMaker
from recorder.archive.disk import reason_of
from recorder.archive.manifest_copy import ManifestCopy, OtherArchive
from recorder.archive.manifest_index import ManifestIndex
from recorder.archive.reader import read_blocks
from recorder.backoff import Backoff
from recorder.errors import ArchiveConfigError, ArchiveError, ObjectDiffers, RecorderError, StoreError
from recorder.log import get_logger
from recorder.objects.store import ObjectStore
from recorder.objects.url import read_url

log = get_logger("polygon_archive")

RETRY_SECS: Final = 60.0
RETRY_SECS_MAX: Final = 3600.0
"""The waits before a file that was refused is tried again: they double from the first to the last."""
AWAY_SECS: Final = 1.0
AWAY_SECS_MAX: Final = 300.0
"""The bounds of the waits while the store as a whole cannot be used."""
_DESCRIBE_SECS: Final = 1.0
_DESCRIBE_SHARE: Final = 10
"""While files wait, the manifest is put so often at most, and takes one of so many seconds; behind the last file at once."""
_LOOK_SECS: Final = 5.0
"""How long a start waits for a store that it does not know."""
_END_SECS: Final = 2.0
"""So long a stop waits at most for the manifest to be put when a run ends."""


class Uploaded(NamedTuple):
    """A file in the bucket, as it was when it was proven there."""

    object: str
    bytes: int
    sha256: str
    etag: str


class _StoppedError(Exception):
    """The uploader is to stop in the middle of a file."""


@dataclass(slots=True)
class _Waiting:
    """A sealed file, in the form in which it is to be uploaded."""

    path: Path
    sha256: str
    """Of the file as it lies on disk; empty where nothing says it."""
    bytes: int
    sealed_ms: int
    due_ns: int = 0
    """When it is tried again, if it was refused (monotonic)."""
    wait_secs: float = RETRY_SECS


class Uploader(BucketThread):
    """Uploads files one after the other, in the order in which they came, in a thread of its own once it is started.

    A file counts as uploaded when the store has been seen to have it; as described, hence free to go here, when the
    manifest in the bucket has its line besides. A store that is away, or that refuses, is tried again after waits that
    grow; a single file that is refused waits alone. Nothing here raises but `open`, and nothing is deleted anywhere.
    What a stop interrupts leaves no object, and is uploaded by the next start.
    """

    def __init__(
        self,
        context: ArchiveContext,
        make_store: StoreMaker,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__("archive-uploader")
        self._names = context.names
        self._disk = context.disk
        self._clock = context.clock
        self._manifest = context.manifest
        self._make_store = make_store
        self._url = read_url(context.settings.upload_url or "")
        self._bytes_per_sec = context.settings.upload_bytes_per_sec
        self._stats = context.stats.upload
        self._stats.url = str(self._url)
        self._copy = ManifestCopy(
            context.names.manifest, lambda: context.manifest.durable_bytes, context.disk
        )
        self._backoff = Backoff(AWAY_SECS, AWAY_SECS_MAX, uniform)
        self._store: ObjectStore | None = None
        self._is_ours = False
        """Whether the bucket was seen to have nothing but this archive's files under the manifest's name."""
        self._waiting: deque[_Waiting] = deque()
        self._refused: list[_Waiting] = []
        self._uploaded: dict[str, Uploaded] = {}
        """By plain name, files that are here and there, and that the manifest in the bucket may not know yet."""
        self._described: dict[str, Uploaded] = {}
        """The same, once it does."""
        self._paused_until_ns = 0
        self._describe_due_ns = 0
        self._send_due_ns = 0

    def open(self, index: ManifestIndex) -> None:
        """Take what the manifest has of uploads; ask a store that it does not know whose it is.

        Raise `ArchiveConfigError` where it is another archive's. Whether the store can be used is no matter here.
        """
        for name, entry in index.uploaded.items():
            if entry.url == self._url.of(entry.object) and name in index.files:
                self._uploaded[name] = Uploaded(entry.object, entry.bytes, entry.sha256, entry.etag)
        if any(entry.url.startswith(f"{self._url}/") for entry in index.uploaded.values()):
            return
        try:
            self._copy.claim(self._make_store(timeout_secs=_LOOK_SECS, retries=0))
        except OtherArchive as error:
            raise ArchiveConfigError(str(error)) from error
        except (StoreError, ArchiveError):
            return  # the thread tries again, and shows it

    def put(self, path: Path, sha256: str = "") -> None:
        """Queue a sealed file, unless it is uploaded; `sha256` is its checksum on disk, where one is known. Any thread."""
        name = self._names.relative(plain_path(path))
        try:
            state = self._disk.stat(path)
        except OSError:
            state = None
        size, sealed_ms = (state.st_size, int(state.st_mtime * 1000)) if state else (0, 0)
        with self._changed:
            if name not in self._uploaded and name not in self._described:
                self._waiting.append(_Waiting(path, sha256, size, sealed_ms))
                self._note_change(size)

    def described(self, name: str) -> Uploaded | None:
        """Return what the bucket has, and describes, of a file by its plain name; None where it has not. Any thread."""
        with self._changed:
            return self._described.get(name)

    def describes_soon(self, name: str) -> bool:
        """Return whether the bucket has a file that the manifest there is about to have. Any thread."""
        with self._changed:
            return name in self._uploaded and not self._stats.failure

    def forget(self, name: str) -> None:
        """Note that a file is gone here. Any thread."""
        with self._changed:
            self._described.pop(name, None)

    def again(self, path: Path) -> None:
        """Upload a file again, which the bucket has lost. Any thread."""
        self.forget(self._names.relative(plain_path(path)))
        self.put(path)

    def stop(self, timeout_secs: float) -> None:
        """Stop, if need be in the middle of a file."""
        super().stop(timeout_secs)
        if self._waiting or self._refused:
            log.info("archive_upload_left", files=len(self._waiting) + len(self._refused))

    def describe_end(self, timeout_secs: float) -> None:
        """Put the manifest once more, which says by now how the run ended; after `stop`, and for so long at most.

        A store that is away gets it behind the first upload of the next run.
        """
        store, secs = self._store, min(_END_SECS, timeout_secs)
        if store is None or not self._is_ours or self._stats.failure:
            return
        if self._thread is None:
            self._put_end(store)
            return
        last = self._thread  # amid a request that is not answered, if it is alive
        if not last.is_alive():
            last = threading.Thread(target=self._put_end, args=(store,), name=self._name, daemon=True)
            last.start()
            last.join(secs)
        if last.is_alive():
            log.warning("archive_end_not_uploaded", reason=f"{self._url} does not answer in time")

    def _put_end(self, store: ObjectStore) -> None:
        try:
            self._copy.check(store)
            self._copy.put(store)
        except (RecorderError, OSError) as error:
            log.warning("archive_end_not_uploaded", reason=_reason_of(error))

    def work(self, *, wait: bool = False) -> bool:
        """Do what is due next; `wait` for it if nothing is. Return False when there is nothing more to do."""
        with self._changed:
            self._take_due()
            while wait and not self._stopping and not self._has_work():
                self._changed.wait(self._due_secs())
                self._take_due()
            if self._stopping or not self._has_work():
                return False
            waiting = self._waiting[0] if self._waiting else None
        try:
            store = self._usable_store()
            if waiting is not None:
                self._try(store, waiting)
            if self._must_describe():
                self._describe(store)
        except _StoppedError:
            return False
        except (RecorderError, OSError) as error:
            self._pause(error)
        return True

    def _try(self, store: ObjectStore, waiting: _Waiting) -> None:
        """Upload a file, or set it aside where it is this file that cannot be. Raise what concerns all files."""
        try:
            self._upload(store, waiting)
        except (ObjectDiffers, ArchiveError, OSError) as error:
            self._set_aside(waiting, error)

    def _usable_store(self) -> ObjectStore:
        """Return the store, which is known to be ours. Raise `StoreError`, `ConfigError` or `ArchiveError`."""
        store = self._store
        if store is None:
            store = self._store = self._make_store()
        if not self._is_ours:
            self._copy.claim(store)
            if not self._copy.is_there:
                self._describe(store)  # from here on, the place is taken
            self._is_ours = True
        else:
            self._copy.check(store)
        return store

    def _upload(self, store: ObjectStore, waiting: _Waiting) -> None:
        path, begin_ns = waiting.path, self._clock.monotonic_ns()
        name, target = self._names.relative(plain_path(path)), self._names.relative(path)
        state = self._disk.stat(path)
        if state is None:
            raise ArchiveError(f"{path} was removed by another program before it was uploaded")
        self._send_due_ns = begin_ns
        put = store.put_content(
            target, lambda: self._blocks(path), state.st_size, waiting.sha256, pace=self._pace
        )
        self._stop_if_asked()
        self._manifest.append(
            "segment_uploaded",
            file=name,
            object=target,
            url=store.url_of(target),
            bytes=put.bytes,
            sha256=put.sha256,
            etag=put.etag,
        )
        secs = (self._clock.monotonic_ns() - begin_ns) / 1e9
        log.info("archive_file_uploaded", url=store.url_of(target), bytes=put.bytes, secs=round(secs, 3))
        with self._changed:
            self._waiting.popleft()
            self._uploaded[name] = Uploaded(target, put.bytes, put.sha256, put.etag)
            self._stats.uploaded += 1
            self._stats.uploaded_bytes += put.bytes
            self._stats.last_success = self._clock.wall_ns() // 1_000_000
            self._note_change(-waiting.bytes)
        self._resume()

    def _describe(self, store: ObjectStore) -> None:
        """Put the manifest, so that the bucket says what it has; what that covers may go here."""
        begin_ns = self._clock.monotonic_ns()
        with self._changed:
            covered = dict(self._uploaded)
        # Otherwise its newest lines are in memory alone.
        if not self._manifest.flush():
            raise ArchiveError(
                f"the manifest cannot be written, and is not uploaded: {self._manifest.failure}"
            )
        self._copy.put(store)
        with self._changed:
            for name, uploaded in covered.items():
                self._described[name] = uploaded
                del self._uploaded[name]
            now_ns = self._clock.monotonic_ns()
            took_ns = now_ns - begin_ns
            self._describe_due_ns = now_ns + max(int(_DESCRIBE_SECS * 1e9), _DESCRIBE_SHARE * took_ns)
        self._resume()

    def _must_describe(self) -> bool:
        with self._changed:
            is_due = not self._waiting or self._clock.monotonic_ns() >= self._describe_due_ns
            return bool(self._uploaded) and is_due

    def _blocks(self, path: Path) -> Iterator[bytes]:
        for block in read_blocks(path, self._disk.open_read, codec="none"):
            self._stop_if_asked()
            yield block

    def _pace(self, count: int) -> None:
        """Wait until so many more bytes may be sent."""
        if self._bytes_per_sec is None:
            return
        with self._changed:
            while not self._stopping and (left_ns := self._send_due_ns - self._clock.monotonic_ns()) > 0:
                self._changed.wait(left_ns / 1e9)
        self._stop_if_asked()
        self._send_due_ns += count * 1_000_000_000 // self._bytes_per_sec

    def _stop_if_asked(self) -> None:
        if self._stopping:
            raise _StoppedError

    def _pause(self, error: Exception) -> None:
        """Show that the store cannot be used, and try it again later."""
        secs = self._backoff.next_secs()
        reason = _reason_of(error)
        if self._stats.failure != reason:
            log.error("archive_upload_fails", reason=reason, retry_secs=round(secs, 1))
        with self._changed:
            self._stats.errors += 1
            self._stats.failure = reason
            self._paused_until_ns = self._clock.monotonic_ns() + int(secs * 1e9)

    def _resume(self) -> None:
        if self._stats.failure:
            log.info("archive_upload_works_again", after=self._stats.failure)
        self._stats.failure = ""
        self._backoff.reset()

    def _set_aside(self, waiting: _Waiting, error: Exception) -> None:
        """Show that a file was refused, and try it again later, unless somebody has taken it away."""
        reason = _reason_of(error)
        retry_secs = None if self._is_gone(waiting.path) else waiting.wait_secs
        log.error("archive_upload_refused", path=str(waiting.path), reason=reason, retry_secs=retry_secs)
        with self._changed:
            self._stats.errors += 1
            self._waiting.popleft()
            if retry_secs is not None:
                waiting.due_ns = self._clock.monotonic_ns() + int(retry_secs * 1e9)
                waiting.wait_secs = min(2 * retry_secs, RETRY_SECS_MAX)
                self._refused.append(waiting)
            self._note_change(-waiting.bytes if retry_secs is None else 0)

    def _is_gone(self, path: Path) -> bool:
        try:
            return self._disk.stat(path) is None
        except OSError:
            return False

    def _has_work(self) -> bool:
        is_paused = self._clock.monotonic_ns() < self._paused_until_ns
        return not is_paused and bool(self._waiting or self._uploaded or not self._is_ours)

    def _take_due(self) -> None:
        """Queue again what was refused and has waited long enough."""
        now_ns = self._clock.monotonic_ns()
        self._waiting.extend(each for each in self._refused if each.due_ns <= now_ns)
        self._refused = [each for each in self._refused if each.due_ns > now_ns]

    def _due_secs(self) -> float | None:
        """Return how long nothing is to be done; None: until something comes."""
        now_ns = self._clock.monotonic_ns()
        due_ns = [each.due_ns for each in self._refused]
        if self._paused_until_ns > now_ns:
            due_ns.append(self._paused_until_ns)
        return max(0.0, (min(due_ns) - now_ns) / 1e9) if due_ns else None

    def _note_change(self, more_bytes: int) -> None:
        """Show what waits; so many bytes more of it, or fewer."""
        # The oldest comes first, and after years there are many: this must not look at each of them for each.
        oldest = [each.sealed_ms for each in (*self._refused, *islice(self._waiting, 1))]
        self._stats.waiting_files = len(self._waiting) + len(self._refused)
        self._stats.waiting_bytes += more_bytes
        self._stats.waiting_since = min(oldest, default=None)
        self._changed.notify_all()


def _reason_of(error: Exception) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)
