"""An archive as a program reads it: what was recorded, when nothing was, and which files hold it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Final

from recorder.archive.codec import codec_of
from recorder.archive.gaps import Gap
from recorder.archive.proofs import Proofs
from recorder.archive.recorded import read_recorded
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording, open_recordings
from recorder.clock import SystemClock
from recorder.errors import Incomplete, NotRecorded
from recorder.library.reader import Choice, SegmentReader, type_counts
from recorder.library.selection import Selection
from recorder.objects.path import to_path
from recorder.words import read_moment

_MS_NS: Final = 1_000_000
_END_OF_TIME_MS: Final = 1 << 62
_DATES_END_MS: Final = 253_402_300_800_000
"""When the last year that a date can have is over."""


@dataclass(frozen=True, slots=True)
class ArchiveRun:
    """One run of the recorder that wrote the archive."""

    run_id: str
    started_ms: int
    """Unix ms."""
    ended_ms: int | None
    """Unix ms; None where it was killed, or is still at work."""
    clusters: frozenset[str]
    """Those of which it had a session."""
    records: int
    """What is there of its records."""
    dropped: int
    """Records that it lost, as far as it could note that."""


@dataclass(frozen=True, slots=True)
class ArchiveSegment:
    """What one run wrote into one file."""

    path: Path
    """Where the file is now; of an archive in a bucket, the URL of the object."""
    run_id: str
    records: int
    counts: Mapping[str, int]
    """The records by type."""
    size_bytes: int
    """Of the lines, before compression."""
    sha256: str
    """Of the lines; empty where the segment is not sealed yet."""
    codec: str
    """How the file is compressed: `none`, `gzip` or `zstd`."""
    first_seq: int
    first_ingest_ms: int
    """When its first record came, Unix ms."""
    last_ingest_ms: int | None
    """When its last one came; None where the segment is not sealed yet."""


class Archive:
    """The archive under one path, as it was when it was opened. A recorder may be writing to it.

    Each sealed file is checked against its checksum when it is first read, and again if it has changed. In a bucket, it
    is fetched then, and kept on this machine.
    """

    def __init__(self, path: Path, recordings: list[Recording]) -> None:
        self.path = path
        self.problems: tuple[str, ...] = tuple(
            problem for recording in recordings for problem in recording.problems
        )
        """What is missing, and what is wrong with the manifest."""
        self.notes: tuple[str, ...] = tuple(note for recording in recordings for note in recording.notes)
        """What is worth knowing, such as what retention deleted."""
        self._recordings = recordings
        self._proofs = Proofs()
        self._counted: dict[int, Mapping[str, int]] = {}

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """The records by type. The manifest has them; what is not sealed yet is read.

        Of types that docs/channels.md does not list, some may be counted together as `other`.
        """
        found: Counter[str] = Counter()
        for recording in self._recordings:
            for segment in recording.segments:
                found.update(self._counts_of(segment))
        return {code: count for code, count in sorted(found.items()) if count}

    def records(
        self,
        *,
        types: str | Iterable[str] | None = None,
        symbols: str | Iterable[str] | None = None,
        start: int | str | datetime | None = None,
        end: int | str | datetime | None = None,
    ) -> Selection:
        """Return the records of some types and symbols that came from `start` on, before `end`; nothing is read yet.

        A type is a channel's code, such as `T`. A symbol may end with `*`, and `EUR-USD` is `EUR/USD`. A time is Unix ms,
        ISO 8601 (UTC unless it says otherwise), or a datetime with a time zone. Raise `NotRecorded` for a type of which the
        archive has nothing, ValueError or TypeError for a time that is none.
        """
        choice = Choice(
            types=_names(types),
            symbols=_names(symbols),
            start_ms=0 if start is None else _moment_ms(start),
            end_ms=_END_OF_TIME_MS if end is None else _moment_ms(end),
        )
        unknown = sorted(set(choice.types or ()) - set(self.counts))
        if unknown and "other" not in self.counts:
            has = ", ".join(self.counts) or "nothing"
            raise NotRecorded(f"{self.path}: there are no records of type {', '.join(unknown)}; it has {has}")
        return Selection(self.path, self._recordings, choice, self._proofs, tuple(self.counts))

    def gaps(self) -> list[Gap]:
        """Return when clusters had no data between their first session and now, in the order of their beginnings.

        The manifests are read anew. Raise `ArchiveError`.
        """
        now_ms = SystemClock().wall_ns() // _MS_NS
        found: list[Gap] = []
        for recording in self._recordings:
            recorded = read_recorded(recording.manifest, now_ms, recording.place)
            gaps = [gap for gaps in recorded.history.gaps.values() for gap in gaps]
            # The time before the first session has no beginning.
            found += [gap for gap in [*gaps, *recorded.open_gaps.values()] if gap.from_ms]
        return sorted(found, key=lambda gap: (gap.from_ms, gap.cluster))

    def segments(self) -> list[ArchiveSegment]:
        """Return what the runs wrote into files, in the order of the runs and their numbers."""
        return [
            ArchiveSegment(
                path=segment.path,
                run_id=segment.run_id,
                records=sum(counts.values()),
                counts=counts,
                size_bytes=segment.size_bytes,
                sha256=segment.sha256,
                codec=codec_of(segment.path),
                first_seq=segment.first_seq,
                first_ingest_ms=segment.first_ingest_ms,
                last_ingest_ms=segment.last_ingest_ms or None,
            )
            for recording in self._recordings
            for segment in recording.segments
            for counts in [self._counts_of(segment)]
        ]

    def runs(self) -> list[ArchiveRun]:
        """Return the runs in the manifest, in their order, including those without a record left."""
        return list(self._runs())

    def _runs(self) -> Iterator[ArchiveRun]:
        for recording in self._recordings:
            for run_id, run in recording.known_runs.items():
                yield ArchiveRun(
                    run_id=run_id,
                    started_ms=run.started_ms,
                    ended_ms=run.ended_ms or None,
                    clusters=frozenset(run.clusters),
                    records=sum(
                        sum(self._counts_of(segment).values()) for segment in recording.run(run_id).segments
                    ),
                    dropped=sum(drop.count for drop in run.drops),
                )

    def _counts_of(self, segment: Segment) -> Mapping[str, int]:
        if segment.counts:
            return segment.counts
        found = self._counted.get(id(segment))
        if found is None:
            found = self._counted[id(segment)] = type_counts(SegmentReader(self._proofs, Choice()), segment)
        return found

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r})"


def open_archive(path: str | os.PathLike[str], *, incomplete: bool = False) -> Archive:
    """Open an archive: a folder, a manifest, an active file's name (`NDJSON_DEST`), or the URL of a bucket.

    A folder may hold several archives; they are read one after another, by the paths of their manifests. Raise `NoArchive`
    where there is none, and `Incomplete` where records are missing that the manifest speaks of, or where the manifest was
    altered, unless `incomplete` says that what is there is enough: then `problems` has what is wrong. Raise `ArchiveError`
    where something cannot be read, and of a bucket `StoreError` and `PackageMissing`.
    """
    place = to_path(path)
    archive = Archive(place, open_recordings(place))
    if archive.problems and not incomplete:
        hint = "open_archive(…, incomplete=True) reads what is there; `recorder verify` says more"
        raise Incomplete("\n".join([*(f"{place}: {problem}" for problem in archive.problems), hint]))
    return archive


def _names(names: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    return (names,) if isinstance(names, str) else tuple(names)


def _moment_ms(moment: int | str | datetime) -> int:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{moment!r} must have a time zone, such as datetime.UTC")
        return int(moment.timestamp() * 1000)
    if isinstance(moment, str):
        return read_moment(moment)
    try:
        at_ms = index(moment)  # also of numpy's integers
    except TypeError:
        raise TypeError(f"{moment!r} must be Unix ms, ISO 8601, or a datetime with a time zone") from None
    if at_ms > _DATES_END_MS:
        raise ValueError(f"{moment!r} must be Unix ms; it is later than any date")
    return at_ms
