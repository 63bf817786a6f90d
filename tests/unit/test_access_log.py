"""The access log: what is counted when, the file that holds it, and the part that writes it whatever the disk does."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from access_lines import NOON_NS, line_of
from archives import Fault, FaultyDisk
from fakes import FakeClock
from waiting import eventually

from recorder.access_log import writer
from recorder.access_log.book import AccessBook
from recorder.access_log.file import AccessFile
from recorder.access_log.record import AccessRecord, decode, fingerprint
from recorder.access_log.writer import AccessLog
from recorder.archive.reader import open_lines
from recorder.errors import ArchiveError, ConfigError
from recorder.settings import AccessLogSettings

DAY_NS = 86_400_000_000_000


@dataclass
class Client:
    """A client as the book reads it."""

    name: str = "acme"
    address: str = "192.0.2.7"
    address_port: int = 4711
    agent: str = "test"
    cluster: str = ""
    reason: str = "left"
    events_sent: int = 0
    bytes_sent: int = 0
    uncounted_bytes: int = 0


class Book:
    """A book at noon, what it wrote, and one connection in it."""

    def __init__(self, interval_secs: float = 60.0) -> None:
        self.clock = FakeClock(NOON_NS)
        self.data = b""
        self.book = AccessBook(interval_secs, ["stocks", "crypto"], self._write, self.clock)
        self.client = Client()
        self.topics: dict[str, None] = {}
        self.entry = self.book.join(self.client, "filtered", "0123456789ab", lambda: self.topics)

    def _write(self, lines: bytes, count: int, begun_ns: int) -> None:
        assert lines.count(b"\n") == count
        self.data += lines

    @property
    def records(self) -> list[AccessRecord]:
        return [decode(line) for line in self.data.splitlines()]


def test_the_lines_of_a_connection_add_up_to_what_it_received() -> None:
    """Each line counts since the one before: nothing twice, nothing left out, whatever the interval."""
    made = Book()
    made.client.events_sent, made.client.bytes_sent = 5, 500
    made.clock.advance(60)
    asyncio.run(made.book.flush())
    made.client.events_sent, made.client.bytes_sent = 12, 1300
    made.clock.advance(10)
    made.client.reason = "closed 1000"
    made.book.leave(made.entry)
    assert [(one.kind, one.seq, one.events, one.bytes) for one in made.records] == [
        ("joined", 0, 0, 0),
        ("interval", 1, 5, 500),
        ("left", 2, 7, 800),
    ]
    joined, interval, left = made.records
    assert joined.connected == joined.begun == interval.begun == datetime(2026, 1, 30, 12, tzinfo=UTC)
    assert interval.ended == left.begun
    assert (left.ended - interval.ended).total_seconds() == 10
    assert left.reason == "closed 1000"
    assert interval.clusters == ["stocks", "crypto"]
    asyncio.run(made.book.flush())
    assert len(made.records) == 3


def test_topics_are_named_when_they_begin_and_when_they_end() -> None:
    """A topic that was held for a moment between two lines is in the log, too."""
    made = Book()
    made.entry.subscribed(["T.A", "T.B"])
    made.entry.unsubscribed(["T.A"])
    made.topics = {"T.B": None}
    asyncio.run(made.book.flush())
    made.entry.unsubscribed(["T.B"])
    made.entry.subscribed(["T.B", "Q.C"])
    made.topics = {"T.B": None, "Q.C": None}
    asyncio.run(made.book.flush())
    asyncio.run(made.book.flush())
    assert [(one.subscribed, one.unsubscribed, one.topics_count) for one in made.records[1:]] == [
        (["T.A", "T.B"], ["T.A"], 1),
        (["T.B", "Q.C"], [], 2),
        ([], [], 2),
    ]


async def test_midnight_ends_a_line_and_the_next_one_names_all_topics() -> None:
    """The counts of a connection are split where the UTC day ends, and each day says by itself who received what."""
    made = Book(interval_secs=3600.0)
    made.clock.now_ns = NOON_NS + DAY_NS // 2 - 90_000_000_000  # 23:58:30
    made.topics = {"T.A": None}
    made.client.events_sent = 3
    running = asyncio.create_task(made.book.run())
    try:
        await eventually(lambda: len(made.records) >= 3, "two lines more")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    first, second = made.records[1:3]
    assert (first.day, first.events, first.ended.isoformat()) == (
        "2026-01-30",
        3,
        "2026-01-31T00:00:00+00:00",
    )
    assert (second.day, second.begun, second.subscribed) == ("2026-01-31", first.ended, ["T.A"])


def test_events_that_nobody_counted_are_null_not_zero() -> None:
    """A recorder that only passes frames on does not say that nothing was received."""
    made = Book()
    made.client.uncounted_bytes = made.client.bytes_sent = 700
    asyncio.run(made.book.flush())
    assert (made.records[1].events, made.records[1].bytes) == (None, 700)


def test_a_clock_that_goes_back_makes_no_line_end_before_it_begins() -> None:
    """The wall clock may be set while a client is connected."""
    made = Book()
    made.clock.now_ns -= 3_600_000_000_000
    asyncio.run(made.book.flush())
    assert made.records[1].ended >= made.records[1].begun


def test_a_defect_of_the_log_reaches_no_client() -> None:
    """Whatever the book raises inside, the conversation that calls it goes on."""
    made = Book()
    made.client.events_sent = "no number"  # type: ignore[assignment]
    made.book.leave(made.entry)
    assert made.book.failures == 1


def test_a_fingerprint_is_what_sha256sum_begins_with() -> None:
    """Whoever has a token can find it in the log; the log does not have the token."""
    assert fingerprint(hashlib.sha256(b"secret").hexdigest()) == "2bb80d537b1d"


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b'{"schema_version":2}', line_of(0)[:-20], line_of(0) + b"x"]
)
def test_what_is_no_line_is_refused_in_words(line: bytes) -> None:
    """A torn line, a line of something else, or of a later version is an error, never a guess."""
    with pytest.raises(ArchiveError):
        decode(line)


def opened(folder: Path, disk: FaultyDisk | None = None, **settings: object) -> AccessFile:
    """Return an open file with these settings."""
    made = AccessLogSettings.model_validate({"dest": str(folder / "access.jsonl"), **settings})
    file = AccessFile(made, disk or FaultyDisk())
    file.open()
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the log is; nobody has made it yet."""
    return tmp_path / "log"


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", ".gz"), ("zstd", ".zst"), ("none", "")])
def test_a_day_is_a_file_compressed_once_it_is_over(folder: Path, compression: str, suffix: str) -> None:
    """The name says when the file begins, as the names of the archive do; a late line stays in the present file."""
    file = opened(folder, compression=compression)
    file.write(line_of(0), NOON_NS)
    file.write(line_of(1), NOON_NS + DAY_NS)
    file.write(line_of(2), NOON_NS)
    file.tidy(NOON_NS + DAY_NS)
    rotated = f"access.20260130T120000000Z.jsonl{suffix}"
    assert names(folder) == sorted([rotated, "access.jsonl"])
    assert list(open_lines(folder / rotated)) == [line_of(0)]
    assert list(open_lines(folder / "access.jsonl")) == [line_of(1), line_of(2)]
    file.close()


def test_a_file_of_an_earlier_run_is_continued_or_rotated_by_its_first_line(folder: Path) -> None:
    """What counts is when the file began, not when the recorder was started again."""
    first = opened(folder, compression="none")
    first.write(line_of(0), NOON_NS)
    first.close()
    second = opened(folder, compression="none")
    second.write(line_of(1), NOON_NS + 1_000_000_000)
    second.write(line_of(2), NOON_NS + DAY_NS)
    assert names(folder) == ["access.20260130T120000000Z.jsonl", "access.jsonl"]
    second.close()


def test_a_size_rotates_too(folder: Path) -> None:
    """Names of files that begin in one millisecond are counted."""
    file = opened(folder, max_bytes=4096, compression="none")
    for place in range(40):
        file.write(line_of(place), NOON_NS)
    assert all((folder / name).stat().st_size <= 4096 for name in names(folder))
    assert sum(len(list(open_lines(folder / name))) for name in names(folder)) == 40
    file.close()


def test_old_files_are_deleted_and_the_newest_stay(folder: Path) -> None:
    """Retention goes by the last change of a file, and by the size of all; the active file and others' files stay."""
    file = opened(folder, compression="none", retain_secs=3600, retain_bytes=2 * len(line_of(0)))
    for day in range(4):
        file.write(line_of(0), NOON_NS + day * DAY_NS)
    (folder / "other.20260130T120000000Z.jsonl").write_bytes(b"theirs")
    now_ns = (folder / "access.jsonl").stat().st_mtime_ns
    file.tidy(now_ns)
    assert [name[:15] for name in names(folder)] == [
        "access.20260131",
        "access.20260201",
        "access.jsonl",
        "other.20260130T",
    ]
    os.utime(folder / names(folder)[0], ns=(now_ns, now_ns - 3601_000_000_000))
    file.tidy(now_ns)
    assert [name[:15] for name in names(folder)] == ["access.20260201", "access.jsonl", "other.20260130T"]
    file.close()


def test_a_line_that_a_crash_tore_spoils_no_other(folder: Path) -> None:
    """The next line begins on a line of its own."""
    folder.mkdir()
    (folder / "access.jsonl").write_bytes(line_of(0) + line_of(1)[:40])
    file = opened(folder)
    file.write(line_of(2), NOON_NS)
    file.close()
    lines = list(open_lines(folder / "access.jsonl"))
    assert (lines[0], lines[2]) == (line_of(0), line_of(2))


def test_a_full_disk_leaves_no_half_of_a_line(folder: Path) -> None:
    """What was written of it is taken back, so that it can be written again whole."""
    disk = FaultyDisk()
    file = opened(folder, disk)
    file.write(line_of(0), NOON_NS)
    disk.room_bytes = 10
    with pytest.raises(OSError, match="No space"):
        file.write(line_of(1), NOON_NS)
    disk.room_bytes = None
    file.write(line_of(1), NOON_NS)
    assert list(open_lines(folder / "access.jsonl")) == [line_of(0), line_of(1)]
    file.close()


def test_a_file_that_was_moved_gets_a_successor(folder: Path) -> None:
    """Also without a signal: lines do not go on into a file that somebody has put away."""
    file = opened(folder)
    file.write(line_of(0), NOON_NS)
    (folder / "access.jsonl").rename(folder / "moved")
    file.write(line_of(1), NOON_NS)
    assert list(open_lines(folder / "access.jsonl")) == [line_of(1)]
    file.close()


async def test_a_second_recorder_is_told_to_take_another_file(folder: Path) -> None:
    """Two programs that rotate one file would lose lines; the second one ends before it does anything."""
    first = opened(folder)
    second = AccessLog(AccessLogSettings(dest=str(first.path)), FakeClock(NOON_NS))
    with pytest.raises(ConfigError, match=r"ACCESS_LOG_DEST: .*another recorder writes to it"):
        await second.open()
    await second.close(0)
    first.close()


async def test_a_file_that_cannot_be_made_is_named_at_the_start(tmp_path: Path) -> None:
    """The words name the variable and what to do."""
    (tmp_path / "file").touch()
    log = AccessLog(AccessLogSettings(dest=str(tmp_path / "file" / "access.jsonl")), FakeClock(NOON_NS))
    with pytest.raises(ConfigError, match=r"ACCESS_LOG_DEST: .*Not a directory; name a file"):
        await log.open()
    await log.close(0)


async def test_a_failing_disk_costs_nothing_while_it_lasts_a_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines wait, a warning says so, and all are there once the disk works again."""
    monkeypatch.setattr(writer, "RETRY_SECS", 0.01)
    disk, clock = FaultyDisk(), FakeClock(NOON_NS)
    log = AccessLog(AccessLogSettings(dest=str(folder / "access.jsonl")), clock, disk)
    await log.open()
    disk.faults["write"] = Fault(errno.EIO)
    log.write(line_of(0), 1, NOON_NS)
    await eventually(lambda: log.stats.failure, "a failure")
    assert "clients are served all the same" in log.stats.warning(0)
    log.write(line_of(1), 1, NOON_NS)
    disk.faults.clear()
    await eventually(lambda: log.stats.lines == 2, "both lines")
    await eventually(lambda: not log.stats.failure, "no failure")
    assert (log.stats.dropped, log.stats.pending_bytes, log.stats.warning(0)) == (0, 0, "")
    await log.close(clock.monotonic_ns() + 10_000_000_000)
    assert list(open_lines(folder / "access.jsonl")) == [line_of(0), line_of(1)]


async def test_what_waits_has_a_limit_and_what_is_lost_is_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with a disk that fails, and the end of the process does not wait for it."""
    monkeypatch.setattr(writer, "WAITING_BYTES_MAX", 2 * len(line_of(0)))
    disk, clock = FaultyDisk(), FakeClock(NOON_NS)
    log = AccessLog(AccessLogSettings(dest=str(folder / "access.jsonl")), clock, disk)
    await log.open()
    disk.faults["write"] = Fault(errno.EIO)
    for second in range(5):
        log.write(line_of(second), 1, NOON_NS)
    assert log.stats.dropped == 3
    await log.close(clock.monotonic_ns() + 10_000_000_000)
    assert log.stats.dropped == 5
