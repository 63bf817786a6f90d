"""The archive's writer: order, rotation, the manifest's entries, signals, and the books."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from archives import SECOND_NS, START_NS, Archive, archive_settings
from structlog.testing import capture_logs

from recorder.archive.reader import open_lines
from recorder.archive.verify import verify
from recorder.errors import ArchiveConfigError


def make(tmp_path: Path, **changes: object) -> Archive:
    return Archive(archive_settings(tmp_path / "polygon.ndjson", **changes))


def test_lines_reach_the_file_in_order_and_the_books_say_so(tmp_path: Path) -> None:
    """What was written is in the file line by line, is counted by channel, and the manifest has its checksum."""
    archive = make(tmp_path).open()
    archive.write("TTQ")
    archive.write("QA")
    archive.close()
    data = (tmp_path / "polygon.ndjson").read_bytes()
    assert data == b"".join(archive.lines)
    assert archive.books.recorded == {("stocks", "T"): 2, ("stocks", "Q"): 2, ("stocks", "A"): 1}
    assert archive.books.bytes_written == archive.writer.bytes_done == len(data)
    (entry,) = archive.manifest("segment_closed")
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert (entry["records"], entry["bytes"], entry["first_seq"], entry["last_seq"]) == (5, len(data), 1, 5)
    assert entry["counts"] == {"T": 2, "Q": 2, "A": 1}
    assert entry["reason"] == "shutdown"
    assert [line["kind"] for line in archive.manifest()] == ["run_started", "segment_closed", "run_ended"]
    assert verify([tmp_path]).ok


def test_records_wait_for_the_next_turn_and_no_longer_than_an_interval(tmp_path: Path) -> None:
    """What was taken waits for `tick`, which hands over all of it and says when it must be called again."""
    archive = make(tmp_path, flush_interval_ms=700).open()
    archive.write("TT")
    archive.write("T")
    assert archive.books.recorded.total() == 0
    assert archive.writer.pending_bytes == sum(map(len, archive.lines))
    assert archive.writer.tick() == pytest.approx(0.7)
    assert archive.content() == archive.lines
    assert archive.books.recorded.total() == 3
    assert archive.writer.pending_bytes == 0
    archive.close()


def test_much_that_waits_is_handed_over_before_the_next_turn(tmp_path: Path) -> None:
    """Whoever calls with a deadline gets a say between two writes of about a MiB."""
    archive = make(tmp_path).open()
    while not archive.books.recorded:
        archive.write("T" * 500)
        assert archive.writer.pending_bytes < 2 << 20
    assert archive.writer.pending_bytes == 0
    archive.close()
    assert archive.content() == archive.lines


def test_rotation_by_size_happens_between_two_lines(tmp_path: Path) -> None:
    """No file passes the limit, one big batch is split, and all files together are what was written."""
    archive = make(tmp_path, max_bytes=1000).open()
    for _ in range(10):
        archive.write("TQTQTQT")
    archive.close()
    sizes = [(tmp_path / name).stat().st_size for name in archive.file_names()]
    assert len(sizes) > 5
    assert max(sizes) <= 1000
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_a_line_longer_than_the_limit_gets_a_file_of_its_own(tmp_path: Path) -> None:
    """A limit below the length of a line neither loops nor makes empty files."""
    archive = make(tmp_path, max_bytes=10).open()
    archive.write("TTT")
    archive.close()
    assert archive.content() == archive.lines
    assert len(archive.file_names()) == 3


def test_existing_content_counts_towards_the_size(tmp_path: Path) -> None:
    """A file of an earlier run is appended to and rotated at the limit, its segments keeping their places."""
    archive = make(tmp_path, max_bytes=1000).open()
    archive.write("TTT")
    archive.close()
    archive.restart()
    archive.write("TTT")
    archive.close()
    first, second, third = archive.manifest("segment_closed")
    assert (first["offset"], first["file"]) == (0, "polygon.ndjson")
    assert second["was"] == third["file"] == "polygon.ndjson"
    assert second["offset"] == first["bytes"]
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


def test_rotation_by_time_is_aligned_with_and_without_traffic(tmp_path: Path) -> None:
    """Each file holds the records of one aligned period; the tick ends a period when no batch does."""
    archive = make(tmp_path, rotate_secs=60).open()
    archive.clock.now_ns = 60 * SECOND_NS * 1000 + 59 * SECOND_NS
    archive.write("TT")
    archive.clock.advance(1)
    archive.write("T")
    assert 0 < archive.writer.tick() <= 1
    assert archive.stats.rotations["time"] == 1
    archive.clock.advance(61)
    archive.writer.tick()
    assert archive.stats.rotations["time"] == 2
    for _ in range(5):
        archive.clock.advance(60)
        archive.writer.tick()
    assert archive.stats.rotations["time"] == 2, "empty files are never rotated"
    archive.close()
    assert [entry["records"] for entry in archive.manifest("segment_closed")] == [2, 1]
    assert verify([tmp_path]).ok


def test_the_next_rotation_is_known(tmp_path: Path) -> None:
    """A file with records says when its period ends; an empty one does not, and none where time rotates nothing."""
    archive = make(tmp_path, rotate_secs=60).open()
    archive.clock.now_ns = 60 * SECOND_NS * 1000 + 20 * SECOND_NS
    archive.clock.advance(1)
    archive.writer.tick()
    assert archive.stats.active["polygon.ndjson"].rotates_at is None
    archive.write("T")
    archive.clock.advance(1)
    archive.writer.tick()
    assert archive.stats.active["polygon.ndjson"].rotates_at == 60 * 1001 * 1000
    assert (archive.stats.rotate_secs, archive.stats.rotate_bytes) == (60, None)
    archive.clock.advance(60)
    archive.writer.tick()
    archive.clock.advance(1)
    archive.writer.tick()
    assert archive.stats.active["polygon.ndjson"].rotates_at is None
    [segment] = archive.stats.recent
    assert (segment.records, segment.reason, segment.compressed_bytes) == (1, "time", None)
    archive.close()


def test_yesterdays_file_is_rotated_before_todays_first_record(tmp_path: Path) -> None:
    """Content of an earlier period that a run finds goes to a file of its own, named after its first record."""
    archive = make(tmp_path, rotate_secs=3600).open()
    archive.write("T")
    archive.close()
    archive.clock.advance(86_400)
    archive.restart()
    archive.write("Q")
    archive.close()
    assert archive.file_names() == ["polygon.20261121T051002335Z.ndjson", "polygon.ndjson"]
    assert [entry["records"] for entry in archive.manifest("segment_closed")] == [1, 0, 1]
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("jump_secs", [-3600, 86_400])
def test_a_clock_jump_makes_one_rotation_and_not_a_storm(tmp_path: Path, jump_secs: int) -> None:
    """A jump of the wall clock rotates once; afterwards the hours are rotated as ever, under unique names."""
    archive = make(tmp_path, rotate_secs=3600, flush_every=1).open()
    archive.write("T")
    archive.clock.now_ns += jump_secs * SECOND_NS
    for _ in range(20):
        archive.write("T")
        archive.flush()
    assert archive.stats.rotations["time"] == 1
    archive.clock.advance(3600)
    archive.write("T")
    assert archive.stats.rotations["time"] == 2
    archive.close()
    assert verify([tmp_path]).ok


def test_batches_of_two_clusters_in_a_race_at_the_border_do_not_flap(tmp_path: Path) -> None:
    """A batch that was read some milliseconds before the border and comes after it makes no further rotation."""
    archive = make(tmp_path, rotate_secs=60, flush_every=1).open()
    border = archive.clock.now_ns // (60 * SECOND_NS) * 60 * SECOND_NS + 60 * SECOND_NS
    for offset_ms in (-10, 5, -3, 6, -1, 7):
        archive.clock.now_ns = border + offset_ms * 1_000_000
        archive.write("T")
    assert archive.stats.rotations["time"] == 1
    archive.close()


def test_each_type_has_its_file(tmp_path: Path) -> None:
    """Split by type, each file opens at its first record, and verify finds no hole between them."""
    archive = make(tmp_path, split_per_type=True).open()
    assert archive.file_names() == []
    archive.write(["T", "Q", "A", "T", "ZZ", "manifest"])
    archive.close()
    assert archive.file_names() == [
        "polygon.other.ndjson",
        "polygon.quotes.ndjson",
        "polygon.second_aggs.ndjson",
        "polygon.trades.ndjson",
        "polygon.zz.ndjson",
    ]
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 6


def test_a_folder_for_each_cluster(tmp_path: Path) -> None:
    """Cluster and type may be part of the folders; the manifest stands above them."""
    archive = Archive(archive_settings(tmp_path / "{cluster}" / "{type}.ndjson", max_bytes=500)).open()
    for _ in range(4):
        archive.write("TQTQ")
    archive.close()
    assert (tmp_path / "polygon.manifest.ndjson").exists()
    assert (tmp_path / "stocks" / "trades.ndjson").exists()
    assert (tmp_path / "stocks").stat().st_mode & 0o777 == 0o750
    assert verify([tmp_path]).ok
    archive.restart()
    archive.write("T")
    archive.close()
    assert verify([tmp_path]).ok


def test_rejects_stand_beside_the_records(tmp_path: Path) -> None:
    """Rejects go to their own file, which opens with the first of them and obeys the limit of size."""
    archive = make(tmp_path, max_bytes=200).open()
    archive.write("T")
    assert "polygon.rejected.ndjson" not in archive.file_names()
    archive.write("T", rejects=[b"{", b"\xff"])
    archive.write("T", rejects=[b"x" * 50])
    archive.close()
    assert archive.stats.rejects_written == 3
    kept = [name for name in archive.file_names() if "rejected" in name]
    assert len(kept) == 2
    assert sum(len(list(open_lines(tmp_path / name))) for name in kept) == 3
    assert (tmp_path / "polygon.rejected.ndjson").stat().st_mode & 0o777 == 0o640
    assert verify([tmp_path]).ok


def test_sighup_after_logrotate_opens_the_name_again(tmp_path: Path) -> None:
    """After a rename and SIGHUP the old file is complete, the new one exists at once, and verify finds both."""
    archive = make(tmp_path).open()
    archive.write("TTT")
    (tmp_path / "polygon.ndjson").rename(tmp_path / "polygon.ndjson.1")
    archive.writer.reopen()
    assert (tmp_path / "polygon.ndjson").exists()
    archive.write("QQ")
    archive.close()
    assert (tmp_path / "polygon.ndjson.1").read_bytes() == b"".join(archive.lines[:3])
    assert (tmp_path / "polygon.ndjson").read_bytes() == b"".join(archive.lines[3:])
    assert archive.stats.reopens == 1
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 5
    subprocess.run(["gzip", "polygon.ndjson.1"], cwd=tmp_path, check=True)
    assert verify([tmp_path]).records == 5
    (tmp_path / "polygon.ndjson.1.gz").unlink()
    report = verify([tmp_path])
    assert report.ok
    assert "moved away" in report.notes[0]


def test_sighup_without_logrotate_goes_on_in_the_same_file(tmp_path: Path) -> None:
    """Two segments in one file add up, wherever the file goes later."""
    archive = make(tmp_path).open()
    archive.write("TTT")
    archive.writer.reopen()
    archive.write("QQ")
    archive.writer.rotate("signal")
    archive.write("A")
    archive.close()
    assert [entry["reason"] for entry in archive.manifest("segment_closed")] == [
        "reopen",
        "signal",
        "shutdown",
    ]
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("no_reopen", [False, True])
@pytest.mark.parametrize("what", ["deleted", "moved", "replaced"])
def test_a_vanished_file_is_noticed(tmp_path: Path, what: str, no_reopen: bool) -> None:
    """A file that another program deletes, moves or replaces gets a successor within a flush interval, and the log says so.

    NDJSON_NO_REOPEN, which is about signals, does not change that.
    """
    archive = make(tmp_path, no_reopen=no_reopen).open()
    path = tmp_path / "polygon.ndjson"
    archive.write("TTT")
    archive.flush()
    if what == "deleted":
        path.unlink()
    else:
        path.rename(tmp_path / "polygon.ndjson.old")
    if what == "replaced":
        path.touch()
    with capture_logs() as logged:
        archive.flush()
    (warning,) = [entry for entry in logged if entry["event"] == "archive_file_vanished"]
    assert "a new one of this name takes what comes" in warning["message"]
    archive.write("Q")
    archive.flush()
    assert archive.stats.vanished == 1
    assert path.read_bytes() == archive.lines[3]
    archive.close()
    report = verify([tmp_path])
    assert report.ok
    assert report.records == (1 if what == "deleted" else 4)


def test_a_name_that_exists_is_never_taken(tmp_path: Path) -> None:
    """Runs that come to the same millisecond again, as the clock is set back, get -1, -2, …; verify follows them."""
    archive = make(tmp_path).open()
    for run in range(12):
        for _ in range(2):
            archive.write("T")
            archive.writer.rotate("signal")
            archive.clock.now_ns += 10 * SECOND_NS
        archive.close()
        archive.clock.now_ns -= 20 * SECOND_NS
        if run < 11:
            archive.restart()
    assert len(archive.file_names()) == 24
    for stamp in ("20261121T051002335Z", "20261121T051012335Z"):
        assert f"polygon.{stamp}-11.ndjson" in archive.file_names()
    assert verify([tmp_path]).ok


def test_a_second_recorder_is_refused(tmp_path: Path) -> None:
    """One recorder owns an archive; the error of the second names its pid, and the first continues."""
    archive = make(tmp_path).open()
    second = make(tmp_path)
    with pytest.raises(ArchiveConfigError, match=r"owned by the recorder with pid \d+"):
        second.open()
    archive.write("T")
    archive.close()
    second.open()
    second.close()


@pytest.mark.parametrize("place", ["folder", "file_in_the_way", "device"])
def test_a_bad_place_is_one_clear_line(tmp_path: Path, place: str) -> None:
    """A place that cannot be used is refused at the start, with a line that says what is wrong with it."""
    if place == "folder":
        (tmp_path / "polygon.ndjson").mkdir()
        dest = tmp_path / "polygon.ndjson"
    elif place == "file_in_the_way":
        (tmp_path / "folder").touch()
        dest = tmp_path / "folder" / "polygon.ndjson"
    else:
        dest = tmp_path / "polygon.ndjson"
        dest.symlink_to("/dev/null")
    with pytest.raises(ArchiveConfigError) as caught:
        Archive(archive_settings(dest)).open()
    assert str(dest) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else_is_never_written_to(tmp_path: Path) -> None:
    """A destination that holds no records is refused and stays as it is."""
    path = tmp_path / "polygon.ndjson"
    path.write_bytes(b"root:x:0:0\nno end")
    with pytest.raises(ArchiveConfigError, match="something else"):
        make(tmp_path).open()
    assert path.read_bytes() == b"root:x:0:0\nno end"


def test_the_balance_is_asked_for_last(tmp_path: Path) -> None:
    """The balance in `run_ended` counts what closing has written."""
    archive = make(tmp_path).open()
    archive.clock.advance(0.1)
    archive.write("TT")
    archive.close(balance=lambda: {"recorded": archive.books.recorded.total()})
    assert archive.manifest("run_ended")[0]["balance"] == {"recorded": 2}


def test_notes_stand_in_their_order(tmp_path: Path) -> None:
    """A note is in the manifest when `note` returns, chained like every line."""
    archive = make(tmp_path).open()
    archive.writer.append("session_opened", cluster="stocks")
    archive.writer.append("gap", cluster="stocks", **{"from": 1, "to": 2}, reason="disconnected")
    assert [line["kind"] for line in archive.manifest()] == ["run_started", "session_opened", "gap"]
    lines = archive.names.manifest.read_bytes().splitlines()
    for before, line in zip(lines, archive.manifest()[1:], strict=False):
        assert line["prev"] == hashlib.sha256(before).hexdigest()
    archive.close()
    (gap,) = verify([tmp_path]).gaps
    assert (gap.cluster, gap.from_ms, gap.to_ms, gap.reason) == ("stocks", 1, 2, "disconnected")


def test_retention_deletes_the_oldest_rotated_files(tmp_path: Path) -> None:
    """Past the limit the oldest rotated files go, never the active one, and verify explains what they held."""
    archive = make(tmp_path, retain_bytes=1500, max_bytes=500).open()
    for _ in range(30):
        archive.write("TT")
    archive.flush()
    archive.clock.advance(60)
    archive.writer.tick()
    rotated = [name for name in archive.file_names() if name != "polygon.ndjson"]
    assert 0 < sum((tmp_path / name).stat().st_size for name in rotated) <= 1500
    assert archive.stats.deleted == len(archive.manifest("segment_deleted")) > 0
    archive.close()
    assert archive.content() == archive.lines[-len(archive.content()) :]
    assert verify([tmp_path]).ok


def test_an_archive_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination without any folder works, over rotation, recovery and verification."""
    monkeypatch.chdir(tmp_path)
    archive = Archive(archive_settings("./polygon.ndjson", max_bytes=500, flush_every=1)).open()
    archive.write("TQTQ")
    archive.kill()
    archive.restart()
    archive.write("TQ")
    archive.close()
    assert archive.content() == archive.lines
    assert verify(["."]).ok
    assert verify(["polygon.ndjson"]).records == 6


def test_a_time_beyond_all_bounds_stops_nothing(tmp_path: Path) -> None:
    """An event whose time no calendar and no 64-bit integer holds is recorded, rotated and verified like any."""
    archive = make(tmp_path, flush_every=1).open()
    for received_ns in (START_NS, 10**40):
        batch = archive.feed.batch("T", received_ns)
        archive.writer.write(batch)
        archive.writer.rotate("signal")
    archive.close()
    assert len(archive.file_names()) == 2
    assert "polygon.99991231T235959999Z.ndjson" in archive.file_names()
    assert verify([tmp_path]).ok


def test_retention_by_age(tmp_path: Path) -> None:
    """A rotated file goes when its last record is older than the limit."""
    archive = make(tmp_path, retain_secs=3600)
    archive.clock.now_ns = 4_000_000_000 * SECOND_NS
    archive.open()
    archive.write("T")
    archive.writer.rotate("signal")
    (name,) = [name for name in archive.file_names() if name != "polygon.ndjson"]
    archive.disk.set_mtime(tmp_path / name, archive.clock.now_ns)
    archive.clock.advance(3000)
    archive.writer.tick()
    assert name in archive.file_names()
    archive.clock.advance(700)
    archive.writer.tick()
    assert name not in archive.file_names()
    archive.close()


def test_the_file_size_limit_of_the_process_is_a_failure_like_any(tmp_path: Path) -> None:
    """With a real EFBIG (`ulimit -f`) the writer keeps what did not fit, says why, and finishes when it may."""
    script = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from archives import Archive, archive_settings
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
archive = Archive(archive_settings(Path(sys.argv[1]) / "polygon.ndjson", flush_every=1))
archive.open()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
for _ in range(30):
    archive.write("TTQ")
assert "File too large" in archive.writer.failure, archive.writer.failure
assert archive.writer.pending_bytes > 0
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
archive.flush()
assert archive.writer.failure == "", archive.writer.failure
archive.close()
assert (Path(sys.argv[1]) / "polygon.ndjson").read_bytes() == b"".join(archive.lines)
"""
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", script, str(tmp_path), tests], check=True, cwd=Path(tests).parent)
    assert verify([tmp_path]).ok


def test_names_sort_by_time_when_segments_fill_within_a_millisecond(tmp_path: Path) -> None:
    """Many rotations at one moment: the plain order of the names is the order of the records."""
    archive = make(tmp_path, max_bytes=300).open()
    for _ in range(20):
        archive.write("T")
    archive.close()
    names = sorted(path.name for path in tmp_path.glob("polygon.2*.ndjson"))
    assert len(names) > 10
    seqs = [json.loads((tmp_path / name).read_text().splitlines()[0])["seq"] for name in names]
    assert seqs == sorted(seqs)


def test_a_destination_without_an_extension(tmp_path: Path) -> None:
    """Recovery takes no other file for one of records, whatever the files of the archive are called."""
    archive = Archive(archive_settings(tmp_path / "polygon", flush_every=1)).open()
    archive.write("T")
    archive.close()
    with capture_logs() as logged:
        archive.restart()
    archive.close()
    assert [entry for entry in logged if entry["log_level"] != "info"] == []
    assert archive.stats.recovered == 0
