"""Archives of a seeded market that are made fast, by the real formatter and writer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path
from typing import Final

from archives import archive_settings

from recorder.archive.context import ArchiveContext
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Lines, RecordBatch, Summary
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.clock import SystemClock
from recorder.ledger import SinkStats
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows
from recorder.records import Formatter

_START_MS: Final = 1_795_237_802_335
_BATCH_EVENTS: Final = 1000
_SYMBOLS: Final = [f"{letter}{tail}" for letter in "ABCDEFGHIJ" for tail in ("", "A", "BC", "DEF")]
RUN_ID: Final = "bench"


def make_archive(
    dest: Path, codec: str, size_bytes: int, *, segment_bytes: int, batches_max: int | None = None
) -> int:
    """Write an archive of trades and quotes, sealed but for its last file; return how many.

    Behind `batches_max` batches of a thousand events, these come again under other numbers: that is faster, and where they
    are more than a compressor looks back, the files become no smaller by it.
    """
    settings = archive_settings(
        dest, max_bytes=segment_bytes, compression=codec, flush_every=1_000_000, fsync="never"
    )
    clock = SystemClock()
    context = ArchiveContext.create(settings, run_id=RUN_ID, clock=clock, stats=ArchiveStats())
    writer = ArchiveWriter(context, SinkStats("archive"), LoadShedding(), {}, background=False)
    writer.open()
    formatter = Formatter("stocks", "recorder-1", "0.1.0")
    file = context.names.active("stocks", "T")
    written = seq = 0
    batches = _batches() if batches_max is None else cycle(list(islice(_batches(), batches_max)))
    while written < size_bytes:
        rows = next(batches)
        ms = _START_MS + seq // 50
        rows.seqs = range(seq + 1, seq + 1 + _BATCH_EVENTS)
        seq += _BATCH_EVENTS
        data = formatter.format(ms, rows)
        written += len(data)
        lines = Lines("stocks", file, data, _summary(rows, data, ms))
        writer.write(RecordBatch("stocks", ms * 1_000_000, [lines], b""))
    writer.close("benchmark", None, clock.monotonic_ns() + 600_000_000_000)
    return seq


def _summary(rows: Rows, data: bytes, ingest_ms: int) -> Summary:
    min_ts, max_ts = rows.span_ms
    return Summary(
        records=len(rows),
        bytes=len(data),
        first_seq=rows.seqs[0],
        last_seq=rows.seqs[-1],
        min_ts=min_ts,
        max_ts=max_ts,
        first_ingest_ts=ingest_ms,
        last_ingest_ts=ingest_ms,
        counts=rows.counts,
    )


def _batches() -> Iterator[Rows]:
    decoder, symbols = Decoder("stocks"), cycle(_SYMBOLS)
    for first in count(1, _BATCH_EVENTS):
        numbers = range(first, first + _BATCH_EVENTS)
        events = [_event(next(symbols), _START_MS + (first - 1) // 50, number) for number in numbers]
        yield decoder.decode([b"[%b]" % b",".join(events)])


def _event(symbol: str, ms: int, seq: int) -> bytes:
    """Return a quote, or a trade for every four of them, with the fields that the vendor sends."""
    name, price, size = symbol.encode(), 100 + seq % 9973 / 100, 1 + seq % 300
    if seq % 5:
        return b'{"ev":"Q","sym":"%b","c":1,"bx":4,"ax":7,"bp":%.2f,"ap":%.2f,"bs":%d,"as":%d,"t":%d,"q":%d,"z":3}' % (
            name, price, price + 0.01, size, size + 3, ms, seq
        )  # fmt: skip
    return b'{"ev":"T","sym":"%b","i":"%d","x":4,"p":%.4f,"s":%d,"c":[14,41],"t":%d,"q":%d,"z":3}' % (
        name, 52_983_525_000_000 + seq, price, size, ms, seq
    )  # fmt: skip
