"""Records: one NDJSON line for each event, the payload byte for byte, made for a whole batch in one formatting call."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field

from recorder.polygon.rows import Rows, ScannedRows

SCHEMA_VERSION: Final = 1

_THREE_DIGITS: Final = [b"%03d" % number for number in range(1000)]
_PREFIXES_MAX = 500_000
"""Distinct symbols whose constant part of the line is kept; options have more contracts in a year than memory is for."""


class Record(BaseModel):
    """One line of the archive, schema version 1."""

    # The schema's source. The hot path writes lines without it, held to it by tests; verification derives its reader.

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
    schema_version: int = Field(ge=1, description="1; adding a field raises it")
    seq: int = Field(ge=1, description="from 1 in each run, over all files; a hole is a loss")


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

    def format(self, ingest_ms: int, rows: Rows) -> bytes:
        """Return one line for each row: six parts each, all joined at once, and none of them made for one event."""
        if not len(rows):
            return b""
        if isinstance(rows, ScannedRows):
            return rows.block.format(ingest_ms, rows.seqs[0], self._feed, self._tail)
        prefixes = self._prefixes
        named = zip(rows.channels, rows.symbols, strict=True)
        try:
            heads = [prefixes[channel][symbol] for channel, symbol in named]
        except KeyError:
            heads = [self._prefix(*name) for name in zip(rows.channels, rows.symbols, strict=True)]
        fragments = rows.fragments
        if rows.has_line_breaks:
            fragments = [fragment.replace(b"\r", b" ").replace(b"\n", b" ") for fragment in fragments]
        times = {time_ms: b'%d,"payload":{' % time_ms for time_ms in rows.distinct_times_ms}
        begin = b'}\n{"ingest_ts":%d,' % ingest_ms
        parts: list[bytes] = []
        digits: list[bytes] = []
        for tail, last_digits in self._tails(rows.seqs):
            parts += [begin, b"", b"", b"", tail, b""] * len(last_digits)
            digits += last_digits
        parts[0] = begin[2:]
        parts[1::6] = heads
        parts[2::6] = [times[time_ms] for time_ms in rows.times_ms]
        parts[3::6] = fragments
        parts[5::6] = digits
        parts.append(b"}\n")
        return b"".join(parts)

    def _tails(self, seqs: Sequence[int]) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield what follows the fragments: what a run of events has in common, and the last digits of each `seq`."""
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
    """Return the reject file's line for bytes that are not an event; base64 where they are not UTF-8."""
    fields: dict[str, Any] = {"ingest_ts": ingest_ms, "feed": feed, "reason": reason}
    try:
        fields["raw"] = raw.decode()
    except UnicodeDecodeError:
        fields["raw_base64"] = b64encode(raw).decode()
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
