"""`recorder export --compact`: the files of a day become one that is sorted, and readers see each record once throughout."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pyarrow.parquet as pq
import pytest
from archives import Archive, FaultyDisk, Killed
from exports import export, rows, tree
from recorded_events import begin, record, trade

from recorder.errors import DestinationRefused, NoRoom
from recorder.export import compaction
from recorder.export.exchange import exchange
from recorder.export.ledger import UNFINISHED

MS = 1_795_237_800_000
SORT = ("symbol", "ts")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an archive of four segments with trades and quotes, whose symbols and times do not rise."""
    archive = begin(tmp_path / "archive", max_bytes=900, split_per_type=False)
    for n in range(4):
        trades = [trade("BA"[n % 2], MS - n, "1.50", "2"), trade("C", MS, "4.522e-05", "1")]
        record(archive, [*trades, b'{"ev":"Q","sym":"A","bp":1.10,"t":5}'])
    archive.close()
    return archive


def test_one_sorted_file_for_each_folder(archive: Archive, tmp_path: Path) -> None:
    """It has the rows and the columns of the files before, in the order asked for; what comes later is joined once more."""
    export(archive.folder, tmp_path / "parts")
    dest = tmp_path / "lake"
    found = export(archive.folder, dest, sort=SORT)
    assert found.joined is not None
    assert found.joined[:2] == (2, 8)
    assert rows(dest) == rows(tmp_path / "parts")
    [name] = [name for name in tree(dest) if "type=T" in name]
    table = pq.ParquetFile(dest / name).read()
    keys = list(
        zip(*(table[column].to_pylist() for column in ("symbol", "ts", "run_id", "seq")), strict=True)
    )
    assert keys == sorted(keys)
    [before, *_] = [name for name in tree(tmp_path / "parts") if "type=T" in name]
    assert table.schema.equals(pq.read_schema(tmp_path / "parts" / before), check_metadata=False)
    whole = tree(dest)
    again = export(archive.folder, dest, sort=SORT)
    assert (again.segments, again.joined) == (0, (0, 0, 0))
    assert tree(dest) == whole
    archive.restart()
    record(archive, [trade("A", MS, "1", "1")])
    archive.close()
    later = export(archive.folder, dest, sort=SORT)
    assert (later.segments, later.joined) == (1, (1, 2, 9))
    assert len(tree(dest)) == 2
    assert len(rows(dest)) == 13
    other = export(archive.folder, dest, sort=("ts",))
    assert other.joined == (2, 2, 13)
    assert len(rows(dest)) == 13


@pytest.mark.parametrize("is_exchanged", [False, True])
def test_a_kill_at_the_exchange(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_exchanged: bool
) -> None:
    """Right before it or right behind it, the folder has each record once, and the next export comes to the same."""

    def killed(one: Path, other: Path) -> None:
        if is_exchanged:
            exchange(one, other)
        raise Killed

    dest = tmp_path / "lake"
    export(archive.folder, dest)
    everything = rows(dest)
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "exchange", killed)
        with pytest.raises(Killed):
            export(archive.folder, dest, sort=SORT)
    assert rows(dest) == everything
    export(archive.folder, dest, sort=SORT)
    assert rows(dest) == everything
    assert len(tree(dest)) == 2
    assert list((dest / UNFINISHED).iterdir()) == []


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    """Whatever step is the last one, readers see each record once, then and after the next export, which ends the same."""
    archive = begin(tmp_path / "archive", max_bytes=500)
    for n in range(4):
        record(archive, [trade("BA"[n % 2], MS - n, "1.50", "2")])
    archive.close()
    export(archive.folder, tmp_path / "parts")
    assert len(tree(tmp_path / "parts")) == 2
    copytree(tmp_path / "parts", tmp_path / "whole")
    export(archive.folder, tmp_path / "whole", sort=SORT)
    calls = 0
    while True:
        dest, disk = tmp_path / f"killed-{calls}", FaultyDisk()
        copytree(tmp_path / "parts", dest)
        disk.calls_left = calls
        try:
            export(archive.folder, dest, disk=disk, sort=SORT)
        except Killed:
            disk.kill()
        else:
            break
        found = tree(dest)
        assert found in (tree(tmp_path / "parts"), tree(tmp_path / "whole"))
        export(archive.folder, dest, sort=SORT)
        assert tree(dest) == tree(tmp_path / "whole")
        assert list((dest / UNFINISHED).iterdir()) == []
        calls += 1
    assert calls > 10


def test_a_full_disk(archive: Archive, tmp_path: Path) -> None:
    """The files that were are still there, and nothing half done is; room is all that is wanted."""
    dest = tmp_path / "lake"
    export(archive.folder, dest)
    before = tree(dest)
    disk = FaultyDisk()
    disk.room_bytes = 2000
    with pytest.raises(NoRoom, match="disk is full; make room"):
        export(archive.folder, dest, disk=disk, sort=SORT)
    assert tree(dest) == before
    export(archive.folder, dest, sort=SORT)
    assert len(tree(dest)) == 2


def test_what_is_not_ours_is_left_alone(archive: Archive, tmp_path: Path) -> None:
    """A folder with a file that no export has made is not exchanged."""
    dest = tmp_path / "lake"
    export(archive.folder, dest)
    [strange] = dest.glob("*/type=Q/*")
    (strange / "mine.parquet").write_bytes(b"PAR1")
    with pytest.raises(DestinationRefused, match=r"has mine\.parquet, which no export has made"):
        export(archive.folder, dest, sort=SORT)
    assert (strange / "mine.parquet").read_bytes() == b"PAR1"
