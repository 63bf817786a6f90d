"""What SQL reads of an archive: segments, held against their checksums before, and tails if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recorder.archive.manifest_index import NEVER_MS
from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment, expect
from recorder.archive.recording import Recording, open_recordings
from recorder.errors import EXIT_DAMAGE, ArchiveError
from recorder.library.reader import Choice, SegmentReader, type_counts
from recorder.progress import Progress
from recorder.tables.views import CODES, EVENTS


class Incomplete(ArchiveError):
    """Something of the archive is missing or damaged, so that no answer would be of all that was recorded."""

    exit_status = EXIT_DAMAGE


@dataclass(slots=True)
class Sealed:
    """What the manifests of a path have sealed, and what stands behind that where it was asked for."""

    recordings: list[Recording]
    segments: list[Segment] = field(default_factory=list)
    """Those of the time. Tails have no checksum: what a recorder has not sealed yet. There are none unless asked for."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    start_ms: int = 0
    end_ms: int = NEVER_MS
    """Records are wanted that came from a time on, before another, Unix ms."""
    earlier_or_later: list[Segment] = field(default_factory=list)
    """Segments that have nothing of the time."""
    _tails: dict[int, Mapping[str, int]] = field(default_factory=dict)
    """What tails were found to have, each a segment of this list."""

    @property
    def is_timed(self) -> bool:
        """Whether not all of a segment may be wanted."""
        return bool(self.start_ms) or self.end_ms != NEVER_MS

    def of_view(self, name: str) -> list[Segment]:
        """Return the segments that may have records of a view."""
        if name == EVENTS:
            return self.segments
        return [segment for segment in self.segments if any(map(self._counts_of(segment).get, CODES[name]))]

    def count(self, name: str) -> int:
        """Return how many records a view has: the manifest knows of what is sealed. Raise `ArchiveError`."""
        counts = map(self._counts_of, self.segments)
        if name == EVENTS:
            return sum(sum(found.values()) for found in counts)
        return sum(found.get(code, 0) for found in counts for code in CODES[name])

    def views(self) -> list[str]:
        """Return the views of what occurs, be it at another time: then a view has no rows."""
        elsewhere = {
            code for segment in self.earlier_or_later for code, count in segment.counts.items() if count
        }
        return [
            *(name for name in CODES if self.count(name) or not elsewhere.isdisjoint(CODES[name])),
            EVENTS,
        ]

    def segment_rows(self) -> list[tuple[object, ...]]:
        """Return what the manifest has of each segment, type by type; of a tail what is known."""
        return [
            (
                str(segment.path),
                segment.run_id,
                segment.first_seq,
                segment.last_seq or None,
                segment.first_ingest_ms,
                segment.last_ingest_ms or None,
                name,
                count,
            )
            for segment in self.segments
            for name, count in self._counts_of(segment).items()
            if count
        ]

    def _counts_of(self, segment: Segment) -> Mapping[str, int]:
        if segment.sha256:
            return segment.counts
        found = self._tails.get(id(segment))
        if found is None:
            found = self._tails[id(segment)] = type_counts(SegmentReader(Proofs(), Choice()), segment)
        return found

    def gap_rows(self) -> list[tuple[object, ...]]:
        """Return the gaps."""
        return [
            (gap.cluster, gap.from_ms, gap.to_ms, gap.reason, gap.run_id)
            for recording in self.recordings
            for gap in recording.gaps
            if gap.from_ms < self.end_ms and gap.to_ms > self.start_ms
        ]


def open_sealed(path: Path, *, with_tails: bool = False, start_ms: int = 0, end_ms: int = NEVER_MS) -> Sealed:
    """Read the manifests that a path means. Raise `ArchiveError` where there is none.

    `with_tails` takes what is not sealed, too, as far as it was written by now. Segments are those that may have records
    from `start_ms` on, before `end_ms`.
    """
    found = Sealed(open_recordings(path), start_ms=start_ms, end_ms=end_ms)
    for recording in found.recordings:
        found.problems += recording.problems
        found.notes += recording.notes
        open_bytes = 0
        for segment in recording.segments:
            if not segment.may_have(start_ms, end_ms):
                found.earlier_or_later.append(segment)
            elif segment.sha256 or with_tails:
                found.segments.append(segment)
            else:
                open_bytes += segment.size_bytes
        if open_bytes:
            found.notes.append(
                f"{recording.manifest}: {open_bytes:,} bytes are not sealed yet and left out; a recorder seals them when it "
                "rotates its files (SIGUSR1), ends, or starts again after a kill"
            )
    return found


def proven(
    segments: list[Segment], proofs: Proofs, report: Progress | None
) -> tuple[list[Segment], list[str]]:
    """Return the segments that are what was written, each held against its checksum, and what is wrong with the others."""
    good: list[Segment] = []
    problems: list[str] = []
    done, total = 0, sum(segment.size_bytes for segment in segments)
    expect(segments)
    for segment in segments:
        try:
            next(segment.blocks(proofs), b"")  # it is proven before anything of it is yielded
            good.append(segment)
        except ArchiveError as error:
            problems.append(str(error))
        done += segment.size_bytes
        if report is not None:
            report(done, total)
    return good, problems
