"""After an fsync that failed, no later one is trusted: not in the same run, and not in the start that takes over."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from archives import Archive, Fault, Killed, archive_settings

from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError


def make(folder: Path) -> Archive:
    return Archive(archive_settings(folder / "polygon.ndjson", fsync="flush", flush_every=1))


def durable(archive: Archive) -> list[bool]:
    """Return what the manifest says of each closed segment with records."""
    entries = archive.manifest("segment_closed")
    return [entry.get("durable", True) for entry in entries if entry["records"]]


def note(archive: Archive) -> bool:
    """Return whether the lock file says that an fsync is in doubt."""
    return b"unsynced" in archive.names.lock.read_bytes()


def test_a_kill_behind_a_failed_fsync_leaves_a_doubt(tmp_path: Path) -> None:
    """The run was killed before the manifest could have a line; the next start calls nothing durable that it takes over."""
    archive = make(tmp_path).open()
    archive.write("TT")
    assert not note(archive)
    archive.disk.faults["sync"] = Fault(errno.EIO, match="polygon.ndjson")
    archive.disk.faults["rename"] = Fault(errno.EIO)  # so that the failed segment is not closed
    archive.write("QQ")
    assert note(archive)
    archive.kill()
    archive.disk.faults.clear()
    archive.restart()
    assert durable(archive) == [False]
    archive.write("T")
    archive.clock.advance(60)
    archive.writer.tick()
    assert not note(archive), "the manifest says what there is to say"
    archive.close()
    assert durable(archive) == [False, True]
    first, *_, last = archive.manifest("segment_closed")
    assert first["file"] == last["file"] == "polygon.ndjson"
    assert last["offset"] == 0, "what comes does not share a block with what is in doubt"
    assert verify([tmp_path]).ok


def test_what_is_in_doubt_is_deleted_once(tmp_path: Path) -> None:
    """A start that renames a file behind a doubt does not have it twice among those that retention may delete."""
    archive = make(tmp_path).open()
    archive.disk.calls_left = 1
    with pytest.raises(Killed):
        archive.write("TT")
    archive.kill()
    archive.restart(retain_bytes=1)
    archive.clock.advance(60)
    archive.writer.tick()
    assert archive.stats.deleted == 1
    assert archive.disk.calls.count("unlink") == 1
    archive.close()
    assert verify([tmp_path]).ok


def test_a_kill_during_an_fsync_leaves_a_doubt(tmp_path: Path) -> None:
    """Nobody knows whether the fsync has succeeded."""
    archive = make(tmp_path).open()
    archive.disk.calls_left = 1
    with pytest.raises(Killed):
        archive.write("TT")
    assert archive.disk.calls[-1] == "sync"
    archive.kill()
    archive.restart()
    assert durable(archive) == [False]
    archive.close()


def test_a_start_whose_fsync_failed_leaves_a_doubt(tmp_path: Path) -> None:
    """The start after it could not know otherwise: its own fsync succeeds."""
    archive = make(tmp_path).open()
    archive.write("TT")
    archive.kill()
    archive.make_writer()
    archive.disk.faults["sync"] = Fault(errno.ENOSPC, match="polygon.ndjson")
    with pytest.raises(ArchiveConfigError, match="No space left"):
        archive.writer.open()
    archive.disk.faults.clear()
    archive.restart()
    assert durable(archive) == [False]
    archive.close()


def test_a_plain_kill_leaves_no_doubt(tmp_path: Path) -> None:
    """What a start takes over is durable where every fsync has succeeded."""
    archive = make(tmp_path).open()
    archive.write("TT")
    archive.kill()
    archive.restart()
    assert durable(archive) == [True]
    archive.close()


def test_a_boot_ends_the_doubt(tmp_path: Path) -> None:
    """After another boot everything was read from the device, and an fsync says the truth."""
    archive = make(tmp_path).open()
    archive.disk.faults["sync"] = Fault(errno.EIO, match="polygon.ndjson")
    archive.disk.faults["rename"] = Fault(errno.EIO)
    archive.write("TT")
    archive.kill()
    archive.disk.faults.clear()
    lock = archive.names.lock
    lock.write_bytes(lock.read_bytes().replace(archive.disk.boot_id().encode(), b"0" * 36))
    archive.restart()
    assert durable(archive) == [True]
    archive.close()


def test_a_doubt_of_one_file_outlives_the_success_of_another(tmp_path: Path) -> None:
    """The note stands for all files, until the manifest has told of each that failed."""
    archive = Archive(
        archive_settings(tmp_path / "polygon.ndjson", fsync="flush", flush_every=1, split_per_type=True)
    ).open()
    archive.disk.faults["sync"] = Fault(errno.EIO, match=Path(archive.names.active("stocks", "T")).name)
    archive.disk.faults["rename"] = Fault(errno.EIO)
    archive.write("TQ")
    archive.write("Q")
    assert note(archive)
    archive.disk.faults.clear()
    archive.clock.advance(60)
    archive.writer.tick()
    archive.clock.advance(60)
    archive.writer.tick()
    assert not note(archive)
    assert sorted(durable(archive)) == [False]
    archive.close()


def test_a_manifest_whose_fsync_failed_is_renewed_by_the_next_start(tmp_path: Path) -> None:
    """What its own fsync could not write is written to a new file: lines of the run that was killed are among it."""
    archive = make(tmp_path).open()
    archive.disk.faults["sync"] = Fault(errno.EIO, match="manifest")
    archive.writer.append("gap", cluster="stocks")
    assert note(archive)
    before = archive.names.manifest.stat().st_ino
    archive.kill()
    archive.disk.faults.clear()
    archive.restart()
    assert archive.names.manifest.stat().st_ino != before
    assert archive.manifest("gap")
    archive.flush()
    assert not note(archive)
    archive.close()
    assert verify([tmp_path]).ok


def test_what_follows_a_failed_fsync_of_a_reopening_is_in_a_new_file(tmp_path: Path) -> None:
    """Zeros that a power loss leaves of the failed segment take no record of the next one."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.write("TT")
    archive.disk.faults["sync"] = Fault(errno.EIO, times=1, match="polygon.ndjson")
    archive.writer.reopen()
    archive.write("QQ")
    archive.kill()
    archive.restart()
    failed, recovered = (line for line in archive.manifest("segment_closed") if line["records"])
    assert (failed["reason"], failed["durable"], failed["was"]) == ("fsync_failed", False, "polygon.ndjson")
    assert (recovered["file"], recovered["offset"]) == ("polygon.ndjson", 0)
    archive.close()
    archive.kill()
    sealed = tmp_path / failed["file"]
    sealed.write_bytes(bytes(failed["bytes"]))
    archive.restart()
    assert archive.content() == archive.lines[2:]
    archive.close()


def test_what_follows_a_failed_fsync_of_a_shutdown_is_in_a_new_file(tmp_path: Path) -> None:
    """The next run does not add to a file of which the disk may not have all."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.write("TT")
    archive.disk.faults["sync"] = Fault(errno.EIO, times=1, match="polygon.ndjson")
    archive.close()
    archive.restart()
    archive.write("QQ")
    archive.close()
    failed, after = (line for line in archive.manifest("segment_closed") if line["records"])
    assert (failed["durable"], failed["was"]) == (False, "polygon.ndjson")
    assert (after["file"], after["offset"]) == ("polygon.ndjson", 0)
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok
