"""Manifests as runs of the past would have written them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recorder.archive.manifest_index import NO_PREVIOUS, with_sum


def ms(text: str) -> int:
    """Return a time of UTC, `2026-11-23 14:30:00`, in Unix ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


class WrittenManifest:
    """Writes a manifest."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "polygon.manifest.ndjson"
        self._previous = NO_PREVIOUS

    def add(self, kind: str, noted: str, run: str = "run-1", **fields: Any) -> None:
        """Append a line."""
        line = {"kind": kind, "run_id": run, "ts": ms(noted), **fields, "prev": self._previous}
        data = with_sum(json.dumps(line, separators=(",", ":")).encode())
        self._previous = hashlib.sha256(data).hexdigest()
        with self.path.open("ab") as file:
            file.write(data + b"\n")

    def start(self, at: str, *clusters: str, run: str = "run-1") -> None:
        """Begin a run that follows the clusters."""
        self.add("run_started", at, run, settings={"POLYGON_CLUSTER": list(clusters)})

    def open(self, at: str, cluster: str = "stocks", run: str = "run-1") -> None:
        """Begin a session."""
        self.add("session_opened", at, run, cluster=cluster, at=ms(at))

    def gap(self, since: str, until: str, reason: str, cluster: str = "stocks", run: str = "run-1") -> None:
        """Note a gap, and the session that ends it."""
        self.add("gap", until, run, cluster=cluster, reason=reason, **{"from": ms(since), "to": ms(until)})
        self.open(until, cluster, run)

    def stop(self, at: str, *clusters: str, run: str = "run-1") -> None:
        """End the run in order."""
        for cluster in clusters:
            self.add(
                "session_closed", at, run, cluster=cluster, at=ms(at), reason="shutdown", last_received=ms(at)
            )
        self.add("run_ended", at, run, reason="SIGTERM")
