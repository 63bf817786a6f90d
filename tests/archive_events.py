"""Events of any kind, as tests write them into archives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from archives import START_NS, Archive, archive_settings
from shared_data import shared_file

from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.polygon.channels import CHANNELS
from recorder.polygon.rows import Header, Rows

START_MS = START_NS // 1_000_000
NUMBERS = b'{"ev":"T","sym":"\\u0054","p":152.90,"s":4.522e-05,"i":1234567890123456789,"q":9223372036854775807,"t":1}'

Event = tuple[str, str, bytes]
"""Its channel, its symbol, and its bytes."""


def record(archive: Archive, events: Sequence[Event], received_ns: int = START_NS) -> None:
    """Write events as the sink does."""
    feed = archive.feed
    groups = []
    by_file: dict[str, list[tuple[int, Event]]] = {}
    for event in events:
        feed.seq += 1
        by_file.setdefault(archive.names.active("stocks", event[0]), []).append((feed.seq, event))
    for file, numbered in by_file.items():
        rows = Rows.of(
            "stocks",
            [(Header(code, symbol, START_MS), payload) for _, (code, symbol, payload) in numbered],
        )
        rows.seqs = [seq for seq, _ in numbered]
        data = feed._formatter.format(received_ns // 1_000_000, rows)
        groups.append(Lines("stocks", file, data, summarise(data)))
    archive.writer.write(RecordBatch("stocks", received_ns, groups, b"", 0))


def event(code: str, number: int, symbol: str = "AAPL") -> Event:
    return code, symbol, b'{"ev":"%b","sym":"%b","q":%d}' % (code.encode(), symbol.encode(), number)


def closed(path: Path, events: Sequence[Event], **changes: Any) -> Path:
    """Return an archive of one run that has ended."""
    archive = Archive(archive_settings(path / "polygon.ndjson", **changes)).open()
    record(archive, events)
    archive.close()
    return path


def sample_events() -> Iterator[Event]:
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
