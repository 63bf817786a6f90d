"""The manifest in the bucket: it says whose files these are, and describes them as the manifest here does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk
from recorder.archive.manifest_index import first_bytes
from recorder.archive.reader import Content, lines, read_blocks
from recorder.errors import ObjectDiffers, StoreRefused
from recorder.objects.store import ObjectStore, Stored

_FIRST_LINE_BYTES_MAX: Final = 4 << 20


class OtherArchive(StoreRefused):
    """The files of another archive are where ours were to be put."""


class ManifestCopy:
    """A copy of the manifest, as far as that is durable here. It is put in the place of an older copy of the same one."""

    def __init__(self, path: Path, durable_bytes: Callable[[], int], disk: Disk) -> None:
        """`durable_bytes` says how much of the manifest is durable by now."""
        self._path = path
        self._durable_bytes = durable_bytes
        self._disk = disk
        self._name = path.name
        self._etag: str | None = None
        """Of the copy that is known to be there; None: nobody has looked."""

    def claim(self, store: ObjectStore) -> None:
        """Make sure that what is there is an older copy of our manifest, or nothing.

        Raise `OtherArchive`, `StoreRefused` where the copy knows more than the manifest here, or another `StoreError`.
        """
        found = store.head(self._name)
        if found is None:
            self._etag = ""
            return
        url = store.url_of(self._name)
        if not self._is_older_copy(store, found):
            if self._first_line() != _first_line(store.stream(self._name, etag=found.etag), url):
                raise OtherArchive(
                    f"{url} is the manifest of another archive: set ARCHIVE_UPLOAD_URL to a prefix of this archive's own"
                )
            raise StoreRefused(
                f"{url} knows of more than {self._path}, as where another recorder goes on with a copy of this "
                "archive, or an older manifest was restored here: end the other one, or bring the newer manifest back; "
                "until then nothing is uploaded"
            )
        self._etag = found.etag

    def check(self, store: ObjectStore) -> None:
        """Make sure that the copy is still there as it was put. Raise `StoreRefused` or another `StoreError`."""
        if not self._etag:
            return
        found = store.head(self._name)
        if found is None:
            raise StoreRefused(
                f"{store.url_of(self._name)} is gone, so nothing is uploaded: bring the bucket or the folder back as it "
                "was; if it is to begin anew, restart the recorder"
            )
        if found.etag != self._etag:
            # A put that was given up may still have been carried out, behind a later one.
            if not self._is_older_copy(store, found):
                raise StoreRefused(
                    f"{store.url_of(self._name)} was written by another program, so nothing is uploaded: "
                    "find it, and keep it away"
                )
            self._etag = found.etag

    def put(self, store: ObjectStore) -> None:
        """Put what is durable by now. Raise `OSError`, `Altered` or a `StoreError`."""
        size = self._durable_bytes()
        try:
            put = store.put_content(self._name, lambda: self._blocks(size), size, replaces=bool(self._etag))
        except ObjectDiffers as error:
            raise StoreRefused(f"{error}; until then nothing is uploaded") from error
        self._etag = put.etag

    @property
    def is_there(self) -> bool:
        """Whether any copy is known to be there."""
        return bool(self._etag)

    def _is_older_copy(self, store: ObjectStore, found: Stored) -> bool:
        """Return whether an object is what our manifest was at some time. Raise a `StoreError`."""
        if self._durable_bytes() < found.bytes:
            return False
        sha256 = found.sha256 or _sha256_of(store.stream(self._name, etag=found.etag))
        return self._sha256(found.bytes) == sha256

    def _blocks(self, size: int) -> Iterator[bytes]:
        return first_bytes(read_blocks(self._path, self._disk.open_read), size)

    def _sha256(self, size: int) -> str:
        return _sha256_of(self._blocks(size))

    def _first_line(self) -> bytes:
        if self._disk.stat(self._path) is None:
            return b""
        return _first_line(read_blocks(self._path, self._disk.open_read), str(self._path))


def _sha256_of(blocks: Iterator[bytes]) -> str:
    content = Content()
    for block in blocks:
        content.add(block)
    return content.sha256


def _first_line(blocks: Iterator[bytes], what: str) -> bytes:
    return next(lines(first_bytes(blocks, _FIRST_LINE_BYTES_MAX), what), b"")
