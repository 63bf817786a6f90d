"""A sink: a package beside the recorder, with its target and an entry point."""

from __future__ import annotations

from recipes import New, Recipe

RECIPE = Recipe(
    "a sink",
    (
        New(
            "recorder-file/pyproject.toml",
            """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "recorder-file"
version = "0.1.0"
dependencies = ["polygon-recorder"]

[project.entry-points."recorder.sinks"]
file = "recorder_file:make_sink"
""",
        ),
        New(
            "recorder-file/recorder_file.py",
            '''\
"""SINK=file: every record as a line of FILE_PATH."""

from pathlib import Path

from recorder.bus import Batch
from recorder.errors import ConfigError
from recorder.ledger import SinkStats
from recorder.polygon.rows import Rows
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, SinkContext, ThreadSink
from recorder.sinks.target import LinesItem


class File:
    failure = ""

    def __init__(self, path: Path, stats: SinkStats) -> None:
        self.bytes_done = 0
        self._path = path
        self._stats = stats

    def open(self) -> None:
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"FILE_PATH: {error}") from error

    def write(self, item: LinesItem) -> None:
        self._file.write(item.data)
        self._stats.note_recorded(item.cluster, item.counts)
        self.bytes_done += item.size

    def tick(self) -> float:
        return 1.0

    def close(self, deadline_ns: int) -> None:
        self._file.close()


class FileSink(ThreadSink[LinesItem]):
    def __init__(self, name: str, path: Path, drops: Drops) -> None:
        limits = QueueLimits(batches_max=1000, bytes_max=64 << 20)
        super().__init__(name, File(path, drops.stats), drops, limits)

    def item_of(self, batch: Batch, rows: Rows) -> LinesItem | None:
        return LinesItem(rows.cluster, rows.counts, batch.lines) if rows else None


def make_sink(context: SinkContext) -> FileSink:
    path = context.environ.get("FILE_PATH")
    if not path:
        raise ConfigError("FILE_PATH: must be set: SINK=file writes to it")
    return FileSink(context.name, Path(path), context.drops())
''',
        ),
    ),
)
