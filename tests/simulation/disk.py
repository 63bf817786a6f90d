"""A disk in memory that knows what is durable: what power loss takes, what a kill leaves, and calls that fail."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from recorder.archive.disk import Disk, Space
from simulation.loop import Killed, VirtualWorker

_LOCK_BYTES = 200
"""More than the owner's number and the checkpoint."""
FAILING = ("open", "write", "sync", "close", "rename", "unlink", "sync_folder", "truncate", "read", "list")
"""Calls that can be told to fail."""


@dataclass(eq=False)
class Inode:
    """A file's content as the kernel has it, and how much of that the platter has."""

    number: int
    mtime_ns: int
    data: bytearray = field(default_factory=bytearray)
    durable_bytes: int = 0
    floor: int = 0
    """Below it, content is the same in memory and on the platter."""
    old_tail: bytes = b""
    """What the platter has between the floor and `durable_bytes`, where a cut has not been synced."""
    doomed: list[tuple[int, int]] = field(default_factory=list)
    """Stretches that a failed fsync left out, and that no later one writes."""
    claimed_bytes: int = 0
    """How much of it the recorder has promised to be durable; the checks keep it here."""

    def cut(self, size: int) -> None:
        if size < self.floor:
            self.old_tail = bytes(self.data[size : self.floor]) + self.old_tail
            self.floor = size
        del self.data[size:]
        self.doomed = [(begin, min(end, size)) for begin, end in self.doomed if begin < size]
        self.claimed_bytes = min(self.claimed_bytes, size)

    def sync(self) -> None:
        self.durable_bytes = self.floor = len(self.data)
        self.old_tail = b""

    def lose(self, rng: random.Random) -> None:
        """Keep what a power loss may leave: some state between the last fsync and now, torn or with zeros."""
        floor, size = self.floor, len(self.data)
        for begin, end in self.doomed:
            if rng.random() < 0.7:
                self.data[begin:end] = bytes(end - begin)
        match rng.choice(("nothing", "all", "part", "zeros")):
            case "nothing":
                self.data = self.data[:floor] + self.old_tail
            case "part":
                del self.data[rng.randint(floor, size) :]
            case "zeros":
                del self.data[rng.randint(floor, size) :]
                begin = rng.randint(floor, len(self.data))
                self.data[begin:] = bytes(len(self.data) - begin)
        self.doomed = []
        self.sync()


NameChange = tuple[str, str, Inode | None]
"""Folder, name, and what stands under it from then on."""


class Storage:
    """The machine's disk. It outlives processes; `lose_power` takes what was not synced."""

    def __init__(self, rng: random.Random, wall_ns: Callable[[], int]) -> None:
        self._rng = rng
        self.wall_ns = wall_ns
        self.names: dict[str, Inode] = {}
        self._durable_names: dict[str, Inode] = {}
        self._unsynced: list[NameChange] = []
        self.folders: set[str] = {"/"}
        self.owner: MemoryDisk | None = None
        """Who holds the lock."""
        self.unlinked: list[tuple[str, bytes]] = []
        """What was deleted, for the checks."""
        self.errors: dict[str, tuple[int, float]] = {}
        """Calls that fail now: errno, and how probably."""
        self.capacity_bytes: int | None = None
        self.is_short = False
        self.delay: tuple[float, float] = (0.0, 0.0)
        """How probably a call is slow, and how many seconds at most."""
        self.boots = 1
        self.stalled_until = 0.0
        """Virtual time at which the last slow call returns."""
        self.calls: Counter[str] = Counter()
        self._numbers = 0

    def heal(self) -> None:
        """No fault any more."""
        self.errors.clear()
        self.capacity_bytes = None
        self.is_short = False
        self.delay = (0.0, 0.0)

    @property
    def is_well(self) -> bool:
        return not self.errors and self.capacity_bytes is None and self.delay == (0.0, 0.0)

    @property
    def used_bytes(self) -> int:
        """All but the beginning of the lock, which holds the number of a real process."""
        return sum(
            max(0, len(inode.data) - _LOCK_BYTES) if name.endswith(".lock") else len(inode.data)
            for name, inode in self.names.items()
        )

    def add(self, path: str) -> Inode:
        self._numbers += 1
        inode = Inode(self._numbers, self.wall_ns())
        self.set_name(path, inode)
        return inode

    def set_name(self, path: str, inode: Inode | None) -> None:
        if inode is None:
            del self.names[path]
        else:
            self.names[path] = inode
        self._unsynced.append((os.path.dirname(path), path, inode))  # noqa: PTH120 - names are texts here

    def rename(self, old: str, new: str) -> None:
        """One change of the folder: a power loss takes both names or none."""
        inode = self.names.pop(old)
        self.names[new] = inode
        folder = os.path.dirname(old)  # noqa: PTH120
        self._unsynced.append((folder, f"{old}\0{new}", inode))

    def sync_folder(self, folder: str) -> None:
        self._settle([change for change in self._unsynced if change[0] == folder])
        self._unsynced = [change for change in self._unsynced if change[0] != folder]

    def _settle(self, changes: list[NameChange]) -> None:
        for _, path, inode in changes:
            old, _, new = path.partition("\0")
            if new:
                self._durable_names.pop(old, None)
                assert inode is not None
                self._durable_names[new] = inode
            elif inode is None:
                self._durable_names.pop(path, None)
            else:
                self._durable_names[path] = inode

    def lose_power(self) -> None:
        """Forget what was not synced: of the names, all changes from some point on; of each file, as it may be."""
        rng = self._rng
        self.boots += 1
        count = len(self._unsynced)
        self._settle(self._unsynced[: rng.choice((0, 0, count, rng.randint(0, count)))])
        self._unsynced = []
        self.names = dict(self._durable_names)
        for inode in dict.fromkeys(self.names.values()):
            inode.lose(rng)

    def write_out(self, folder: Path) -> None:
        """Put everything on a real disk."""
        for name, inode in self.names.items():
            target = folder / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(inode.data)


class MemoryDisk(Disk):
    """One process's view of the storage. Its death is one too: then every call raises `Killed`."""

    def __init__(self, storage: Storage, rng: random.Random, died: Callable[[], None]) -> None:
        self.storage = storage
        self._rng = rng
        self._died = died
        self.worker: VirtualWorker | None = None
        self.is_dead = False
        self.dies_after: int | None = None
        """The process is killed at the call after this many."""
        self.files: dict[int, tuple[Inode, str]] = {}
        self._fds = 2

    def die(self) -> None:
        """The kernel closes everything."""
        self.is_dead = True
        self.files.clear()
        if self.storage.owner is self:
            self.storage.owner = None

    def make_folder(self, path: Path) -> None:
        self.storage.folders.add(str(path))

    def list_files(self, folder: Path, deep: bool) -> list[Path]:
        self._call("list", str(folder))
        paths = [Path(name) for name in self.storage.names]
        return [path for path in paths if path.parent == folder or (deep and folder in path.parents)]

    def space(self, folder: Path) -> Space:
        self._call("space", str(folder))
        storage = self.storage
        if storage.capacity_bytes is None:
            return Space(1 << 40, None)
        return Space(max(0, storage.capacity_bytes - storage.used_bytes), None)

    def capacity_bytes(self, folder: Path) -> int:
        self._call("space", str(folder))
        return self.storage.capacity_bytes or 1 << 40

    def stat(self, path: Path) -> os.stat_result | None:
        self._call("stat", str(path))
        inode = self.storage.names.get(str(path))
        return None if inode is None else _stat(inode)

    def stat_open(self, fd: int) -> os.stat_result:
        inode, path = self._file(fd)
        self._call("stat", path)
        return _stat(inode)

    def open_append(self, path: Path) -> int:
        self._call("open", str(path))
        inode = self.storage.names.get(str(path))
        if inode is None:
            self._need_room(str(path))
            inode = self.storage.add(str(path))
        return self._opened(inode, path)

    def create(self, path: Path) -> int:
        fd = self.open_append(path)
        self.files[fd][0].cut(0)
        return fd

    def open_read(self, path: Path) -> BinaryIO:
        self._call("read", str(path))
        inode = self.storage.names.get(str(path))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return io.BytesIO(bytes(inode.data))

    def lock(self, path: Path) -> int:
        if self.storage.owner is not None:
            raise BlockingIOError(errno.EAGAIN, "locked", str(path))
        fd = self.open_append(path)
        self.storage.owner = self
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        inode, path = self._file(fd)
        if self.dies_after == 0:
            inode.data += data[: self._rng.randint(0, len(data))]  # the kernel had taken so much
        self._call("write", path)
        storage = self.storage
        if storage.is_short and len(data) > 1:
            data = data[: self._rng.randint(1, len(data))]
        if storage.capacity_bytes is not None:
            data = data[: max(0, storage.capacity_bytes - storage.used_bytes)]
            if not len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        inode.data += data
        inode.mtime_ns = storage.wall_ns()
        return len(data)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        inode, path = self._file(fd)
        self._call("write", path)
        assert path.endswith(".lock"), "nothing else is written over"
        if offset < inode.floor:
            inode.old_tail = bytes(inode.data[offset : inode.floor]) + inode.old_tail
            inode.floor = offset
        capacity, more_bytes = self.storage.capacity_bytes, offset + len(data) - len(inode.data)
        if capacity is not None and more_bytes > 0:
            data = data[: len(data) - max(0, more_bytes - max(0, capacity - self.storage.used_bytes))]
        inode.data[offset : offset + len(data)] = data

    def sync(self, fd: int) -> None:
        inode, path = self._file(fd)
        try:
            self._call("sync", path)
        except OSError:
            # The kernel may have marked the pages clean that it could not write.
            if inode.floor < len(inode.data):
                inode.doomed.append((inode.floor, len(inode.data)))
                inode.floor = len(inode.data)
            raise
        inode.sync()

    def boot_id(self) -> str:
        return f"boot-{self.storage.boots}"

    def truncate(self, fd: int, size_bytes: int) -> None:
        inode, path = self._file(fd)
        self._call("truncate", path)
        inode.cut(size_bytes)
        inode.mtime_ns = self.storage.wall_ns()

    def close(self, fd: int) -> None:
        _, path = self._file(fd)
        try:
            self._call("close", path)
        finally:
            self.files.pop(fd, None)
            if path.endswith(".lock") and self.storage.owner is self:
                self.storage.owner = None

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename", str(old))
        if str(old) not in self.storage.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(old))
        self.storage.rename(str(old), str(new))

    def unlink(self, path: Path) -> None:
        self._call("unlink", str(path))
        inode = self.storage.names.get(str(path))
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.storage.unlinked.append((str(path), bytes(inode.data)))
        self.storage.set_name(str(path), None)

    def set_mtime(self, path: Path, ns: int) -> None:
        self._call("utime", str(path))
        self.storage.names[str(path)].mtime_ns = ns

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", str(path))
        self.storage.sync_folder(str(path))

    def _opened(self, inode: Inode, path: Path) -> int:
        self._fds += 1
        self.files[self._fds] = (inode, str(path))
        return self._fds

    def _file(self, fd: int) -> tuple[Inode, str]:
        self._live()
        return self.files[fd]

    def _need_room(self, path: str) -> None:
        storage = self.storage
        if storage.capacity_bytes is not None and storage.used_bytes >= storage.capacity_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def _call(self, name: str, path: str) -> None:
        """Take the time that the call takes; fail, or die, where that is due."""
        storage = self.storage
        storage.calls[name] += 1
        self._live()
        if self.dies_after is not None and name not in ("stat", "read", "list", "space"):
            if not self.dies_after:
                self._died()
                raise Killed
            self.dies_after -= 1
        chance, secs_max = storage.delay
        if chance and self.worker is not None and self.worker.is_current and self._rng.random() < chance:
            secs = self._rng.uniform(0, secs_max)
            storage.stalled_until = self.worker.monotonic_ns() / 1e9 + secs
            self.worker.block(secs)
            self._live()
        error, chance = storage.errors.get(name, (0, 0.0))
        if error and self._rng.random() < chance:
            raise OSError(error, os.strerror(error), path)

    def _live(self) -> None:
        if self.is_dead:
            raise Killed


def _stat(inode: Inode) -> os.stat_result:
    secs = inode.mtime_ns / 1e9
    return os.stat_result(
        (stat.S_IFREG | 0o640, inode.number, 1, 1, 0, 0, len(inode.data), secs, secs, secs),
        {"st_mtime_ns": inode.mtime_ns},
    )
