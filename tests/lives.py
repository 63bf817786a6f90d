"""Lives of a recorder that end suddenly: what each was known to have, beside what is in the archive of it."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from commands import Running
from oracle import read_manifest

FAR_SECS: Final = 60.0
"""Far beyond the end of any life here."""
WAKE_SECS: Final = 0.5
"""How late a thread may wake on a machine that other tests share; added to times that a timer keeps."""
_PAUSE_SECS: Final = 0.02
_FIGURES: Final = {
    "received": r"polygon_events_total\{.*\}",
    "recorded": r"polygon_ndjson_written_total\{.*\}",
    "segments": r'polygon_rotations_total\{reason="(?:size|time)"\}',
    "fsyncs": "polygon_fsync_duration_seconds_count",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """When a recorder is struck."""

    secs: float
    under_load: bool
    """Counted from when it records; else from its start, so that it may be struck while it repairs."""


def moments(count: int, seed: str) -> list[Moment]:
    """Return moments at random: one in four early in a life, the others under load."""
    chance = random.Random(seed)
    return [Moment(chance.uniform(0.1, 2.5), chance.random() > 0.25) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class Sample:
    """What /metrics said."""

    answered_secs: float
    """When the answer was here, monotonic: its figures are no younger."""
    received: int
    recorded: int
    segments: int
    """Closed by rotation."""
    fsyncs: int
    """Of files of records."""


@dataclass(slots=True)
class Life:
    """One run, from its start to its sudden end."""

    run_id: str = ""
    """Empty if it did not live long enough to write its name into the manifest."""
    samples: list[Sample] = field(default_factory=list)
    struck_secs: float = 0.0
    """When it certainly lived, or had its disk, for the last time; monotonic."""
    struck_ms: int = 0
    """When it was struck or, where only its death was seen, a moment later; Unix ms."""

    def watch(self, recorder: Running) -> None:
        """Ask it for its figures until it is struck or dead."""
        deadline = time.monotonic() + FAR_SECS
        while not self.struck_secs and recorder.process.poll() is None:
            assert time.monotonic() < deadline, f"it lives on: {recorder.lines[-5:]}"
            self._ask(recorder)
        if not self.struck_secs:
            self.struck_secs = self.samples[-1].answered_secs if self.samples else 0.0
            self.struck_ms = time.time_ns() // 1_000_000

    def find_name(self, recorder: Running, folder: Path) -> None:
        """Find its name in the manifest that it has left."""
        for entry in read_manifest(folder, "run_started"):
            if entry["pid"] == recorder.process.pid:
                self.run_id = entry["run_id"]

    @contextmanager
    def strike(self, recorder: Running, moment: Moment, blow: Callable[[], object]) -> Iterator[None]:
        """Let a blow fall at a moment, whatever the recorder does then; over when it has fallen."""

        def strike() -> None:
            self.struck_secs, self.struck_ms = time.monotonic(), time.time_ns() // 1_000_000
            blow()

        if moment.under_load:
            recorder.wait_for("started")
        timer = threading.Timer(moment.secs, strike)
        timer.start()
        try:
            yield
        finally:
            timer.join()

    def flushed_by(self, allowed_secs: float) -> int:
        """Return how many records must be there if nothing waits longer than `allowed_secs` to be handed over."""
        old = [sample for sample in self.samples if sample.answered_secs + allowed_secs <= self.struck_secs]
        return max((sample.received for sample in old), default=0)

    @property
    def segments_sealed(self) -> int:
        """How many segments were certainly durable, and on record: all but the last one that it had counted."""
        return max((sample.segments for sample in self.samples), default=1) - 1

    @property
    def synced(self) -> int:
        """How many records were certainly durable where each flush is synced.

        A file is synced before the next one is written, so two fsyncs later everything is that was recorded by then.
        """
        last = self.samples[-1].fsyncs if self.samples else 0
        return max((sample.recorded for sample in self.samples if sample.fsyncs + 2 <= last), default=0)

    @property
    def recorded(self) -> int:
        """How many records it had handed to the operating system, by its own word."""
        return max((sample.recorded for sample in self.samples), default=0)

    def _ask(self, recorder: Running) -> None:
        if not recorder.logged("started"):
            with suppress(subprocess.TimeoutExpired):
                recorder.process.wait(_PAUSE_SECS)
            return
        with suppress(OSError, HTTPException):  # what a death in the middle of an answer brings
            status, text = recorder.get("/metrics")
            figures = {
                name: sum(
                    int(float(value)) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)
                )
                for name, pattern in _FIGURES.items()
            }
            if status == 200 and not self.struck_secs:
                self.samples.append(Sample(time.monotonic(), **figures))
        with suppress(subprocess.TimeoutExpired):
            recorder.process.wait(_PAUSE_SECS)


@dataclass(slots=True)
class Remains:
    """What the manifest, which `verify` has held against the files, has of one run."""

    records: int = 0
    segments: int = 0
    """Without those that a later start has added."""
    last_ingest_ms: int = 0


def remains(folder: Path) -> dict[str, Remains]:
    """Return what is there of each run."""
    found: dict[str, Remains] = {}
    for entry in read_manifest(folder, "segment_closed"):
        run = found.setdefault(entry["run_id"], Remains())
        run.records += entry["records"]
        run.segments += entry["reason"] != "recovered"
        run.last_ingest_ms = max(run.last_ingest_ms, entry["last_ingest_ts"])
    return found


def killed_gaps(findings: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the gaps that `verify` names as ends of killed runs, Unix ms."""
    return [(gap["from_ms"], gap["to_ms"]) for gap in findings["gaps"] if gap["reason"] == "killed"]
