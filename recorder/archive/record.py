"""Records as the archive handles them: whole lines for a file, what they amount to, and reading them back to count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from recorder.ledger import OTHER, ChannelNames
from recorder.polygon.channels import CHANNELS

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no record: msgspec leaves bad UTF-8 and deep nesting to Python's errors."""


class RecordHeader(msgspec.Struct, gc=False):
    """What is read back of a record to count it: everything that the manifest speaks of."""

    ingest_ts: int
    type: str
    feed: str
    ts: int
    seq: int


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
    counts: dict[str, int] = field(default_factory=dict)
    """Records by channel; shared with the batch that they are of."""
    names: ChannelNames | None = None
    """Bounds the names in `counts`, which the wire makes up; None: few records, each counted under its channel."""

    @classmethod
    def of_segment(cls, counts: Collection[str] | None = None) -> Summary:
        """Return the summary of a segment that begins.

        `counts` are the names in what the manifest says of it. Which of the unheard-of channels have one depends on which
        came first when it was written.
        """
        if counts is None:
            return cls(names=ChannelNames(CHANNELS))
        return cls(names=ChannelNames(counts, are_all=OTHER in counts))

    def facts(self) -> dict[str, Any]:
        """Return what the manifest has of a segment besides its size and checksum, by field, in its order."""
        return {
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "min_ts": self.min_ts,
            "max_ts": self.max_ts,
            "first_ingest_ts": self.first_ingest_ts,
            "last_ingest_ts": self.last_ingest_ts,
            "counts": dict(self.counts),
        }

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
        counts, names = self.counts, self.names
        for channel, count in other.counts.items():
            name = names.of(channel) if names is not None else channel
            counts[name] = counts.get(name, 0) + count


@dataclass(slots=True)
class Lines:
    """Whole lines for one file, in order, with their summary."""

    cluster: str
    file: str
    """Which file of the archive they belong to: a key that `Policy` made."""
    data: bytes
    summary: Summary


class Reached(NamedTuple):
    """The end of a read of another recorder, or of a message of a broker, among what is recorded."""

    after: str
    """The position behind it, as it was told; empty where it is not known."""
    events: int
    """How many records it brought."""
    seq: int
    """The number of the last record then."""


@dataclass(slots=True)
class RecordBatch:
    """The records of one batch, for all files, and what could not be read."""

    cluster: str
    received_ns: int
    lines: list[Lines]
    rejects: bytes
    """Whole lines for the reject file."""
    rejects_count: int = 0
    reached: Sequence[Reached] = ()
    """How far the stream of another recorder has come with it, read by read."""

    @property
    def counts(self) -> Counter[str]:
        """Records by channel, rejects left out."""
        counts: Counter[str] = Counter()
        for lines in self.lines:
            counts.update(lines.summary.counts)
        return counts

    @property
    def size(self) -> int:
        """Bytes, all lines together."""
        size = len(self.rejects)
        for lines in self.lines:
            size += len(lines.data)
        return size


def summarise(data: bytes) -> Summary:
    """Sum up whole lines by reading them back. Raise `msgspec.MsgspecError` where a line is no record."""
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
