"""Archives of events as they are spelled here, written by the real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from archives import Archive, archive_settings

from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.polygon.channels import CHANNELS
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter


def begin(folder: Path, **changes: Any) -> Archive:
    """Begin an archive."""
    values = {"flush_every": 1, "split_per_type": True} | changes
    return Archive(archive_settings(folder / "polygon.ndjson", **values)).open()


def record(archive: Archive, payloads: list[bytes], cluster: str = "stocks") -> None:
    """Record events as they stand."""
    by_file: dict[str, list[tuple[int, Header, bytes]]] = {}
    for payload in payloads:
        event = orjson.loads(payload)
        channel = event["ev"]
        symbol = str(event.get(CHANNELS[channel].symbol_field, "")) if channel in CHANNELS else ""
        archive.feed.seq += 1
        header = Header(channel, symbol, int(event.get("t", 0)))
        by_file.setdefault(archive.names.active(cluster, channel), []).append(
            (archive.feed.seq, header, payload)
        )
    groups = []
    now_ns = archive.clock.wall_ns()
    for file, events in by_file.items():
        rows = Rows.of(cluster, [(header, payload) for _, header, payload in events])
        rows.seqs = [seq for seq, _, _ in events]
        data = Formatter(cluster, "host", "0.1.0").format(now_ns // 1_000_000, rows)
        groups.append(Lines(cluster, file, data, summarise(data)))
    archive.writer.write(RecordBatch(cluster, now_ns, groups, b""))
    archive.writer.flush()


def trade(symbol: str, ms: int, price: str, size: str, more: str = "") -> bytes:
    return f'{{"ev":"T","sym":"{symbol}","i":"7","p":{price},"s":{size}{more},"t":{ms}}}'.encode()
