"""File systems of a test's own; where mounting is refused the test is skipped."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tools import tool


@contextmanager
def tmpfs(folder: Path, size_bytes: int, inodes: int = 0) -> Iterator[Path]:
    """Yield a folder that is a disk of `size_bytes` and `inodes`; 0: any number of inodes."""
    folder.mkdir()
    mounted = subprocess.run(
        [tool("mount"), "-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes={inodes}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([tool("umount"), str(folder)], check=True)


class Ballast:
    """A file that takes up space on the disk of a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"
        self._folder = folder

    def leave(self, free_bytes: int) -> None:
        """Leave that much free, give or take a page."""
        state = os.statvfs(self._folder)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            size = max(0, os.fstat(fd).st_size + state.f_bavail * state.f_frsize - free_bytes)
            os.ftruncate(fd, size)
            if size:
                os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Delete the file that fills the disk."""
        self._path.unlink(missing_ok=True)
