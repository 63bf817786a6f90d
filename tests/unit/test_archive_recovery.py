"""Sudden death: at any call, at any byte; the next start repairs what is left, and verify names what is lost."""

from __future__ import annotations

import os
import shutil
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from archives import Archive, Killed, archive_settings

from recorder.archive.reader import open_lines
from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError


def make(tmp_path: Path, **changes: object) -> Archive:
    return Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, **changes))


def live(archive: Archive) -> None:
    """Let a run do everything that it can do."""
    archive.open()
    for number in range(8):
        archive.write("TQT", rejects=[b"{"] if number % 3 == 0 else None)
        if number == 5:
            archive.writer.reopen()
        archive.clock.advance(1)
        archive.writer.tick()
    archive.close()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_kill_at_any_call_loses_nothing_that_was_flushed(
    tmp_path: Path, compression: str, split: bool
) -> None:
    """Killed at the n-th call for every n, verify passes at once, and after the next run too; nothing comes twice."""
    number = 0
    while True:
        folder = tmp_path / str(number)
        archive = make(folder, max_bytes=1300, compression=compression, split_per_type=split)
        archive.open()
        archive.write("TQ")
        archive.close()
        archive.make_writer()
        archive.disk.calls_left = number
        try:
            live(archive)
        except Killed:
            archive.kill()
        else:
            break
        flushed = archive.books.recorded.total() + 2
        before = verify([folder])
        assert before.ok, (number, before.problems, [(file.path, file.problems) for file in before.files])
        lines = archive.lines[:]
        archive.restart()
        archive.write("TQ")
        archive.close()
        report = verify([folder])
        assert report.ok, (number, report.problems, [(file.path, file.problems) for file in report.files])
        found = archive.content()
        assert len(set(found)) == len(found)
        assert set(found) <= set(archive.lines)
        assert set(found) >= set(archive.lines[-2:])
        assert len(found) >= flushed + 2
        if not split:
            assert found == [*lines[: len(found) - 2], *archive.lines[-2:]]
        number += 1
    assert number > 60


def test_a_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    """Cut anywhere in its unlisted part, the active file is repaired to whole lines; the rest is kept as a reject."""
    archive = make(tmp_path / "first").open()
    archive.write("TQA")
    archive.kill()
    data = (tmp_path / "first" / "polygon.ndjson").read_bytes()
    manifest = archive.names.manifest.read_bytes()
    for size in range(0, len(data), 5):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "polygon.ndjson").write_bytes(data[:size])
        (folder / "polygon.manifest.ndjson").write_bytes(manifest)
        again = make(folder).open()
        again.close()
        border = data.rfind(b"\n", 0, size) + 1
        assert (folder / "polygon.ndjson").read_bytes() == data[:border]
        if border < size:
            (reject,) = open_lines(folder / "polygon.rejected.ndjson")
            fields = orjson.loads(reject)
            assert fields["raw"].encode() == data[border:size]
            assert fields["reason"] == "torn line after a crash"
        assert verify([folder]).ok


def test_a_torn_manifest_line_is_cut(tmp_path: Path) -> None:
    """The manifest goes on behind its last whole line, in one chain, and what was torn is kept."""
    archive = make(tmp_path).open()
    archive.write("T")
    archive.kill()
    with open(archive.names.manifest, "ab") as file:
        file.write(b'{"kind":"segm')
    assert verify([tmp_path]).ok
    archive.restart()
    archive.close()
    assert verify([tmp_path]).ok
    (reject,) = map(orjson.loads, open_lines(archive.names.rejects))
    assert reject["raw"] == '{"kind":"segm'


def test_zero_bytes_of_a_power_loss_are_cut(tmp_path: Path) -> None:
    """A tail of zero bytes and damaged lines between good ones are taken out; the good lines stay in order."""
    archive = make(tmp_path).open()
    archive.write("TQA")
    archive.kill()
    first, second, third = archive.lines
    path = tmp_path / "polygon.ndjson"
    flipped = second.replace(b'"type":"', b'"type":"\xff')
    nested = second.replace(b'"payload":{', b'"payload":{"a":' + b"[" * 100_000)
    broken = b"\0" * 700 + b"\n" + second + second[:50] + b"\n" + flipped + nested
    path.write_bytes(first + broken + third + b"\0" * 512)
    archive.restart()
    archive.write("T")
    archive.close()
    assert archive.content() == archive.lines
    reasons = [orjson.loads(line)["reason"] for line in open_lines(archive.names.rejects)]
    assert len(reasons) == 5
    assert "700 zero bytes" in reasons[0]
    assert verify([tmp_path]).ok


def test_recovered_records_belong_to_the_run_that_was_killed(tmp_path: Path) -> None:
    """The entry that the next start adds has the dead run's id, and names who added it."""
    archive = make(tmp_path).open()
    archive.write("TQ")
    archive.kill()
    archive.restart()
    archive.write("T")
    archive.close()
    first, second = archive.manifest("segment_closed")
    assert (first["run_id"], first["recovered_by"], first["reason"]) == ("run-1", "run-2", "recovered")
    assert (first["first_seq"], first["last_seq"]) == (1, 2)
    assert (second["run_id"], second["first_seq"], second["offset"]) == ("run-2", 1, first["bytes"])
    assert archive.stats.recovered == 1
    assert archive.stats.rotations["recovered"] == 1


@pytest.mark.parametrize("short_lives", [0, 2])
def test_the_gap_of_a_killed_run_begins_at_its_last_record(tmp_path: Path, short_lives: int) -> None:
    """Also where further runs were killed before they had a session, which say nothing of when data ended."""
    archive = make(tmp_path).open()
    archive.writer.append("session_opened", cluster="stocks")
    archive.clock.advance(5)
    archive.write("T")
    written_ms = archive.clock.wall_ns() // 1_000_000
    archive.kill()
    for _ in range(short_lives):
        archive.clock.advance(5)
        archive.restart()
        archive.kill()
    archive.clock.advance(5)
    archive.restart()
    assert archive.writer.silences == {"stocks": (written_ms, "killed")}
    archive.close()


def test_a_session_that_was_noted_late_does_not_shorten_the_gap(tmp_path: Path) -> None:
    """Its line waits for the disk like everything else; the gap begins at the last record that came before the line."""
    archive = make(tmp_path).open()
    opened_ms = archive.clock.wall_ns() // 1_000_000
    archive.clock.advance(0.01)
    archive.write("T")
    written_ms = archive.clock.wall_ns() // 1_000_000
    archive.clock.advance(0.03)
    archive.writer.append("session_opened", cluster="stocks", at=opened_ms)
    archive.kill()
    archive.restart()
    assert archive.writer.silences == {"stocks": (written_ms, "killed")}
    archive.close()


def test_a_kill_before_a_new_session_is_noted_keeps_the_gap(tmp_path: Path) -> None:
    """The gap is in the manifest before the session that ends it, so the next gap begins where this one ends."""
    archive = make(tmp_path).open()
    archive.writer.append("session_opened", cluster="stocks")
    archive.kill()
    archive.restart()
    archive.writer.append("gap", cluster="stocks", **{"from": 1_000, "to": 2_000}, reason="killed")
    archive.kill()
    archive.restart()
    assert archive.writer.silences == {"stocks": (2_000, "killed")}
    archive.close()


@pytest.mark.parametrize("killed", [False, True])
def test_names_sort_by_time_over_restarts(tmp_path: Path, killed: bool) -> None:
    """What a run leaves in its active file is named behind what it has sealed, also within one millisecond."""
    archive = make(tmp_path, max_bytes=500).open()
    for _ in range(3):
        archive.write("TQTQT")
        if killed:
            archive.kill()
        else:
            archive.close()
        archive.restart()
    archive.close()
    assert archive.content() == archive.lines
    assert not any("-" in name for name in archive.file_names())


def test_logrotate_before_a_kill_is_told_apart(tmp_path: Path) -> None:
    """A new file that grew past the old one's size under the same name is recovered from its first byte."""
    archive = make(tmp_path).open()
    archive.write("T")
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson.1")
    archive.writer.reopen()
    archive.write("TQTQ")
    archive.kill()
    archive.restart()
    archive.close()
    recovered = archive.manifest("segment_closed")[-1]
    assert (recovered["offset"], recovered["records"]) == (0, 4)
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 5


@pytest.mark.parametrize("created", [False, True])
def test_logrotate_between_two_runs_is_followed(tmp_path: Path, created: bool) -> None:
    """A file that was moved while no recorder ran is found again, whether or not an empty one is in its place."""
    archive = make(tmp_path).open()
    archive.write("TQ")
    archive.close()
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson-20261122")
    if created:
        (tmp_path / "polygon.ndjson").touch()
    assert verify([tmp_path]).ok
    archive.restart()
    archive.write("T")
    archive.close()
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 3


def test_a_listed_file_that_lost_its_end_is_told(tmp_path: Path) -> None:
    """A file that is shorter than the manifest says is repaired to whole lines, and verify fails for good."""
    archive = make(tmp_path).open()
    archive.write("TQA")
    archive.close()
    path = tmp_path / "polygon.ndjson"
    path.write_bytes(path.read_bytes()[:-10])
    archive.restart()
    archive.write("T")
    archive.close()
    report = verify([tmp_path])
    assert not report.ok
    assert any("lost its end" in problem for problem in report.problems)
    assert report.records == 3


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_sealed_file_that_lost_everything_is_told(tmp_path: Path, compression: str) -> None:
    """A sealed file that a power loss left empty or zero is missed for good, and stays neither empty nor compressed."""
    archive = make(tmp_path).open()
    for _ in range(2):
        archive.write("TQA")
        archive.writer.rotate("signal")
    archive.close()
    first, second = (tmp_path / name for name in archive.file_names())
    first.write_bytes(b"")
    second.write_bytes(b"\0" * 512)
    for _ in range(2):
        archive.restart(compression=compression)
        archive.close()
        assert not verify([tmp_path]).ok
        assert [name for name in archive.file_names() if "rejected" not in name] == ["polygon.ndjson"]


def test_a_file_that_was_renamed_and_lost_is_told(tmp_path: Path) -> None:
    """What earlier runs had closed in a file is missed, where a power loss took it with the note of its new name."""
    archive = make(tmp_path).open()
    archive.write("TQA")
    archive.close()
    archive.restart()
    archive.write("T")
    archive.kill()
    renamed = tmp_path / "polygon.20261122T000000000Z.ndjson"
    (tmp_path / "polygon.ndjson").rename(renamed)
    renamed.write_bytes(b"")
    archive.restart()
    archive.write("Q")
    archive.close()
    report = verify([tmp_path])
    assert [problem for problem in report.problems if "lost its end" in problem]
    assert report.records == 1
    assert not renamed.exists()


def test_records_without_any_manifest_are_taken_over(tmp_path: Path) -> None:
    """Files of runs that no manifest knows get entries, one for each run, and are appended to."""
    archive = make(tmp_path).open()
    archive.write("TQ")
    archive.close()
    archive.clock.advance(1)
    archive.restart()
    archive.write("T")
    archive.close()
    archive.names.manifest.unlink()
    archive.clock.advance(1)
    archive.restart()
    archive.write("A")
    archive.close()
    entries = archive.manifest("segment_closed")
    assert [(entry["run_id"], entry["records"]) for entry in entries] == [
        ("unknown", 2),
        ("unknown", 1),
        ("run-3", 1),
    ]
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_manifest_that_lost_its_end_is_completed(tmp_path: Path, compression: str, killed: bool) -> None:
    """Cut behind any of its lines, it gets entries for all files again, compressed ones, too; no record is doubled."""
    archive = make(tmp_path / "first", max_bytes=600, compression=compression).open()
    for _ in range(2):
        for _ in range(3):
            archive.write("TQ")
            archive.flush()
        if killed:
            archive.kill()
        else:
            archive.close()
        archive.clock.advance(1)
        archive.restart()
    archive.write("T")
    archive.kill()
    manifest = archive.names.manifest.read_bytes().splitlines(keepends=True)
    assert any(b'"segment_compressed"' in line for line in manifest)
    for kept in range(len(manifest)):
        folder = tmp_path / str(kept)
        shutil.copytree(tmp_path / "first", folder)
        (folder / "polygon.manifest.ndjson").write_bytes(b"".join(manifest[:kept]))
        again = make(folder, max_bytes=600, compression=compression).open()
        again.close()
        report = verify([folder])
        assert report.ok, (kept, report.problems, [(file.path, file.problems) for file in report.files])
        assert sorted(again.content()) == sorted(archive.lines)


def test_another_archive_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    """An archive whose name begins like ours, with its own recorder at work, is not touched by our start."""
    other = Archive(archive_settings(tmp_path / "polygon.test.ndjson", flush_every=1)).open()
    other.write("TT")
    before = other.names.manifest.read_bytes()
    archive = make(tmp_path).open()
    archive.write("Q")
    archive.close()
    assert other.names.manifest.read_bytes() == before
    other.write("T")
    other.close()
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 4


def test_a_restart_of_a_live_archive_that_was_split_otherwise(tmp_path: Path) -> None:
    """Files that a killed run left under another kind of splitting are completed all the same."""
    archive = make(tmp_path, split_per_type=True).open()
    archive.write("TQ")
    archive.kill()
    archive.restart(split_per_type=False)
    archive.write("T")
    archive.close()
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 3


LONG_BYTES = 48 << 20
CPU_SECS_MAX = 3.0
"""Joining what is read again with each block would take far longer."""
MEMORY_BYTES_MAX = 32 << 20


@contextmanager
def frugally() -> Iterator[None]:
    """Hold what is done to bounds of processor time and memory."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < CPU_SECS_MAX
        assert tracemalloc.get_traced_memory()[1] < MEMORY_BYTES_MAX
    finally:
        tracemalloc.stop()


def test_a_long_tail_without_a_line_end_is_cut_frugally(tmp_path: Path) -> None:
    """Zeros of a power loss that go on for very long take little time and memory, in recovery and in verification."""
    archive = make(tmp_path).open()
    archive.write("TQA")
    archive.kill()
    path = tmp_path / "polygon.ndjson"
    size = path.stat().st_size
    os.truncate(path, size + LONG_BYTES)
    with frugally():
        assert verify([tmp_path]).ok
    with frugally():
        archive.restart()
    archive.close()
    assert path.stat().st_size == size
    (reject,) = map(orjson.loads, open_lines(archive.names.rejects))
    assert f"the beginning of {LONG_BYTES} bytes" in reject["reason"]
    assert verify([tmp_path]).ok


def test_a_long_damaged_line_is_taken_out_frugally(tmp_path: Path) -> None:
    """What stands before and behind it stays, and the beginning of it is kept."""
    archive = make(tmp_path).open()
    archive.write("TQA")
    archive.kill()
    path = tmp_path / "polygon.ndjson"
    first, *rest = archive.lines
    with path.open("wb") as file:
        file.write(first)
        for _ in range(LONG_BYTES >> 20):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + b"".join(rest))
    with frugally():
        assert not verify([tmp_path]).ok
    with frugally():
        archive.restart()
    archive.close()
    assert archive.content() == archive.lines
    (reject,) = map(orjson.loads, open_lines(archive.names.rejects))
    assert reject["raw"].startswith("xxxx")
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("line_end", [b"\n", b""])
def test_a_large_file_of_something_else_is_refused_frugally(tmp_path: Path, line_end: bytes) -> None:
    """Its first lines are enough to see that it is not ours."""
    path = tmp_path / "polygon.ndjson"
    with path.open("wb") as file:
        for _ in range(LONG_BYTES >> 20):
            file.write((b"something else " * 10 + line_end) * ((1 << 20) // 151))
    size = path.stat().st_size
    with frugally(), pytest.raises(ArchiveConfigError, match="something else"):
        make(tmp_path).open()
    assert path.stat().st_size == size


def test_half_a_compression_is_deleted(tmp_path: Path) -> None:
    """What a killed run had begun to compress is begun again; its half of a file does not stay."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQ")
    archive.close()
    half = tmp_path / "polygon.20261121T050000000Z.ndjson.zst.tmp"
    half.write_bytes(b"half")
    archive.restart()
    assert not half.exists()
    archive.close()
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compression_that_was_noted_is_finished_and_not_noted_again(
    tmp_path: Path, compression: str
) -> None:
    """Killed between the manifest's line and the deletion of the plain file, only the deletion is left to do."""
    archive = make(tmp_path, compression=compression).open()
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.clock.advance(1)
    archive.writer.tick()
    archive.close()
    [noted] = archive.manifest("segment_compressed")
    plain = tmp_path / noted["file"]
    [compressed] = [tmp_path / name for name in archive.file_names() if name.startswith(f"{noted['file']}.")]
    plain.write_bytes(b"".join(open_lines(compressed)))
    archive.restart()
    archive.close()
    assert archive.manifest("segment_compressed") == [noted]
    assert not plain.exists()
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("noted", [True, False])
def test_a_whole_compressed_file_outlives_a_damaged_plain_one(tmp_path: Path, noted: bool) -> None:
    """A power loss may bring a deleted plain file back, damaged; the compressed one holds what the manifest says."""
    archive = make(tmp_path, compression="zstd").open()
    archive.write("TQTQ")
    archive.writer.rotate("signal")
    if noted:
        archive.clock.advance(1)
        archive.writer.tick()
    archive.close()
    before = archive.content()
    [compressed] = [tmp_path / name for name in archive.file_names() if name.endswith(".zst")]
    if not noted:
        whole = archive.names.manifest.read_bytes()
        archive.names.manifest.write_bytes(whole[: whole.index(b'{"kind":"segment_compressed"')])
        archive.names.lock.unlink()
    plain = compressed.with_suffix("")
    plain.write_bytes(b"".join(open_lines(compressed))[:-40])
    archive.restart()
    archive.close()
    assert archive.content() == before
    assert not plain.exists()
    assert not archive.manifest("segment_damaged")
    assert len(archive.manifest("segment_compressed")) == 1


def test_a_renaming_that_a_power_loss_took_back_is_done_again(tmp_path: Path) -> None:
    """The folder's fsync had failed, so the file has its old name again; the manifest has the new one."""
    archive = make(tmp_path).open()
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.kill()
    [sealed] = sealed_names(archive)
    (tmp_path / sealed).rename(tmp_path / "polygon.ndjson")
    archive.restart()
    archive.write("T")
    archive.close()
    assert sealed_names(archive) == [sealed]
    assert archive.content() == archive.lines
    assert [entry["reason"] for entry in archive.manifest("segment_closed")] == ["signal", "shutdown"]
    assert verify([tmp_path]).ok


def sealed_names(archive: Archive) -> list[str]:
    return [name for name in archive.file_names() if ".2026" in name]
