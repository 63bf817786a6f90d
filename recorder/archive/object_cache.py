"""Objects of a bucket that were read, kept on this machine by what is in them, up to a bound."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from recorder.archive.disk import NO_SPACE, Disk
from recorder.errors import Altered, ConfigError, NoRoom
from recorder.units import exact_size_text, read_size

BYTES_MAX_VARIABLE: Final = "OBJECT_CACHE_BYTES"
BYTES_MAX: Final = 10 << 30
_LEFT_OVER_SECS: Final = 3600
"""An unfinished file that nobody has written to for so long belongs to a process that was killed."""
_TMP: Final = ".tmp"


class ObjectCache:
    """Files by the checksum of what is in them, in a folder that processes share.

    A file has its name once it is whole and has its checksum. Those that were used least recently go first. A file may go
    at any time, and whoever has it open keeps it.
    """

    def __init__(self, folder: Path, bytes_max: int = BYTES_MAX) -> None:
        self.folder = folder
        self.bytes_max = bytes_max
        self._lock = threading.Lock()
        self._bytes: int | None = None
        """Of all files, as far as this process knows; None before it has looked."""

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> ObjectCache:
        """Return the cache of this user. Raise `ConfigError` where the environment names none."""
        home, caches = environ.get("HOME", ""), environ.get("XDG_CACHE_HOME", "")
        if not (home or caches):
            raise ConfigError(
                "XDG_CACHE_HOME must name a folder for what is read of a bucket: HOME is not set"
            )
        text = environ.get(BYTES_MAX_VARIABLE, "")
        try:
            bytes_max = int(read_size(text)) if text else BYTES_MAX
        except ValueError as error:
            raise ConfigError(f"{BYTES_MAX_VARIABLE}={text!r} is not a size such as 64M or 10GiB") from error
        folder = Path(caches or Path(home, ".cache"), "recorder", "objects")
        return cls(folder, min(bytes_max, _free_bytes(folder) // 2))

    def open(
        self, key: str, size_bytes: int, sha256: str, fetch: Callable[[], Iterator[bytes]], name: str
    ) -> BinaryIO:
        """Open the file that has a key, fetched if it is not here.

        `sha256` is the checksum that it must have, empty where that is not known. Raise `Altered` where what was fetched is
        not that, `NoRoom` or `ConfigError` where it cannot be kept, and what `fetch` raises. `name` is for people.
        """
        path = self.path(key)
        with suppress(OSError):
            file = open(path, "rb")  # noqa: SIM115 - whoever asked for it closes it
            state = os.fstat(file.fileno())
            if state.st_size == size_bytes:
                # The time of the last use; the time of the last change stays, by which proofs know the file.
                with suppress(OSError):
                    os.utime(path, ns=(time.time_ns(), state.st_mtime_ns))
                return file
            file.close()
        try:
            return self._fetch(path, size_bytes, sha256, fetch(), name)
        except OSError as error:
            what = f"cannot keep {name} in {self.folder}: {error.strerror or error}"
            if error.errno in NO_SPACE:
                raise NoRoom(f"{what}: make room, or name another place with XDG_CACHE_HOME") from error
            raise ConfigError(
                f"{what}: make it writable, or name another place with XDG_CACHE_HOME"
            ) from error

    def forget(self, key: str) -> bool:
        """Delete a file; return whether there was one."""
        try:
            self.path(key).unlink()
        except OSError:
            return False
        return True

    def path(self, key: str) -> Path:
        """Return where the file with a key is, if it is here."""
        return self.folder / key[:2] / key

    def _fetch(
        self, path: Path, size_bytes: int, sha256: str, blocks: Iterator[bytes], name: str
    ) -> BinaryIO:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256()
        count = 0
        descriptor, text = tempfile.mkstemp(_TMP, dir=path.parent)
        unfinished = Path(text)
        file: BinaryIO = os.fdopen(descriptor, "w+b")
        try:
            for block in blocks:
                file.write(block)
                digest.update(block)
                count += len(block)
            file.flush()
            os.fsync(descriptor)
            if count != size_bytes or sha256 not in ("", digest.hexdigest()):
                what = (
                    f"{count:,} bytes came of {size_bytes:,}"
                    if count != size_bytes
                    else "its checksum is another one"
                )
                raise Altered(f"{name}: it is not what was uploaded: {what}; see `recorder verify`")
            unfinished.rename(path)
        except BaseException:
            file.close()
            unfinished.unlink(missing_ok=True)
            raise
        file.seek(0)
        with self._lock:
            self._make_room(path, count)
        return file

    def _make_room(self, newest: Path, added_bytes: int) -> None:
        """Delete what was used least recently, once there is too much; never the newest."""
        if self._bytes is not None:
            self._bytes += added_bytes
            if self._bytes <= self.bytes_max:
                return
        found = []
        for entry in self._entries():
            with suppress(OSError):
                state = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_TMP):
                    if time.time() - state.st_mtime > _LEFT_OVER_SECS:
                        Path(entry.path).unlink()
                else:
                    found.append((state.st_atime_ns, state.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.bytes_max:
                break
            if path != str(newest):
                with suppress(OSError):
                    Path(path).unlink()
                    total -= size
        self._bytes = total

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.folder) as folders:
            for folder in folders:
                with suppress(OSError), os.scandir(folder.path) as files:
                    yield from files

    def __repr__(self) -> str:
        return f"ObjectCache({self.folder}, {exact_size_text(self.bytes_max)})"


def _free_bytes(folder: Path) -> int:
    """Return how much room there is where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return Disk().space(folder).bytes
    except OSError:
        return 0  # who writes there is told
