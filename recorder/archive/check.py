"""Checks one file of records: each line against the schema, each segment against what the manifest says of it."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter, lt
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Literal, get_type_hints

import msgspec

from recorder.archive.catalogue import UNKNOWN_RUN, Entry, first_bytes
from recorder.archive.disk import identity
from recorder.archive.reader import Content, open_file, read_blocks
from recorder.archive.record import UNREADABLE, Record, Summary
from recorder.archive.sequence import SequenceCheck
from recorder.errors import ArchiveError

_PROBLEMS_MAX: Final = 20
"""Problems of one file that are spelled out; the rest is counted."""
_SAMPLE_MS: Final = 1000


@dataclass(slots=True)
class FileReport:
    """One file of records."""

    path: str
    kind: Literal["records", "rejects"] = "records"
    records: int = 0
    """Lines, of rejects too."""
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

    def merge(self, other: RunCheck) -> None:
        """Take what was read of the same run in another file."""
        self.sequence.merge(other.sequence)
        self._times += other._times

    def time_of(self, number: int) -> int:
        """Give the ingest time of a record that was read, to a second."""
        self._times.sort()
        place = bisect_right(self._times, number, key=itemgetter(0))
        return self._times[place - 1][1] if place else 0


@dataclass(frozen=True, slots=True)
class Task:
    """One file to check, and what the manifest says of it."""

    path: Path
    entries: list[Entry]
    """The segments that it has."""
    tail_run: str | None
    """Who wrote what stands behind them, killed or at it still; None says that nothing may stand there."""
    rejects: bool = False
    compressed: Entry | None = None
    """What was noted of the compressed file as such."""
    identity: tuple[int, int] | None = None
    """Of the file that is meant, where another one may get its name meanwhile."""
    size_bytes: int | None = None
    """No more than that of its content is read: what it had when the archive was looked at."""


@dataclass(slots=True)
class Result:
    """What was found in one file."""

    report: FileReport
    runs: dict[str, RunCheck] = field(default_factory=dict)
    vanished: bool = False
    """Whether the file was not there any more, so that nothing was read."""


class _Vanished(Exception):
    """The file that is meant does not stand under its name any more."""


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


class _Reject(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line of the reject file."""

    ingest_ts: _Time
    feed: str
    reason: str
    raw: str | msgspec.UnsetType = msgspec.UNSET
    raw_base64: str | msgspec.UnsetType = msgspec.UNSET


_FIELDS: Final = list(Record.model_fields)
_ORDER: Final = "no record: its fields are not in their order"
_decode_line: Callable[[bytes], _Line] = msgspec.json.Decoder(_Line).decode
_decode_lines: Callable[[bytes], list[_Line]] = msgspec.json.Decoder(_Line).decode_lines
_decode_fields: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_decode_reject: Callable[[bytes], _Reject] = msgspec.json.Decoder(_Reject).decode


@lru_cache(maxsize=64)
def _decoder_of(hostname: str, app_version: str, schema_version: int) -> Callable[[bytes], list[_Line]]:
    """Give a decoder for the records of one writer alone, which makes no texts of what is the same in all of them."""
    constants = {
        "hostname": Literal[hostname],
        "app_version": Literal[app_version],
        "schema_version": Literal[schema_version],
    }
    fields = {**get_type_hints(_Line, include_extras=True), **constants}
    line = msgspec.defstruct("_LineOfWriter", list(fields.items()), forbid_unknown_fields=True, gc=False)
    decode: Callable[[bytes], list[_Line]] = msgspec.json.Decoder(line).decode_lines  # type: ignore[assignment]
    return decode


def check_file(task: Task, on_read: Callable[[bytes], object] | None = None) -> Result:
    """Read a file, plain or compressed, with the segments that it has.

    Without entries and tail run, the file is one that no manifest speaks of. `on_read` gets each block as it lies on
    disk.
    """
    path = str(task.path)
    result = Result(FileReport(path, "rejects" if task.rejects else "records", segments=len(task.entries)))
    report = result.report
    digest, on_disk = hashlib.sha256(), Content()
    noted = task.compressed if task.size_bytes is None else None
    blocks = _Blocks(_content(task, *filter(None, [on_read, on_disk.add if noted else None])))
    make = _RejectStretch if task.rejects else _Stretch
    lines_before = 0

    def run_of(run_id: str) -> RunCheck:
        return result.runs.setdefault(run_id, RunCheck(run_id))

    try:
        for entry in task.entries:
            # The first segment's checksum is the file's until there.
            own = hashlib.sha256() if blocks.count else None
            stretch = make(report, run_of(entry.run_id), lines_before)
            for block in blocks.take(entry.bytes):
                digest.update(block)
                if own:
                    own.update(block)
                stretch.feed(block)
            stretch.end()
            stretch.compare(entry, (own or digest).hexdigest())
            lines_before += stretch.lines
        tail = make(report, run_of(task.tail_run or UNKNOWN_RUN), lines_before, vouched=False)
        for block in blocks.rest():
            digest.update(block)
            tail.feed(block)
        if tail.bytes:
            _judge_tail(tail, report, known=bool(task.entries), expected=task.tail_run is not None)
        if noted and (on_disk.bytes != noted.bytes or noted.sha256 not in (on_disk.sha256, "")):
            report.add_problem("the compressed file is not the one that was written")
    except ArchiveError as error:
        report.add_problem(str(error))
    except _Vanished:
        return Result(report, vanished=True)
    report.bytes = blocks.count
    report.sha256 = digest.hexdigest()
    for run in result.runs.values():
        run.sequence.settle()
    return result


def _content(task: Task, *on_read: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield the content that is meant. Raises `_Vanished` where another file, or none, is found under the name."""

    def open_meant(path: Path) -> BinaryIO:
        try:
            file = open_file(path)
        except FileNotFoundError:
            raise _Vanished from None
        if task.identity and identity(os.fstat(file.fileno())) != task.identity:
            file.close()
            raise _Vanished
        return file

    def tell(block: bytes) -> None:
        for told in on_read:
            told(block)

    blocks = read_blocks(task.path, open_meant, on_read=tell)
    return blocks if task.size_bytes is None else first_bytes(blocks, task.size_bytes)


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

    def __init__(self, report: FileReport, run: RunCheck, lines_before: int, *, vouched: bool = True) -> None:
        """`vouched` says whether a checksum stands for the bytes; if not, each line is looked at more closely."""
        self.bytes = 0
        self.lines = 0
        self.rest = b""
        self.summary = Summary()
        self._report = report
        self._run = run
        self._lines_before = lines_before
        self._vouched = vouched
        self._decode = _decode_lines

    def feed(self, block: bytes) -> None:
        """Take the next bytes."""
        self.bytes += len(block)
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

    def compare(self, entry: Entry, sha256: str) -> None:
        """Hold what was read against the manifest."""
        if self.bytes < entry.bytes:
            self._report.add_problem(
                f"{entry.bytes - self.bytes} bytes of the segment at {entry.offset} are missing"
            )
        if sha256 != entry.sha256:
            self._report.add_problem(f"the checksum of the segment at {entry.offset} does not match")
        for name, value in self._facts().items():
            noted = getattr(entry, name)
            if value != noted:
                self._report.add_problem(
                    f"{name} of the segment at {entry.offset} is {value}, the manifest says {noted}"
                )

    def _facts(self) -> dict[str, Any]:
        summary = self.summary
        return {
            "records": summary.records,
            "first_seq": summary.first_seq,
            "last_seq": summary.last_seq,
            "min_ts": summary.min_ts,
            "max_ts": summary.max_ts,
            "first_ingest_ts": summary.first_ingest_ts,
            "last_ingest_ts": summary.last_ingest_ts,
            "counts": dict(summary.counts),
        }

    def _read(self, data: bytes) -> None:
        """Take whole lines, all at once if nothing is wrong with any of them."""
        count = data.count(b"\n")
        records = self._read_at_once(data)
        if len(records) != count or not self._vouched:
            records = self._read_carefully(data)
        elif _fields_of(data) != _FIELDS:
            self._problem(self.lines + 1, _ORDER)
        self._check(records)
        self.lines += count

    def _read_at_once(self, data: bytes) -> list[_Line]:
        """Decode all lines; nothing where one of them cannot be."""
        for decode in dict.fromkeys((self._decode, _decode_lines)):
            try:
                if not data.isascii():
                    data.decode()
                records = decode(data)
            except UNREADABLE:
                continue
            if records:
                first = records[0]
                self._decode = _decoder_of(first.hostname, first.app_version, first.schema_version)
            return records
        return []

    def _read_carefully(self, data: bytes) -> list[_Line]:
        records = []
        for number, line in enumerate(data[:-1].split(b"\n"), self.lines + 1):
            try:
                line.decode()
                records.append(_decode_line(line))
                if _fields_of(line) != _FIELDS:
                    self._problem(number, _ORDER)
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


class _RejectStretch(_Stretch):
    """Lines of the reject file."""

    def _facts(self) -> dict[str, Any]:
        return {"records": self.summary.records}

    def _read(self, data: bytes) -> None:
        for line in data[:-1].split(b"\n"):
            self.lines += 1
            self.summary.records += 1
            try:
                line.decode()
                reject = _decode_reject(line)
            except UNREADABLE as error:
                self._problem(self.lines, f"no reject: {error}")
            else:
                if (reject.raw is msgspec.UNSET) == (reject.raw_base64 is msgspec.UNSET):
                    self._problem(self.lines, "no reject: it has to have one of `raw` and `raw_base64`")


def _fields_of(data: bytes) -> list[str]:
    """Give the names of the fields of the first line, in their order."""
    return list(_decode_fields(data[: data.find(b"\n") + 1 or None]))
