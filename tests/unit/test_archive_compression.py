"""Compression of sealed files: proven before the plain file goes, finished by the next start, never in the way."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path

import pytest
from archives import Archive, Fault, archive_settings
from commands import is_alive
from waiting import eventually_sync

from recorder.archive.compressor import RETRY_SECS, RETRY_SECS_MAX
from recorder.archive.reader import open_lines
from recorder.archive.verify import verify

SUFFIX = {"gzip": ".gz", "zstd": ".zst"}


def make(tmp_path: Path, **changes: object) -> Archive:
    return Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, **changes))


def sealed(archive: Archive) -> list[str]:
    return [name for name in archive.file_names() if name != "polygon.ndjson"]


def compressed(archive: Archive) -> None:
    """Wait until nothing waits for compression, which has the processor last of all on a busy machine."""
    eventually_sync(lambda: archive.stats.compress_pending == 0, "all files are compressed", 60)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_rotated_files_are_compressed(tmp_path: Path, compression: str, background: bool) -> None:
    """Each rotated file becomes a compressed one with the same lines and the same age, and the manifest says so."""
    archive = make(tmp_path, compression=compression, max_bytes=3000)
    archive.background = background
    archive.make_writer()
    archive.open()
    for _ in range(20):
        archive.write("TQTQ")
    if background:
        compressed(archive)
    archive.close()
    assert len(sealed(archive)) > 3
    assert all(name.endswith(SUFFIX[compression]) for name in sealed(archive))
    assert archive.content() == archive.lines
    assert archive.stats.compressed == len(sealed(archive)) == len(archive.manifest("segment_compressed"))
    assert archive.stats.compress_pending == 0
    assert archive.stats.compress_bytes_in > archive.stats.compress_bytes_out > 0
    assert (tmp_path / sealed(archive)[0]).stat().st_mode & 0o777 == 0o640
    *rotated, last = archive.stats.recent  # the last one keeps its name
    for segment in rotated:
        file = tmp_path / f"{segment.file}{SUFFIX[compression]}"
        assert segment.compressed_bytes == file.stat().st_size < segment.bytes
        assert (segment.reason, segment.deleted) == ("size", False)
    assert (last.file, last.compressed_bytes, last.reason) == ("polygon.ndjson", None, "shutdown")
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("call", ["open", "write", "sync", "rename", "sync_folder"])
def test_a_failed_compression_leaves_the_plain_file(tmp_path: Path, call: str) -> None:
    """Whatever fails, the plain file stays, no temporary one does, and the next start compresses it."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.disk.faults[call] = Fault(errno.EIO, times=1)
    archive.writer.tick()
    archive.disk.faults.clear()
    assert archive.stats.compress_errors == 1
    (plain,) = [name for name in sealed(archive) if name.endswith("Z.ndjson")]
    assert not any(name.endswith(".tmp") for name in sealed(archive))
    archive.close()
    archive.restart()
    archive.close()
    assert sealed(archive) == [f"{plain}.zst"]
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_a_plain_file_that_rotted_is_not_replaced(tmp_path: Path) -> None:
    """A plain file without the checksum that it was written with stays as it is, for a person to look at."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.writer.rotate("signal")
    (name,) = sealed(archive)
    data = bytearray((tmp_path / name).read_bytes())
    data[30] ^= 1
    (tmp_path / name).write_bytes(data)
    archive.writer.tick()
    assert archive.stats.compress_errors == 1
    assert sealed(archive) == [name]
    archive.close()
    assert not verify([tmp_path]).ok


def test_of_two_twins_the_right_one_stays(tmp_path: Path) -> None:
    """Beside its plain file, a compressed one that is right replaces it, and one that is damaged is made again."""
    archive = make(tmp_path).open()
    for _ in range(2):
        archive.write("TQ")
        archive.writer.rotate("signal")
    archive.close()
    names = sealed(archive)
    plain = [(tmp_path / name).read_bytes() for name in names]
    archive.restart(compression="gzip")
    archive.close()
    for name, data in zip(names, plain, strict=True):
        (tmp_path / name).write_bytes(data)
    damaged = tmp_path / f"{names[1]}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert not verify([tmp_path]).ok
    archive.restart()
    archive.close()
    assert sealed(archive) == sorted(f"{name}.gz" for name in names)
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_a_manifest_that_cannot_be_written_keeps_the_plain_file(tmp_path: Path) -> None:
    """The plain file goes only when the manifest has the segment and its compression."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.disk.faults["write"] = Fault(errno.EIO, match=".manifest.")
    archive.writer.rotate("signal")
    archive.writer.tick()
    assert len([name for name in sealed(archive) if name.endswith("Z.ndjson")]) == 1
    archive.disk.faults.clear()
    archive.close()
    archive.restart()
    archive.close()
    assert [line for name in sealed(archive) for line in open_lines(tmp_path / name)] == archive.lines
    assert verify([tmp_path]).ok


def test_retention_waits_for_compression(tmp_path: Path) -> None:
    """A file that waits for compression is not deleted."""
    archive = make(tmp_path, compression="zstd", retain_bytes=0)
    archive.background = True
    archive.make_writer()
    archive.open()
    compressor = archive.writer._housekeeping.compressor
    assert compressor is not None
    compressor.stop(5)
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.clock.advance(60)
    archive.writer.tick()
    assert len(sealed(archive)) == 1
    archive.close()


def test_what_failed_is_tried_again_after_a_while(tmp_path: Path) -> None:
    """A file that could not be compressed is tried again after a minute, then after two, until it is."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.disk.faults["write"] = Fault(errno.EIO, times=2, match=".zst")
    archive.writer.rotate("signal")
    errors = []
    for _ in range(5):
        archive.writer.tick()
        errors.append((archive.stats.compress_errors, archive.stats.compressed))
        archive.clock.advance(RETRY_SECS)
    assert errors == [(1, 0), (2, 0), (2, 0), (2, 1), (2, 1)]
    archive.close()
    assert archive.content() == archive.lines


def test_what_was_taken_away_is_not_tried_again(tmp_path: Path) -> None:
    """A file that somebody moves before it is compressed counts as one failure, not as one each hour."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.writer.rotate("signal")
    (name,) = sealed(archive)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    for _ in range(3):
        archive.writer.tick()
        archive.clock.advance(RETRY_SECS_MAX)
    assert archive.stats.compress_errors == 1
    archive.close()


def test_another_process_takes_over_from_one_that_was_killed(tmp_path: Path) -> None:
    """While the process that compresses is dead a file stays plain and an error is shown; the next try has another."""
    archive = make(tmp_path, compression="zstd")
    archive.background = True
    archive.make_writer()
    archive.open()
    compressor = archive.writer._housekeeping.compressor
    assert compressor is not None
    first = eventually_sync(lambda: compressor.process.pid, "a process")
    os.kill(first, signal.SIGKILL)
    archive.write("TQ")
    archive.writer.rotate("signal")
    eventually_sync(lambda: archive.stats.compress_errors == 1, "an error")
    assert not any(name.endswith(".zst") for name in sealed(archive))
    archive.clock.advance(RETRY_SECS)
    archive.write("TQ")
    archive.writer.rotate("signal")
    eventually_sync(lambda: archive.stats.compressed == 2, "both files are compressed", 60)
    second = compressor.process.pid
    assert second not in (None, first)
    archive.close()
    assert all(name.endswith(".zst") for name in sealed(archive))
    assert archive.stats.compress_errors == 1
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok
    assert not any(is_alive(pid) for pid in (first, second))


def test_shutdown_ends_a_compression_at_work(tmp_path: Path) -> None:
    """A process in the middle of a file is ended within the deadline; what it wrote is deleted, the plain file stays."""
    archive = make(tmp_path, compression="zstd")
    archive.background = True
    archive.make_writer()
    archive.open()
    compressor = archive.writer._housekeeping.compressor
    assert compressor is not None
    endless = tmp_path / "polygon.20260101T000000000Z.ndjson"
    os.mkfifo(endless)  # reading it does not end
    others = threading.active_count() - 1
    compressor.put(endless)
    temporary = tmp_path / f"{endless.name}.zst.tmp"
    eventually_sync(temporary.exists, "half a file")
    pid = compressor.process.pid
    archive.close(secs=1)
    eventually_sync(lambda: threading.active_count() <= others, "the end of the thread")
    assert not is_alive(pid)
    assert endless.exists()
    assert not temporary.exists()
    assert archive.stats.compress_errors == 0


def test_shutdown_leaves_to_the_next_start_what_takes_too_long(tmp_path: Path) -> None:
    """With no time left, closing does not wait for compression; the next start does it."""
    archive = make(tmp_path, compression="zstd")
    archive.background = True
    archive.make_writer()
    archive.open()
    for _ in range(50):
        archive.write("TQ")
        archive.writer.rotate("signal")
    others = threading.active_count() - 1
    archive.close(secs=0)
    eventually_sync(
        lambda: threading.active_count() <= others, "the end of the thread, as of a process that ends"
    )
    archive.restart()
    archive.close(secs=60)  # compression has the lowest priority: on a busy machine it takes its time
    assert all(name.endswith(".zst") for name in sealed(archive))
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok
