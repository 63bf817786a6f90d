"""What is said of the files of an archive that are not where they were written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from recorder.archive.locator import Located
from recorder.archive.manifest_index import NEVER_MS, Entry, ManifestIndex
from recorder.archive.recorded_segment import Segment


def problems_of(index: ManifestIndex, located: Located, manifest: Path) -> Iterator[str]:
    """Yield what is lost, as far as its manifest and its place show."""
    for entry in index.damaged:
        yield f"{entry.file or manifest.name} had lost its end when a run began to write"
    for name, entries in located.missing:
        uploaded = index.uploaded.get(name)
        there = f"; it was uploaded as {uploaded.url}" if uploaded is not None else ""
        yield f"{name} is missing, with {records_of(entries):,} records{there}"


def notes_of(index: ManifestIndex, located: Located, manifest: Path) -> Iterator[str]:
    """Yield what is elsewhere or was meant to go."""
    for entries in located.moved_away:
        yield f"{entries[-1].file} was moved away, with {records_of(entries):,} records"
    deleted = [entry for entry in index.deleted if entry.file not in index.uploaded]
    elsewhere = [entry for entry in index.deleted if entry.file in index.uploaded]
    if deleted:
        yield f"{records_of(deleted):,} records were deleted by retention"
    if elsewhere:
        url = index.uploaded[elsewhere[-1].file].url.rpartition("/")[0]
        yield f"{records_of(elsewhere):,} records are not here, but in {url}, which can be read instead"
    yield from notes_of_copy(located, manifest)


def notes_of_copy(located: Located, manifest: Path) -> Iterator[str]:
    """Yield what a copy does not have yet, or what its manifest does not."""
    if located.not_copied:
        count = sum(records_of(entries) for _, entries in located.not_copied)
        yield (
            f"{_files(len(located.not_copied))} not uploaded to {manifest.parent} yet, with {count:,} records:"
            f" the last is {located.not_copied[-1][0]}"
        )
    if located.newer:
        yield (
            f"{_files(len(located.newer))} not in the manifest of {manifest.parent} yet, and left out: the last is"
            f" {located.newer[-1].name}"
        )


def absences_of(
    index: ManifestIndex, located: Located, segments: Iterable[Segment]
) -> Iterator[tuple[int, int]]:
    """Yield from when to when a copy may lack records that were recorded, Unix ms; a run that has not ended has no end."""
    for _, entries in located.not_copied:
        yield from (
            (entry.first_ingest_ts, entry.last_ingest_ts + 1)
            for entry in entries
            if entry.kind == "segment_closed"
        )
    run = index.last_run
    if run is not None and not run.ended:
        until_ms: dict[Path, int] = {}
        for segment in segments:
            if segment.run_id == run.run_id:
                until_ms[segment.active] = max(until_ms.get(segment.active, 0), segment.last_ingest_ms)
        # What is written to several files is sealed at several times.
        yield min(until_ms.values(), default=run.started_ms), NEVER_MS


def records_of(entries: Iterable[Entry]) -> int:
    """Return how many records segments have together."""
    return sum(entry.records for entry in entries)


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count:,} files are"
