"""Reading on in an archive: from any place, through runs, to what is written now; and never over a hole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from archives import Archive, archive_settings

from recorder.archive import narrowing, onward, recorded_segment
from recorder.archive.cutting import DecodedRecords, RecordedEvent
from recorder.archive.look import ReadManifest
from recorder.archive.manifest_index import NEVER_MS
from recorder.archive.onward import Onward, Shared
from recorder.archive.reader import read_blocks
from recorder.archive.wanted import Asked, Found, Lead, Lost, Piece, Place
from recorder.polygon.position import Told


def make(folder: Path, compression: str = "none", *, split: bool = False, **changes: Any) -> Archive:
    """Make an archive with many files, whose first run has begun."""
    small: dict[str, Any] = {"flush_every": 1, "max_bytes": 1500}
    changes = {**small, "compression": compression, "split_per_type": split, **changes}
    return Archive(archive_settings(folder / "polygon.ndjson", **changes)).open()


def fill(archive: Archive, count: int = 8, channels: str = "TQTAQQ") -> None:
    """Write some batches, a second apart."""
    for _ in range(count):
        archive.write(channels)
        archive.clock.advance(1)
    archive.writer.tick()


def reader_of(archive: Archive, shared: Shared | None = None) -> Onward:
    """Return a reader, for the run at work."""
    return Onward(archive.names.manifest, f"run-{archive.runs}", shared or Shared())


def payloads_of(archive: Archive) -> list[tuple[Place, bytes]]:
    """Return place and payload of every record that was written, in order."""
    found = []
    for line in archive.lines:
        number = orjson.loads(line)
        payload = line.partition(b'"payload":')[2].partition(b',"hostname"')[0]
        found.append((Place(number["hostname"].replace("host", "run"), number["seq"]), payload))
    return sorted(found, key=lambda one: (int(one[0].run_id.partition("-")[2]), one[0].seq))


def rest_of(reader: Onward) -> list[bytes]:
    """Read to the end of what is there; return the payloads."""
    found: list[bytes] = []
    while pieces := reader.read():
        found += [payload for piece in pieces for payload in piece.payloads]
    return found


def read_into(got: list[bytes], reader: Onward) -> None:
    """Read on and on."""
    for _ in range(1000):
        got += [payload for piece in reader.read() for payload in piece.payloads]


def begin(archive: Archive, wanted: Place | int, *, partial: bool = False) -> Found:
    return reader_of(archive).begin(wanted, partial=partial)


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_from_every_place_everything_follows(tmp_path: Path, compression: str, split: bool) -> None:
    """Through sealed, compressed and active files, of this run and of those before, one that was killed among them."""
    archive = make(tmp_path, compression, split=split)
    fill(archive)
    archive.close()
    archive.restart()
    fill(archive, 5)
    archive.kill()
    archive.restart()
    fill(archive, 5)
    archive.write("TQ")
    everything = payloads_of(archive)
    assert {place.run_id for place, _ in everything} == {"run-1", "run-2", "run-3"}
    for number in range(0, len(everything), 5):
        place, _ = everything[number]
        reader = reader_of(archive)
        found = reader.begin(place, partial=False)
        assert (found.place, found.recovered, found.reason) == (place, True, "")
        assert rest_of(reader) == [payload for _, payload in everything[number + 1 :]]
        assert reader.place == everything[-1][0]
    archive.write("A")
    assert rest_of(reader) == [payloads_of(archive)[-1][1]], "it looks at the file again"
    archive.close()


@pytest.mark.parametrize("split", [True, False])
def test_from_every_time_everything_follows(tmp_path: Path, split: bool) -> None:
    """The first record of that millisecond or a later one, and all behind it."""
    archive = make(tmp_path, "zstd", split=split)
    fill(archive, 4)
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    fill(archive, 4)
    lines = sorted(map(orjson.loads, archive.lines), key=lambda line: (line["hostname"], line["seq"]))
    everything = payloads_of(archive)
    for since_ms in sorted({line["ingest_ts"] + more for line in lines for more in (0, 1)}):
        reader = reader_of(archive)
        assert reader.begin(since_ms, partial=False).recovered
        first = next((place for place, line in enumerate(lines) if line["ingest_ts"] >= since_ms), len(lines))
        assert rest_of(reader) == [payload for _, payload in everything[first:]]
    assert not begin(archive, lines[0]["ingest_ts"] - 10_000).recovered
    archive.close()


def test_a_long_file_is_not_read_from_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that is written, what stands before the place is left out by looking at a few lines."""
    monkeypatch.setattr(narrowing, "NEAR_BYTES", 1000)
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    fill(archive, 100)
    everything = payloads_of(archive)
    reader = reader_of(archive)
    place = everything[-20][0]
    assert reader.begin(place, partial=False).recovered
    read: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        for block in read_blocks(*arguments, **options):
            read.append(len(block))
            yield block

    monkeypatch.setattr(recorded_segment, "read_blocks", counted)
    assert rest_of(reader) == [payload for _, payload in everything[-19:]]
    assert sum(read) < (tmp_path / "polygon.ndjson").stat().st_size / 2
    archive.close()


def test_gaps_behind_the_place_are_told(tmp_path: Path) -> None:
    """Those of this run that ended later, and all of later runs; not those before."""
    archive = make(tmp_path)

    def gap(reason: str, secs: float = 1.0) -> None:
        from_ms = archive.clock.wall_ns() // 1_000_000
        archive.clock.advance(secs)
        to_ms = archive.clock.wall_ns() // 1_000_000
        archive.writer.append("gap", **{"cluster": "stocks", "from": from_ms, "to": to_ms, "reason": reason})

    fill(archive, 2)
    gap("first")
    fill(archive, 2)
    gap("second")
    fill(archive, 2)
    archive.close()
    archive.restart()
    gap("not_running")
    fill(archive, 2)

    def reasons(wanted: Place | int) -> list[str]:
        return [found.reason for found in begin(archive, wanted).gaps]

    assert reasons(Place("run-1", 0)) == ["first", "second", "not_running"]
    assert reasons(Place("run-1", 12)) == ["first", "second", "not_running"]
    assert reasons(Place("run-1", 13)) == ["second", "not_running"]
    assert reasons(Place("run-1", 36)) == ["not_running"]
    assert reasons(Place("run-1", 1000)) == ["not_running"], "what a kill took is beyond the last record"
    assert reasons(Place("run-2", 5)) == []
    archive.close()


def left_out(archive: Archive, **settings: Any) -> None:
    archive.writer._run_facts = {**archive.writer._run_facts, "settings": settings}  # type: ignore[misc]


def one_file_lost(archive: Archive) -> None:
    sorted(archive.folder.glob("polygon.2*"))[3].unlink()


def retained(archive: Archive) -> None:
    archive.close()
    archive.restart(retain_bytes=3000)
    archive.flush()


def dropped(archive: Archive) -> None:
    archive.writer.append(
        "drop", cluster="stocks", channel="T", count=1, reason="slow", first_seq=20, last_seq=21
    )


def under_pressure(archive: Archive) -> None:
    for step in ("warn", "sample", "none"):
        archive.writer.append("pressure", step=step)
    fill(archive, 1)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (one_file_lost, "missing"),
        (retained, "retention"),
        (dropped, "dropped"),
        (under_pressure, "the disk was filling"),
    ],
)
def test_what_is_not_whole_is_not_offered(
    tmp_path: Path, break_it: Callable[[Archive], None], words: str
) -> None:
    """It is refused with the reason; with `partial`, what is whole follows, from its beginning on."""
    archive = make(tmp_path)
    fill(archive, 8)
    break_it(archive)
    fill(archive, 8)
    refused = begin(archive, Place("run-1", 1))
    assert (refused.place, refused.recovered) == (None, False)
    assert words in refused.reason
    assert refused.floor is not None
    floor = Place(refused.floor.run_id, refused.floor.seq)
    reader = reader_of(archive)
    found = reader.begin(Place("run-1", 1), partial=True)
    assert (found.place, found.recovered) == (floor, False)
    everything = payloads_of(archive)
    assert rest_of(reader) == [payload for place, payload in everything if place > floor]
    assert begin(archive, floor).recovered
    assert begin(archive, refused.floor.at_ms).recovered
    assert not begin(archive, refused.floor.at_ms - 1).recovered
    archive.close()


@pytest.mark.parametrize("settings", [{"NDJSON_INCLUDE": ["T:*"]}, {"NDJSON_SAMPLE_QUOTES": 10}])
def test_a_run_that_leaves_something_out_is_no_source(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Neither while it is at work nor later; a run behind it is one."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1))
    left_out(archive, **settings)
    archive.open()
    fill(archive)
    for partial in (False, True):
        found = begin(archive, Place("run-1", 1), partial=partial)
        assert (found.place, found.floor) == (None, None)
        assert next(iter(settings)) in found.reason
    archive.close()
    archive.restart()
    fill(archive)
    assert next(iter(settings)) in begin(archive, Place("run-1", 1)).reason
    assert begin(archive, Place("run-1", 1), partial=True).place == Place("run-2", 0)
    assert begin(archive, Place("run-2", 0)).recovered
    archive.close()


@pytest.mark.parametrize("split", [True, False])
def test_a_killed_run_whose_numbers_have_a_hole_is_no_source(tmp_path: Path, split: bool) -> None:
    """What is behind the hole is."""
    archive = make(tmp_path, split=split)
    fill(archive, 6)
    archive.feed.seq += 5
    fill(archive, 6)
    archive.kill()
    archive.restart()
    fill(archive, 1)
    refused = begin(archive, Place("run-1", 1))
    assert (refused.place, refused.recovered) == (None, False)
    assert refused.floor is not None
    assert refused.floor.run_id == "run-1"
    assert 41 <= refused.floor.seq <= 77
    reader = reader_of(archive)
    assert reader.begin(Place("run-1", refused.floor.seq), partial=False).recovered
    behind = [place for place, _ in payloads_of(archive) if place > Place("run-1", refused.floor.seq)]
    assert len(rest_of(reader)) == len(behind)
    archive.close()


def damaged(archive: Archive) -> None:
    path = sorted(archive.folder.glob("polygon.2*"))[3]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def torn(archive: Archive) -> None:
    archive.feed.seq += 1


@pytest.mark.parametrize("break_it", [damaged, torn])
def test_what_is_broken_is_met_before_anything_of_it_is_sent(
    tmp_path: Path, break_it: Callable[[Archive], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything up to there comes, then `Lost`; from then on only what is behind it is offered."""
    monkeypatch.setattr(onward, "_STUCK_NS", 0)
    archive = make(tmp_path)
    fill(archive, 8)
    break_it(archive)
    fill(archive, 8)
    everything = payloads_of(archive)
    shared = Shared()
    reader = reader_of(archive, shared)
    assert reader.begin(Place("run-1", 0), partial=False).recovered
    got: list[bytes] = []
    with pytest.raises(Lost):
        read_into(got, reader)
    assert got == [payload for _, payload in everything[: len(got)]]
    assert 6 < len(got) < 60
    again = reader_of(archive, shared)
    assert not again.begin(Place("run-1", 0), partial=False).recovered
    found = again.begin(Place("run-1", 0), partial=True)
    assert found.place is not None
    assert rest_of(again) == [payload for place, payload in everything if place > found.place]
    archive.close()


def test_files_by_type_may_be_written_one_after_the_other(tmp_path: Path) -> None:
    """A hole at the end of what is written is none yet: the reader waits for what stands in it."""
    archive = make(tmp_path, split=True, max_bytes=None)
    fill(archive, 2)
    whole = {path: path.read_bytes() for path in archive.folder.glob("polygon.trades.ndjson")}
    archive.write("TQTQ")
    [(trades, before)] = whole.items()
    after = trades.read_bytes()
    trades.write_bytes(before)
    reader = reader_of(archive)
    assert reader.begin(Place("run-1", 0), partial=False).recovered
    everything = [payload for _, payload in payloads_of(archive)]
    got = rest_of(reader)
    assert got == everything[: len(got)]
    assert len(got) == 12
    trades.write_bytes(after)
    assert got + rest_of(reader) == everything
    archive.close()


def test_the_manifest_is_read_where_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many look at the archive, and however often: it may have a line for each file of years."""
    archive = make(tmp_path)
    fill(archive, 2)
    reads: list[Path] = []
    read = ReadManifest.of

    def counted(manifest: Path, *, is_live: bool) -> ReadManifest:
        reads.append(manifest)
        return read(manifest, is_live=is_live)

    monkeypatch.setattr(ReadManifest, "of", counted)
    shared = Shared()
    for _ in range(3):
        reader = reader_of(archive, shared)
        assert reader.begin(Place("run-1", 1), partial=False).recovered
        assert len(rest_of(reader)) == 11
        archive.flush()
    assert len(reads) == 1
    fill(archive, 2)
    assert len(rest_of(reader)) == 12
    assert len(reads) == 2
    archive.close()


def test_what_retention_takes_from_a_reader_is_lost(tmp_path: Path) -> None:
    """It is not passed over."""
    archive = make(tmp_path)
    fill(archive, 8)
    reader = reader_of(archive)
    assert reader.begin(Place("run-1", 3), partial=False).recovered
    archive.close()
    archive.restart(retain_bytes=1)
    archive.flush()
    later = Onward(archive.names.manifest, "run-2", Shared())
    later.place = reader.place
    with pytest.raises(Lost, match="retention"):
        later.read()
    archive.close()


def test_an_archive_that_is_not_open_yet_is_no_source(tmp_path: Path) -> None:
    """While a start repairs it; and one whose manifest is altered, or gone."""
    archive = make(tmp_path)
    fill(archive, 2)
    assert "repaired" in Onward(archive.names.manifest, "run-9", Shared()).begin(0, partial=True).reason
    archive.close()
    lines = archive.names.manifest.read_bytes().splitlines(keepends=True)
    archive.names.manifest.write_bytes(b"".join([lines[0].replace(b"host", b"most"), *lines[1:]]))
    assert "recorder verify" in begin(archive, Place("run-1", 0)).reason
    archive.names.manifest.unlink()
    assert "cannot be read" in begin(archive, Place("run-1", 0)).reason


def test_a_position_of_a_run_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """Also with `partial`, where the whole archive would be no answer."""
    archive = make(tmp_path)
    fill(archive, 2)
    for partial in (False, True):
        found = begin(archive, Place("elsewhere", 5), partial=partial)
        assert found.place is None
        assert "no run of that name" in found.reason
    archive.close()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_position_behind_the_end_of_its_run(tmp_path: Path, is_killed: bool) -> None:
    """Nobody was told one of a run that ended in order, so it is refused; a run that was killed may have told it."""
    archive = make(tmp_path)
    fill(archive, 2)
    if is_killed:
        archive.kill()
    else:
        archive.close()
    archive.restart()
    fill(archive, 2)
    for partial in (False, True):
        for record, is_told in ((12, True), (13, is_killed), (99_999_999, is_killed)):
            wanted = Asked(Told("run-1", 999_999_999, record), ("stocks",))
            for one in (wanted, Lead(NEVER_MS - 1, 0, wanted)):
                found = reader_of(archive).begin(one, partial=partial)
                assert found is not None
                assert found.recovered == is_told
                assert found.reason == (
                    "" if is_told else "that run ended with record 12, before the position"
                )
    archive.close()


def test_a_piece_can_be_cut() -> None:
    """Between any two records."""
    events = [RecordedEvent(0, "T", "A", "stocks", 0, msgspec.Raw(b"%d" % seq), seq) for seq in (5, 6, 7)]
    piece = Piece("run", 0, "stocks", 5, 0, DecodedRecords(events))
    assert (piece.last_seq, piece.size) == (7, 3)
    assert piece.until(5).payloads == [b"5"]
    assert (piece.behind(5).first_seq, piece.behind(5).payloads) == (6, [b"6", b"7"])
    assert piece.place == Place("run", 4)
