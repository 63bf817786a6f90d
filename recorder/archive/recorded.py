"""When an archive has data and when it has none, by its manifest: also while it is recorded to, and after a kill."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import SEEK_END
from pathlib import Path
from typing import Final

import msgspec

from recorder.archive.codec import codec_of
from recorder.archive.findings import Report
from recorder.archive.gaps import KILLED, NOT_RUNNING, Gap, GapHistory
from recorder.archive.layout import MANIFEST_ENDING, parse
from recorder.archive.locator import FileLocator
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.manifest_index import ManifestIndex
from recorder.archive.place import HERE, Place
from recorder.archive.reader import Opener
from recorder.archive.record import UNREADABLE, RecordHeader
from recorder.errors import ArchiveError, NoArchive

_TAIL_BYTES: Final = 1 << 20
"""So much of a file's end is looked at for its last record."""


@dataclass(slots=True)
class Recorded:
    """One archive."""

    manifest: Path
    history: GapHistory
    is_live: bool
    """Whether a recorder is at work, as far as can be told here."""
    as_of_ms: int
    """Up to when the manifest tells of it: now, and of a copy its last line."""
    is_copy: bool = False
    """Whether it is that of a recorder elsewhere, which may be at work."""
    open_gaps: dict[str, Gap] = field(default_factory=dict)
    """By cluster, a gap that no session has ended yet; it lasts until the moment of `until_ms`."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the manifest, so that its gaps may not be all."""


def manifests_of(path: Path, place: Place = HERE) -> list[Path]:
    """Return the manifests that a folder, a manifest or an active file stands for. Raise `NoArchive` for none."""
    beside = path.parent / f"{path.stem}{MANIFEST_ENDING}"  # not with_name(): `.` has no name
    if is_folder := place.is_folder(path):
        found = [file for file in place.list_files(path, deep=True) if file.name.endswith(MANIFEST_ENDING)]
    elif path.name.endswith(MANIFEST_ENDING) and place.size_bytes(path) is not None:
        found = [path]
    else:
        found = [beside] if place.size_bytes(beside) is not None else []
    if not found:
        is_something = is_folder or place.size_bytes(path) is not None
        what = "has no manifest" if is_something else "has no object" if place.is_copy else "does not exist"
        folder = "the ARCHIVE_UPLOAD_URL of a recorder" if place.is_copy else "the folder of an archive"
        raise NoArchive(f"{path} {what}; name {folder}, or its *{MANIFEST_ENDING}")
    return found


def read_recorded(manifest: Path, now_ms: int, place: Place = HERE) -> Recorded:
    """Read a manifest, and of a killed run the last record. Raise `ArchiveError` where that cannot be done.

    A copy elsewhere ends with its last line: whether a recorder is still at work nobody can say.
    """
    is_live = False
    while True:
        report = Report()
        check = ManifestCheck(manifest, report, is_live=is_live, place=place)
        index = check.read()
        if not check.began_to_move:
            break
        is_live = True  # a recorder has begun to write meanwhile
    lost = [
        f"{manifest.name} had lost its end" for entry in index.damaged if entry.kind == "manifest_damaged"
    ]
    if place.is_copy:
        now_ms = min(now_ms, index.history.last_ms)
    recorded = Recorded(
        manifest,
        index.history,
        check.is_live,
        now_ms,
        is_copy=place.is_copy,
        problems=[*report.problems, *lost],
    )
    for cluster in index.history.followed:
        gap = _open_gap(cluster, index, recorded, now_ms)
        if gap is not None:
            recorded.open_gaps[cluster] = gap
    return recorded


def _open_gap(cluster: str, index: ManifestIndex, recorded: Recorded, now_ms: int) -> Gap | None:
    silence = index.silences.get(cluster)
    run_id = index.history.run_id
    if silence is None:
        return Gap(cluster, 0, now_ms, NOT_RUNNING, run_id)
    is_last = index.last_run is not None and index.opened_by[cluster] == index.last_run.run_id
    if silence.reason == KILLED and is_last and (recorded.is_live or recorded.is_copy):
        return None
    since_ms, reason = index.silences_at_start()[cluster]
    if silence.reason == KILLED and is_last:
        since_ms = max(since_ms, _last_record_ms(recorded.manifest, index))
    return Gap(cluster, since_ms, now_ms, reason, run_id) if since_ms < now_ms else None


def _last_record_ms(manifest: Path, index: ManifestIndex) -> int:
    """Return when the last record came that a killed run has written, of those that are not on record yet."""
    locator = FileLocator(manifest, index)
    return max(
        (
            last_ingest_ms(path)
            for path in HERE.list_files(manifest.parent, deep=True)
            if codec_of(path) == "none"
            and not parse(path).temporary
            and locator.owns(path)
            and not (parse(path).rotated and locator.name(path) in index.files)
        ),
        default=0,
    )


def last_ingest_ms(path: Path, opener: Opener = HERE.open) -> int:
    """Return when the last record of a plain file came, Unix ms; 0 where it has none. Raise `ArchiveError`."""
    for line in _last_lines(path, opener):
        try:
            return msgspec.json.decode(line, type=RecordHeader).ingest_ts
        except UNREADABLE:
            continue  # torn, or a reject
    return 0


def _last_lines(path: Path, opener: Opener) -> Iterator[bytes]:
    """Yield the whole lines at a file's end, the last one first."""
    try:
        with opener(path) as file:
            file.seek(max(0, file.seek(0, SEEK_END) - _TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror or error}") from error
    whole = tail[: tail.rfind(b"\n") + 1]
    yield from reversed(whole.splitlines())
