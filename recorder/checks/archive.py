"""Checks of the archive's location: it can be written, no other recorder owns it, and its files are whole."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk
from recorder.archive.layout import find_files
from recorder.archive.manifest_checkpoint import read_checkpoint
from recorder.archive.manifest_index import ManifestIndex, read_manifest
from recorder.archive.policy import FileNames
from recorder.archive.reader import lines, read_blocks
from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene, in_thread
from recorder.errors import ArchiveError

_PROBLEMS_MAX: Final = 3
_WRITE: Final = os.W_OK | os.X_OK
READ_SECS: Final = 4.0
"""A manifest of years is not read to its end here."""


class TooLong(Exception):
    """Reading would take longer than anybody waits for a check."""


async def check_archive(scene: Scene) -> list[Finding]:
    """Folder, lock, ledger, leftovers."""
    names = scene.names
    if names is None:
        return [skipped("archive", f"no file is written: {_why_no_file(scene)}")]
    found = [await in_thread(lambda: _check_place(names))]
    if scene.recorder is not None and scene.recorder.holds_archive:
        found.append(_owned(scene))
    if names.folder.is_dir():
        found.append(await in_thread(lambda: _check_ledger(scene, names)))
    return found


def _why_no_file(scene: Scene) -> str:
    settings = scene.settings
    if "archive" not in settings.roles:
        return "ROLES leaves archive out"
    return "NDJSON_DEST is stdout" if "ndjson" in settings.sinks else "SINK does not name ndjson"


def standing(path: Path) -> Path:
    """Return the folder itself, or the nearest above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def refused_by(subject: str, place: Path, variable: str) -> Finding | None:
    """Return why nothing can be made in a place, which `variable` names; None if something can."""
    advice = f"set {variable} to a place that the recorder's user may write to"
    if not place.is_dir():
        return failure(subject, f"{place} is not a folder", advice)
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return failure(subject, f"the file system of {place} is read-only", "mount it writable")
    if not os.access(place, _WRITE):
        return failure(subject, f"user {os.geteuid()} may not write to {place}", advice)
    return None


def of_another_user(subject: str, folder: Path) -> Finding | None:
    """Return that root looks at the folder of another user, which says nothing of what that user may; None if not so."""
    owner = folder.stat().st_uid
    if os.geteuid() != 0 or not owner:
        return None
    return warning(
        subject,
        f"{folder} belongs to user {owner}, and this check runs as root, who may write anywhere",
        f"run it as that user: sudo -u '#{owner}' recorder check",
    )


def _check_place(names: FileNames) -> Finding:
    place = standing(names.folder.absolute())
    refusal = refused_by("archive", place, "NDJSON_DEST")
    if refusal is not None:
        return refusal
    template = Path(names.template)
    if template.exists() and not stat.S_ISREG(template.stat().st_mode):
        return failure("archive", f"{template} is not a regular file", "NDJSON_DEST must name a file")
    if place != names.folder.absolute():
        return ok("archive", f"{names.folder} will be made in {place}")
    files = [names.manifest, names.rejects, names.lock, *(file.path for file in find_files(names, Disk()))]
    closed = [path for path in files if path.exists() and not os.access(path, os.W_OK)]
    if closed:
        text = f"user {os.geteuid()} may not write to {len(closed)} files there, as {closed[0].name}"
        return failure("archive", text, "give them to the recorder's user (chown)")
    return of_another_user("archive", names.folder) or ok("archive", f"{names.folder} can be written")


def _owned(scene: Scene) -> Finding:
    recorder = scene.recorder
    assert recorder is not None
    if recorder.status is not None:
        return ok("archive", f"owned by {recorder}, which runs")
    return warning(
        "archive",
        f"owned by {recorder}: a second one would end with status 78",
        "stop it, or set NDJSON_DEST",
    )


def _check_ledger(scene: Scene, names: FileNames) -> Finding:
    """Read the manifest as a start does, without repairing anything."""
    temporary = [file.path.name for file in find_files(names, Disk()) if file.temporary]
    if not names.manifest.exists():
        return ok("archive", "nothing recorded yet")
    is_running = scene.recorder is not None and scene.recorder.holds_archive
    try:
        index, problems = _read(names, is_running=is_running)
    except ArchiveError as error:
        return failure("archive", f"the manifest cannot be read: {error}", "see what `recorder verify` says")
    except TooLong:
        text = f"the manifest is too long to be read within {READ_SECS:g} s"
        return skipped("archive", text, "`recorder verify` reads all of it")
    if problems:
        words = "; ".join(problems[:_PROBLEMS_MAX])
        return failure("archive", f"the manifest is damaged: {words}", "see what `recorder verify` says")
    scene.index = index
    segments = sum(len(entries) for entries in index.files.values())
    told = f"runs: {len(index.runs):,}, files: {len(index.files):,}, segments in them: {segments:,}"
    if is_running:
        return ok("archive", told)
    left = []
    if index.last_run is not None and not index.last_run.ended:
        left.append("the last run was killed")
    if temporary:
        left.append(f"a compression was interrupted ({temporary[0]})")
    mended = f"; {' and '.join(left)}, which the next start repairs" if left else ""
    return ok("archive", told + mended)


def _read(names: FileNames, *, is_running: bool) -> tuple[ManifestIndex, list[str]]:
    """Return what the manifest says, and what is wrong with it. Raise `ArchiveError`, `TooLong`."""
    problems: list[str] = []
    checkpoint = read_checkpoint(names.lock)
    deadline = time.monotonic() + READ_SECS
    index = ManifestIndex()

    def whole() -> list[bytes]:
        found = []
        for line in lines(read_blocks(names.manifest), str(names.manifest)):
            if time.monotonic() > deadline:
                raise TooLong
            # A line without an end is one that a crash has torn, or that is being written.
            if line.endswith(b"\n"):
                found.append(line)
                if checkpoint:
                    checkpoint.add(line)
        return found

    for entry in read_manifest(iter(whole()), lambda number, what: problems.append(f"line {number}: {what}")):
        index.add(entry)
    if checkpoint and not checkpoint.reached and not is_running:
        problems.append("lines are missing at its end")
    return index, problems
