"""`recorder export`: each sealed segment once, its records whole and exact, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pandas
import polars
import pyarrow.parquet as pq
import pytest
from archives import START_NS, Fault, FaultyDisk, Killed
from click.testing import CliRunner
from exports import compact, export, rows, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_events import begin, record, sample_payloads, trade
from uploads import upload

from recorder import open_archive
from recorder.archive.disk import Disk
from recorder.cli.export import command
from recorder.errors import (
    EXIT_DAMAGE,
    EXIT_NO_ROOM,
    EXIT_USAGE,
    DestinationRefused,
    NoArchive,
    NoRoom,
    RecorderError,
)
from recorder.export import segment_files
from recorder.export.follow import ManifestWatch
from recorder.export.layout import FLATFILE, HIVE
from recorder.export.ledger import LEDGER, UNFINISHED, Ledger
from recorder.export.session import Choice
from recorder.objects.path import to_path
from recorder.polygon.channels import CHANNELS

MS = 1_795_237_800_000
DAY_SECS = 86_400


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of two runs, types known and unknown in one file, two feeds, a midnight, a file of two runs.

    The second run recorded a replay.
    """
    folder = tmp_path_factory.mktemp("market")
    archive = begin(folder, compression="zstd", max_bytes=1500, split_per_type=False)
    for n in range(6):
        record(
            archive,
            [trade("A", MS + n * 30_000, f"{100 + n}.50", "2"), b'{"ev":"Q","sym":"A","bp":1.10,"t":5}'],
        )
        record(archive, [b'{"ev":"ZZ","n":%d}' % n, b'{"ev":"XT","pair":"BTC-USD","p":4.522e-05}'], "crypto")
        archive.clock.advance(DAY_SECS / 5)
    archive.close()
    archive.run_facts = {"shifted": True}
    archive.restart(max_bytes=None, compression="none")
    record(archive, [trade("B", MS, "152.90", "1")])
    archive.close()
    archive.restart()
    record(archive, [trade("C", MS, "1", "1")])
    archive.kill()
    return folder


def recorded(folder: Path) -> list[tuple[str, int, str, str, bytes]]:
    """Return what is sealed, as the library reads it: run, number, feed, type, payload."""
    records = open_archive(folder, incomplete=True).records()
    return sorted(
        (one.run_id, one.seq, one.feed, one.type if one.type in CHANNELS else "other", one.payload)
        for one in records
        if b'"sym":"C"' not in one.payload
    )


def test_every_record_once_and_exact(market: Path, tmp_path: Path) -> None:
    """Each sealed record is in the folder of its feed, type and day, byte for byte; a second time adds nothing."""
    found = export(market, tmp_path / "lake")
    assert [(*row[:4], row[5]) for row in rows(tmp_path / "lake")] == recorded(market)
    assert found.records == len(recorded(market)) == 25
    assert {row[4] for row in rows(tmp_path / "lake")} >= {"2026-11-21", "2026-11-22"}
    for name in tree(tmp_path / "lake"):
        file = pq.ParquetFile(tmp_path / "lake" / name)
        seqs = file.read(["seq"])["seq"].to_pylist()
        assert seqs == sorted(seqs)
    before = tree(tmp_path / "lake")
    again = export(market, tmp_path / "lake")
    assert (again.segments, again.segments_before) == (0, found.segments)
    assert tree(tmp_path / "lake") == before


def test_columns(market: Path, tmp_path: Path) -> None:
    """A type has the same columns in every file: typed ones, times twice, the payload last; unknown ones say theirs."""
    dest = tmp_path / "lake"
    export(market, dest)
    for kind in ("T", "Q", "XT", "other"):
        schemas = [pq.read_schema(path) for path in dest.glob(f"feed=*/type={kind}/*/*.parquet")]
        assert len(schemas) > 1
        assert all(schema.equals(schemas[0], check_metadata=False) for schema in schemas)
        names = schemas[0].names
        assert names[:4] == ["run_id", "source", "seq", "ingest_ts"]
        assert names[-1] == "payload"
        assert not {"feed", "type", "date"} & set(names)
    scanned = (
        polars.scan_parquet(f"{dest}/feed=*/type=T/**/*.parquet", hive_partitioning=True)
        .sort("seq")
        .collect()
    )
    assert scanned["price"].to_list()[:2] == [100.5, 152.9]
    assert str(scanned["time"].dtype) == "Datetime(time_unit='ms', time_zone='UTC')"
    assert scanned["time"].dt.epoch("ms").to_list() == scanned["ts"].to_list()
    assert dict(
        scanned.group_by("run_id", "source").len().sort("run_id").select("run_id", "source").iter_rows()
    ) == {
        "run-1": "live",
        "run-2": "replay",
    }
    quotes = f"SELECT DISTINCT ts, epoch_ms(time), bid_price FROM '{dest}/*/type=Q/*/*.parquet'"
    assert duckdb.sql(quotes).fetchall() == [(5, 5, 1.1)]
    others = f"SELECT DISTINCT feed, channel, ts, time FROM '{dest}/*/type=other/*/*.parquet'"
    assert duckdb.sql(others).fetchall() == [("crypto", "ZZ", 0, None)]


def test_types_and_times_add_up(market: Path, tmp_path: Path) -> None:
    """What one export leaves out, by type or by time, the next one adds; both together are all of it."""
    dest = tmp_path / "lake"
    first = export(market, dest, Choice(frozenset({"T", "other"}), 0, START_NS // 1_000_000 + 1))
    assert 0 < first.records < 13
    export(market, dest, Choice(frozenset({"T"})))
    assert {row[3] for row in rows(dest)} == {"T", "other"}
    export(market, dest)
    assert [(*row[:4], row[5]) for row in rows(dest)] == recorded(market)


def test_several_processes_make_the_same(market: Path, tmp_path: Path) -> None:
    """The files of two processes are those of one, to the byte."""
    export(market, tmp_path / "one")
    export(market, tmp_path / "two", jobs=2)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_a_kill_at_every_step(tmp_path: Path) -> None:
    """Whatever step is the last one: all that has its final name is whole, and the next export comes to the same tree."""
    archive = begin(tmp_path / "archive", max_bytes=700, split_per_type=False)
    for n in range(3):
        record(archive, [trade("A", MS + n, "1.50", "2"), b'{"ev":"Q","sym":"A","bp":1.10,"t":5}'])
    archive.close()
    export(archive.folder, tmp_path / "whole")
    whole = tree(tmp_path / "whole")
    assert len(whole) == 4
    calls = 0
    while True:
        dest, disk = tmp_path / f"killed-{calls}", FaultyDisk()
        disk.calls_left = calls
        try:
            export(archive.folder, dest, disk=disk)
        except Killed:
            disk.kill()
        else:
            break
        assert tree(dest).items() <= whole.items()
        export(archive.folder, dest)
        assert tree(dest) == whole
        assert list((dest / UNFINISHED).iterdir()) == []
        noted = [json.loads(line) for line in (dest / LEDGER).read_bytes().splitlines()]
        assert sorted(file["file"] for line in noted[1:] for file in line["files"]) == sorted(whole)
        calls += 1
    assert calls > 20


def test_a_full_disk(market: Path, tmp_path: Path) -> None:
    """One line says so, with a status of its own; nothing half done has a name, and room is all that is wanted."""
    dest = tmp_path / "lake"
    export(market, tmp_path / "whole")
    for room in (0, 60, 5_000, 20_000):
        disk = FaultyDisk()
        disk.room_bytes = room
        with pytest.raises(NoRoom, match="disk is full; make room") as caught:
            export(market, dest, disk=disk)
        assert caught.value.exit_status == EXIT_NO_ROOM
        assert tree(dest).items() <= tree(tmp_path / "whole").items()
        assert not (dest / UNFINISHED).exists() or list((dest / UNFINISHED).iterdir()) == []
    export(market, dest)
    assert tree(dest) == tree(tmp_path / "whole")


def test_what_is_no_export_is_left_alone(market: Path, tmp_path: Path) -> None:
    """A folder with other files, a file, a foreign ledger, another layout, the archive itself: refused, nothing written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / LEDGER).write_text("no ledger\n")
    with Ledger(tmp_path / "flat", FLATFILE, Disk()):
        pass
    for name, words in {
        "full": "has thesis.txt and no _export.ndjson",
        "file": "is not a folder",
        "foreign": "not the ledger of an export",
        "flat": "of the layout flatfile",
    }.items():
        with pytest.raises(DestinationRefused, match=words) as caught:
            export(market, tmp_path / name)
        assert caught.value.exit_status == EXIT_USAGE
        assert not list(tmp_path.rglob("*.parquet"))
    result = CliRunner().invoke(command, [str(market), "--to", str(market / "lake")])
    assert isinstance(result.exception, DestinationRefused)
    assert not (market / "lake").exists()


def test_one_export_at_a_time(market: Path, tmp_path: Path) -> None:
    """While one is at work, another one is refused and changes nothing."""
    with (
        Ledger(tmp_path / "lake", HIVE, Disk()),
        pytest.raises(DestinationRefused, match="another export is at work"),
    ):
        export(market, tmp_path / "lake")
    export(market, tmp_path / "lake")


def test_a_file_that_is_gone_is_made_again(market: Path, tmp_path: Path) -> None:
    """What of the tree was deleted or cut off is made once more, and nothing besides."""
    dest = tmp_path / "lake"
    export(market, dest)
    whole = tree(dest)
    victims = [dest / name for name in sorted(whole)[::4]]
    victims[0].unlink()
    victims[1].write_bytes(b"PAR1")
    assert 0 < export(market, dest).segments <= 2
    assert tree(dest) == whole
    assert export(market, dest).segments == 0


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damage_is_said(tmp_path: Path, harm: str) -> None:
    """A damaged segment leaves nothing in the tree; --partial exports the rest, and has the status of damage then, too."""
    archive = begin(tmp_path / "archive", compression="zstd", max_bytes=600)
    for n in range(9):
        record(archive, [trade("A", MS + n, "1", "1")])
    archive.close()
    victim = sorted(archive.folder.glob("*.zst"))[1]
    if harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-5])
    else:
        victim.unlink()
    with pytest.raises(RecorderError, match=victim.name.removesuffix(".zst")) as caught:
        export(archive.folder, tmp_path / "lake")
    assert caught.value.exit_status == EXIT_DAMAGE
    result = CliRunner().invoke(
        command, [str(archive.folder), "--to", str(tmp_path / "lake"), "--partial", "--json"]
    )
    assert result.exit_code == EXIT_DAMAGE
    found = json.loads(result.stdout)
    assert victim.name.removesuffix(".zst") in found["problems"][0]
    assert 0 < len(rows(tmp_path / "lake")) < 9


def test_counts_are_held_against_the_manifest(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that got lost on the way ends the export, which names the segment; nothing of it is in the tree."""

    def lossy(*arguments: Any) -> Iterator[Any]:
        for partition, records in split(*arguments):
            yield partition, records.part(0, len(records) - 1)

    split = segment_files.split
    monkeypatch.setattr(segment_files, "split", lossy)
    with pytest.raises(RecorderError, match=r"polygon.*are not those that the manifest counts"):
        export(market, tmp_path / "lake")
    assert tree(tmp_path / "lake") == {}


def test_what_retention_took_is_said(tmp_path: Path) -> None:
    """Records that were deleted between two exports are counted, unless they are exported; not what was gone before."""
    archive = begin(tmp_path / "archive", max_bytes=600)
    for n in range(3):
        record(archive, [trade("A", MS + n, "1", "1")])
    archive.writer.rotate("size")
    export(archive.folder, tmp_path / "early")
    for n in range(6):
        record(archive, [trade("B", MS + n, "1", "1")])
    archive.close()
    archive.restart(retain_bytes=1)
    archive.writer.tick()
    archive.close()
    gone = {line["file"] for line in archive.manifest("segment_deleted")}
    deleted = sum(line["records"] for line in archive.manifest("segment_closed") if line["file"] in gone)
    found = export(archive.folder, tmp_path / "early")
    assert found.lost == deleted - 3 > 0
    assert f"{found.lost} records were deleted by retention before" in found.notes[-1]
    for _ in range(2):
        assert export(archive.folder, tmp_path / "late").lost == 0


def test_an_archive_that_was_compacted(tmp_path: Path) -> None:
    """What the tree has from files that are one now is not exported again; what was not exported at all still is."""
    archive = begin(tmp_path / "archive", split_per_type=True)
    event = b'{"ev":"%s","n":1}'
    for n in range(3):
        record(archive, [trade("A", MS + n, "1", "1"), event % b"ZZ", event % b"YY"])
        record(archive, [b'{"ev":"Q","sym":"A","t":5}'], "options")
        archive.writer.rotate("size")
    archive.close()
    compact(archive.folder, tmp_path / "compacted")
    export(archive.folder, tmp_path / "whole")
    for dest, types, new in ((tmp_path / "lake", set[str](), 0), (tmp_path / "trades", {"T"}, 9)):
        export(archive.folder, dest, Choice(frozenset(types)))
        assert export(tmp_path / "compacted", dest).records == new
        assert rows(dest) == rows(tmp_path / "whole")
        assert export(tmp_path / "compacted", dest).segments_before == 4
        assert export(archive.folder, dest).records == 0
    gone = min((tmp_path / "lake").glob("feed=*/type=T/*/*.parquet"))
    gone.unlink()
    with pytest.raises(
        DestinationRefused, match=r"has 2 of the 3 records of feed=stocks/type=T .* new folder"
    ):
        export(tmp_path / "compacted", tmp_path / "lake")
    export(archive.folder, tmp_path / "lake")
    assert rows(tmp_path / "lake") == rows(tmp_path / "whole")


def test_command(market: Path, tmp_path: Path) -> None:
    """It says what it did, in a line or as JSON; what is not sealed yet is noted, and a wrong type is a usage error."""
    run = CliRunner().invoke
    done = run(command, [str(market), str(market), "--to", str(tmp_path / "lake")])
    assert done.exit_code == 0
    assert "25 records of" in done.stdout
    assert "not sealed yet" in done.stderr
    again = run(command, [str(market), "--to", str(tmp_path / "lake"), "--json"])
    assert orjson.loads(again.stdout)["records"] == 0
    assert (
        "there are T, Q,"
        in run(command, [str(market), "--to", str(tmp_path / "x"), "--types", "TRADES"]).stderr
    )


def test_samples(tmp_path: Path) -> None:
    """Of each frame that the vendor documents, the payload is what came."""
    payloads = sample_payloads()
    archive = begin(tmp_path / "archive", split_per_type=False)
    record(archive, payloads)
    archive.close()
    export(archive.folder, tmp_path / "lake")
    assert [row[5] for row in rows(tmp_path / "lake")] == payloads


NUMBERS = st.one_of(
    st.integers(-(10**19), 10**19).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6).map(
        str
    ),
    st.sampled_from(["152.90", "4.522e-05", "1234567890123456789", "0.0", "-0", "1E5", "1.0"]),
)
TEXTS = st.sampled_from(['"\\u0054"', '"é"', '"\\""', '"x,\\"hostname\\":\\"y"', '"|\\\\"', '""'])


@settings(max_examples=5, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, TEXTS), min_size=20, max_size=60))
def test_fuzzed_numbers(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str, str]]) -> None:
    """Payloads byte for byte; sums over the files are those over the lines, as DuckDB adds both."""
    folder = tmp_path_factory.mktemp("fuzzed")
    archive = begin(folder / "archive")
    payloads = [
        f'{{"ev":"T","sym":"A","p":{price},"s": {number},"z":{{"hostname":{text}}},"t":{MS},"i":{text}}}'.encode()
        for price, number, text in values
    ]
    record(archive, payloads)
    archive.close()
    export(archive.folder, folder / "lake")
    assert [row[5] for row in rows(folder / "lake")] == payloads
    [lines] = archive.folder.glob("polygon.trades.ndjson")
    sums = "SELECT sum(CAST({p} AS DOUBLE) * CAST({s} AS DOUBLE)), count(*), sum(seq), sum({t}) FROM {source}"
    exported = sums.format(p="price", s="size", t="ts", source=f"'{folder}/lake/*/*/*/*.parquet'")
    structure = "{'seq': 'BIGINT', 'payload': 'STRUCT(p DOUBLE, s DOUBLE, t BIGINT)'}"
    source = f"read_json('{lines}', columns = {structure}, format = 'newline_delimited')"
    raw = sums.format(p="payload.p", s="payload.s", t="payload.t", source=source)
    assert duckdb.sql(exported).fetchall() == duckdb.sql(raw).fetchall()


def test_a_refused_write_is_no_traceback(market: Path, tmp_path: Path) -> None:
    """A file system that fails otherwise is named, with what it says."""
    disk = FaultyDisk()
    disk.faults["sync"] = Fault(errno.EIO)
    with pytest.raises(RecorderError, match=r"cannot write to .*Input/output error"):
        export(market, tmp_path / "lake", disk=disk)


def test_a_watch_reads_what_is_new(tmp_path: Path) -> None:
    """A manifest is looked at where it has grown, from there on; what is not about segments wakes nobody."""
    archive = begin(tmp_path / "archive", max_bytes=600)
    watch = ManifestWatch(archive.folder)
    record(archive, [trade("A", MS, "1", "1")])
    assert not watch.has_sealed()
    record(archive, [trade("A", MS, "1", "1"), trade("A", MS, "1", "1")])
    record(archive, [trade("A", MS, "1", "1")])
    assert watch.has_sealed()
    assert not watch.has_sealed()
    archive.writer.append("session_opened", cluster="stocks")
    assert not watch.has_sealed()
    archive.close()
    assert watch.has_sealed()
    with pytest.raises(NoArchive):
        ManifestWatch(tmp_path / "none").has_sealed()


def test_an_archive_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes the tree that the folder becomes, also where several processes are asked for; it is not followed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bucket").mkdir()
    archive = begin(tmp_path / "archive", max_bytes=600)
    for n in range(6):
        record(archive, [trade("A", MS + n, "1.50", "2")])
    archive.writer.rotate("size")
    export(archive.folder, tmp_path / "here")
    url = f"file://{tmp_path}/bucket"
    upload(archive, url, {})
    export(to_path(url), tmp_path / "there", jobs=2)
    assert len(tree(tmp_path / "here")) > 1
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    followed = CliRunner().invoke(command, [url, "--to", str(tmp_path / "more"), "--follow"])
    assert (followed.exit_code, "on this machine" in followed.stderr) == (2, True)


def test_readers_of_the_docs(market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/export.md says to DuckDB, Polars and pandas reads the trades of the tree."""
    export(market, tmp_path / "lake")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    [sql] = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    statement = sql.partition(";")[0].replace("2026-11-28", "2026-11-21")
    assert duckdb.sql(statement).fetchall()
    [python] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    scan, read, _ = python.splitlines()
    trades = eval(scan, {"polars": polars}).collect()  # noqa: S307 - our own page
    assert {"feed", "type", "date"} <= set(trades.columns)
    assert len(eval(read, {"pandas": pandas})) == len(trades) == 7  # noqa: S307 - the same
