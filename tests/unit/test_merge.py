"""Two recordings of one feed become one archive: the union, what each lacked, the gaps of both; whole, or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson
import pytest
from archives import START_NS, Archive, FaultyDisk, Killed
from commands import finished

from recorder.archive.recorded import read_recorded
from recorder.archive.recording import open_recordings
from recorder.archive.verify import verify
from recorder.compare import compare
from recorder.errors import ArchiveConfigError, ArchiveError, NoRoom
from recorder.merge import Merged, merge
from recorder.settings import ArchiveSettings

START_MS = START_NS // 1_000_000
SAMPLED = {"settings": {"NDJSON_SAMPLE_QUOTES": 10, "NDJSON_INCLUDE": None}}
STEPS = 60
"""The feed: three events each tenth of a second."""


def record(
    folder: Path,
    lacks: Collection[int] = (),
    clock_ms: int = 0,
    *,
    drops: Collection[int] = (),
    **settings: Any,
) -> Path:
    """Record one feed, less some of its steps: there is no session where it `lacks` them, and others it `drops`."""
    archive = Archive(ArchiveSettings(dest=str(folder / "polygon.ndjson"), fsync="never", **settings)).open()
    archive.clock.advance(clock_ms / 1000)
    is_open = False
    last_ms = 0
    for step in range(STEPS):
        at_ms = archive.clock.wall_ns() // 1_000_000
        if step in drops:
            for channel, count in (("T", 1), ("Q", 2)):
                seq = archive.feed.seq
                fields = {"count": count, "reason": "overflow", "first_seq": seq + 1, "last_seq": seq + 3}
                archive.writer.append("drop", cluster="stocks", channel=channel, **fields)
            archive.feed.seq += 3
        elif step in lacks:
            if is_open:
                archive.writer.append(
                    "session_closed", cluster="stocks", at=at_ms, reason="read_timeout", last_received=last_ms
                )
            is_open = False
            archive.feed.seq += 3
        else:
            if not is_open:
                if last_ms:
                    fields = {"from": last_ms, "to": at_ms, "reason": "read_timeout"}
                    archive.writer.append("gap", cluster="stocks", **fields)
                archive.writer.append("session_opened", cluster="stocks", at=at_ms)
            is_open, last_ms = True, at_ms
            batch = archive.feed.batch("TQQ", START_NS + step * 100_000_000)
            for lines in batch.lines:
                said = b'"ingest_ts":%d' % (START_MS + step * 100)
                lines.data = lines.data.replace(said, b'"ingest_ts":%d' % at_ms)
                lines.summary.first_ingest_ts = lines.summary.last_ingest_ts = at_ms
            archive.writer.write(batch)
            archive.writer.flush(forced=True)
        archive.clock.advance(0.1)
    archive.writer.append(
        "session_closed", cluster="stocks", at=last_ms, reason="shutdown", last_received=last_ms
    )
    archive.close()
    return folder


def payloads(path: Path) -> list[bytes]:
    """Return the payloads of an archive, in order."""
    return [
        bytes(event.payload) for one in open_recordings(path) for events in one.events() for event in events
    ]


def merged(one: Path, other: Path, folder: Path, **options: Any) -> Merged:
    return merge([one, other], folder, **{"segment_bytes": 1 << 12, "codec": "zstd", **options})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The whole feed, and two recordings of it with holes that overlap; the clocks of these differ."""
    folder = tmp_path_factory.mktemp("merge")
    return {
        "whole": record(folder / "whole"),
        "a": record(folder / "a", {*range(10, 20), 40}, clock_ms=7),
        "b": record(folder / "b", {*range(15, 25), 50, 51}, max_bytes=4096, split_per_type=True),
    }


def test_the_union_comes_once_in_the_order_of_the_feed(folders: dict[str, Path], tmp_path: Path) -> None:
    """Both the command's words and the archive: `verify`, `compare` and `gaps` take it as any other."""
    made = finished("merge", str(folders["a"]), str(folders["b"]), "--to", "c", "--json", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    found = json.loads(made.stdout)
    everything = payloads(folders["whole"])
    assert payloads(tmp_path / "c") == everything[: 15 * 3] + everything[20 * 3 :]
    assert found["records"] == (STEPS - 5) * 3
    a, b = found["archives"]
    assert a["lacked"] == {"stocks": {"T": 6, "Q": 12}}
    assert b["lacked"] == {"stocks": {"T": 7, "Q": 14}}
    assert found["both"] + 18 + 21 == found["records"]
    assert [span["records"] for span in b["lacked_times"]] == [15, 6]
    report = verify([tmp_path / "c"], jobs=1)
    assert (report.ok, report.problems, report.losses) == (True, [], [])
    gaps = read_recorded(tmp_path / "c" / "polygon.manifest.ndjson", START_MS + 60_000).history.gaps["stocks"]
    # The first is the time before all: then what neither of them has.
    assert [(gap.from_ms - START_MS, gap.to_ms - START_MS) for gap in gaps[1:]] == [(1400, 2007)]
    compared = compare(tmp_path / "c", folders["whole"]).clusters["stocks"].events
    assert (+compared.only[0], +compared.only[1], +compared.elsewhere) == ({}, {"T": 5, "Q": 10}, {})
    manifest = [
        orjson.loads(line) for line in (tmp_path / "c/polygon.manifest.ndjson").read_bytes().splitlines()
    ]
    origin = manifest[0]["merged"]
    assert [one["runs"] for one in origin] == [["run-1"], ["run-1"]]
    assert len({one["sha256"] for one in origin}) == 2


def test_what_was_dropped_is_missing_where_nobody_has_it(tmp_path: Path) -> None:
    """Once, of what both dropped; its numbers are left out, so that the new archive is not taken for whole."""
    one = record(tmp_path / "a", drops={5, 20, 30, 59})
    other = record(tmp_path / "b", {28, 29, 30, 31}, clock_ms=7, drops={20, 45}, max_bytes=4096)
    assert verify([one], jobs=1).dropped == 12
    found = merged(one, other, tmp_path / "c")
    whole = payloads(record(tmp_path / "whole"))
    assert payloads(tmp_path / "c") == whole[: 20 * 3] + whole[21 * 3 : 30 * 3] + whole[31 * 3 :]
    report = verify([tmp_path / "c"], jobs=1)
    assert (report.ok, report.problems, found.dropped) == (True, [], 6)
    assert [(drop.channel, drop.count, drop.reason) for drop in report.drops] == [
        ("T", 1, "overflow"),
        ("Q", 2, "overflow"),
    ] * 2
    (made,) = open_recordings(tmp_path / "c")
    assert made.floor({}).reason == "records were dropped (overflow)"


def test_killed_at_any_call_and_started_again_it_is_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    """Nothing has the final name before everything is in it; what a killed try left is taken away."""
    calls, kills = 0, 0
    while True:
        disk = FaultyDisk()
        disk.calls_left = calls
        folder = tmp_path / f"c{calls}"
        try:
            merged(folders["a"], folders["b"], folder, disk=disk)
        except Killed:
            disk.kill()
            kills += 1
            if not folder.exists():
                merged(folders["a"], folders["b"], folder, codec="none")
        else:
            break
        finally:
            assert len(payloads(folder)) == (STEPS - 5) * 3
            assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        calls += 3
    assert kills > 5


def test_what_a_source_kept_out_is_known_of_the_new_archive(tmp_path: Path) -> None:
    """A run whose settings left quotes out: a client that wants everything is told so of the new archive, too."""
    archive = Archive(ArchiveSettings(dest=str(tmp_path / "a" / "polygon.ndjson")), run_facts=SAMPLED).open()
    archive.write("TQ")
    archive.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    merged(tmp_path / "a", tmp_path / "b", tmp_path / "c", codec="gzip")
    (made,) = open_recordings(tmp_path / "c")
    assert made.floor({}).reason == "NDJSON_SAMPLE_QUOTES kept some of it out of the archive"


def test_of_an_archive_that_is_recorded_to_only_sealed_files_are_taken(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The active file may have another name when it is read: what is in it is left out, said, and a gap."""
    archive = Archive(ArchiveSettings(dest=str(tmp_path / "b" / "polygon.ndjson"))).open()
    archive.writer.append("session_opened", cluster="stocks", at=START_MS)
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.clock.advance(1)
    archive.write("TTT")
    archive.flush()
    other = record(tmp_path / "a", range(1, STEPS))
    found = merged(tmp_path / "b", other, tmp_path / "c")
    archive.writer.rotate("signal")
    sealed = merged(tmp_path / "b", other, tmp_path / "d")
    archive.close()
    assert sealed.gaps["stocks"][-1].from_ms == START_MS + 1000, "more may be in the recorder's memory"
    assert len(payloads(tmp_path / "c")) == 3
    assert "since 2026-11-21T05:10:03.335Z is in files that are not sealed" in found.notes[0]
    assert found.gaps["stocks"][-1].from_ms == START_MS + 1000
    assert verify([tmp_path / "c"], jobs=1).ok


def test_a_full_disk_leaves_nothing(folders: dict[str, Path], tmp_path: Path) -> None:
    """One line says so."""
    disk = FaultyDisk()
    disk.room_bytes = 5000
    with pytest.raises(NoRoom, match=r"cannot make .*No space left on device"):
        merged(folders["a"], folders["b"], tmp_path / "c", disk=disk)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_or_left_out(folders: dict[str, Path], tmp_path: Path) -> None:
    """Nothing of it is taken: what is in it may not be what was recorded."""
    damaged = record(tmp_path / "b", max_bytes=4096)
    path = sorted(damaged.glob("polygon.2*.ndjson"))[1]
    path.write_bytes(path.read_bytes().replace(b'"ev":"T"', b'"ev":"U"'))
    with pytest.raises(ArchiveError, match=f"{path.name}.*--skip-damaged"):
        merged(folders["a"], damaged, tmp_path / "c")
    assert not list(tmp_path.glob("c*"))
    found = merged(folders["a"], damaged, tmp_path / "c", skips_damaged=True)
    assert [path.name in text for text in found.skipped] == [True]
    assert not any(b'"ev":"U"' in payload for payload in payloads(tmp_path / "c"))
    assert verify([tmp_path / "c"], jobs=1).ok


def test_what_cannot_be_merged_is_refused_in_words(folders: dict[str, Path], tmp_path: Path) -> None:
    """The same archive twice, a destination that is in use or inside of an archive, and no archive at all."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "d.unfinished").mkdir()
    (tmp_path / "d.unfinished" / "mine.txt").touch()
    for other, folder, words in (
        ("a", tmp_path / "c", "A and B are the same archive"),
        ("b", tmp_path / "full", "not an empty folder"),
        ("b", Path(), "name a new folder with --to"),
        ("b", tmp_path / "d", "mine.txt is in the way"),
        ("b", folders["a"] / "c", "is inside the archive"),
    ):
        with pytest.raises(ArchiveConfigError, match=words):
            merged(folders["a"], folders[other], folder)
    refused = finished("merge", str(folders["a"]), str(tmp_path / "none"), "--to", "c", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "c").exists()
