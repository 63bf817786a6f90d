"""Checks one file of records: each line against the schema, each segment against what the manifest says of it."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter, lt
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from recorder.archive.catalogue import UNKNOWN_RUN, Entry
from recorder.archive.reader import read_blocks
from recorder.archive.record import UNREADABLE, Summary
from recorder.archive.sequence import SequenceCheck
from recorder.errors import ArchiveError

_PROBLEMS_MAX: Final = 20
"""Problems of one file that are spelled out; the rest is counted."""
_SAMPLE_MS: Final = 1000


@dataclass(slots=True)
class FileReport:
    """One file of records."""

    path: str
    records: int = 0
    bytes: int = 0
    """Of the plain content."""
    sha256: str = ""
    """Of the plain content."""
    segments: int = 0
    """What the manifest has of it; 0 if it does not know the file."""
    first_ingest_ts: int = 0
    last_ingest_ts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    problems_count: int = 0
    """All of them; `problems` has the first few."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and no fault: a tail that the next start repairs, a file that was moved."""

    def add_problem(self, text: str) -> None:
        """Take note of something wrong."""
        self.problems_count += 1
        if self.problems_count <= _PROBLEMS_MAX:
            self.problems.append(text)

    def add(self, summary: Summary) -> None:
        """Take the next stretch of records into account."""
        if not summary.records:
            return
        self.first_ingest_ts = self.first_ingest_ts or summary.first_ingest_ts
        self.last_ingest_ts = summary.last_ingest_ts
        self.records += summary.records
        self.counts.update(summary.counts)


class RunCheck:
    """What was read of one run, over all files."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.sequence = SequenceCheck()
        self._times: list[tuple[int, int]] = []
        """`(sequence number, ingest time)` at least once a second, file by file."""

    def add(self, numbers: list[int], times_ms: list[int], *, rising: bool) -> None:
        """Take the sequence numbers and ingest times of some lines of one file."""
        if rising:
            self.sequence.add(numbers)
        else:
            for number in numbers:
                self.sequence.add([number])
        last_ms = times_ms[0]
        self._times.append((numbers[0], last_ms))
        if times_ms[-1] - last_ms >= _SAMPLE_MS:
            for number, ms in zip(numbers, times_ms, strict=True):
                if ms - last_ms >= _SAMPLE_MS:
                    self._times.append((number, ms))
                    last_ms = ms

    def time_of(self, number: int) -> int:
        """Give the ingest time of a record that was read, to a second."""
        self._times.sort()
        place = bisect_right(self._times, number, key=itemgetter(0))
        return self._times[place - 1][1] if place else 0


class _Payload(msgspec.Struct):
    """Any JSON object."""


_Time = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A record, to the letter: what `record.Record` says, for the fast decoder."""

    ingest_ts: _Time
    type: Annotated[str, msgspec.Meta(min_length=1)]
    symbol: str
    topic: str
    feed: str
    ts: _Time
    payload: _Payload
    hostname: str
    app_version: str
    schema_version: Annotated[int, msgspec.Meta(ge=1)]
    seq: Annotated[int, msgspec.Meta(ge=1)]


_decode_line: Callable[[bytes], _Line] = msgspec.json.Decoder(_Line).decode
_decode_lines: Callable[[bytes], list[_Line]] = msgspec.json.Decoder(_Line).decode_lines


def check_file(
    path: Path,
    entries: list[Entry],
    run_of: Callable[[str], RunCheck],
    *,
    tail_run: str | None,
    on_read: Callable[[int], None] | None = None,
) -> FileReport:
    """Read a file, plain or compressed, with the segments that it has.

    What stands behind the last one is of `tail_run`, which was killed or still writes; None says that nothing may
    stand there. Without entries and tail run, the file is one that no manifest speaks of.
    """
    report = FileReport(str(path), segments=len(entries))
    digest = hashlib.sha256()
    lines_before = 0
    blocks = _Blocks(read_blocks(path, on_read=on_read))
    try:
        for entry in entries:
            stretch = _Stretch(report, run_of(entry.run_id), lines_before)
            for block in blocks.take(entry.bytes):
                digest.update(block)
                stretch.feed(block)
            stretch.end()
            stretch.compare(entry)
            lines_before += stretch.lines
        tail = _Stretch(report, run_of(tail_run or UNKNOWN_RUN), lines_before)
        for block in blocks.rest():
            digest.update(block)
            tail.feed(block)
        if tail.bytes:
            _judge_tail(tail, report, known=bool(entries), expected=tail_run is not None)
    except ArchiveError as error:
        report.add_problem(str(error))
    report.bytes = blocks.count
    report.sha256 = digest.hexdigest()
    return report


def holds_segments(path: Path, entries: list[Entry]) -> bool:
    """Tell whether a file consists of exactly these segments."""
    blocks = _Blocks(read_blocks(path))
    try:
        for entry in entries:
            digest = hashlib.sha256()
            for block in blocks.take(entry.bytes):
                digest.update(block)
            if digest.hexdigest() != entry.sha256:
                return False
        return not any(blocks.rest())
    except ArchiveError:
        return False


def _judge_tail(tail: _Stretch, report: FileReport, *, known: bool, expected: bool) -> None:
    if tail.rest:
        text = f"the last line is torn after {len(tail.rest)} bytes"
        if expected:
            report.notes.append(f"{text}; the next start cuts it")
        else:
            report.add_problem(text)
        tail.rest = b""
    tail.end()
    if expected and tail.summary.records:
        report.notes.append(f"{tail.summary.records} records are not in the manifest yet")
    elif known and tail.lines:
        report.add_problem(f"{tail.lines} lines behind the last segment are not in the manifest")


class _Blocks:
    """Blocks, cut where it is asked for."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.count = 0

    def take(self, count: int) -> Iterator[bytes]:
        """Yield blocks of `count` bytes together, or fewer where there are no more."""
        while count > 0:
            block = self._rest or next(self._blocks, b"")
            if not block:
                return
            self._rest = block[count:]
            block = block[:count]
            count -= len(block)
            self.count += len(block)
            yield block

    def rest(self) -> Iterator[bytes]:
        """Yield everything that is left."""
        if self._rest:
            self.count += len(self._rest)
            yield self._rest
            self._rest = b""
        for block in self._blocks:
            self.count += len(block)
            yield block


class _Stretch:
    """Lines of one run that stand together in one file."""

    def __init__(self, report: FileReport, run: RunCheck, lines_before: int) -> None:
        self.bytes = 0
        self.lines = 0
        self.rest = b""
        self.summary = Summary()
        self._report = report
        self._run = run
        self._lines_before = lines_before
        self._digest = hashlib.sha256()

    def feed(self, block: bytes) -> None:
        """Take the next bytes."""
        self.bytes += len(block)
        self._digest.update(block)
        data = self.rest + block if self.rest else block
        end = data.rfind(b"\n") + 1
        self.rest = data[end:]
        if end:
            self._read(data[:end])

    def end(self) -> None:
        """Take note that no more bytes come."""
        if self.rest:
            self._problem(self.lines + 1, "the line has no end")
        self._report.add(self.summary)

    def compare(self, entry: Entry) -> None:
        """Hold what was read against the manifest."""
        if self.bytes < entry.bytes:
            self._report.add_problem(
                f"{entry.bytes - self.bytes} bytes of the segment at {entry.offset} are missing"
            )
        if self._digest.hexdigest() != entry.sha256:
            self._report.add_problem(f"the checksum of the segment at {entry.offset} does not match")
        summary = self.summary
        found: dict[str, Any] = {
            "records": summary.records,
            "first_seq": summary.first_seq,
            "last_seq": summary.last_seq,
            "min_ts": summary.min_ts,
            "max_ts": summary.max_ts,
            "first_ingest_ts": summary.first_ingest_ts,
            "last_ingest_ts": summary.last_ingest_ts,
            "counts": dict(summary.counts),
        }
        for name, value in found.items():
            noted = getattr(entry, name)
            if value != noted:
                self._report.add_problem(
                    f"{name} of the segment at {entry.offset} is {value}, the manifest says {noted}"
                )

    def _read(self, data: bytes) -> None:
        count = data.count(b"\n")
        try:
            if not data.isascii():
                data.decode()
            records = _decode_lines(data)
        except UNREADABLE:
            records = []
        if len(records) != count:
            records = self._read_carefully(data)
        self._check(records)
        self.lines += count

    def _read_carefully(self, data: bytes) -> list[_Line]:
        records = []
        for number, line in enumerate(data[:-1].split(b"\n"), self.lines + 1):
            try:
                line.decode()
                records.append(_decode_line(line))
            except UnicodeDecodeError:
                self._problem(number, "not UTF-8")
            except UNREADABLE as error:
                self._problem(number, f"no record: {error}")
        return records

    def _check(self, records: list[_Line]) -> None:
        if not records:
            return
        if [record.topic for record in records] != [f"{record.type}:{record.symbol}" for record in records]:
            for record in records:
                if record.topic != f"{record.type}:{record.symbol}":
                    self._report.add_problem(f"seq {record.seq}: topic is not type:symbol")
        numbers = [record.seq for record in records]
        rising = all(map(lt, [self.summary.last_seq, *numbers], numbers))
        if not rising:
            self._explain_fall(records)
        if self._run.run_id != UNKNOWN_RUN:
            self._run.add(numbers, [record.ingest_ts for record in records], rising=rising)
        times = [record.ts for record in records if record.ts]
        self.summary.add(
            Summary(
                records=len(records),
                first_seq=numbers[0],
                last_seq=numbers[-1],
                min_ts=min(times, default=0),
                max_ts=max(times, default=0),
                first_ingest_ts=records[0].ingest_ts,
                last_ingest_ts=records[-1].ingest_ts,
                counts=Counter([record.type for record in records]),
            )
        )

    def _explain_fall(self, records: list[_Line]) -> None:
        """Tell where sequence numbers do not rise; in a file without manifest a later time means another run."""
        seq, ingest_ms = self.summary.last_seq, self.summary.last_ingest_ts
        for record in records:
            later_run = self._run.run_id == UNKNOWN_RUN and record.ingest_ts > ingest_ms
            if record.seq <= seq and not later_run:
                what = "comes twice" if record.seq == seq else f"comes after {seq}"
                self._report.add_problem(f"seq {record.seq} {what}: a line is doubled or out of order")
            seq, ingest_ms = record.seq, record.ingest_ts

    def _problem(self, number: int, what: str) -> None:
        self._report.add_problem(f"line {self._lines_before + number}: {what}")
