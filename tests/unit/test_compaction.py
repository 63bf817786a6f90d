"""`recorder compact`: few large files of many small ones; the same runs, numbers and lines; whole, or not there."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, FaultyDisk, Killed, archive_settings
from commands import finished

from recorder.archive.compaction import Compaction, only_manifest
from recorder.archive.disk import Disk
from recorder.archive.recorded import read_recorded
from recorder.archive.recording import open_recordings
from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError, ArchiveError, NoRoom

MANIFEST = "polygon.manifest.ndjson"


def record(folder: Path, seed: int, **settings: Any) -> Archive:
    """Record a few runs into many files; the last is killed, or not."""
    rng = random.Random(seed)
    settings = {"flush_every": 1, "max_bytes": 1200, "split_per_type": bool(seed % 2), **settings}
    archive = Archive(archive_settings(folder / "polygon.ndjson", **settings)).open()
    for step in range(90):
        if step % 30 == 0:
            archive.writer.append("session_opened", cluster="stocks", at=archive.clock.wall_ns() // 1_000_000)
        archive.write(
            rng.choice(["T", "TQ", ["X1", "Q"], "QQQ"]), [b"no event"] if rng.random() < 0.1 else None
        )
        archive.clock.advance(rng.choice([1, 30]))
        if rng.random() < 0.05:
            archive.clock.now_ns -= 600_000_000_000
        if step % 30 == 29:
            if step < 60 or seed % 3:
                archive.close()
            else:
                archive.kill()
            if step < 60:
                archive.clock.advance(100)
                archive.restart()
    return archive


def compacted(path: Path, folder: Path, disk: Disk | None = None, **options: Any) -> Compaction:
    manifest = only_manifest(path, folder)
    options = {"segment_bytes": 1 << 20, "codec": "zstd", **options}
    with Compaction(manifest, folder, disk=disk, **options) as compaction:
        compaction.make()
    return compaction


def facts(folder: Path) -> dict[str, Any]:
    """Return everything that a reader has of an archive, less the names of its files."""
    [recording] = open_recordings(folder)
    now_ms = 1 << 42
    recorded = read_recorded(folder / MANIFEST, now_ms)
    report = verify([folder], jobs=1)
    return {
        "records": [
            (run.run_id, event.seq, event.ingest_ts, event.feed, bytes(event.payload))
            for run in recording.runs
            for events in run.events()
            for event in events
        ],
        "runs": recording.order,
        "problems": recording.problems,
        "floor": recording.floor({}),
        "gaps": (recorded.history.gaps, recorded.open_gaps),
        "verified": (report.ok, report.losses, report.drops, report.records, report.bytes),
        "rejects": [file.records for file in report.rejects],
    }


@pytest.mark.parametrize("seed", range(6))
def test_it_has_the_same_of_everything(tmp_path: Path, seed: int) -> None:
    """Records, numbers, runs, gaps, losses and rejects, in fewer files; a recorder goes on in it."""
    archive = record(tmp_path / "a", seed, compression=["none", "zstd"][seed // 3])
    found = compacted(tmp_path / "a", tmp_path / "c", segment_bytes=[4000, 1 << 20][seed % 2]).found
    assert facts(tmp_path / "c") == facts(tmp_path / "a")
    assert found.files < found.files_before * 0.7
    assert found.files == len(verify([tmp_path / "c"], jobs=1).files)
    again = compacted(tmp_path / "c", tmp_path / "d", codec="none")
    assert facts(tmp_path / "d") == facts(tmp_path / "a")
    assert again.found.files <= found.files
    archive.restart(dest=str(tmp_path / "c" / "polygon.ndjson"))
    archive.write("TQ")
    archive.close()
    assert verify([tmp_path / "c"], jobs=1).ok


def test_what_retention_deleted_and_who_lost_what_is_known_of_it(tmp_path: Path) -> None:
    """Lines about files that are gone are copied as all others are."""
    archive = record(tmp_path / "a", 1)
    archive.restart(retain_bytes=6000)
    archive.flush()
    archive.writer.append(
        "drop", cluster="stocks", channel="T", count=2, reason="overflow", first_seq=1, last_seq=2
    )
    archive.feed.seq = 2
    archive.write("TQ")
    archive.close()
    compacted(tmp_path / "a", tmp_path / "c")
    assert "retention" in open_recordings(tmp_path / "c")[0].notes[0]
    assert facts(tmp_path / "c") == facts(tmp_path / "a")
    assert verify([tmp_path / "c"], jobs=1).dropped == 2


def test_killed_at_any_call_and_started_again_it_is_whole(tmp_path: Path) -> None:
    """Nothing has the final name before everything is in it; what a killed try left is taken away."""
    record(tmp_path / "a", 1)
    wanted = facts(tmp_path / "a")["records"]
    calls, kills = 0, 0
    while True:
        disk = FaultyDisk()
        disk.calls_left = calls
        folder = tmp_path / f"c{calls}"
        try:
            compacted(tmp_path / "a", folder, disk)
        except Killed:
            disk.kill()
            kills += 1
            if not folder.exists():
                compacted(tmp_path / "a", folder, codec="none")
        else:
            break
        finally:
            assert facts(folder)["records"] == wanted
            assert sorted(path.name for path in tmp_path.iterdir()) == ["a", folder.name]
            shutil.rmtree(folder)
        calls += 7
    assert kills > 8


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """One line says so."""
    record(tmp_path / "a", 2)
    disk = FaultyDisk()
    disk.room_bytes = 3000
    with pytest.raises(NoRoom, match=r"cannot make .*No space left on device.*: make room, or"):
        compacted(tmp_path / "a", tmp_path / "c", disk)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["polygon.2*", "polygon.ndjson", "polygon.rejected.ndjson"])
def test_what_is_not_what_was_written_is_not_passed_on(tmp_path: Path, name: str) -> None:
    """Also of a file that is copied as it is: what was made is verified before it has its name."""
    record(tmp_path / "a", 2)
    path = min((tmp_path / "a").glob(name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"not what was written|is not whole"):
        compacted(tmp_path / "a", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_damage_comes_with_what_to_do(tmp_path: Path) -> None:
    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson", compression="zstd")).open()
    for _ in range(3):
        archive.write("TQ")
        archive.clock.advance(10)
        archive.writer.rotate("signal")
    archive.close()
    path = min((tmp_path / "a").glob("*.zst"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArchiveError, match="ends in the middle; `recorder verify` says more"):
        compacted(tmp_path / "a", tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_command(tmp_path: Path) -> None:
    """What it prints, and what it refuses in words."""
    archive = record(tmp_path / "a", 2)
    made = finished("compact", "a", "--to", "c", "--json", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    found = json.loads(made.stdout)
    assert found["folder"] == "c"
    assert found["files_before"] > 3 * found["files"]
    shutil.copytree(tmp_path / "a", tmp_path / "two" / "b")
    shutil.copytree(tmp_path / "a", tmp_path / "two" / "d")
    min((tmp_path / "two" / "d").glob("polygon.2*")).unlink()
    (tmp_path / "x.unfinished").mkdir()
    (tmp_path / "x.unfinished" / "mine.txt").touch()
    archive.restart()
    for path, to, words in (
        (tmp_path / "a", "x", "is being recorded to; stop its recorder"),
        (tmp_path / "c", "a", "is not an empty folder"),
        (tmp_path / "c", "c/d", "is inside the archive"),
        (tmp_path / "c", "x", "mine.txt is in the way"),
        (tmp_path / "two", "y", "has several archives; name the manifest of one"),
    ):
        with pytest.raises(ArchiveConfigError, match=words):
            compacted(path, tmp_path / to)
    with pytest.raises(ArchiveError, match="is missing; `recorder verify` says more"):
        compacted(tmp_path / "two" / "d", tmp_path / "y")
    archive.close()
