"""Checks one segment: each line against the schema, the sum of its lines against the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import lt
from typing import Annotated, Any, Final, Literal

import msgspec

from recorder.archive.findings import FileReport
from recorder.archive.journal import read_line
from recorder.archive.layout import Kind
from recorder.archive.manifest_index import UNKNOWN_RUN, Entry
from recorder.archive.reader import line_bytes_max
from recorder.archive.record import UNREADABLE, Summary
from recorder.archive.sequence import RunCheck
from recorder.records import Record


class _Payload(msgspec.Struct):
    """Any JSON object; nothing of it is decoded."""


class _Reject(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line of the reject file."""

    ingest_ts: Annotated[int, msgspec.Meta(ge=0)]
    feed: str
    reason: str
    raw: str | msgspec.UnsetType = msgspec.UNSET
    raw_base64: str | msgspec.UnsetType = msgspec.UNSET


def _line_type(**constants: Any) -> type[Any]:
    """Return the type of a line for the fast decoder, made of the schema's model; `constants` are fields of one value."""
    fields: list[tuple[str, Any]] = []
    for name, field in Record.model_fields.items():
        bounds: Any = {
            bound: getattr(limit, bound)
            for limit in field.metadata
            for bound in ("ge", "min_length")
            if hasattr(limit, bound)
        }
        kind = _Payload if name == "payload" else field.annotation
        fields.append((name, constants.get(name, Annotated[kind, msgspec.Meta(**bounds)])))
    return msgspec.defstruct("Line", fields, forbid_unknown_fields=True, gc=False)


_FIELDS: Final = list(Record.model_fields)
_ORDER: Final = "no record: its fields are not in their order"
_decode_line: Callable[[bytes], Any] = msgspec.json.Decoder(_line_type()).decode
_decode_lines: Callable[[bytes], list[Any]] = msgspec.json.Decoder(_line_type()).decode_lines
_decode_fields: Callable[[bytes], dict[str, msgspec.Raw]] = msgspec.json.Decoder(
    dict[str, msgspec.Raw]
).decode
_decode_reject: Callable[[bytes], _Reject] = msgspec.json.Decoder(_Reject).decode


@lru_cache(maxsize=64)
def _decoder_of(hostname: str, app_version: str, schema_version: int) -> Callable[[bytes], list[Any]]:
    """Return a decoder for the records of one writer alone: it makes no string of what all of them have in common."""
    line = _line_type(
        hostname=Literal[hostname], app_version=Literal[app_version], schema_version=Literal[schema_version]
    )
    return msgspec.json.Decoder(line).decode_lines


class SegmentChecker:
    """Checks lines of one run that stand together in one file: a segment, or what stands behind the last one."""

    def __init__(self, report: FileReport, run: RunCheck, lines_before: int, entry: Entry | None) -> None:
        """`entry` is what the manifest says of the segment: the names in its `counts`, and a checksum of the bytes.

        Without one, each line is checked more closely.
        """
        self.bytes = 0
        self.lines = 0
        self.rest_bytes = 0
        """Bytes behind the last line end."""
        self.summary = Summary.of_segment(entry.counts if entry is not None else None)
        self._rest: list[bytes] = []
        self._report = report
        self._run = run
        self._lines_before = lines_before
        self._vouched = entry is not None
        self._decode = _decode_lines

    def feed(self, block: bytes) -> None:
        """Take the next bytes."""
        self.bytes += len(block)
        border = block.rfind(b"\n") + 1
        if border:
            whole = block[:border]
            if self.rest_bytes:
                whole = self._finish_line(whole)
            if whole:
                self._read(whole)
        self._begin_line(block[border:])

    def drop_rest(self) -> None:
        """Forget what stands behind the last line end."""
        self._rest.clear()
        self.rest_bytes = 0

    def end(self) -> None:
        """Note that no more bytes come."""
        if self.rest_bytes:
            self._problem(self.lines + 1, "the line has no end")
        self._report.add(self.summary)

    def _begin_line(self, data: bytes) -> None:
        """Keep the beginning of a line until its end comes; of a line that is too long, only that it is."""
        if data and (not self.rest_bytes or self.rest_bytes <= line_bytes_max(self._rest[0])):
            self._rest.append(data)
        self.rest_bytes += len(data)

    def _finish_line(self, data: bytes) -> bytes:
        """Return whole lines: what was kept, with `data` behind it; without the first line if that is too long."""
        end = data.index(b"\n") + 1
        is_too_long = self.rest_bytes + end > line_bytes_max(self._rest[0])
        whole = data[end:] if is_too_long else b"".join([*self._rest, data])
        self.drop_rest()
        if is_too_long:
            self.lines += 1
            self._problem(self.lines, "longer than any line of an archive")
        return whole

    def compare(self, entry: Entry, sha256: str) -> None:
        """Compare what was read with the manifest."""
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
        return {"records": self.summary.records, **self.summary.facts()}

    def _read(self, data: bytes) -> None:
        """Read whole lines, all at once if nothing is wrong with any of them."""
        count = data.count(b"\n")
        records = self._read_at_once(data)
        if len(records) != count or not self._vouched:
            records = self._read_carefully(data)
        elif _fields_of(data) != _FIELDS:
            self._problem(self.lines + 1, _ORDER)
        self._check(records)
        self.lines += count

    def _read_at_once(self, data: bytes) -> list[Any]:
        """Decode all lines; return nothing where one of them cannot be decoded."""
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

    def _read_carefully(self, data: bytes) -> list[Any]:
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

    def _check(self, records: list[Any]) -> None:
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

    def _explain_fall(self, records: list[Any]) -> None:
        """Report where sequence numbers do not rise; in a file without manifest a later time means another run."""
        seq, ingest_ms = self.summary.last_seq, self.summary.last_ingest_ts
        for record in records:
            later_run = self._run.run_id == UNKNOWN_RUN and record.ingest_ts > ingest_ms
            if record.seq <= seq and not later_run:
                what = "comes twice" if record.seq == seq else f"comes after {seq}"
                self._report.add_problem(f"seq {record.seq} {what}: a line is doubled or out of order")
            seq, ingest_ms = record.seq, record.ingest_ts

    def _problem(self, number: int, what: str) -> None:
        self._report.add_problem(f"line {self._lines_before + number}: {what}")


class RejectChecker(SegmentChecker):
    """Checks lines of the reject file."""

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


class PositionChecker(SegmentChecker):
    """Checks lines of the journal of positions."""

    def _facts(self) -> dict[str, Any]:
        return {"records": self.summary.records}

    def _read(self, data: bytes) -> None:
        for line in data[:-1].split(b"\n"):
            self.lines += 1
            self.summary.records += 1
            if read_line(line) is None:
                self._problem(self.lines, "no line of a journal of positions")


CHECKERS: Final[Mapping[Kind, type[SegmentChecker]]] = {
    "records": SegmentChecker,
    "rejects": RejectChecker,
    "positions": PositionChecker,
}
"""What checks the lines of each kind of file."""


def _fields_of(data: bytes) -> list[str]:
    """Return the names of the fields of the first line, in their order."""
    return list(_decode_fields(data[: data.find(b"\n") + 1 or None]))
