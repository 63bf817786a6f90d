"""A file system on a loop file whose power fails: what was not synced is gone when it is mounted again."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from tools import tool

_GOING_DOWN: Final = 0x8004587D
"""The ioctl that ends a mounted file system; XFS and ext4 have the same."""
_WITHOUT_LOG: Final = 2
"""Not even the journal's last entries get to the disk."""
_SIZE_BYTES: Final = {"ext4": 96 << 20, "xfs": 320 << 20}


class Volume:
    """One file system, mounted at `folder` while it has power."""

    def __init__(self, image: Path, folder: Path, kind: str) -> None:
        self.folder = folder
        self._image = image
        self._kind = kind
        self._mounts = 0
        with image.open("wb") as file:
            file.truncate(_SIZE_BYTES[kind])
        subprocess.run([tool(f"mkfs.{kind}"), "-q", str(image)], check=True, timeout=60, capture_output=True)
        folder.mkdir()

    def mount(self) -> None:
        """Turn the power on, and let the file system repair itself. Skips the test where the machine refuses mounts.

        From a copy of what is on the disk: a mount that another namespace still holds would come back as dead as it is.
        """
        copy = self._image.with_name(f"{self._image.stem}-{self._mounts}.img")
        subprocess.run(["cp", "--sparse=always", str(self._image), str(copy)], check=True, timeout=60)
        self._image.unlink()
        self._image = copy
        self._mounts += 1
        options = "loop,nouuid" if self._kind == "xfs" else "loop"
        command = [tool("mount"), "-o", options, str(self._image), str(self.folder)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode:
            pytest.skip(f"cannot mount: {result.stderr.strip()}")

    def lose_power(self) -> None:
        """Let nothing more get to the disk; every call fails from now on."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _GOING_DOWN, struct.pack("I", _WITHOUT_LOG))
        finally:
            os.close(fd)

    def unmount(self, *options: str) -> bool:
        """Take it away; tells whether that went well."""
        command = [tool("umount"), *options, str(self.folder)]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


@contextmanager
def volume(folder: Path, kind: str) -> Iterator[Volume]:
    """Yield a new, mounted file system, and leave no mount behind."""
    made = Volume(folder / f"{kind}.img", folder / kind, kind)
    made.mount()
    try:
        yield made
    finally:
        # Whether it is mounted cannot be asked: a dead file system answers no such question.
        if not made.unmount():
            made.unmount("-l")
