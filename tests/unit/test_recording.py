"""Reading an archive in order: every record once, of whatever files; what is not whole is said."""

from __future__ import annotations

import gzip
from operator import itemgetter
from pathlib import Path

import orjson
import pytest
from archives import Archive, archive_settings

from recorder.archive.cutting import RecordedEvent, events_of
from recorder.archive.recording import Recording, open_recordings
from recorder.archive.set_back import CLOCK_RACE_MS
from recorder.errors import ArchiveError


def make(
    folder: Path, compression: str = "none", *, split: bool = True, end: bool = True, secs: int = 1
) -> Archive:
    """Make an archive of two runs with many files, the second of which is killed unless it is to end."""
    archive = Archive(
        archive_settings(
            folder / "polygon.ndjson",
            flush_every=1,
            max_bytes=1500,
            compression=compression,
            split_per_type=split,
        )
    ).open()
    for _ in range(8):
        archive.write("TQTAQQ")
        archive.clock.advance(secs)
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    for _ in range(8):
        archive.write("QTT")
        archive.clock.advance(secs)
    if end:
        archive.close()
    else:
        archive.kill()
    return archive


def read(folder: Path, **bounds: int) -> list[RecordedEvent]:
    [recording] = open_recordings(folder)
    assert not recording.problems
    found = [event for records in recording.records(**bounds) for event in events_of(records)]
    assert found == [event for events in recording.events(**bounds) for event in events]
    return found


def in_order(lines: list[bytes]) -> list[bytes]:
    """Return lines run by run, by their numbers; the feed has those of a batch file by file."""
    return sorted(lines, key=lambda line: itemgetter("hostname", "seq")(orjson.loads(line)))


def assert_is(events: list[RecordedEvent], lines: list[bytes]) -> None:
    """The records are those of the lines, in their order, byte for byte."""
    lines = in_order(lines)
    wanted = [orjson.loads(line) for line in lines]
    assert [(event.seq, event.type, event.symbol, event.ts, event.feed) for event in events] == [
        (line["seq"], line["type"], line["symbol"], line["ts"], line["feed"]) for line in wanted
    ]
    for event, line in zip(events, lines, strict=True):
        assert b',"payload":' + bytes(event.payload) + b',"hostname":' in line


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_record_comes_once_and_in_order(tmp_path: Path, compression: str, split: bool) -> None:
    """Over files by type, sealed and compressed ones, and two runs."""
    archive = make(tmp_path / "archive", compression, split=split)
    assert_is(read(archive.folder), archive.lines)
    [recording] = open_recordings(archive.names.manifest)
    assert len(recording.runs) == 2
    assert len({segment.path for segment in recording.segments}) > 4


def test_what_a_killed_run_left_is_read_too(tmp_path: Path) -> None:
    """Up to its last whole line; nobody has entered it in the manifest yet."""
    archive = make(tmp_path / "archive", end=False)
    lines = list(archive.lines)
    [active] = [path for path in archive.folder.iterdir() if path.name == "polygon.trades.ndjson"]
    with active.open("ab") as file:
        file.write(b'{"ingest_ts":17')
    assert_is(read(archive.folder), lines)


def test_who_asks_for_a_time_gets_its_records_alone(tmp_path: Path) -> None:
    """From a moment on, which is included, to one that is not; files that have none of them are not opened."""
    archive = make(tmp_path / "archive", "zstd", secs=10)
    lines = in_order(archive.lines)
    times = [orjson.loads(line)["ingest_ts"] for line in lines]
    start_ms, end_ms = times[15], times[-10]
    wanted = [line for line, time_ms in zip(lines, times, strict=True) if start_ms <= time_ms < end_ms]
    assert 0 < len(wanted) < len(times)
    [recording] = open_recordings(archive.folder)
    for segment in recording.segments:
        if (
            segment.last_ingest_ms < start_ms - CLOCK_RACE_MS
            or segment.first_ingest_ms >= end_ms + CLOCK_RACE_MS
        ):
            segment.path.unlink()
    found = [event for block in recording.events(start_ms=start_ms, end_ms=end_ms) for event in block]
    assert_is(found, wanted)
    with pytest.raises(ArchiveError, match="cannot read"):
        list(recording.events())


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_file_that_was_altered_is_an_error(tmp_path: Path, compression: str) -> None:
    """Not a shorter answer, and not another one."""
    archive = make(tmp_path / "archive", compression, split=False)
    path = sorted(archive.folder.glob("polygon.2*"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=path.name):
        read(archive.folder)


def test_a_file_that_lost_its_end_is_an_error(tmp_path: Path) -> None:
    """Whole lines that are missing are missing all the same."""
    archive = make(tmp_path / "archive", split=False)
    path = sorted(archive.folder.glob("polygon.2*"))[1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ArchiveError, match="bytes are missing"):
        read(archive.folder)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """A sealed file that is gone is a problem; one that retention has deleted, or somebody moved, is a note."""
    archive = make(tmp_path / "archive", split=False)
    path = sorted(archive.folder.glob("polygon.2*"))[1]
    path.unlink()
    [recording] = open_recordings(archive.folder)
    [problem] = recording.problems
    assert path.name in problem
    assert "records" in problem
    archive.restart(retain_bytes=1)
    archive.flush()
    archive.close()
    [recording] = open_recordings(archive.folder)
    assert any("deleted by retention" in note for note in recording.notes)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_a_foreign_file_is_named_and_not_played(tmp_path: Path, end: bool, is_packed: bool) -> None:
    """Also one with records of another run: beside a run that was killed, it could be taken for what that one left."""
    archive = make(tmp_path / "archive", split=False, end=end)
    lines = list(archive.lines)
    data = min(archive.folder.glob("polygon.2*")).read_bytes()
    foreign = archive.folder / f"polygon.other.20261129T044401800Z.ndjson{'.gz' if is_packed else ''}"
    foreign.write_bytes(gzip.compress(data) if is_packed else data)
    [recording] = open_recordings(archive.folder)
    [problem] = recording.problems
    assert problem.startswith(f"{foreign.name} is left out: ")
    assert_is([event for block in recording.events() for event in block], lines)


def test_what_was_written_behind_the_end_is_named_and_not_played(tmp_path: Path) -> None:
    """The run has ended, so it was another program."""
    archive = make(tmp_path / "archive", split=False)
    lines = list(archive.lines)
    path = sorted(archive.folder.glob("polygon.2*"))[1]
    with (archive.folder / "polygon.ndjson").open("ab") as file:
        file.write(path.read_bytes())
    [recording] = open_recordings(archive.folder)
    [problem] = recording.problems
    assert "polygon.ndjson" in problem
    assert "left out: not in the manifest" in problem
    assert_is([event for block in recording.events() for event in block], lines)


def test_a_path_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    """With what was meant."""
    with pytest.raises(ArchiveError, match="does not exist; name the folder"):
        open_recordings(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="has no manifest"):
        open_recordings(tmp_path)


def test_a_file_that_is_compressed_meanwhile_is_read(tmp_path: Path) -> None:
    """It is looked for under its other name."""
    archive = make(tmp_path / "archive", split=False)
    [recording] = open_recordings(archive.folder)
    plain = [
        segment.path for segment in recording.segments if segment.path != archive.folder / "polygon.ndjson"
    ]
    archive.restart(compression="zstd")
    archive.flush()
    archive.close()
    assert not any(path.exists() for path in plain)
    assert_is([event for block in recording.events() for event in block], archive.lines)


def test_a_live_archive_is_said_to_be_one(tmp_path: Path) -> None:
    """What its recorder has sealed or written so far is read."""
    archive = make(tmp_path / "archive")
    archive.restart()
    archive.write("TTQ")
    recording = Recording(archive.names.manifest)
    assert recording.is_live
    assert_is([event for block in recording.events() for event in block], archive.lines)
    archive.close()


def test_a_file_that_was_replaced_meanwhile_is_an_error(tmp_path: Path) -> None:
    """What its recorder had written when it was looked at is not there any more: no shorter answer."""
    archive = make(tmp_path / "archive", end=False)
    [recording] = open_recordings(archive.folder)
    (archive.folder / "polygon.trades.ndjson").write_bytes(b"")
    with pytest.raises(ArchiveError, match="it was cut or written over since"):
        list(recording.events())
