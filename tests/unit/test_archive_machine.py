"""Any life of an archive: writes, rotations, signals, a failing disk, sudden deaths, retention, in any order."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from archives import Archive, Fault, FaultyDisk, Killed, archive_settings
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recorder.archive.disk import Space
from recorder.archive.layout import parse
from recorder.archive.reader import open_lines
from recorder.archive.verify import verify

MIN_FREE = 1000
ERRORS = [errno.EIO, errno.ENOSPC, errno.EACCES]
FAILING = ["write", "open", "rename", "sync", "close", "sync_folder", "unlink", "truncate"]


class RememberingDisk(FaultyDisk):
    """Knows what was in the rotated files that it deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[bytes] = set()

    def unlink(self, path: Path) -> None:
        file = parse(path)
        content = list(open_lines(path)) if file.rotated and not file.temporary else []
        super().unlink(path)
        self.deleted.update(content)


class ArchiveLife(RuleBasedStateMachine):
    """An archive, beside a model of what it must hold."""

    @initialize(
        max_bytes=st.sampled_from([None, 100, 700, 3000]),
        rotate_secs=st.sampled_from([None, 60]),
        flush_every=st.sampled_from([1, 10]),
        fsync=st.sampled_from(["never", "rotate", "flush"]),
        compression=st.sampled_from(["none", "none", "gzip", "zstd"]),
        split=st.booleans(),
        retain=st.sampled_from([(None, None), (None, None), (2000, None), (None, 30)]),
    )
    def begin(
        self,
        max_bytes: int | None,
        rotate_secs: int | None,
        flush_every: int,
        fsync: str,
        compression: str,
        split: bool,
        retain: tuple[int | None, int | None],
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.disk = RememberingDisk()
        self.archive = Archive(
            archive_settings(
                Path(self.folder.name) / "polygon.ndjson",
                max_bytes=max_bytes,
                rotate_secs=rotate_secs,
                flush_every=flush_every,
                fsync=fsync,
                compression=compression,
                split_per_type=split,
                retain_bytes=retain[0],
                retain_secs=retain[1],
                min_free_bytes=MIN_FREE,
            ),
            disk=self.disk,
        ).open()
        self.moved = 0
        self.clock_jumped = False
        self.killed: set[bytes] = set()
        """Lines of killed runs."""
        self.lost = 0
        """How many of them may be missing."""

    @rule(channels=st.text("TQA", min_size=1, max_size=12), rejects=st.booleans())
    def write(self, channels: str, rejects: bool) -> None:
        self.archive.write(channels, rejects=[b"{"] if rejects else None)

    @rule(secs=st.sampled_from([0.0, 0.4, 1.0, 11.0, 61.0]))
    def pass_time(self, secs: float) -> None:
        self.archive.clock.advance(secs)
        assert self.archive.writer.tick() >= 0

    @rule(secs=st.sampled_from([-3600, 86_400]))
    def move_clock(self, secs: int) -> None:
        self.clock_jumped = True
        self.archive.clock.now_ns += secs * 1_000_000_000

    @rule()
    def rotate(self) -> None:
        self.archive.writer.rotate("signal")

    @rule(moved=st.booleans())
    def reopen(self, moved: bool) -> None:
        active = Path(self.archive.settings.dest)
        if moved and active.exists():
            self.moved += 1
            active.rename(active.with_name(f"{active.name}.{self.moved:03d}"))
        self.archive.writer.reopen()

    @rule(call=st.sampled_from(FAILING), error=st.sampled_from(ERRORS), times=st.sampled_from([1, 3, None]))
    def fail(self, call: str, error: int, times: int | None) -> None:
        self.disk.faults[call] = Fault(error, times=times)

    @rule(room_bytes=st.integers(0, 1000))
    def fill_disk(self, room_bytes: int) -> None:
        self.disk.room_bytes = room_bytes

    @rule(free=st.sampled_from([0, 2 * MIN_FREE, 100 * MIN_FREE]))
    def measure(self, free: int) -> None:
        """Let the disk say that it has `free` left."""
        self.disk.free = Space(free, None)

    @rule(size=st.sampled_from([None, 1, 5, 100]))
    def shorten_writes(self, size: int | None) -> None:
        self.disk.short_bytes = size

    @rule()
    def recover(self) -> None:
        self.disk.faults.clear()
        self.disk.room_bytes = None
        self.archive.flush()
        assert self.archive.writer.failure == ""
        assert self.archive.writer.pending_bytes == 0

    @rule()
    def restart(self) -> None:
        self.recover()
        self.archive.close()
        self.archive.restart()

    @rule(calls=st.integers(0, 25))
    def kill(self, calls: int) -> None:
        """Kill the process some calls later, in the middle of writing and rotating."""
        archive = self.archive
        self.disk.calls_left = calls
        try:
            for _ in range(4):
                archive.write("TQTQTQ")
                archive.flush()
                archive.writer.rotate("signal")
        except Killed:
            pass
        self._bury()
        archive.restart()

    @precondition(lambda self: self.archive.runs < 20)
    @rule(calls=st.integers(0, 30))
    def kill_while_starting(self, calls: int) -> None:
        """Kill the process, and the next one in the middle of its repairs."""
        self._bury()
        self.disk.calls_left = calls
        try:
            self.archive.restart()
        except Killed:
            self._bury()
            self.archive.restart()
        self.disk.calls_left = None

    def _bury(self) -> None:
        archive = self.archive
        archive.kill()
        self.killed |= set(archive.lines[len(archive.lines) - archive.feed.seq :])
        self.lost += archive.feed.seq - archive.books.recorded.total()
        self.disk.faults.clear()
        self.disk.room_bytes = None
        archive.clock.advance(1)  # no two lives begin in one millisecond

    @invariant()
    def memory_and_books_agree(self) -> None:
        if hasattr(self, "archive"):
            books, writer = self.archive.books, self.archive.writer
            assert writer.pending_bytes >= 0
            assert books.recorded.total() <= self.archive.feed.seq

    def teardown(self) -> None:
        if not hasattr(self, "archive"):
            return
        try:
            self.recover()
            self.archive.close()
            self.check()
        finally:
            self.disk.kill()
            self.folder.cleanup()

    def check(self) -> None:
        """Hold what is on the disk against everything that was ever written."""
        archive = self.archive
        report = verify([archive.folder])
        problems = report.problems + [problem for file in report.files for problem in file.problems]
        retained = bool(archive.settings.retain_bytes or archive.settings.retain_secs)
        if self.killed and (retained or self.clock_jumped):
            problems = [problem for problem in problems if not self._is_beyond_verify(problem)]
        assert not problems, problems
        found = self._content()
        if self.moved and self.lost:
            # A kill may take the note of what was moved along.
            assert report.records <= len(found)
        else:
            assert report.records == len(found)
        assert len(set(found)) == len(found)
        assert set(found) <= set(archive.lines)
        missing = set(archive.lines) - set(found) - (self.disk.deleted if retained else set())
        assert missing <= self.killed
        assert len(missing) <= self.lost
        longest = max(map(len, archive.lines), default=0)
        max_bytes = archive.settings.max_bytes
        for file in report.files:
            assert max_bytes is None or file.bytes <= max_bytes + longest
        if not archive.settings.split_per_type and not self.moved and not self.clock_jumped:
            place = {line: number for number, line in enumerate(archive.lines)}
            order = [place[line] for line in found]
            assert order == sorted(order)

    def _is_beyond_verify(self, problem: str) -> bool:
        """Return whether `verify` cannot know better.

        It tells a kill's loss from a fault by the times of the records beside it, which retention may have deleted
        and a clock that jumps puts far apart.
        """
        return problem.startswith("run ") and ("no record has seq" in problem or "are missing" in problem)

    def _content(self) -> list[bytes]:
        """Return every line of the folder's files of records.

        A file that was moved away while the disk failed may end in half a line, where a kill came before the recorder
        could cut it: nobody looks for such a file at the next start.
        """
        moved = sorted(self.archive.folder.glob("polygon.ndjson.*"))
        lines = [line for path in moved for line in path.read_bytes().splitlines(keepends=True)]
        if self.killed:
            lines = [line for line in lines if line.endswith(b"\n")]
        return lines + [line for line in self.archive.content() if line not in set(lines)]


class TestAnyLife(ArchiveLife.TestCase):
    """Through all of it no line is lost, doubled, torn or out of order, but what a kill or retention may take."""

    settings = settings(
        deadline=None,
        max_examples=settings.default.max_examples // 4,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
