"""Where the files of an archive are, for whoever reads them: on this machine, or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from recorder.archive.codec import SUFFIXES, compressed_path, plain_path
from recorder.archive.disk import Disk
from recorder.errors import ArchiveError


class Place(Protocol):
    """Lists and opens the files of archives. What cannot be opened or read raises `OSError` or `ArchiveError`."""

    @property
    def is_copy(self) -> bool:
        """Whether nobody records there: files come there once they are sealed, and what the manifest says of them later."""

    def list_files(self, folder: Path, *, deep: bool) -> list[Path]:
        """Return the files in a folder, or also below it, sorted. Raise `ArchiveError`."""

    def is_folder(self, path: Path) -> bool:
        """Return whether a path is a folder."""

    def size_bytes(self, path: Path) -> int | None:
        """Return the size of a file; None where there is none."""

    def form(self, path: Path) -> Path:
        """Return the name that a sealed file has by now, plain or compressed; its old name where it is gone."""

    def open(self, path: Path, sha256: str = "") -> BinaryIO:
        """Open a file. `sha256` is the checksum of what lies there under its name, where that is known."""

    def expect(self, files: Sequence[tuple[Path, str]]) -> None:
        """Take note of which files will be opened soon, in about which order, each with its checksum as for `open`."""

    def open_once(self, path: Path) -> BinaryIO:
        """Open a file that is read through once, from its beginning, and not wanted again."""

    def forget(self, path: Path, sha256: str = "") -> bool:
        """Let go of what `open` keeps of a file, so that it is fetched again; return whether it kept anything."""


class Here:
    """The file system of this machine."""

    is_copy = False

    def list_files(self, folder: Path, *, deep: bool) -> list[Path]:
        """Return the files in a folder, or also below it, sorted. Raise `ArchiveError`."""
        try:
            return sorted(Disk().list_files(folder, deep=deep))
        except OSError as error:
            raise ArchiveError(f"cannot read {folder}: {error.strerror or error}") from error

    def is_folder(self, path: Path) -> bool:
        """Return whether a path is a folder."""
        return path.is_dir()

    def size_bytes(self, path: Path) -> int | None:
        """Return the size of a file; None where there is none. Raise `OSError`."""
        state = Disk().stat(path)
        return None if state is None else state.st_size

    def form(self, path: Path) -> Path:
        """Return the name that a file has by now, compressed or not; its old name where there is none."""
        plain = plain_path(path)
        forms = [path, plain, *(compressed_path(plain, codec) for codec in SUFFIXES)]
        return next((form for form in forms if form.exists()), path)

    def open(self, path: Path, sha256: str = "") -> BinaryIO:
        """Open a file for reading, whatever is in it. Raise `OSError`."""
        return open(path, "rb")

    def expect(self, files: Sequence[tuple[Path, str]]) -> None:
        """Do nothing: the system reads ahead."""

    def open_once(self, path: Path) -> BinaryIO:
        """Open a file for reading. Raise `OSError`."""
        return open(path, "rb")

    def forget(self, path: Path, sha256: str = "") -> bool:
        """Return False: the file itself is read."""
        return False


HERE: Final = Here()
