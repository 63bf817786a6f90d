"""Compression of sealed files: proven before the plain file goes, finished by the next start, never in the way."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from archives import Archive, Fault, archive_settings
from waiting import eventually_sync

from recorder.archive.reader import open_lines
from recorder.archive.verify import verify

SUFFIX = {"gzip": ".gz", "zstd": ".zst"}


def make(tmp_path: Path, **changes: object) -> Archive:
    return Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, **changes))


def sealed(archive: Archive) -> list[str]:
    return [name for name in archive.file_names() if name != "polygon.ndjson"]


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
    archive.close()
    assert all(name.endswith(".zst") for name in sealed(archive))
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok
