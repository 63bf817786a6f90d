"""The vendor's Python client, writing lines: `python -m benchmarks.peers.massive_client PORT FILE models|raw`.

`models` is the client's default, a dataclass for each event, written as a JSON line. `raw` takes the text, as its docs
offer it, and writes the recorder's lines: decoded by the standard library, the record's fields around the payload.
Prints `ready`, and for each line of stdin the events written so far.
"""

from __future__ import annotations

import json
import platform
import sys
import threading
import time
from typing import Any, TextIO

from massive import WebSocketClient

from recorder.version import VERSION

_TYPES = {"T": "trade", "Q": "quote"}


class Writer:
    """Takes what the client hands over."""

    def __init__(self, file: TextIO) -> None:
        self.events = 0
        self._file = file
        self._hostname = platform.node()

    def take_models(self, messages: Any) -> None:
        """Write models."""
        for message in messages:
            self._file.write(json.dumps(vars(message)) + "\n")
        self.events += len(messages)

    def take_raw(self, text: Any) -> None:
        """Write records."""
        received_ms = time.time_ns() // 1_000_000
        for payload in json.loads(text):
            channel = payload["ev"]
            if channel == "status":
                continue
            self.events += 1
            record = {
                "ingest_ts": received_ms,
                "type": _TYPES[channel],
                "symbol": payload["sym"],
                "topic": f"{channel}:{payload['sym']}",
                "feed": "stocks",
                "ts": payload["t"],
                "payload": payload,
                "hostname": self._hostname,
                "app_version": VERSION,
                "schema_version": 1,
                "seq": self.events,
            }
            self._file.write(json.dumps(record, separators=(",", ":")) + "\n")


def main() -> None:
    """Follow, write, answer."""
    port, path, form = sys.argv[1:]
    with open(path, "w") as file:
        writer = Writer(file)
        client = WebSocketClient(
            "bench",
            feed=f"127.0.0.1:{port}",
            market="stocks",
            secure=False,
            raw=form == "raw",
            subscriptions=["T.*", "Q.*"],
        )
        take = writer.take_raw if form == "raw" else writer.take_models
        threading.Thread(target=lambda: client.run(take, max_size=None), daemon=True).start()
        print("ready", flush=True)
        for _ in sys.stdin:
            print(json.dumps({"events": writer.events}), flush=True)
        print(json.dumps({"events": writer.events}), flush=True)


if __name__ == "__main__":
    main()
