"""Checks of the access log: its file can be written, by this recorder alone, and its disk has room for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from recorder.archive.disk import Disk, is_locked, reason_of
from recorder.checks.archive import of_another_user, refused_by, standing
from recorder.checks.findings import Finding, Level, failure, ok, skipped, warning
from recorder.checks.scene import Scene, in_thread
from recorder.words import size_text

SUBJECT: Final = "access log"
_ROOM_BYTES: Final = 256 << 20
"""Less is soon used up: a client takes some 400 bytes a minute."""
_INODES_MIN: Final = 1024


async def check_access_log(scene: Scene) -> list[Finding]:
    """Folder, file, lock, room."""
    settings = scene.settings.servers
    dest = settings.access_log.dest
    if dest is None or not settings.enabled:
        why = "ACCESS_LOG_DEST is not set" if dest is None else "ROLES names no server"
        return [skipped(SUBJECT, f"nothing is written of who received what: {why}")]
    return await in_thread(lambda: _check(scene, Path(dest).absolute()))


def _check(scene: Scene, path: Path) -> list[Finding]:
    found = _check_file(scene, path)
    return [found] if found.level is Level.FAILURE else [found, _check_room(scene, path)]


def _check_file(scene: Scene, path: Path) -> Finding:
    place = standing(path.parent)
    refusal = refused_by(SUBJECT, place, "ACCESS_LOG_DEST")
    if refusal is not None:
        return refusal
    if place != path.parent:
        return ok(SUBJECT, f"{path.parent} will be made in {place}")
    if path.exists():
        if not stat.S_ISREG(path.stat().st_mode):
            return failure(SUBJECT, f"{path} is not a regular file", "ACCESS_LOG_DEST must name a file")
        if not os.access(path, os.R_OK | os.W_OK):
            text = f"user {os.geteuid()} may not write to {path}"
            return failure(SUBJECT, text, "give it to the recorder's user (chown)")
        if scene.recorder is None and is_locked(path):
            text = f"another recorder writes to {path}"
            return failure(SUBJECT, text, "set ACCESS_LOG_DEST: each recorder needs a file of its own")
    return of_another_user(SUBJECT, path.parent) or ok(SUBJECT, f"{path} can be written")


def _check_room(scene: Scene, path: Path) -> Finding:
    """Check that there is room, and that records cannot take it."""
    place = standing(path.parent)
    try:
        space = Disk().space(place)
    except OSError as error:
        return failure(SUBJECT, f"the space is unknown: {reason_of(error)}", "repair or replace the disk")
    free = f"{size_text(space.bytes)} free"
    room = "make room on this disk, or set ACCESS_LOG_DEST to another one"
    if space.bytes < _ROOM_BYTES:
        text = f"{free} on the disk of {path}: once it is full, lines are lost"
        return failure(SUBJECT, text, room, free_bytes=space.bytes)
    if space.inodes is not None and space.inodes < _INODES_MIN:
        text = f"{free}, but only {space.inodes} more files can be made"
        return failure(SUBJECT, text, "delete files, or recreate the file system with more inodes")
    if not _shares_disk(scene, place):
        return ok(SUBJECT, f"{free} on its disk", free_bytes=space.bytes)
    if scene.settings.archive.min_free_bytes == 0:
        text = f"{free} on the disk of the archive, which may fill it: NDJSON_MIN_FREE_BYTES is 0"
        advice = "set ACCESS_LOG_DEST to another disk, or leave NDJSON_MIN_FREE_BYTES out"
        return warning(SUBJECT, text, advice, free_bytes=space.bytes)
    text = f"{free} on the disk of the archive, which leaves some of it (NDJSON_MIN_FREE_BYTES)"
    return ok(SUBJECT, text, free_bytes=space.bytes)


def _shares_disk(scene: Scene, place: Path) -> bool:
    """Return whether records go to the same file system."""
    if scene.names is None:
        return False
    return standing(scene.names.folder.absolute()).stat().st_dev == place.stat().st_dev
