"""The operating system's side of the archive: every call that can fail, in one place that tests can replace."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

FILE_MODE = 0o640
FOLDER_MODE = 0o750
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says when there is no room."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Space(NamedTuple):
    """What a file system has left for us."""

    bytes: int
    inodes: int | None
    """Files that can still be made; None where that is not limited."""


class Disk:
    """The file system as the archive uses it. Every method raises `OSError`, and nothing else, when it cannot.

    A disk for tests overrides what is to fail.
    """

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, where they are missing, and their names durable."""
        missing = []
        while not path.exists():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            folder.mkdir(FOLDER_MODE, exist_ok=True)
            self.sync_folder(folder.parent)

    def list_files(self, folder: Path, deep: bool) -> list[Path]:
        """Return the regular files of a folder, and of those below it if `deep`."""
        found: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    found.append(Path(entry.path))
                elif deep and entry.is_dir(follow_symlinks=False):
                    found += self.list_files(Path(entry.path), deep)
        return found

    def stat(self, path: Path) -> os.stat_result | None:
        """Return what stands under a name, None if nothing does."""
        try:
            return path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def space(self, folder: Path) -> Space:
        """Return what the file system of a folder has left, without what only root may use."""
        state = os.statvfs(folder)
        return Space(state.f_bavail * state.f_frsize, state.f_favail if state.f_files else None)

    def capacity_bytes(self, folder: Path) -> int:
        """Return the size of the file system of a folder."""
        state = os.statvfs(folder)
        return state.f_blocks * state.f_frsize

    def stat_open(self, fd: int) -> os.stat_result:
        """Return the state of an open file."""
        return os.fstat(fd)

    def open_append(self, path: Path) -> int:
        """Open a file for appending; made if it is missing."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)

    def create(self, path: Path) -> int:
        """Open a file for writing, emptied if it exists."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)

    def open_read(self, path: Path) -> BinaryIO:
        """Open a file for reading."""
        return open(path, "rb")

    def lock(self, path: Path) -> int:
        """Open a lock file and hold it until it is closed. Raise `BlockingIOError` while another process holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Hand bytes to the operating system; return how many it took, which may be fewer, but never 0."""
        count = os.write(fd, data)
        if not count and len(data):
            raise OSError(errno.EIO, "the write took nothing")
        return count

    def boot_id(self) -> str:
        """Return what distinguishes this boot of the machine from all others."""
        try:
            return _BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return "unknown"

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """Write over a few bytes of an open file."""
        os.pwrite(fd, data, offset)

    def sync(self, fd: int) -> None:
        """Make everything that was written durable."""
        os.fsync(fd)

    def truncate(self, fd: int, size_bytes: int) -> None:
        """Cut an open file."""
        os.ftruncate(fd, size_bytes)

    def close(self, fd: int) -> None:
        """Close a file. The descriptor is gone even if this raises."""
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file; what had the new name is replaced."""
        old.rename(new)

    def unlink(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def set_mtime(self, path: Path, ns: int) -> None:
        """Set the time of a file's last change."""
        os.utime(path, ns=(ns, ns))

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_all(self, fd: int, data: bytes) -> None:
        """Hand all of `data` to the operating system."""
        view = memoryview(data)
        while view:
            view = view[self.write(fd, view) :]

    def append_durably(self, path: Path, data: bytes) -> None:
        """Append to a file and wait until that is durable, and the file's name with it."""
        fd = self.open_append(path)
        try:
            self.write_all(fd, data)
            self.sync(fd)
        finally:
            self.close(fd)
        self.sync_folder(path.parent)


def identity(stat: os.stat_result | None) -> tuple[int, int] | None:
    """Return what distinguishes files, whatever their names are."""
    return None if stat is None else (stat.st_dev, stat.st_ino)


def is_locked(path: Path, locks: Path = Path("/proc/locks")) -> bool:
    """Return whether a process of this machine holds a lock file."""
    return lock_owner(path, locks) != 0


def lock_owner(path: Path, locks: Path = Path("/proc/locks")) -> int:
    """Return the pid of the process of this machine that holds a lock file; 0 where none does.

    The lock is not taken even for a moment. Linux only: `locks` is the kernel's list, proc(5), in which a container finds
    its own processes alone.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            file = f" {_kernel_device_of(fd)}:{os.fstat(fd).st_ino} "
        finally:
            os.close(fd)
        held = locks.read_text(encoding="ascii")
    except OSError:
        return 0
    for line in held.splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:123456 0 EOF
        words = line.partition(" FLOCK ")[2].split()
        if words and file in line:
            return int(words[2])
    return 0


def _kernel_device_of(fd: int) -> str:
    """Return the device of an open file as the kernel's list of locks has it: `major:minor`, in hex.

    On btrfs and overlayfs that is not the device that stat(2) shows. The list of mounts has it, in decimal.
    """
    state = os.fstat(fd)
    major, minor = os.major(state.st_dev), os.minor(state.st_dev)
    with suppress(OSError, StopIteration, ValueError):
        facts = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
        mount = next(line.split()[1] for line in facts if line.startswith("mnt_id:"))
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        device = next(fields[2] for fields in map(str.split, mounts) if fields[0] == mount)
        major, minor = map(int, device.split(":"))
    return f"{major:02x}:{minor:02x}"


def reason_of(error: OSError) -> str:
    """Return an error of the operating system in words: what failed, and on which file."""
    text = error.strerror or str(error) or type(error).__name__
    return f"{text} ({error.filename})" if error.filename else text
