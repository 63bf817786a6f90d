"""File systems of trials, mounted for one test: small ones, one that is read-only, frozen, or on a broken device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from shared_data import shared_file
from tools import tool
from waiting import eventually_sync


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool(command[0]), *command[1:]], capture_output=True, text=True, timeout=60)


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """Yield `folder` with something mounted on it; `arguments` are those of `mount`."""
    folder.mkdir(exist_ok=True)
    result = _run("mount", *arguments, str(folder))
    if result.returncode:
        pytest.skip(f"cannot mount: {result.stderr.strip()}")
    try:
        yield folder
    finally:
        if _run("umount", str(folder)).returncode:
            _run("umount", "-l", str(folder))


@contextmanager
def small(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Yield a file system that holds `size_bytes`."""
    with mounted(folder, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs") as place:
        yield place


@contextmanager
def ext4(folder: Path, image: Path, *options: str, size_bytes: int = 64 << 20) -> Iterator[Path]:
    """Yield a new ext4 in the file `image`; `options` are those of `mkfs.ext4`."""
    make_ext4(image, *options, size_bytes=size_bytes)
    with mounted(folder, "-o", "loop", str(image)) as place:
        yield place


def make_ext4(image: Path, *options: str, size_bytes: int = 64 << 20) -> None:
    """Make a new ext4 in the file `image`."""
    with image.open("wb") as file:
        file.truncate(size_bytes)
    result = _run("mkfs.ext4", "-q", "-F", *options, str(image))
    assert not result.returncode, result.stderr


class Filler:
    """Takes what a file system has left, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_bytes(self) -> None:
        """Leave no byte."""
        with (self._folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass

    def take_files(self) -> None:
        """Leave room for no file more."""
        with suppress(OSError):
            for number in range(1 << 16):
                (self._folder / f"filler-{number}").touch()

    def give_back(self) -> None:
        """Delete what was put there."""
        for path in self._folder.glob("filler*"):
            path.unlink()


@contextmanager
def frozen(folder: Path, secs: float) -> Iterator[None]:
    """Freeze a file system for `secs`, or for as long as the block takes if that is longer; writes to it hang."""
    freeze = tool("fsfreeze")
    # The timer first: nothing that writes there can be killed while it is frozen.
    timer = subprocess.Popen(
        ["sh", "-c", f"sleep {secs}; exec {freeze} -u {folder}"], stderr=subprocess.DEVNULL
    )
    try:
        result = _run("fsfreeze", "-f", str(folder))
        if result.returncode:
            pytest.skip(f"cannot freeze: {result.stderr.strip()}")
        yield
    finally:
        timer.wait(secs + 60)


class FaultyFolder:
    """A folder whose file system does what it is told: fail, take half of each write, or be slow."""

    def __init__(self, folder: Path, control: Path) -> None:
        self.folder = folder
        self._control = control

    def fail(self, how: str) -> None:
        """Fail from now on: the name of an errno, `short` (which Linux reports as EIO), or `slow:SECS` for each write."""
        beside = self._control.with_suffix(".new")
        beside.write_text(how)
        beside.rename(self._control)

    def heal(self) -> None:
        """Work from now on."""
        self.fail("")


@contextmanager
def faulty(folder: Path, back: Path, control: Path) -> Iterator[FaultyFolder]:
    """Yield a FUSE file system over the folder `back`."""
    program = shared_file("tools/fuse_fault.py")
    tool("fusermount3")
    for path in (folder, back):
        path.mkdir(exist_ok=True)
    faults = FaultyFolder(folder, control)
    faults.heal()
    said = control.with_suffix(".log")
    with ExitStack() as exits:
        process = subprocess.Popen(
            [sys.executable, str(program), str(back), str(folder), str(control)],
            stdout=subprocess.DEVNULL,
            stderr=exits.enter_context(said.open("wb")),
        )
        exits.callback(process.wait, 30)
        exits.callback(_run, "umount", "-l", str(folder))
        exits.callback(faults.heal)
        eventually_sync(lambda: folder.is_mount() or process.poll() is not None, "the mount")
        if process.poll() is not None:
            pytest.skip(f"cannot mount FUSE: {said.read_text()[-300:]}")
        yield faults
