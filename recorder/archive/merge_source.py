"""One archive that goes into a new one: what is taken of it, what it lacks, and what is said of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recorder.archive.cutting import RecordedEvent, Records, decoded, events_of
from recorder.archive.dropped import Dropped, DropTimes
from recorder.archive.gaps import NOT_RUNNING, Gap
from recorder.archive.lacked import Lacked
from recorder.archive.proofs import Proofs
from recorder.archive.recorded import Recorded, read_recorded
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import RecordedRun, Recording, open_recordings
from recorder.errors import ArchiveError
from recorder.words import moment_text


class Source:
    """One archive that goes into the new one."""

    def __init__(self, path: Path, name: str, now_ms: int, *, skips_damaged: bool) -> None:
        """Raise `ArchiveError` where something is missing, unless that is to be skipped."""
        self.path = path
        self.name = name
        self.skipped: list[str] = []
        self.records = 0
        self.read_bytes = 0
        self.lacked = Lacked()
        self.recordings = open_recordings(path)
        self._skips_damaged = skips_damaged
        self._proofs = Proofs() if skips_damaged else None
        problems = [f"{one.manifest.parent}: {text}" for one in self.recordings for text in one.problems]
        if problems and not skips_damaged:
            raise ArchiveError(f"{problems[0]}; see `recorder verify`, or use --skip-damaged")
        self.skipped += problems
        self.recorded: list[Recorded] = [
            read_recorded(one.manifest, now_ms, one.place) for one in self.recordings
        ]
        self._not_sealed_since: dict[Path, int] = {}
        """By the manifest of a recorder at work, when the first record came that is not in a sealed segment."""
        for recording in self.recordings:
            if recording.is_live:
                self._leave_unsealed(recording)
        self.runs = sorted((run for one in self.recordings for run in one.runs), key=_first_ingest_ms)
        self.size_bytes = sum(segment.size_bytes for run in self.runs for segment in run.segments)

    @property
    def clusters(self) -> set[str]:
        """The clusters that it was set to follow, or had a session of."""
        return {cluster for one in self.recorded for cluster in one.history.followed}

    @property
    def first_ms(self) -> int:
        """When its first record came, Unix ms."""
        return _first_ingest_ms(self.runs[0]) if self.runs else 0

    def notes(self) -> Iterator[str]:
        """Yield what is worth knowing of it."""
        for recording in self.recordings:
            yield from (f"{self.name}: {note}" for note in recording.notes)
            for segment in recording.segments:
                if not segment.sha256:
                    yield f"{self.name}: {segment.path.name} was left by a run that was killed: its whole records are taken"
            if since_ms := self._not_sealed_since.get(recording.manifest):
                yield (
                    f"{self.name}: {recording.manifest.parent} is being recorded to: what came since"
                    f" {moment_text(since_ms)} is in files that are not sealed, and left out"
                )
            for drop in recording.drops:
                yield f"{self.name}: it had dropped {drop.count:,} {drop.cluster} {drop.channel}: {drop.reason}"

    def gaps(self, cluster: str, now_ms: int) -> Iterator[list[Gap]]:
        """Yield the gaps of a cluster until now, of each of its recordings."""
        for one, recording in zip(self.recorded, self.recordings, strict=True):
            if cluster in one.history.followed:
                found = [*one.history.gaps.get(cluster, []), *_one(one.open_gaps.get(cluster))]
                if since_ms := self._not_sealed_since.get(one.manifest):
                    found.append(Gap(cluster, since_ms, now_ms, NOT_RUNNING, ""))
                found += [
                    Gap(cluster, begin_ms, min(end_ms, now_ms), NOT_RUNNING, "")
                    for begin_ms, end_ms in recording.absences
                ]
                yield found
            else:
                yield [Gap(cluster, 0, now_ms, NOT_RUNNING, "")]

    def pieces(self, dropped: Callable[[Dropped], None]) -> Iterator[Sequence[RecordedEvent]]:
        """Yield the records in order, many at once; `dropped` is told what was dropped among them.

        Raise `ArchiveError` for a damaged file, unless it is skipped.
        """
        drops = [drop for recording in self.recordings for drop in recording.drops]
        for run in self.runs:
            times = DropTimes(drop for drop in drops if drop.run_id == run.run_id)
            for records in run.records(read=self._read):
                if len(records):
                    self.records += len(records)
                    events = events_of(records)
                    for one in times.behind(events):
                        dropped(one)
                    yield events
            for one in times.rest():
                dropped(one)

    def origin(self) -> list[dict[str, Any]]:
        """Return what the new manifest says of it: its manifests, whose checksums vouch for all that these name."""
        return [
            {
                "manifest": one.manifest.name,
                "sha256": hashlib.sha256(_content(one)).hexdigest(),
                "runs": one.order,
            }
            for one in self.recordings
        ]

    def _leave_unsealed(self, recording: Recording) -> None:
        """Take none of what is still written to: a merged archive says up to when it has everything.

        Up to when that is of files which are written one after another, with more to come from memory, nobody can say.
        """
        times_ms: list[int] = []
        for run in recording.runs:
            times_ms += [segment.first_ingest_ms for segment in run.segments if not segment.sha256]
            run.segments[:] = [segment for segment in run.segments if segment.sha256]
        recording.runs[:] = [run for run in recording.runs if run.segments]
        # The recorder may have more in memory.
        last_ms = [segment.last_ingest_ms for segment in recording.segments]
        if times_ms or last_ms:
            self._not_sealed_since[recording.manifest] = min(times_ms or [max(last_ms)])

    def _read(self, segment: Segment, first_seq: int) -> Iterator[Records]:
        try:
            for block in segment.blocks(self._proofs):
                self.read_bytes += len(block)
                yield decoded(block, str(segment.path))
        except ArchiveError as error:
            if not self._skips_damaged:
                raise ArchiveError(f"{error} (--skip-damaged leaves it out)") from error
            self.skipped.append(str(error))


def _content(recording: Recording) -> bytes:
    try:
        with recording.place.open(recording.manifest) as file:
            return file.read()
    except OSError as error:
        raise ArchiveError(f"cannot read {recording.manifest}: {error.strerror or error}") from error


def _one(gap: Gap | None) -> list[Gap]:
    return [] if gap is None else [gap]


def _first_ingest_ms(run: RecordedRun) -> int:
    return run.first_ingest_ms
