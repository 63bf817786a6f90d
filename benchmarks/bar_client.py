"""A client of bars that adds them up: `python -m benchmarks.bar_client PORT TOPICS`.

Keeps what comes, unread, until stdin ends: then tells for each interval how many bars came, the trades in them (`n`)
and their volume (`v`, exact). For each line of stdin it tells the bytes so far.
"""

from __future__ import annotations

import json
import select
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from socket import socket
from typing import Any

import msgspec

from benchmarks.drain import connected


class Bar(msgspec.Struct):
    """What is added up of a bar; of a status, nothing."""

    ev: str
    interval: int = 0
    n: int = 0
    v: Decimal = Decimal(0)


def frames(data: bytes) -> Iterator[bytes]:
    """Yield the payloads of a server's frames in a row, without what of the last one is missing."""
    at = 0
    while at + 2 <= len(data):
        size, begin = data[at + 1], at + 2
        if size >= 126:
            extra = 2 if size == 126 else 8
            size, begin = int.from_bytes(data[begin : begin + extra]), begin + extra
        if begin + size > len(data):
            return
        yield data[begin : begin + size]
        at = begin + size


def totals(data: bytes) -> dict[str, Any]:
    """Return the sums of all bars."""
    bars: Counter[int] = Counter()
    trades: Counter[int] = Counter()
    volume: dict[int, Decimal] = {}
    decode = msgspec.json.Decoder(list[Bar]).decode
    for payload in frames(data):
        if not payload.startswith(b"[{"):
            continue
        for bar in decode(payload):
            if bar.ev == "MB":
                bars[bar.interval] += 1
                trades[bar.interval] += bar.n
                volume[bar.interval] = volume.get(bar.interval, Decimal(0)) + bar.v
    return {
        "bars": bars,
        "trades": trades,
        "volume": {interval: str(sum_) for interval, sum_ in volume.items()},
    }


def collect(client: socket) -> bytes:
    """Read until stdin ends."""
    kept = bytearray()
    while True:
        readable, _, _ = select.select([client, sys.stdin], [], [])
        if client in readable:
            part = client.recv(1 << 20)
            if not part:
                raise SystemExit("the server closed the connection")
            kept += part
        elif not sys.stdin.readline():
            return kept[kept.index(b"\r\n\r\n") + 4 :] if kept.startswith(b"HTTP") else bytes(kept)
        else:
            print(json.dumps({"bytes": len(kept)}), flush=True)


def main() -> None:
    """Connect, collect, add up."""
    port, topics = int(sys.argv[1]), sys.argv[2]
    with connected(port, "/stocks", topics) as client:
        print("ready", flush=True)
        data = collect(client)
    print(json.dumps(totals(data)), flush=True)


if __name__ == "__main__":
    main()
