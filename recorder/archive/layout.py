"""What stands in an archive's folder: names of rotated files, and which files belong to the archive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from recorder.archive.codec import SUFFIXES, codec_of, plain_path
from recorder.archive.disk import Disk
from recorder.archive.policy import FileNames

TMP_SUFFIX: Final = ".tmp"
MANIFEST_ENDING: Final = ".manifest.ndjson"
REJECTS_ENDING: Final = ".rejected.ndjson"
POSITIONS_ENDING: Final = ".positions.ndjson"
_STAMP_MS_MAX: Final = 253_402_300_799_999
_ROTATED = re.compile(r"(?P<stem>.+)\.(?P<stamp>\d{8}T\d{9}Z)(?:-(?P<number>\d+))?(?P<suffix>\.[^.]+)?")


Kind = Literal["records", "rejects", "positions"]
"""What the lines of a file are."""


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file of an archive, as its name alone describes it."""

    path: Path
    active: Path
    """The active file that it is or was."""
    stamp: str
    """When it was opened; empty for an active file."""
    number: int
    """Distinguishes files of one stamp, in the order of their closing."""
    codec: str
    """`none`, `gzip` or `zstd`."""
    temporary: bool

    @property
    def rotated(self) -> bool:
        """Whether it is sealed under a name of its own."""
        return bool(self.stamp)

    @property
    def plain(self) -> Path:
        """Its name without compression; the manifest knows it by this."""
        return plain_path(self.path)

    @property
    def age_key(self) -> tuple[str, int, str]:
        """Sorts the oldest first, which the bare names do not do within one stamp."""
        return (self.stamp, self.number, str(self.path))


def stamp_of(ms: int) -> str:
    """Return the stamp of rotated names for a Unix time in milliseconds, at most the end of the year 9999."""
    ms = min(ms, _STAMP_MS_MAX)
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y%m%dT%H%M%S}{ms % 1000:03d}Z"


def ms_of(stamp: str) -> int:
    """Return the time of a stamp that `stamp_of` made, Unix ms. Raise `ValueError` for any other text."""
    moment = datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + int(stamp[15:18])


def free_rotated_path(active: Path, ms: int, disk: Disk) -> Path:
    """Return a rotated name for an active file: stamped, and used by no file, compressed or not."""
    number = 0
    while True:
        mark = f"-{number}" if number else ""
        path = active.with_name(f"{active.stem}.{stamp_of(ms)}{mark}{active.suffix}")
        variants = [path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES.values())]
        if not any(disk.stat(variant) for variant in variants):
            return path
        number += 1


def parse(path: Path) -> ArchiveFile:
    """Read a name. What is not stamped is an active file."""
    temporary = path.name.endswith(TMP_SUFFIX)
    whole = path.with_name(path.name.removesuffix(TMP_SUFFIX)) if temporary else path
    plain = plain_path(whole)
    match = _ROTATED.fullmatch(plain.name)
    if not match:
        return ArchiveFile(path, plain, "", 0, codec_of(whole), temporary)
    active = plain.with_name(match["stem"] + (match["suffix"] or ""))
    return ArchiveFile(path, active, match["stamp"], int(match["number"] or 0), codec_of(whole), temporary)


def holds_records(path: Path) -> bool:
    """Return whether a file is one of records, by its name."""
    name = path.name
    return (
        plain_path(path).suffix == ".ndjson"
        and kind_of(path) == "records"
        and not name.endswith(MANIFEST_ENDING)
    )


def kind_of(path: Path) -> Kind:
    """Return what a file of an archive is for, by its name."""
    return kind_of_active(parse(path).active)


def kind_of_active(active: Path) -> Kind:
    """Return the same of an active file."""
    if active.name.endswith(REJECTS_ENDING):
        return "rejects"
    return "positions" if active.name.endswith(POSITIONS_ENDING) else "records"


def active_name(name: str) -> str:
    """Return the name of the active file that a file is or was, by its own in a manifest: at once, for very many."""
    folder, slash, last = name.rpartition("/")
    match = _ROTATED.fullmatch(last)
    return f"{folder}{slash}{match['stem']}{match['suffix'] or ''}" if match else name


def find_files(names: FileNames, disk: Disk) -> list[ArchiveFile]:
    """Return the files that hold, or held, records, rejects or positions under these names, the oldest first.

    Files of either kind of splitting belong to the archive, since settings change between runs. What another archive
    in the same folder has written, which its manifest tells, does not.
    """
    deep = Path(names.template).parent != names.folder
    paths = disk.list_files(names.folder, deep)
    others = {
        path.name.removesuffix(MANIFEST_ENDING)
        for path in paths
        if path.name.endswith(MANIFEST_ENDING) and path.name != names.manifest.name
    }
    pattern = active_pattern(names)
    found = []
    for path in paths:
        file = parse(path)
        mine = file.active in names.sides or (
            # Where NDJSON_DEST has no extension, the lock file's name could be that of a type.
            pattern.fullmatch(str(file.active)) is not None
            and path != names.lock
            and file.active.stem not in others
            and not file.active.name.endswith((MANIFEST_ENDING, REJECTS_ENDING, POSITIONS_ENDING))
        )
        if mine and (file.rotated or file.codec == "none"):
            found.append(file)
    return sorted(found, key=lambda file: file.age_key)


def active_pattern(names: FileNames) -> re.Pattern[str]:
    """Return what the paths of active files look like under these names."""
    template = Path(names.template)
    fields = {"{cluster}": "[a-z]+(?:-[a-z]+)?", "{type}": "[a-z0-9_]+"}

    def to_pattern(text: str) -> str:
        return "".join(
            fields.get(part, re.escape(part)) for part in re.split(r"(\{cluster\}|\{type\})", text)
        )

    parent = "" if str(template.parent) == "." else to_pattern(str(template.parent).rstrip("/")) + "/"
    word = "" if "{type}" in names.template else r"(?:\.[a-z0-9_]+)?"
    return re.compile(parent + to_pattern(template.stem) + word + to_pattern(template.suffix))
