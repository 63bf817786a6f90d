"""What a manifest says, line by line: runs, and which bytes of which file each segment is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from recorder.archive.gaps import KILLED, NOT_RUNNING, Gap, GapHistory, Silence
from recorder.archive.pressure import Step
from recorder.archive.reader import Opener, lines, read_blocks
from recorder.archive.record import UNREADABLE, RecordHeader
from recorder.errors import ArchiveError

NO_PREVIOUS: Final = "0" * 64
"""`prev` of the first line of a manifest."""
UNKNOWN_RUN: Final = "unknown"
"""Stands for the run of records that no manifest knows."""
NEVER_MS: Final = 1 << 62
"""A time that does not come."""
_LEAVING_OUT: Final = frozenset(step.word for step in Step if step >= Step.SAMPLE)
"""What is done about a disk that fills, from where on quotes are left out or all that comes."""


_END: Final = re.compile(rb'"prev":"[0-9a-f]{64}"(,"sum":"([0-9a-f]{64})")?\}')
"""How a line of the manifest ends; the first versions wrote no `sum`."""
_END_BYTES: Final = 147
"""As long as that is."""


def with_sum(line: bytes) -> bytes:
    """Put the checksum of a line's own bytes at its end, as its last field."""
    content = line.removesuffix(b"}")
    return b'%b,"sum":"%b"}' % (content, hashlib.sha256(content).hexdigest().encode())


class Entry(msgspec.Struct):
    """One line of the manifest: the fields that any reader of it here needs, of all kinds."""

    kind: str
    run_id: str
    ts: int
    prev: str
    file: str = ""
    """A segment's file, relative to the manifest's folder; its plain name, whether it is compressed or not."""
    was: str = ""
    """The active file's name, where closing the segment renamed it."""
    offset: int = 0
    """Bytes that stand before the segment in its file."""
    records: int = 0
    bytes: int = 0
    sha256: str = ""
    first_seq: int = 0
    last_seq: int = 0
    min_ts: int = 0
    max_ts: int = 0
    first_ingest_ts: int = 0
    last_ingest_ts: int = 0
    counts: dict[str, int] = {}
    reason: str = ""
    durable: bool = True
    codec: str = ""
    object: str = ""
    """Of a file that was uploaded, its name in the bucket."""
    url: str = ""
    etag: str = ""
    cluster: str = ""
    channel: str = ""
    count: int = 0
    from_ms: int = msgspec.field(default=0, name="from")
    to_ms: int = msgspec.field(default=0, name="to")
    last_received: int = 0
    at: int = 0
    """Unix ms at which a session began or ended; `ts` is when the line was written."""
    after: str = ""
    """Of a session that ended, the position up to which another recorder's stream was recorded."""
    settings: Any = None
    shifted: bool = False
    """Of a run that begins, whether it may record a replay whose events did not happen when they say."""
    boot_id: str = ""
    step: str = ""
    """What is done about a disk that fills."""

    @property
    def happened_ms(self) -> int:
        """When a session began or ended, Unix ms; older lines say only when they were written."""
        return self.at or self.ts

    @property
    def end(self) -> int:
        """Where the segment ends in its file."""
        return self.offset + self.bytes


@dataclass(slots=True)
class Run:
    """One process life."""

    run_id: str
    started_ms: int
    ended_ms: int = 0
    settings: Any = None
    """As the manifest has them, by variable; None where it does not."""
    is_shifted: bool = False
    """Whether it may have recorded a replay whose events did not happen when they say."""
    boot_id: str = ""
    """Since when the machine was on; empty where the manifest does not say."""
    clusters: set[str] = field(default_factory=set)
    """Those of which it had a session."""
    drops: list[Entry] = field(default_factory=list)
    """Records that were lost, as far as they are noted."""
    sampled_until_ms: int = 0
    """Until when a disk that filled kept it from recording everything; `NEVER_MS` while it does, 0 if it never did."""
    set_back_ms: int = 0
    """By how much its clock was set back; of several times the most."""

    @property
    def ended(self) -> bool:
        """Whether it ended in order; a run that was killed did not."""
        return bool(self.ended_ms)


@dataclass(slots=True)
class ManifestIndex:
    """The sum of a manifest's lines up to some point."""

    files: dict[str, list[Entry]] = field(default_factory=dict)
    """The segments of each file, by the plain name that it has now, in the order of their bytes, without holes."""
    covers_rejects: bool = False
    """Whether rejects are on record; the first versions did not note them."""
    moved: list[list[Entry]] = field(default_factory=list)
    """Segments of files that another program moved away, file by file."""
    damaged: list[Entry] = field(default_factory=list)
    """What a start has found of files, or of the manifest, that had lost a part since they were written."""
    compressed: dict[str, Entry] = field(default_factory=dict)
    """What was noted of compressed files, by their plain names."""
    uploaded: dict[str, Entry] = field(default_factory=dict)
    """What was noted of files in a bucket, by their plain names; they are there whatever was deleted here."""
    deleted: list[Entry] = field(default_factory=list)
    """Segments that retention deleted."""
    doomed: dict[str, list[Entry]] = field(default_factory=dict)
    """The same by file; a crash may have kept the file from going."""
    runs: dict[str, Run] = field(default_factory=dict)
    last_run: Run | None = None
    silences: dict[str, Silence] = field(default_factory=dict)
    """By cluster; of one whose session nobody closed, since it was opened."""
    positions: dict[str, str] = field(default_factory=dict)
    """By cluster without a session, the position up to which another recorder's stream was recorded."""
    opened_by: dict[str, str] = field(default_factory=dict)
    """By cluster, the run that opened its last session."""
    history: GapHistory = field(default_factory=GapHistory)

    def _session_opened(self, entry: Entry) -> None:
        self.opened_by[entry.cluster] = entry.run_id
        run = self.runs.get(entry.run_id)
        if run is not None:
            run.clusters.add(entry.cluster)

    def undo_deletion(self, name: str) -> None:
        """Take back a file that retention has noted as deleted, and that is still there."""
        segments = self.doomed.pop(name, [])
        if segments and name not in self.files:
            self.files[name] = segments
            gone = {id(segment) for segment in segments}
            self.deleted = [segment for segment in self.deleted if id(segment) not in gone]

    def add(self, entry: Entry) -> None:
        """Add the next line."""
        self.history.last_ms = entry.ts
        match entry.kind:
            case "segment_closed" | "rejects_closed" | "positions_closed":
                self._add_segment(entry)
            case "segment_compressed":
                self.compressed[entry.file] = entry
            case "segment_uploaded":
                self.uploaded[entry.file] = entry
            case "segment_deleted":
                segments = self.files.pop(entry.file, [])
                self.deleted += segments
                if segments:
                    self.doomed[entry.file] = segments
                self.compressed.pop(entry.file, None)
            case "segment_damaged":
                self.damaged.append(entry)
                self.files.pop(entry.file, None)
            case "manifest_damaged":
                self.damaged.append(entry)
            case "run_started":
                self.last_run = self.runs[entry.run_id] = Run(
                    entry.run_id,
                    entry.ts,
                    settings=entry.settings,
                    is_shifted=entry.shifted,
                    boot_id=entry.boot_id,
                )
                self.history.run_started(entry.run_id, entry.ts, entry.settings)
            case "run_ended":
                self.runs.setdefault(entry.run_id, Run(entry.run_id, entry.ts)).ended_ms = entry.ts
            case "session_opened":
                self.silences[entry.cluster] = Silence(entry.happened_ms, KILLED)
                self.positions.pop(entry.cluster, None)
                self._session_opened(entry)
                self.history.session_opened(entry.cluster, entry.happened_ms, entry.run_id)
            case "gap":
                # What ends it is a session, also where the recorder was killed before it noted that one.
                self.silences[entry.cluster] = Silence(entry.to_ms, KILLED)
                self._session_opened(entry)
                self.history.gap_ended(
                    Gap(entry.cluster, entry.from_ms, entry.to_ms, entry.reason, entry.run_id)
                )
            case "session_closed":
                reason = NOT_RUNNING if entry.reason == "shutdown" else entry.reason
                self.silences[entry.cluster] = Silence(entry.last_received or entry.happened_ms, reason)
                self.positions[entry.cluster] = entry.after
            case "drop":
                self.history.records_dropped(entry.cluster, entry.ts, entry.count)
                if entry.run_id in self.runs:
                    self.runs[entry.run_id].drops.append(entry)
            case "clock_set_back" if entry.run_id in self.runs:
                run = self.runs[entry.run_id]
                run.set_back_ms = max(run.set_back_ms, entry.from_ms - entry.to_ms)
            case "pressure" if entry.run_id in self.runs:
                self._note_pressure(self.runs[entry.run_id], entry)
            case _:
                pass

    @property
    def shifted(self) -> list[str]:
        """The runs that may have recorded a replay whose events did not happen when they say."""
        return [run.run_id for run in self.runs.values() if run.is_shifted]

    @staticmethod
    def _note_pressure(run: Run, entry: Entry) -> None:
        if entry.step in _LEAVING_OUT:
            run.sampled_until_ms = NEVER_MS
        elif run.sampled_until_ms == NEVER_MS:
            run.sampled_until_ms = entry.ts

    def silences_at_start(self) -> dict[str, Silence]:
        """Return since when each cluster is silent, for a run that begins. A killed run wrote until its last record."""
        last: dict[str, Entry] = {}
        for entry in (entry for entries in self.files.values() for entry in entries):
            before = last.get(entry.run_id)
            # By its number: where the clock was set back, the last record has not the latest time.
            if before is None or entry.last_seq > before.last_seq:
                last[entry.run_id] = entry

        def written_until(cluster: str) -> int:
            # Not the last run: that one may have been killed before it had a session.
            entry = last.get(self.opened_by[cluster])
            return entry.last_ingest_ts if entry is not None else 0

        return {
            cluster: Silence(max(silence.since_ms, written_until(cluster)), KILLED)
            if silence.reason == KILLED
            else silence
            for cluster, silence in self.silences.items()
        }

    def positions_at_start(self) -> dict[str, str]:
        """Return up to where each cluster of another recorder's stream is recorded, for a run that begins.

        Nothing is known behind a run that was killed: it has recorded more than it has noted.
        """
        has_ended = self.last_run is not None and self.last_run.ended
        return {cluster: after for cluster, after in self.positions.items() if after and has_ended}

    def _add_segment(self, entry: Entry) -> None:
        self.covers_rejects |= entry.kind == "rejects_closed"
        before = self.files.pop(entry.was or entry.file, [])
        if before and before[-1].end != entry.offset:
            # Another file stands under the name by now.
            self.moved.append(before)
            before = []
        self.files[entry.file] = [*before, entry]

    def unfinished_run(self) -> str:
        """Return the run that wrote what stands behind the last segments: the last run, if it was killed."""
        return self.last_run.run_id if self.last_run and not self.last_run.ended else UNKNOWN_RUN


def still_there(entries: list[Entry], path: Path, size_bytes: int, opener: Opener) -> bool:
    """Return whether the file under this name is the one that has these segments, by its size and last segment.

    Raise `ArchiveError` where it cannot be read.
    """
    last = next((entry for entry in reversed(entries) if entry.bytes), None)
    if last is None:
        return True
    if last.end > size_bytes:
        return False

    def open_at(path: Path) -> BinaryIO:
        file = opener(path)
        file.seek(last.offset)
        return file

    return sha256_of(first_bytes(read_blocks(path, open_at), last.bytes)) == last.sha256


def begins_with(first: Entry, path: Path, opener: Opener) -> bool:
    """Return whether the first record of a file is the first one of a segment."""
    header = first_record(path, opener)
    return header is not None and (header.seq, header.ingest_ts) == (first.first_seq, first.first_ingest_ts)


def first_record(path: Path, opener: Opener) -> RecordHeader | None:
    """Return the first record of a file; None where its first line is no record."""
    try:
        return msgspec.json.decode(next(lines(read_blocks(path, opener), str(path)), b""), type=RecordHeader)
    except (*UNREADABLE, ArchiveError):
        return None


def sha256_of(blocks: Iterator[bytes]) -> str:
    """Return the checksum of what is in the blocks, in hex."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def first_bytes(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the first `count` bytes of the blocks."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def read_manifest(data_lines: Iterator[bytes], problem: Callable[[int, str], None]) -> Iterator[Entry]:
    """Yield the lines of a manifest; what is wrong with line n goes to `problem(n, what)`.

    The chain is checked: `prev` is the checksum of the line before, and `sum`, once there are any, the line's own.
    """
    previous = NO_PREVIOUS
    sums = False
    decode = msgspec.json.Decoder(Entry).decode
    for number, line in enumerate(data_lines, 1):
        content = line.rstrip(b"\n")
        end = _END.search(content, max(0, len(content) - _END_BYTES))
        try:
            entry = decode(content)
        except UNREADABLE as error:
            problem(number, f"not a line of a manifest: {error}")
        else:
            if entry.prev != previous:
                what = "a line before it was removed or altered"
                problem(
                    number, f"the chain breaks here: {what}" if number > 1 else "the beginning is missing"
                )
            elif end is None or end.end() != len(content) or not _vouches(content, end, demanded=sums):
                problem(number, "the line was altered: it is not what its own checksum says")
            yield entry
        sums = sums or (end is not None and end[2] is not None)
        previous = hashlib.sha256(content).hexdigest()


def goes_on_behind_a_line(torn: bytes) -> bool:
    """Return whether a whole line is followed by something other than its end, which no torn write puts there."""
    end = _END.search(torn)
    return end is not None and end.end() < len(torn) and _vouches(torn, end, demanded=True)


def _vouches(content: bytes, end: re.Match[bytes], *, demanded: bool) -> bool:
    """Return whether a line has its own checksum, or none where none is `demanded`."""
    if end[2] is None:
        return not demanded
    return hashlib.sha256(content[: end.start(1)]).hexdigest().encode() == end[2]
