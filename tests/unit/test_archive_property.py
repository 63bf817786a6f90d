"""Any life of an archive: every line written stands in it once and in order, whatever happens to disk and process."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from archives import Archive, Fault, Killed, archive_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recorder.archive.disk import Space
from recorder.archive.findings import Report
from recorder.archive.verify import verify

MIN_FREE = 1000
CHANNELS = st.text("TQA", min_size=1, max_size=12)
STEP = st.one_of(
    st.tuples(st.just("write"), CHANNELS),
    st.tuples(st.just("write"), CHANNELS),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 0.4, 1.0, 61.0])),
    st.tuples(st.just("clock"), st.sampled_from([-3600, 86_400])),
    st.tuples(st.just("rotate"), st.none()),
    st.tuples(st.just("reopen"), st.sampled_from(["stays", "moved"])),
    st.tuples(
        st.just("fail"), st.sampled_from(["write", "open", "rename", "sync", "close", "sync_folder", "full"])
    ),
    st.tuples(st.just("short"), st.sampled_from([None, 5, 100])),
    st.tuples(st.just("space"), st.sampled_from([0, 2 * MIN_FREE, 100 * MIN_FREE])),
    st.tuples(st.just("recover"), st.none()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("kill"), st.integers(0, 12)),
)


class Life:
    """An archive that goes through steps, beside a model of what it must hold."""

    def __init__(self, folder: Path, **changes: object) -> None:
        settings = archive_settings(folder / "polygon.ndjson", min_free_bytes=MIN_FREE, **changes)
        self.archive = Archive(settings).open()
        self.moved = 0
        self.killed: set[bytes] = set()
        """Lines of killed runs."""
        self.lost = 0
        """How many of them may be missing."""

    def take(self, step: str, value: object) -> None:
        archive = self.archive
        match step, value:
            case "write", str(channels):
                archive.write(channels, rejects=[b"{"] if len(channels) > 9 else None)
            case "tick", float(secs):
                archive.clock.advance(secs)
                assert archive.writer.tick() >= 0
            case "clock", int(secs):
                archive.clock.now_ns += secs * 1_000_000_000
            case "rotate", _:
                archive.writer.rotate("signal")
            case "reopen", where:
                active = Path(archive.settings.dest)
                if where == "moved" and active.exists():
                    self.moved += 1
                    active.rename(active.with_name(f"{active.name}.{self.moved:03d}"))
                archive.writer.reopen()
            case "fail", "full":
                archive.disk.room_bytes = 150
            case "fail", str(call):
                archive.disk.faults[call] = Fault(errno.EIO)
            case "short", size:
                archive.disk.short_bytes = size  # type: ignore[assignment]
            case "space", int(free):
                archive.disk.free = Space(free, None)
            case "recover", _:
                self.heal()
            case "restart", _:
                self.heal()
                archive.close()
                archive.restart()
            case "kill", int(calls):
                self.kill(calls)

    def heal(self) -> None:
        self.archive.disk.faults.clear()
        self.archive.disk.room_bytes = None
        self.archive.flush()
        assert self.archive.writer.failure == ""

    def kill(self, calls: int) -> None:
        """Kill the process some calls later, in the middle of writing and rotating."""
        archive = self.archive
        archive.disk.calls_left = calls
        try:
            for _ in range(4):
                archive.write("TQTQTQ")
                archive.flush()
                archive.writer.rotate("signal")
        except Killed:
            pass
        archive.kill()
        self.killed |= set(archive.lines[len(archive.lines) - archive.feed.seq :])
        self.lost += archive.feed.seq - archive.books.recorded.total()
        archive.disk.faults.clear()
        archive.disk.room_bytes = None
        archive.restart()

    def end(self) -> Report:
        self.heal()
        self.archive.close()
        return verify([self.archive.folder])

    def content(self) -> list[bytes]:
        """Give every line of the folder's files of records."""
        moved = sorted(self.archive.folder.glob("polygon.ndjson.*"))
        lines = [line for path in moved for line in path.read_bytes().splitlines(keepends=True)]
        return lines + [line for line in self.archive.content() if line not in lines]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEP, max_size=25),
    max_bytes=st.sampled_from([None, 100, 700, 3000]),
    rotate_secs=st.sampled_from([None, 60]),
    flush_every=st.sampled_from([1, 10]),
    fsync=st.sampled_from(["never", "rotate", "flush"]),
    compression=st.sampled_from(["none", "none", "gzip", "zstd"]),
    split=st.booleans(),
)
def test_every_line_stands_in_the_archive_once(
    steps: list[tuple[str, object]],
    max_bytes: int | None,
    rotate_secs: int | None,
    flush_every: int,
    fsync: str,
    compression: str,
    split: bool,
) -> None:
    """Through rotations, signals, a failing disk and sudden deaths, no line is lost, doubled, torn or out of order."""
    with tempfile.TemporaryDirectory() as folder:
        life = Life(
            Path(folder),
            max_bytes=max_bytes,
            rotate_secs=rotate_secs,
            flush_every=flush_every,
            fsync=fsync,
            compression=compression,
            split_per_type=split,
        )
        for step, value in steps:
            life.take(step, value)
        report = life.end()
        problems = report.problems + [problem for file in report.files for problem in file.problems]
        assert not problems
        found = life.content()
        if life.moved and life.lost:
            # A kill may take the note of what was moved along.
            assert report.records <= len(found)
        else:
            assert report.records == len(found)
        assert len(set(found)) == len(found)
        assert set(found) <= set(life.archive.lines)
        missing = set(life.archive.lines) - set(found)
        assert missing <= life.killed
        assert len(missing) <= life.lost
        longest = max(map(len, life.archive.lines), default=0)
        for file in report.files:
            assert max_bytes is None or file.bytes <= max_bytes + longest
        clock_jumped = any(step == "clock" for step, _ in steps)
        if not split and not life.moved and not clock_jumped:
            place = {line: number for number, line in enumerate(life.archive.lines)}
            order = [place[line] for line in found]
            assert order == sorted(order)
