"""What tests of the archive share: a disk that fails on demand, a feed of records, and a writer around them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from fakes import FakeClock

from recorder.archive.context import ArchiveContext, StoreMaker
from recorder.archive.disk import Disk, Space
from recorder.archive.layout import parse
from recorder.archive.policy import FileNames
from recorder.archive.pressure import LoadShedding
from recorder.archive.reader import open_lines
from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.ledger import SinkStats
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter, reject_line
from recorder.settings import ArchiveSettings

START_NS = 1_795_237_802_335_000_000
SECOND_NS = 1_000_000_000


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Fault:
    """Calls of one kind fail, from the `after`-th on, `times` of them (None: for ever)."""

    error: int
    times: int | None = None
    after: int = 0
    match: str = ""
    """Part of the path that is concerned."""

    def strikes(self, path: str) -> bool:
        if self.match not in path or self.times == 0:
            return False
        if self.after:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class FaultyDisk(Disk):
    """The real disk, with faults by the name of the call, short writes, a capacity, and sudden death.

    Its fsync is counted and can fail, but waits for no device: what a power cut leaves is the simulation's and trial 2's.
    """

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.short_bytes: int | None = None
        """The most bytes that one write takes."""
        self.room_bytes: int | None = None
        """So many more bytes fit on the disk."""
        self.calls_left: int | None = None
        """The process is killed at the call after this many that change something; a write then takes half."""
        self.free: Space | None = None
        """What the file system says it has left; None: the truth."""
        self.looks = 0
        """Calls that only look."""
        self.calls: list[str] = []
        self._paths: dict[int, str] = {}

    def _call(self, name: str, path: str) -> None:
        self.calls.append(name)
        if self.calls_left is not None:
            if self.calls_left == 0:
                raise Killed
            self.calls_left -= 1
        fault = self.faults.get(name)
        if fault and fault.strikes(path):
            raise OSError(fault.error, os.strerror(fault.error), path)

    def _opened(self, fd: int, path: Path) -> int:
        self._paths[fd] = str(path)
        return fd

    def space(self, folder: Path) -> Space:
        return self.free or super().space(folder)

    def list_files(self, folder: Path, deep: bool) -> list[Path]:
        self.looks += 1
        return super().list_files(folder, deep)

    def stat(self, path: Path) -> os.stat_result | None:
        self.looks += 1
        return super().stat(path)

    def open_append(self, path: Path) -> int:
        self._call("open", str(path))
        return self._opened(super().open_append(path), path)

    def create(self, path: Path) -> int:
        self._call("open", str(path))
        return self._opened(super().create(path), path)

    def lock(self, path: Path) -> int:
        return self._opened(super().lock(path), path)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        try:
            self._call("write", self._paths[fd])
        except Killed:
            super().write(fd, data[: len(data) // 2])
            raise
        if self.short_bytes is not None:
            data = data[: self.short_bytes]
        if self.room_bytes is not None and len(data):
            data = data[: self.room_bytes]
            if not len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._paths[fd])
            self.room_bytes -= len(data)
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._call("sync", self._paths[fd])
        os.fstat(fd)  # as fsync, it fails for a file that is closed

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        more_bytes = max(0, offset + len(data) - self.stat_open(fd).st_size)
        if self.room_bytes is not None and more_bytes:
            data = data[: len(data) - max(0, more_bytes - self.room_bytes)]
            self.room_bytes -= min(more_bytes, self.room_bytes)
        super().write_at(fd, data, offset)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self._call("truncate", self._paths[fd])
        if self.room_bytes is not None:
            self.room_bytes += max(0, self.stat_open(fd).st_size - size_bytes)
        super().truncate(fd, size_bytes)

    def close(self, fd: int) -> None:
        path = self._paths.pop(fd)
        super().close(fd)
        self._call("close", path)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename", str(old))
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._call("unlink", str(path))
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._call("sync_folder", str(path))
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    def kill(self) -> None:
        """Close what the killed process had open, as the kernel does."""
        for fd in list(self._paths):
            os.close(fd)
        self._paths.clear()


def archive_settings(dest: Path | str, **changes: Any) -> ArchiveSettings:
    settings = ArchiveSettings.model_construct(
        dest=str(dest),
        max_bytes=None,
        rotate_secs=None,
        compression="none",
        split_per_type=False,
        flush_every=100,
        flush_interval_ms=1000,
        fsync="rotate",
        channel_cap=2048,
        buffer_bytes=1 << 28,
        warn_interval_secs=5,
        no_reopen=False,
        retain_bytes=None,
        retain_secs=None,
        pressure="stop",
        min_free_bytes=0,
    )
    return settings.model_copy(update=changes)


class Feed:
    """Makes record batches as the sink does, and remembers every line in its order."""

    def __init__(self, names: FileNames, cluster: str = "stocks", hostname: str = "host") -> None:
        self.names = names
        self.cluster = cluster
        self.seq = 0
        self.lines: list[bytes] = []
        self._formatter = Formatter(cluster, hostname, "0.1.0")

    def batch(
        self, channels: str | list[str], received_ns: int = START_NS, rejects: list[bytes] | None = None
    ) -> RecordBatch:
        """Return a batch with one event for each channel; a text is one channel a letter."""
        by_file: dict[str, list[tuple[int, str]]] = {}
        for channel in channels:
            self.seq += 1
            by_file.setdefault(self.names.active(self.cluster, channel), []).append((self.seq, channel))
        groups = []
        for file, events in by_file.items():
            payloads = [
                b'{"ev":"%b","sym":"S%d","t":%d,"q":%d}'
                % (channel.encode(), seq % 7, received_ns // 1_000_000 - seq % 5, seq)
                for seq, channel in events
            ]
            headers = [
                Header(channel, f"S{seq % 7}", received_ns // 1_000_000 - seq % 5) for seq, channel in events
            ]
            rows = Rows.of(self.cluster, zip(headers, payloads, strict=True))
            rows.seqs = [seq for seq, _ in events]
            data = self._formatter.format(received_ns // 1_000_000, rows)
            groups.append(Lines(self.cluster, file, data, summarise(data)))
            self.lines += data.splitlines(keepends=True)
        rejected = b"".join(
            reject_line(received_ns // 1_000_000, self.cluster, "test", raw) for raw in rejects or []
        )
        return RecordBatch(self.cluster, received_ns, groups, rejected, len(rejects or []))


@dataclass
class Archive:
    """An archive with its writer; `restart` is another process life on the same files."""

    settings: ArchiveSettings
    clock: FakeClock = field(default_factory=FakeClock)
    disk: FaultyDisk = field(default_factory=FaultyDisk)
    runs: int = 0
    background: bool = False
    run_facts: dict[str, Any] = field(default_factory=dict)
    store: StoreMaker | None = None
    """Makes what sealed files are uploaded to."""

    def __post_init__(self) -> None:
        self.names = FileNames(self.settings.dest, self.settings.split_per_type)
        self.lines: list[bytes] = []
        self.make_writer()

    def make_writer(self) -> None:
        """Begin another run; nothing is opened yet."""
        self.runs += 1
        self.feed = Feed(self.names, hostname=f"host-{self.runs}")
        self.feed.lines = self.lines
        self.stats = ArchiveStats()
        self.books = SinkStats("archive")
        self.shedding = LoadShedding(self.stats.pressure)
        context = ArchiveContext.create(
            self.settings,
            run_id=f"run-{self.runs}",
            clock=self.clock,
            stats=self.stats,
            disk=self.disk,
            store=self.store,
        )
        self.writer = ArchiveWriter(
            context,
            self.books,
            self.shedding,
            {"version": "0.1.0", "hostname": "host", "settings": {}, "pid": 1} | self.run_facts,
            pause=self.clock.advance,
            background=self.background,
        )

    def open(self) -> Archive:
        self.writer.open()
        return self

    def write(self, channels: str | list[str], rejects: list[bytes] | None = None) -> None:
        """Take records; a `flush_every` of 1 means that they are handed over at once, as the sink has it done."""
        self.writer.write(self.feed.batch(channels, self.clock.wall_ns(), rejects))
        if self.settings.flush_every == 1:
            self.writer.flush()

    def flush(self) -> None:
        """Let a flush interval pass."""
        self.clock.advance(self.settings.flush_interval_ms / 1000)
        self.writer.tick()

    def close(self, secs: float = 5.0, balance: Callable[[], dict[str, Any]] | None = None) -> None:
        self.writer.close("SIGTERM", balance, self.clock.monotonic_ns() + int(secs * SECOND_NS))

    def kill(self) -> None:
        self.disk.kill()
        self.disk.calls_left = None

    def restart(self, **changes: Any) -> Archive:
        self.settings = self.settings.model_copy(update=changes)
        self.names = FileNames(self.settings.dest, self.settings.split_per_type)
        self.make_writer()
        return self.open()

    @property
    def folder(self) -> Path:
        return self.names.folder

    def content(self) -> list[bytes]:
        """Return the lines of all files of records, sealed ones in the order of their closing, then the active ones."""
        files = [parse(self.folder / name) for name in self.file_names()]
        ordered = sorted(files, key=lambda file: (not file.rotated, file.age_key))
        kept = [
            file.path
            for file in ordered
            if file.active not in self.names.sides and file.plain.suffix == ".ndjson"
        ]
        return [line for path in kept for line in open_lines(path)]

    def file_names(self) -> list[str]:
        """Return the names of all files that hold records."""
        other = (self.names.manifest.name, self.names.lock.name)
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and path.name not in other
        )

    def manifest(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the manifest's lines of some kinds, or all of them."""
        lines = map(orjson.loads, self.names.manifest.read_bytes().splitlines())
        return [line for line in lines if not kinds or line["kind"] in kinds]
