"""The archive on a failing disk: nothing that was taken is lost, doubled or torn, and nothing false is promised."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from archives import Archive, Fault, FaultyDisk, archive_settings
from fakes import FakeClock

from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError


def make(tmp_path: Path, **changes: object) -> Archive:
    return Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, **changes))


def heal(archive: Archive) -> None:
    """Let the disk work again, and time pass until the writer has tried."""
    archive.disk.faults.clear()
    archive.disk.room_bytes = None
    archive.flush()


def test_short_writes_are_completed(tmp_path: Path) -> None:
    """A disk that takes 7 bytes at a time gets every line whole and once."""
    archive = make(tmp_path, max_bytes=1000).open()
    archive.disk.short_bytes = 7
    for _ in range(5):
        archive.write("TQTQ", rejects=[b"{"])
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("room_bytes", [0, 1, 100, 237, 238, 500])
def test_a_full_disk_is_waited_for(tmp_path: Path, room_bytes: int) -> None:
    """What does not fit is kept in order, `failure` says why, and a half line is completed when there is space."""
    archive = make(tmp_path, max_bytes=2000).open()
    archive.write("T")
    archive.disk.room_bytes = room_bytes
    for _ in range(20):
        archive.write("TQ", rejects=[b"{"])
    assert "No space left on device" in archive.writer.failure
    assert archive.books.failure == archive.writer.failure
    assert archive.books.write_errors == 1, "tries are made in intervals, not for each batch"
    assert archive.writer.pending_bytes + archive.writer.bytes_done > sum(map(len, archive.lines))
    archive.writer.append("session_opened", cluster="stocks")
    archive.clock.advance(1)
    archive.writer.tick()
    assert archive.writer.failure
    heal(archive)
    assert archive.writer.failure == ""
    assert archive.books.recorded.total() == 41
    assert archive.stats.rejects_written == 20
    archive.close()
    assert archive.content() == archive.lines
    assert [line["kind"] for line in archive.manifest("session_opened")] == ["session_opened"]
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("call", ["open", "write", "rename", "sync_folder"])
def test_an_error_of_any_call_is_survived(tmp_path: Path, call: str) -> None:
    """Whatever call fails for a while, every record ends up in the archive once."""
    archive = make(tmp_path, max_bytes=600, split_per_type=True).open()
    archive.write("TQ")
    archive.disk.faults[call] = Fault(errno.EIO)
    for _ in range(10):
        archive.write("TQA")
        archive.clock.advance(0.3)
        archive.writer.tick()
    heal(archive)
    assert archive.writer.failure == ""
    archive.close()
    assert sorted(archive.content()) == sorted(archive.lines)
    assert verify([tmp_path]).ok


def test_a_failed_fsync_is_never_trusted(tmp_path: Path) -> None:
    """After a failed fsync the segment is closed as not durable, and what follows goes to a new file."""
    archive = make(tmp_path, fsync="flush").open()
    archive.write("TT")
    archive.disk.faults["sync"] = Fault(errno.EIO, times=1, match="polygon.ndjson")
    archive.write("QQ")
    assert archive.stats.fsync_errors == 1
    heal(archive)
    archive.write("A")
    archive.close()
    first, second = archive.manifest("segment_closed")
    assert (first["reason"], first["durable"], first["records"]) == ("fsync_failed", False, 4)
    assert (second["reason"], second["records"], "durable" in second) == ("shutdown", 1, False)
    assert first["file"] != second["file"]
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_an_fsync_that_always_fails_makes_no_storm(tmp_path: Path) -> None:
    """A disk whose fsync fails for long gets a new file for each try, and tries are bounded by time."""
    archive = make(tmp_path, fsync="flush").open()
    archive.disk.faults["sync"] = Fault(errno.EIO, match="polygon.ndjson")
    for _ in range(100):
        archive.write("T")
        archive.clock.advance(0.01)
        archive.writer.tick()
    assert len(archive.file_names()) <= 4
    heal(archive)
    archive.close()
    assert archive.content() == archive.lines


def test_a_failed_fsync_at_rotation_is_written_down(tmp_path: Path) -> None:
    """A segment whose last fsync failed says so, and its records stay."""
    archive = make(tmp_path).open()
    archive.write("TT")
    archive.disk.faults["sync"] = Fault(errno.EIO, times=1)
    archive.writer.rotate("signal")
    archive.write("T")
    archive.close()
    assert [entry.get("durable", True) for entry in archive.manifest("segment_closed")] == [False, True]
    assert archive.content() == archive.lines


def test_a_failed_close_is_not_durable(tmp_path: Path) -> None:
    """A close that reports an error, as network file systems do, makes the segment one that is not durable."""
    archive = make(tmp_path).open()
    archive.write("TT")
    archive.disk.faults["close"] = Fault(errno.EIO, times=1)
    archive.writer.rotate("signal")
    archive.close()
    assert archive.manifest("segment_closed")[0]["durable"] is False
    assert verify([tmp_path]).ok


def test_a_file_moved_while_the_disk_is_full_keeps_no_half_line(tmp_path: Path) -> None:
    """The line that was torn by a full disk is written whole into the new file, and cut from the old one."""
    archive = make(tmp_path).open()
    archive.write("T")
    archive.disk.room_bytes = 300
    archive.write("QQ")
    assert archive.writer.failure
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson.1")
    heal(archive)
    archive.close()
    assert (tmp_path / "polygon.ndjson.1").read_bytes() == b"".join(archive.lines[:2])
    assert (tmp_path / "polygon.ndjson").read_bytes() == archive.lines[2]
    assert verify([tmp_path]).ok


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    """`copytruncate` cuts our file: that is logged as an error, the segment is not durable, and writing continues."""
    archive = make(tmp_path).open()
    archive.write("TTT")
    with open(tmp_path / "polygon.ndjson", "r+b") as file:
        file.truncate(0)
    archive.flush()
    archive.write("Q")
    archive.close()
    assert (tmp_path / "polygon.ndjson").read_bytes() == archive.lines[3]
    assert [entry.get("durable", True) for entry in archive.manifest("segment_closed")] == [False, True]


@pytest.mark.parametrize("faults", [{}, {"rename": 1}, {"rename": 3}], ids=str)
def test_nothing_is_added_to_what_a_truncation_left(tmp_path: Path, faults: dict[str, int]) -> None:
    """Half a line may stand at its end: what is left gets a name of its own, also where that fails at first."""
    archive = make(tmp_path).open()
    archive.write("TTT")
    left = len(archive.lines[0]) + 40
    with open(tmp_path / "polygon.ndjson", "r+b") as file:
        file.truncate(left)
    for call, times in faults.items():
        archive.disk.faults[call] = Fault(errno.EIO, match="polygon.ndjson", times=times)
    archive.flush()
    for _ in range(5):
        archive.write("Q")
    heal(archive)
    archive.close()
    assert (tmp_path / "polygon.ndjson").read_bytes() == b"".join(archive.lines[3:])
    cut, whole = archive.manifest("segment_closed")
    assert (cut["durable"], cut["was"], cut["records"]) == (False, "polygon.ndjson", 3)
    assert (tmp_path / cut["file"]).read_bytes() == b"".join(archive.lines)[:left]
    assert (whole.get("durable", True), whole["file"], whole["offset"], whole["records"]) == (
        True,
        "polygon.ndjson",
        0,
        5,
    )
    damaged = verify([tmp_path])
    assert not damaged.ok
    assert damaged.records == 1 + 5


def test_shutdown_gives_up_on_a_dead_disk_and_says_what_is_lost(tmp_path: Path) -> None:
    """What the disk does not take until the deadline is dropped in the books and, as far as it can, in the manifest."""
    archive = make(tmp_path).open()
    archive.write("T")
    archive.disk.faults["write"] = Fault(errno.ENOSPC, match="polygon.ndjson")
    archive.write("TTQ")
    archive.close(secs=1)
    assert archive.books.recorded == {("stocks", "T"): 1}
    assert archive.books.dropped == {("stocks", "T"): 2, ("stocks", "Q"): 1}
    assert archive.writer.pending_bytes == 0
    assert archive.writer.bytes_done == sum(map(len, archive.lines))
    assert [(drop["channel"], drop["count"]) for drop in archive.manifest("drop")] == [("T", 2), ("Q", 1)]
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 1


def test_shutdown_waits_for_a_disk_that_comes_back(tmp_path: Path) -> None:
    """A disk that works again before the deadline gets everything."""
    archive = make(tmp_path).open()
    archive.disk.faults["write"] = Fault(errno.ENOSPC, times=5)
    archive.write("TTQ")
    archive.close(secs=5)
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_a_failing_manifest_does_not_stop_the_records(tmp_path: Path) -> None:
    """Manifest lines wait in memory, in order and chained, while records continue; a torn line is completed."""
    archive = make(tmp_path, max_bytes=600).open()
    archive.disk.faults["write"] = Fault(errno.EIO, match=".manifest.")
    for _ in range(10):
        archive.write("TT")
    assert archive.writer.failure == ""
    assert archive.stats.manifest_errors > 0
    assert len(archive.manifest()) == 1
    archive.disk.short_bytes = 11
    heal(archive)
    archive.close()
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("call", ["open", "write", "sync", "sync_folder"])
def test_a_disk_that_fails_at_the_start_is_a_config_error(tmp_path: Path, call: str) -> None:
    """A disk that is full or broken at the start ends it with one clear line, and the archive is left unowned."""
    archive = make(tmp_path / "new")
    archive.disk.faults[call] = Fault(errno.ENOSPC)
    with pytest.raises(ArchiveConfigError, match=r"disk is full|No space left"):
        archive.open()
    archive.disk.faults.clear()
    archive.restart()
    archive.write("T")
    archive.close()
    assert verify([tmp_path]).ok


def sealed(archive: Archive) -> list[str]:
    return [name for name in archive.file_names() if ".2026" in name]


@pytest.mark.parametrize("call", ["write", "sync"])
def test_nothing_is_deleted_before_its_line_in_the_manifest_is_durable(tmp_path: Path, call: str) -> None:
    """While the manifest cannot be written, retention waits: a kill would turn its deletion into a missing file."""
    archive = make(tmp_path, max_bytes=300, retain_bytes=1).open()
    for _ in range(3):
        archive.write("T")
    before = sealed(archive)
    assert len(before) == 2
    archive.disk.faults[call] = Fault(errno.EIO, match="manifest")
    archive.clock.advance(60)
    archive.writer.tick()
    assert sealed(archive) == before
    archive.kill()
    assert verify([tmp_path]).ok
    archive.disk.faults.clear()
    archive.restart()
    archive.clock.advance(60)
    archive.writer.tick()
    assert not set(before) & set(sealed(archive))
    archive.close()
    assert verify([tmp_path]).ok


def test_on_a_full_disk_the_reserve_has_room_for_what_is_deleted(tmp_path: Path) -> None:
    """What keeps the manifest from being written is what deletion mends; its lines come first all the same."""
    archive = make(tmp_path, max_bytes=300, retain_bytes=1).open()
    for _ in range(3):
        archive.write("T")
    unlink = archive.disk.unlink
    on_record: list[bool] = []

    def watch(path: Path) -> None:
        on_record.append(path.name in {line["file"] for line in archive.manifest("segment_deleted")})
        unlink(path)

    archive.disk.unlink = watch  # type: ignore[method-assign]
    archive.disk.room_bytes = 0
    archive.clock.advance(60)
    archive.writer.tick()
    assert sealed(archive) == []
    assert on_record == [True, True]
    assert archive.writer.failure == ""
    archive.kill()
    assert verify([tmp_path]).ok
    archive.disk.room_bytes = None
    archive.restart()
    archive.close()
    assert archive.names.lock.stat().st_size < 200
    assert verify([tmp_path]).ok


def test_sighup_is_obeyed_while_the_disk_is_full(tmp_path: Path) -> None:
    """The file that was moved away loses its half line at once, not when the disk is tried again."""
    archive = make(tmp_path).open()
    archive.write("T")
    archive.disk.room_bytes = 300
    archive.write("QQ")
    assert archive.writer.failure
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson.1")
    archive.writer.reopen()
    assert (tmp_path / "polygon.ndjson.1").read_bytes() == b"".join(archive.lines[:2])
    heal(archive)
    archive.close()
    assert (tmp_path / "polygon.ndjson").read_bytes() == archive.lines[2]
    assert verify([tmp_path]).ok


class SlowDisk(FaultyDisk):
    """Each write takes its time, on the clock of the test."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock
        self.secs = 0.0

    def write(self, fd: int, data: bytes | memoryview) -> int:
        self._clock.advance(self.secs)
        return super().write(fd, data)


def test_a_large_batch_does_not_outlast_the_time_for_writing(tmp_path: Path) -> None:
    """On a slow disk a stop comes between two writes of one batch; the rest is dropped by name, in time."""
    archive = make(tmp_path)
    archive.disk = disk = SlowDisk(archive.clock)
    archive.make_writer()
    archive.open()
    disk.secs = 0.3
    began_ns = archive.clock.monotonic_ns()
    archive.writer.write_until_ns = began_ns + 1_000_000_000
    archive.write("T" * 10_000)
    assert archive.clock.monotonic_ns() - began_ns <= 1_300_000_000
    disk.secs = 0.0
    archive.close(secs=1)
    lost = sum(archive.books.dropped.values())
    assert 0 < lost < 10_000
    assert archive.content() == archive.lines[: 10_000 - lost]
    [drop] = archive.manifest("drop")
    assert (drop["count"], drop["first_seq"]) == (lost, 10_001 - lost)
    assert verify([tmp_path]).ok
