"""Asks the bucket, just before a file is deleted here, whether it still has it as it was when it was proven there."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from recorder.archive.bucket_thread import BucketThread
from recorder.archive.codec import plain_path
from recorder.archive.context import ArchiveContext, StoreMaker
from recorder.archive.uploader import Uploaded, Uploader
from recorder.errors import StoreError
from recorder.log import RateLimited, get_logger
from recorder.objects.store import ObjectStore

log = get_logger("polygon_archive")

FRESH_SECS: Final = 60.0
"""For so long an answer of the bucket counts."""
_WARN_SECS: Final = 60.0

Confirmation = Literal["yes", "asked", "no"]


class Confirmer(BucketThread):
    """Looks at objects in a thread of its own, so that a bucket that is slow or away keeps nothing from being written."""

    def __init__(self, context: ArchiveContext, make_store: StoreMaker, uploader: Uploader) -> None:
        super().__init__("archive-confirmer")
        self._names = context.names
        self._clock = context.clock
        self._stats = context.stats.upload
        self._make_store = make_store
        self._uploader = uploader
        self._store: ObjectStore | None = None
        self._asked: dict[Path, Uploaded] = {}
        self._answers: dict[Path, tuple[int, bool]] = {}
        """When each file was looked at (monotonic), and whether it is there."""
        self._warnings = RateLimited(_WARN_SECS)

    def confirms(self, path: Path) -> Confirmation:
        """Return whether the bucket was seen to have a file a moment ago; otherwise it is asked. Does not wait.

        `asked` says that the answer comes within a second or so; `no`, that the bucket has not the file, or did not answer.
        """
        name = self._names.relative(plain_path(path))
        uploaded = self._uploader.described(name)
        if uploaded is None:
            return "asked" if self._uploader.describes_soon(name) else "no"
        with self._changed:
            at_ns, is_there = self._answers.get(path, (None, False))
            is_fresh = at_ns is not None and self._clock.monotonic_ns() - at_ns < FRESH_SECS * 1e9
            if is_fresh and is_there:
                return "yes"
            self._asked[path] = uploaded
            self._changed.notify_all()
            return "no" if is_fresh else "asked"

    def forget(self, path: Path) -> None:
        """Note that a file is gone here."""
        with self._changed:
            self._answers.pop(path, None)
        self._uploader.forget(self._names.relative(plain_path(path)))

    def work(self, *, wait: bool = False) -> bool:
        """Look at the next file; `wait` for one if there is none. Return False when there is nothing more to do."""
        with self._changed:
            while wait and not self._asked and not self._stopping:
                self._changed.wait()
            if self._stopping or not self._asked:
                return False
            path, uploaded = next(iter(self._asked.items()))
        is_there = False
        try:
            is_there = self._look(path, uploaded)
        except StoreError as error:
            self._warn(str(error))
        with self._changed:
            self._asked.pop(path, None)
            self._answers[path] = (self._clock.monotonic_ns(), is_there)
        return True

    def _look(self, path: Path, uploaded: Uploaded) -> bool:
        """Return whether the bucket has a file. Raise `StoreError`."""
        if self._store is None:
            self._store = self._make_store(timeout_secs=30)
        found = self._store.head(uploaded.object)
        url = self._store.url_of(uploaded.object)
        if found is None:
            log.error("archive_upload_lost", path=str(path), url=url)
            self._stats.errors += 1
            self._uploader.again(path)
            return False
        if (found.bytes, found.etag) != (uploaded.bytes, uploaded.etag) or found.sha256 not in (
            "",
            uploaded.sha256,
        ):
            self._warn(
                f"{url} is not what was uploaded: another program has replaced it; find it, and keep it away"
            )
            return False
        return True

    def _warn(self, reason: str) -> None:
        self._stats.errors += 1
        suppressed = self._warnings.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            log.error("archive_upload_unconfirmed", reason=reason, suppressed=suppressed)
