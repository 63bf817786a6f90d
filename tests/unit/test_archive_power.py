"""What the simulation has found: promises that must survive a power loss, a kill at the wrong moment, a stubborn disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from archives import Archive, Fault, FaultyDisk, Killed, archive_settings

from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError


class WatchedDisk(FaultyDisk):
    """Remembers what was made durable, and dies in the middle of a deletion when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.synced: list[str] = []
        self.dies_before_unlink = False

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.synced.append(Path(self._paths[fd]).name)

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.synced.append("folder")

    def unlink(self, path: Path) -> None:
        if self.dies_before_unlink:
            raise Killed
        super().unlink(path)


def make(tmp_path: Path, **changes: object) -> Archive:
    settings = archive_settings(tmp_path / "polygon.ndjson", flush_every=1, **changes)
    return Archive(settings, disk=WatchedDisk()).open()


def synced(archive: Archive) -> list[str]:
    assert isinstance(archive.disk, WatchedDisk)
    return archive.disk.synced


def test_recovered_records_are_durable_before_the_manifest_has_them(tmp_path: Path) -> None:
    """What a killed run had only handed to the kernel is fsynced before the start promises it."""
    archive = make(tmp_path)
    archive.write("TQ")
    archive.kill()
    synced(archive).clear()
    archive.restart()
    assert synced(archive)[:3] == ["polygon.ndjson", "folder", "polygon.manifest.ndjson"]
    archive.close()


def test_a_cut_off_line_is_durable_in_the_reject_file_before_it_is_cut(tmp_path: Path) -> None:
    """A power loss right after the start does not take the name of a reject file that the manifest vouches for."""
    archive = make(tmp_path)
    archive.write("T")
    archive.kill()
    with (tmp_path / "polygon.ndjson").open("ab") as file:
        file.write(b'{"ingest_ts":1')
    synced(archive).clear()
    archive.restart()
    assert synced(archive)[:3] == ["polygon.rejected.ndjson", "folder", "polygon.ndjson"]
    archive.close()
    assert verify([tmp_path]).ok


def test_recovered_rejects_are_durable_before_the_manifest_has_them(tmp_path: Path) -> None:
    """What a killed run had only handed to the kernel of its reject file is fsynced before the start promises it."""
    archive = make(tmp_path)
    archive.write("", rejects=[b"no event"])
    archive.kill()
    synced(archive).clear()
    archive.restart()
    assert synced(archive)[:3] == ["polygon.rejected.ndjson", "folder", "polygon.manifest.ndjson"]
    assert [line["records"] for line in archive.manifest("rejects_closed")] == [1]
    archive.close()
    assert verify([tmp_path]).ok


def test_a_cut_off_line_whose_fsync_failed_leaves_a_doubt(tmp_path: Path) -> None:
    """The start is given up; the next one does not call the reject file durable."""
    archive = make(tmp_path)
    archive.write("T")
    archive.kill()
    with (tmp_path / "polygon.ndjson").open("ab") as file:
        file.write(b'{"ingest_ts":1')
    archive.disk.faults["sync"] = Fault(errno.EIO, match="polygon.rejected.ndjson")
    with pytest.raises(ArchiveConfigError):
        archive.restart()
    archive.disk.faults.clear()
    archive.restart()
    assert [line.get("durable", True) for line in archive.manifest("rejects_closed")] == [False]
    archive.close()


@pytest.mark.parametrize(("fsync", "expected"), [("rotate", ["folder"]), ("never", [])])
def test_the_name_of_a_new_file_is_durable(tmp_path: Path, fsync: str, expected: list[str]) -> None:
    """Records that are made durable in a file whose name a power loss takes away would be lost all the same."""
    archive = make(tmp_path, split_per_type=True, fsync=fsync)
    synced(archive).clear()
    archive.write("T")
    assert synced(archive) == expected
    synced(archive).clear()
    archive.write("T")
    assert synced(archive) == []
    archive.close()


@pytest.mark.parametrize(("fsync", "expected"), [("rotate", ["polygon.ndjson", "folder"]), ("never", [])])
def test_the_name_that_a_rotation_gives_is_durable(tmp_path: Path, fsync: str, expected: list[str]) -> None:
    """Content first, then the new name, and only then does the manifest say so."""
    archive = make(tmp_path, fsync=fsync)
    archive.write("T")
    synced(archive).clear()
    archive.writer.rotate("signal")
    assert synced(archive)[: len(expected)] == expected
    assert synced(archive).count("folder") == expected.count("folder")
    archive.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_kill_while_retention_deletes_is_no_loss(tmp_path: Path, compression: str) -> None:
    """The deletion is on record before the file goes, and the next start finishes it."""
    archive = make(tmp_path, compression=compression)
    for _ in range(3):
        archive.write("TQTQ")
        archive.writer.rotate("signal")
        archive.clock.advance(1)
        archive.writer.tick()
    archive.close()
    archive.restart(retain_bytes=1)
    assert isinstance(archive.disk, WatchedDisk)
    archive.disk.dies_before_unlink = True
    archive.clock.advance(60)
    with pytest.raises(Killed):
        archive.writer.tick()
    archive.disk.dies_before_unlink = False
    archive.kill()
    before = archive.file_names()
    [told] = {line["file"] for line in archive.manifest("segment_deleted")}
    archive.restart(retain_bytes=None)
    assert [name for name in before if name not in archive.file_names()] == [
        name for name in before if name.startswith(told)
    ]
    archive.write("T")
    archive.close()
    report = verify([tmp_path])
    assert report.ok, report
    assert report.records == 4 * 2 + 1


def test_a_new_file_under_a_deleted_name_is_kept(tmp_path: Path) -> None:
    """Only the very file that retention spoke of is deleted by the next start, not one that has got its name since."""
    archive = make(tmp_path, retain_bytes=1)
    archive.write("TQ")
    archive.writer.rotate("signal")
    name = next(name for name in archive.file_names() if name != "polygon.ndjson")
    archive.clock.advance(60)
    archive.writer.tick()
    assert name not in archive.file_names()
    archive.write("TQA")
    archive.kill()
    (tmp_path / "polygon.ndjson").rename(tmp_path / name)
    archive.restart(retain_bytes=None)
    assert name in archive.file_names()
    archive.close()


def test_zeros_within_the_first_bytes_of_a_record_are_a_torn_tail(tmp_path: Path) -> None:
    """A power loss that leaves some bytes of the first record, and zeros, does not keep the next run from starting."""
    archive = make(tmp_path)
    archive.kill()
    (tmp_path / "polygon.ndjson").write_bytes(b'{"inge' + bytes(200))
    archive.restart()
    archive.write("T")
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_a_sealed_file_that_never_was_durable_is_looked_at_again(tmp_path: Path) -> None:
    """Where fsync had failed and zeros are found in place of records, they are cut out and the loss is on record."""
    archive = make(tmp_path)
    archive.write("TQ")
    archive.disk.faults["sync"] = Fault(errno.EIO, match="polygon.ndjson")
    archive.writer.rotate("signal")
    archive.disk.faults.clear()
    archive.flush()
    archive.write("A")
    archive.kill()
    [name] = [name for name in archive.file_names() if name != "polygon.ndjson"]
    lines = (tmp_path / name).read_bytes().splitlines(keepends=True)
    (tmp_path / name).write_bytes(lines[0] + bytes(len(lines[1])))
    archive.restart()
    assert (tmp_path / name).read_bytes() == lines[0]
    assert [line["file"] for line in archive.manifest("segment_damaged")] == [name]
    archive.close()


def test_what_a_failed_compression_leaves_is_removed_as_soon_as_it_can_be(tmp_path: Path) -> None:
    """No second copy of a file's records stays behind because the disk would not delete it at once."""
    archive = make(tmp_path, compression="gzip")
    archive.write("TQ")
    archive.disk.faults["unlink"] = Fault(errno.EIO)
    archive.writer.rotate("signal")
    archive.flush()
    assert any(name.endswith(".gz") for name in archive.file_names())
    archive.disk.faults.clear()
    archive.close()
    assert not any(name.endswith(".gz") for name in archive.file_names())
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_names_sort_by_time_over_a_restart_too(tmp_path: Path) -> None:
    """Several files of one millisecond, the last of them sealed by the next run, have names in their order."""
    archive = make(tmp_path, max_bytes=700)
    archive.write("TQAAQQQAQQTQ")
    archive.close()
    archive.restart()
    archive.writer.rotate("signal")
    archive.close()
    assert archive.content() == archive.lines


def test_what_follows_a_moved_file_is_not_that_file_damaged(tmp_path: Path) -> None:
    """Moved away and reopened, then rotated, and killed before that was noted: nothing is told to be damaged."""
    archive = make(tmp_path)
    archive.write("TQ")
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson.1")
    archive.writer.reopen()
    archive.write("TQA")
    archive.kill()
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.20261121T051002336Z.ndjson")
    archive.restart()
    archive.close()
    assert not archive.manifest("segment_damaged")
    report = verify([tmp_path])
    assert report.ok, report
    assert report.records == 5


def test_a_file_that_cannot_be_deleted_is_noted_once(tmp_path: Path) -> None:
    """Retention tries again and again; the manifest does not grow with it, and has the deletion once it succeeds."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, retain_bytes=1)).open()
    archive.write("T")
    archive.writer.rotate("signal")
    [sealed] = tmp_path.glob("polygon.2*.ndjson")
    archive.disk.faults["unlink"] = Fault(errno.EACCES)
    for _ in range(3):
        archive.clock.advance(11)
        archive.writer.tick()
    assert archive.disk.calls.count("unlink") == 3
    assert len(archive.manifest("segment_deleted")) == 1
    archive.disk.faults.clear()
    archive.clock.advance(11)
    archive.writer.tick()
    assert not sealed.exists()
    assert len(archive.manifest("segment_deleted")) == 1
    archive.close()
    assert verify([tmp_path]).ok
