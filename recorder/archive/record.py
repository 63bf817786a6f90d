"""Events to records: one NDJSON line each, the payload byte for byte, made for a whole batch in one formatting call."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson
from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no record: msgspec leaves bad UTF-8 and deep nesting to Python's errors."""

_THREE_DIGITS = [b"%03d" % number for number in range(1000)]
_PREFIXES_MAX = 500_000
"""Distinct symbols whose constant part of the line is kept; options have more contracts in a year than memory is for."""


class Record(BaseModel):
    """One line of the archive, schema version 1. The hot path does not use this model; tests hold the two together."""

    model_config = ConfigDict(extra="forbid", title="recorder record, schema version 1")

    ingest_ts: int = Field(ge=0, description="Unix ms: when the bytes were read from the socket")
    type: str = Field(min_length=1, description="the channel: upstream `ev`")
    symbol: str = Field(description="what the event is about; empty if it has none")
    topic: str = Field(description="`type:symbol`")
    feed: str = Field(description="the cluster")
    ts: int = Field(
        ge=0, description="Unix ms: when it happened; an aggregate's window end; 0 if the event has no time"
    )
    payload: dict[str, Any] = Field(description="the event, byte for byte as received")
    hostname: str = Field(description="the machine that wrote the record")
    app_version: str = Field(description="the version that wrote the record")
    schema_version: int = Field(description="1; adding a field raises it")
    seq: int = Field(ge=1, description="from 1 in each run, over all files; a hole is a loss")


class RecordHeader(msgspec.Struct, gc=False):
    """What is read back of a record to count it: everything that the manifest speaks of."""

    ingest_ts: int
    type: str
    feed: str
    ts: int
    seq: int


@dataclass(slots=True)
class Columns:
    """Some events of one batch and their `seq`, as columns of equal length, in order."""

    channels: list[str]
    symbols: list[str]
    times_ms: list[int]
    bodies: list[bytes]
    """Each event's exact bytes, less its opening brace, and a comma: how a frame falls apart."""
    seqs: Sequence[int]
    has_line_breaks: bool = False
    """Whether payloads may have line breaks between their tokens, which would end a line in the middle."""
    distinct_times_ms: set[int] = field(default_factory=set)
    """Each time once; found out where it is not given."""

    def __post_init__(self) -> None:
        if not self.distinct_times_ms:
            self.distinct_times_ms = set(self.times_ms)

    def at(self, places: Sequence[int]) -> Columns:
        """Give the events at these places."""
        return Columns(
            [self.channels[place] for place in places],
            [self.symbols[place] for place in places],
            [self.times_ms[place] for place in places],
            [self.bodies[place] for place in places],
            [self.seqs[place] for place in places],
            self.has_line_breaks,
        )


@dataclass(slots=True)
class Summary:
    """What a run of records in one file amounts to; times are Unix ms, and `ts` 0 does not count as a time."""

    records: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    min_ts: int = 0
    max_ts: int = 0
    first_ingest_ts: int = 0
    last_ingest_ts: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        """Append what `other` sums up, which comes later in the file."""
        if not other.records:
            return
        if not self.records:
            self.first_seq = other.first_seq
            self.first_ingest_ts = other.first_ingest_ts
        self.last_seq = other.last_seq
        self.last_ingest_ts = other.last_ingest_ts
        if other.min_ts and (not self.min_ts or other.min_ts < self.min_ts):
            self.min_ts = other.min_ts
        self.max_ts = max(self.max_ts, other.max_ts)
        self.records += other.records
        self.bytes += other.bytes
        for channel, count in other.counts.items():
            self.counts[channel] += count


@dataclass(slots=True)
class Lines:
    """Whole lines for one file, in order, with their summary."""

    cluster: str
    file: str
    """Which file of the archive they belong to: a key that `Policy` made."""
    data: bytes
    summary: Summary


@dataclass(slots=True)
class RecordBatch:
    """The records of one batch, for all files, and what could not be read."""

    cluster: str
    received_ns: int
    lines: list[Lines]
    rejects: bytes
    """Whole lines for the reject file."""
    rejects_count: int = 0

    @property
    def size(self) -> int:
        """Bytes, all lines together."""
        return sum(len(lines.data) for lines in self.lines) + len(self.rejects)


def summarise(data: bytes) -> Summary:
    """Sum up whole lines by reading them back. Raises `msgspec.MsgspecError` where a line is no record."""
    headers = _decode_lines(data)
    summary = Summary(records=len(headers), bytes=len(data))
    if headers:
        times = [header.ts for header in headers if header.ts]
        summary.first_seq = headers[0].seq
        summary.last_seq = headers[-1].seq
        summary.first_ingest_ts = headers[0].ingest_ts
        summary.last_ingest_ts = headers[-1].ingest_ts
        summary.min_ts = min(times, default=0)
        summary.max_ts = max(times, default=0)
        summary.counts = Counter([header.type for header in headers])
    return summary


_decode_lines = msgspec.json.Decoder(RecordHeader).decode_lines


class Formatter:
    """Makes the lines of one cluster. The parts of a line that do not change are encoded once."""

    def __init__(self, cluster: str, hostname: str, app_version: str) -> None:
        self.cluster = cluster
        self._feed = orjson.dumps(cluster)
        self._tail = b'"hostname":%b,"app_version":%b,"schema_version":%d,"seq":' % (
            orjson.dumps(hostname),
            orjson.dumps(app_version),
            SCHEMA_VERSION,
        )
        self._prefixes: dict[str, dict[str, bytes]] = {}
        self._prefixes_count = 0

    def format(self, ingest_ms: int, columns: Columns) -> bytes:
        """Give one line for each event: six parts each, all joined at once, and none of them made for one event."""
        count = len(columns.bodies)
        if not count:
            return b""
        prefixes = self._prefixes
        named = zip(columns.channels, columns.symbols, strict=True)
        try:
            heads = [prefixes[channel][symbol] for channel, symbol in named]
        except KeyError:
            heads = [self._prefix(*name) for name in zip(columns.channels, columns.symbols, strict=True)]
        bodies = columns.bodies
        if columns.has_line_breaks:
            bodies = [body.replace(b"\r", b" ").replace(b"\n", b" ") for body in bodies]
        times = {time_ms: b'%d,"payload":{' % time_ms for time_ms in columns.distinct_times_ms}
        begin = b'}\n{"ingest_ts":%d,' % ingest_ms
        parts: list[bytes] = []
        digits: list[bytes] = []
        for tail, last_digits in self._tails(columns.seqs):
            parts += [begin, b"", b"", b"", tail, b""] * len(last_digits)
            digits += last_digits
        parts[0] = begin[2:]
        parts[1::6] = heads
        parts[2::6] = [times[time_ms] for time_ms in columns.times_ms]
        parts[3::6] = bodies
        parts[5::6] = digits
        parts.append(b"}\n")
        return b"".join(parts)

    def _tails(self, seqs: Sequence[int]) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield what follows the bodies: what a run of events has in common, and the last digits of each `seq`."""
        if not isinstance(seqs, range):
            yield self._tail, [b"%d" % seq for seq in seqs]
            return
        at = seqs.start
        while at < seqs.stop:
            thousands, rest = divmod(at, 1000)
            count = min(seqs.stop - at, 1000 - rest)
            if thousands:
                yield self._tail + b"%d" % thousands, _THREE_DIGITS[rest : rest + count]
            else:
                yield self._tail, [b"%d" % seq for seq in range(at, at + count)]
            at += count

    def _prefix(self, channel: str, symbol: str) -> bytes:
        if self._prefixes_count >= _PREFIXES_MAX:
            self._prefixes.clear()
            self._prefixes_count = 0
        by_symbol = self._prefixes.setdefault(channel, {})
        found = by_symbol.get(symbol)
        if found is None:
            found = b'"type":%b,"symbol":%b,"topic":%b,"feed":%b,"ts":' % (
                orjson.dumps(channel),
                orjson.dumps(symbol),
                orjson.dumps(f"{channel}:{symbol}"),
                self._feed,
            )
            by_symbol[symbol] = found
            self._prefixes_count += 1
        return found


def reject_line(ingest_ms: int, feed: str, reason: str, raw: bytes) -> bytes:
    """Give the reject file's line for bytes that are no event; base64 where they are not UTF-8."""
    fields: dict[str, Any] = {"ingest_ts": ingest_ms, "feed": feed, "reason": reason}
    try:
        fields["raw"] = raw.decode()
    except UnicodeDecodeError:
        fields["raw_base64"] = b64encode(raw).decode()
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
