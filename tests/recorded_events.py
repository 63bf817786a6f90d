"""Archives of events as they are spelled here, written by the real writer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from archives import START_NS, Archive, archive_settings
from shared_data import shared_file

from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.polygon.channels import CHANNELS
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter

START_MS = START_NS // 1_000_000
NUMBERS = b'{"ev":"T","sym":"\\u0054","p":152.90,"s":4.522e-05,"i":1234567890123456789,"q":9223372036854775807,"t":1}'

Event = tuple[str, str, bytes]
"""Its channel, its symbol, and its bytes."""


def begin(folder: Path, **changes: Any) -> Archive:
    """Begin an archive."""
    values = {"flush_every": 1, "split_per_type": True} | changes
    return Archive(archive_settings(folder / "polygon.ndjson", **values)).open()


def closed(path: Path, events: Sequence[Event], **changes: Any) -> Path:
    """Return an archive of one run that has ended."""
    archive = Archive(archive_settings(path / "polygon.ndjson", **changes)).open()
    record(archive, events)
    archive.close()
    return path


def record(archive: Archive, events: Sequence[bytes | Event], cluster: str = "stocks") -> None:
    """Record events as they stand, as the sink does; what bytes alone do not say is taken out of them."""
    by_file: dict[str, list[tuple[int, Header, bytes]]] = {}
    for event in events:
        archive.feed.seq += 1
        header, payload = _read(event) if isinstance(event, bytes) else _named(*event)
        by_file.setdefault(archive.names.active(cluster, header.channel), []).append(
            (archive.feed.seq, header, payload)
        )
    groups = []
    now_ns = archive.clock.wall_ns()
    for file, numbered in by_file.items():
        rows = Rows.of(cluster, [(header, payload) for _, header, payload in numbered])
        rows.seqs = [seq for seq, _, _ in numbered]
        data = Formatter(cluster, f"host-{archive.runs}", "0.1.0").format(now_ns // 1_000_000, rows)
        groups.append(Lines(cluster, file, data, summarise(data)))
    archive.writer.write(RecordBatch(cluster, now_ns, groups, b""))
    archive.writer.flush()


def _read(payload: bytes) -> tuple[Header, bytes]:
    event = orjson.loads(payload)
    channel = event["ev"]
    symbol = str(event.get(CHANNELS[channel].symbol_field, "")) if channel in CHANNELS else ""
    return Header(channel, symbol, int(event.get("t", 0))), payload


def _named(code: str, symbol: str, payload: bytes) -> tuple[Header, bytes]:
    return Header(code, symbol, START_MS), payload


def event(code: str, number: int, symbol: str = "AAPL") -> Event:
    return code, symbol, b'{"ev":"%b","sym":"%b","q":%d}' % (code.encode(), symbol.encode(), number)


def trade(symbol: str, ms: int, price: str, size: str, more: str = "") -> bytes:
    return f'{{"ev":"T","sym":"{symbol}","i":"7","p":{price},"s":{size}{more},"t":{ms}}}'.encode()


def sample_payloads() -> list[bytes]:
    """Return the frames that the vendor documents, of those with one event, as that event is spelled."""
    payloads: list[bytes] = []
    for line in shared_file("data/polygon_samples.ndjson").read_bytes().splitlines():
        frame = orjson.loads(line)["frame"].encode()
        events = orjson.loads(frame)
        if len(events) == 1 and events[0].get("ev") in CHANNELS and b"\n" not in frame and b"\r" not in frame:
            payloads.append(frame.strip()[1:-1].strip())
    assert len(payloads) > 30
    return payloads


def sample_events() -> Iterator[Event]:
    """Yield the events that the vendor documents."""
    for line in shared_file("data/polygon_samples.ndjson").read_text().splitlines():
        sample = json.loads(line)
        if sample["ev"] in CHANNELS:
            frame = sample["frame"]
            text = frame if isinstance(frame, str) else json.dumps(frame)
            for one in text.strip()[1:-1].split("},{"):
                payload = ("{" if one[0] != "{" else "") + one + ("}" if one[-1] != "}" else "")
                try:
                    found = json.loads(payload)
                except ValueError:
                    continue
                yield found["ev"], str(sample["symbol"] or ""), payload.encode()
