"""The archive on a disk that fills: what each step does, what it writes down, and what it leaves alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, Fault, archive_settings
from mounts import Ballast, tmpfs
from waiting import eventually_sync

from recorder.archive.disk import Space
from recorder.archive.verify import verify

MIN_FREE = 1_000_000


def make(folder: Path, **changes: Any) -> Archive:
    """Make an archive that must leave some space, on a disk that has plenty."""
    settings = archive_settings(
        folder / "polygon.ndjson", **{"min_free_bytes": MIN_FREE, "flush_every": 1, **changes}
    )
    archive = Archive(settings)
    archive.disk.free = Space(100 * MIN_FREE, None)
    return archive


def fill(archive: Archive, free_bytes: int, secs: int = 30) -> None:
    """Leave `free_bytes` free, and let time pass."""
    archive.disk.free = Space(free_bytes, None)
    for _ in range(secs):
        archive.clock.advance(1)
        archive.writer.tick()


def steps(archive: Archive) -> list[str]:
    """Return the steps in the manifest."""
    return [entry["step"] for entry in archive.manifest("pressure")]


def test_every_step_is_written_down_and_undone_in_order(tmp_path: Path) -> None:
    """Down the ladder and back: each change is in the manifest, with what was free, and in the stats."""
    archive = make(tmp_path, compression="zstd", retain_bytes=10**9, pressure="sample").open()
    archive.write("TQ")
    fill(archive, 0)
    down = ["warn", "compress", "delete", "sample", "no_quotes", "stop"]
    assert steps(archive) == down
    assert archive.shedding.paused
    pressure = archive.stats.pressure
    assert (pressure.step, pressure.word, pressure.losing, pressure.free_bytes) == (6, "stop", True, 0)
    fill(archive, 100 * MIN_FREE)
    assert steps(archive)[6:] == ["no_quotes", "sample", "delete", "compress", "warn", "none"]
    assert not archive.shedding.paused
    assert (pressure.step, pressure.losing, pressure.transitions.total()) == (0, False, 12)
    first, *_, last = archive.manifest("pressure")
    assert (first["before"], first["free_bytes"], first["reason"]) == ("none", 0, "free_bytes")
    assert (last["before"], last["free_bytes"], last["reason"]) == ("warn", 10**8, "space_is_back")
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_nothing_is_watched_where_nothing_shall_stay_free(tmp_path: Path) -> None:
    """NDJSON_MIN_FREE_BYTES=0: no look, no step; records wait in memory once the disk is full."""
    archive = make(tmp_path, min_free_bytes=0).open()
    fill(archive, 0)
    assert steps(archive) == []
    assert archive.stats.pressure.free_bytes is None
    archive.close()


def test_compressing_begins_with_what_is_being_written(tmp_path: Path) -> None:
    """The active file is rotated and compressed at once; later again when it has grown, and not for crumbs."""
    archive = make(tmp_path, compression="zstd", min_free_bytes=4000).open()
    archive.write("TTTT")
    fill(archive, 4000 * 3 - 1)
    assert steps(archive) == ["warn", "compress"]
    [segment] = archive.manifest("segment_closed")
    assert (segment["reason"], segment["records"]) == ("pressure", 4)
    assert archive.stats.compressed == 1
    archive.write("T")
    fill(archive, 4000 * 3 - 1)
    assert archive.stats.compressed == 1, "one record is less than a quarter of what shall stay free"
    archive.write("TTTTT")
    fill(archive, 4000 * 3 - 1)
    assert archive.stats.compressed == 2
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_what_could_not_be_compressed_is_tried_again(tmp_path: Path) -> None:
    """A file that stayed plain since the disk was full is compressed when there is space."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TTTT")
    archive.disk.faults["write"] = Fault(errno.ENOSPC, match=".zst")
    archive.writer.rotate("signal")
    archive.writer.tick()
    assert archive.stats.compress_errors == 1
    fill(archive, 4 * MIN_FREE - 1)
    assert (archive.stats.compress_errors, archive.stats.compressed) == (2, 0)
    archive.disk.faults.clear()
    fill(archive, 100 * MIN_FREE)
    assert archive.stats.compressed == 1
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_nothing_is_deleted_that_retention_does_not_allow(tmp_path: Path) -> None:
    """Without retention no file goes, however full the disk is; with it, files below its limits stay."""
    for retain in ({}, {"retain_bytes": 10**9}, {"retain_secs": 10**9}):
        folder = tmp_path / f"{retain}"
        archive = make(folder, max_bytes=500, **retain).open()
        for _ in range(10):
            archive.write("TT")
        before = archive.file_names()
        fill(archive, 0)
        assert steps(archive)[-1] == "stop"
        assert ("delete" in steps(archive)) == bool(retain)
        assert archive.file_names() == before
        assert archive.stats.deleted == 0
        archive.close()


def test_retention_is_applied_at_each_look_under_pressure(tmp_path: Path) -> None:
    """What is past the limits goes within a second, not within ten."""
    archive = make(tmp_path, max_bytes=500, retain_bytes=1000).open()
    fill(archive, 2 * MIN_FREE)
    assert steps(archive)[-1] == "delete"
    for _ in range(10):
        archive.write("TT")
    fill(archive, 2 * MIN_FREE, secs=1)
    rotated = [name for name in archive.file_names() if name != "polygon.ndjson"]
    assert 0 < sum((tmp_path / name).stat().st_size for name in rotated) <= 1000
    archive.close()
    assert verify([tmp_path]).ok


def test_a_write_without_space_is_looked_into_at_once(tmp_path: Path) -> None:
    """A quota that is used up is not measured, but it is a full disk all the same; what was taken is kept."""
    archive = make(tmp_path).open()
    archive.clock.advance(5)
    archive.writer.tick()
    archive.disk.faults["write"] = Fault(errno.EDQUOT, match="polygon.ndjson")
    archive.write("T")
    assert archive.writer.failure
    archive.writer.tick()
    [warned] = archive.manifest("pressure")
    assert (warned["step"], warned["reason"]) == ("warn", "write_refused")
    fill(archive, 100 * MIN_FREE, secs=3)
    assert archive.shedding.paused
    archive.disk.faults.clear()
    fill(archive, 100 * MIN_FREE)
    assert steps(archive) == ["warn", "stop", "warn", "none"]
    archive.close()
    assert archive.content() == archive.lines


@pytest.mark.parametrize("scarce", ["bytes", "inodes"])
def test_a_real_disk_that_somebody_else_fills(tmp_path: Path, scarce: str) -> None:
    """What was to stay free is used up, too: nothing that was taken is lost, recording pauses, and all is undone."""
    with tmpfs(tmp_path / "disk", 64 * MIN_FREE, inodes=0 if scarce == "bytes" else 2000) as disk:
        archive = make(disk / "archive", max_bytes=2000)
        archive.disk.free = None
        archive.open()
        ballast = Ballast(disk)
        crumbs = [disk / f"crumb-{number}" for number in range(os.statvfs(disk).f_favail)]
        if scarce == "bytes":
            ballast.leave(0)
        else:
            for crumb in crumbs:
                crumb.touch()
        for _ in range(20):
            archive.write("TQTQ")
            archive.clock.advance(1)
            archive.writer.tick()
        assert "No space left on device" in archive.writer.failure
        assert archive.shedding.paused
        ballast.remove()
        if scarce == "inodes":
            for crumb in crumbs:
                crumb.unlink()
        for _ in range(30):
            archive.clock.advance(1)
            archive.writer.tick()
        assert steps(archive) == ["warn", "stop", "warn", "none"]
        archive.close()
        assert archive.content() == archive.lines
        assert verify([disk / "archive"]).ok


def test_a_start_on_a_full_disk_pauses_at_once(tmp_path: Path) -> None:
    """Restarts do not use up what must stay free: the first look comes before the first record."""
    archive = make(tmp_path, compression="zstd")
    archive.disk.free = Space(MIN_FREE - 1, None)
    archive.open()
    assert steps(archive) == ["stop"]
    assert archive.shedding.paused
    archive.close()
    assert verify([tmp_path]).ok


def test_where_space_cannot_be_told_the_step_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that does not answer is no reason to pause, nor to resume."""
    archive = make(tmp_path).open()
    fill(archive, 0)
    taken = steps(archive)

    def no_answer(folder: Path) -> Space:
        raise OSError(errno.EIO, "no answer", str(folder))

    monkeypatch.setattr(archive.disk, "space", no_answer)
    fill(archive, 100 * MIN_FREE)
    assert steps(archive) == taken
    assert archive.shedding.paused
    archive.close()


def test_retention_finds_nothing_to_do_without_asking_the_disk(tmp_path: Path) -> None:
    """With many files and nothing past the limits, a look costs no system call; so does it after a restart."""
    archive = make(tmp_path, max_bytes=100, retain_bytes=10**9, retain_secs=10**9).open()
    archive.write("T" * 50)
    for _ in range(2):
        archive.writer._housekeeping.retention.apply()
        archive.disk.looks = 0
        archive.writer._housekeeping.retention.apply()
        assert archive.disk.looks == 0
        archive.close()
        archive.restart()
    archive.close()


def test_files_that_somebody_else_took_away_leave_room_for_the_others(tmp_path: Path) -> None:
    """Before anything is deleted it is seen what is still there, so that no file goes for one that is gone."""
    archive = make(tmp_path, max_bytes=500, retain_bytes=10**6).open()
    for _ in range(10):
        archive.write("TT")
    fill(archive, 100 * MIN_FREE, secs=11)
    archive.close()
    rotated = sorted(name for name in archive.file_names() if name != "polygon.ndjson")
    total = sum((tmp_path / name).stat().st_size for name in rotated)
    archive.restart(retain_bytes=total)
    (tmp_path / rotated[-1]).unlink()
    archive.write("TT")
    fill(archive, 100 * MIN_FREE, secs=11)
    assert set(rotated[:-1]) <= set(archive.file_names())
    assert archive.stats.deleted == 0
    archive.close()


def test_retention_counts_compressed_files_as_what_they_are(tmp_path: Path) -> None:
    """A file that was compressed counts by its size now, also on the thread that compresses."""
    archive = make(tmp_path, compression="gzip", max_bytes=5000, retain_bytes=3000)
    archive.background = True
    archive.make_writer()
    archive.open()
    for _ in range(100):
        archive.write("TT")
    compressor = archive.writer._housekeeping.compressor
    assert compressor is not None
    eventually_sync(lambda: archive.stats.compress_pending == 0, "all files are compressed", 60)
    compressor.stop(10)
    fill(archive, 100 * MIN_FREE, secs=11)
    rotated = [tmp_path / name for name in archive.file_names() if name != "polygon.ndjson"]
    assert all(path.suffix == ".gz" for path in rotated)
    assert 0 < sum(path.stat().st_size for path in rotated) <= 3000
    assert archive.stats.deleted > 0
    largest = max(path.stat().st_size for path in rotated)
    assert sum(path.stat().st_size for path in rotated) > 3000 - largest - 100
    archive.close()
    assert verify([tmp_path]).ok
