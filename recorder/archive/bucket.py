"""An archive in a bucket as a place of files: listed once, each sealed file fetched when it is first read."""

from __future__ import annotations

import errno
import hashlib
import io
import threading
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from recorder.archive.ahead import Ahead, Expected
from recorder.archive.layout import MANIFEST_ENDING
from recorder.archive.object_cache import ObjectCache
from recorder.archive.place import HERE, Place
from recorder.errors import Altered, ArchiveError, ObjectDiffers, ObjectMissing, StoreError, Unreadable
from recorder.objects.path import ObjectPath
from recorder.objects.store import BLOCK_BYTES, ObjectStore, Stored

_AHEAD_SHARE: Final = 4
"""What part of the cache, one in so many, may be taken by files that nobody has asked for yet."""
_LOOKS_MAX: Final = 10
"""A manifest that is replaced while it is read is read again, so often at most."""


def place_of(path: Path) -> Place:
    """Return where the files below a path are. Raise `StoreError`, `ConfigError` or `PackageMissing` for a bucket."""
    return Bucket(path) if isinstance(path, ObjectPath) else HERE


class Bucket:
    """The objects below the prefix that a path names, or that the manifest or active file is in that it names.

    The manifest is a copy, made behind each upload. It is read once, so that whoever has this reads an archive as it was
    then. Files come through a cache of this machine. What the store refuses later, when a file is read, is `Unreadable`.
    """

    is_copy = True

    def __init__(self, path: ObjectPath) -> None:
        from recorder.settings.load import store_environ  # which a folder does without

        is_file = path.name.endswith((MANIFEST_ENDING, ".ndjson"))
        self._path = path
        self._root = path.parent if is_file else path
        self._store = ObjectStore(str(self._root), store_environ())
        self._manifests: dict[Path, bytes] = {}
        self._listed: dict[Path, Stored] | None = None
        self._ahead: Ahead | None = None

    @cached_property
    def cache(self) -> ObjectCache:
        """Where files are kept once they were read. Raise `ConfigError`."""
        return ObjectCache.of_environment()

    def list_files(self, folder: Path, *, deep: bool) -> list[Path]:
        """Return the objects below a prefix, sorted. Raise `StoreError`."""
        found = (path for path in self._list() if path.is_relative_to(folder))
        return sorted(path for path in found if deep or path.parent == folder)

    def is_folder(self, path: Path) -> bool:
        """Return whether there are objects below a prefix. Raise `StoreError`."""
        return any(path in one.parents for one in self._list())

    def size_bytes(self, path: Path) -> int | None:
        """Return the size of an object; None where there is none. Raise `StoreError`."""
        stored = self._list().get(path)
        return None if stored is None else stored.bytes

    def form(self, path: Path) -> Path:
        """Return the name of a file: what was uploaded stays as it is."""
        return path

    def open(self, path: Path, sha256: str = "") -> BinaryIO:
        """Open a manifest as it was first read, or a file through the cache. Raise `OSError` or `ArchiveError`."""
        if path.name.endswith(MANIFEST_ENDING):
            return io.BytesIO(self._manifest(path))
        if self._ahead is not None:
            self._ahead.reach(path)
        return self._open(path, sha256)

    def expect(self, files: Sequence[tuple[Path, str]]) -> None:
        """Fetch the next ones of these files into the cache while one of them is read, as far as it has room for them."""
        listed = self._list()
        expected = [Expected(path, sha256, listed[path].bytes) for path, sha256 in files if path in listed]
        self._ahead = Ahead(expected, self._bring, self.cache.bytes_max // _AHEAD_SHARE)

    def _bring(self, file: Expected) -> None:
        self._open(file.path, file.sha256, is_ahead=True).close()

    def _open(self, path: Path, sha256: str, *, is_ahead: bool = False) -> BinaryIO:
        stored = self._stored(path)

        def fetch() -> Iterator[bytes]:
            try:
                blocks = self._blocks(path, stored)
                return _until_exit(blocks, path) if is_ahead else blocks
            except FileNotFoundError as error:
                raise Unreadable(
                    f"{path} was deleted since the archive was opened; see `recorder verify`"
                ) from error

        return self.cache.open(_key(path, stored, sha256), stored.bytes, sha256, fetch, str(path))

    def open_once(self, path: Path) -> BinaryIO:
        """Open an object that passes by in memory. Raise `OSError` or `ArchiveError`, also while it is read."""
        if path.name.endswith(MANIFEST_ENDING):
            return self.open(path)
        body = _Body(self._blocks(path, self._stored(path)))
        return cast(BinaryIO, io.BufferedReader(body, BLOCK_BYTES))

    def forget(self, path: Path, sha256: str = "") -> bool:
        """Let a file be fetched again; return whether it came from the cache."""
        return self.cache.forget(_key(path, self._stored(path), sha256))

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _list(self) -> dict[Path, Stored]:
        if self._listed is None:
            self._listed = {self._root / stored.name: stored for stored in self._store.list()}
        return self._listed

    def _stored(self, path: Path) -> Stored:
        stored = self._list().get(path)
        if stored is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path))
        return stored

    def _manifest(self, path: Path) -> bytes:
        """Return a manifest. Raise `StoreError`, `FileNotFoundError`, and `Altered` where it is not what was put there."""
        if path not in self._manifests:
            self._manifests[path] = self._read_manifest(self._name(path))
            # What the manifest has as uploaded was there before; what was listed before the manifest was read may be less.
            self._listed = None
        return self._manifests[path]

    def _read_manifest(self, name: str) -> bytes:
        for attempt in range(_LOOKS_MAX):
            stored = self._store.head(name)
            if stored is None:
                break
            try:
                data = b"".join(self._store.stream(name, etag=stored.etag))
            except ObjectDiffers:
                if attempt == _LOOKS_MAX - 1:
                    raise
                continue  # another upload has replaced it
            if stored.sha256 not in ("", hashlib.sha256(data).hexdigest()):
                raise Altered(
                    f"{self._store.url_of(name)}: it is not what was uploaded; see `recorder verify`"
                )
            return data
        raise FileNotFoundError(errno.ENOENT, "there is no such object", self._store.url_of(name))

    def _blocks(self, path: Path, stored: Stored) -> Iterator[bytes]:
        """Yield an object that was listed; by the first block it is known to be there."""
        blocks = _checked(self._store.stream(stored.name, etag=stored.etag), path)
        try:
            first = next(blocks, b"")
        except ObjectMissing as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from error
        return _with_first(first, blocks)

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that shares the work has connections and a list of its own.
        return (_of_process, (self._path,))

    def __repr__(self) -> str:
        return f"Bucket({self._root})"


@cache
def _of_process(path: ObjectPath) -> Bucket:
    """Return the one bucket of a process to which others hand work."""
    return Bucket(path)


def _key(path: Path, stored: Stored, sha256: str) -> str:
    """Return by what the cache knows an object: its checksum, or what the store says of it."""
    return sha256 or hashlib.sha256(f"{path} {stored.bytes} {stored.etag}".encode()).hexdigest()


def _checked(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Yield the blocks of an object; what the store does instead is an error of the archive."""
    try:
        yield from blocks
    except ObjectMissing:
        raise
    except ObjectDiffers as error:
        raise Altered(
            f"{path}: another object has this name since the archive was opened; open it again"
        ) from error
    except StoreError as error:
        raise Unreadable(str(error)) from error


def _with_first(first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from blocks


def _until_exit(blocks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Yield the blocks for as long as the program goes on: it waits for its threads when it ends."""
    for block in blocks:
        if not threading.main_thread().is_alive():
            raise ArchiveError(f"{path}: the program ends")
        yield block


class _Body(io.RawIOBase):
    """Blocks as a file that is read from its beginning."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
