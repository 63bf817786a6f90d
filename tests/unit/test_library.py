"""`recorder.open_archive`: each record once, byte for byte; nothing is read in vain, and no file is read as less."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy
import pytest
from archives import Archive, archive_settings
from recorded_events import NUMBERS, START_MS, closed, event, record, sample_events

import recorder
from recorder.archive.recorded_segment import Segment
from recorder.polygon.typed_columns import PAYLOAD, PAYLOAD_COLUMNS, RECORD_COLUMNS, TypedColumn, columns_of

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """An archive of two runs, each type in a file of its own; the second run begins a minute later."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", split_per_type=True)).open()
    record(archive, [event("TQ"[number % 2], number, f"S{number % 3}") for number in range(60)])
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    record(archive, [event("T", number, f"S{number % 3}") for number in range(60, 90)])
    archive.close()
    return tmp_path


def columns_table() -> list[str]:
    """Return the rows of the table of columns in docs/api.md, as the code has them."""
    channels: dict[tuple[TypedColumn, ...], list[str]] = {}
    for code, columns in PAYLOAD_COLUMNS.items():
        channels.setdefault(columns, []).append(f"`{code}`")
    return [
        f"| {' '.join(codes)} | "
        + ", ".join(f"`{one.name}`" + (f" {one.field}" if one.field != one.name else "") for one in columns)
        + " |"
        for columns, codes in channels.items()
    ]


def test_what_programs_use_is_what_it_was(parted: Path) -> None:
    """A name or a parameter that goes breaks programs; one that comes belongs here and into docs/api.md."""
    surface = {
        f"{owner.__name__}.{name}": str(inspect.signature(found))
        for owner in (recorder.Archive, recorder.Selection)
        for name, found in vars(owner).items()
        if inspect.isfunction(found) and not name.startswith("_")
    }
    moment = "int | str | datetime | None' = None"
    assert surface == {
        "Archive.records": (
            "(self, *, types: 'str | Iterable[str] | None' = None, symbols: 'str | Iterable[str] | None' = None, "
            f"start: '{moment}, end: '{moment}) -> 'Selection'"
        ),
        "Archive.gaps": "(self) -> 'list[Gap]'",
        "Archive.segments": "(self) -> 'list[ArchiveSegment]'",
        "Archive.runs": "(self) -> 'list[ArchiveRun]'",
        "Selection.payloads": "(self) -> 'Iterator[bytes]'",
        "Selection.count": "(self) -> 'int'",
        "Selection.arrow_batches": "(self) -> 'Iterator[pyarrow.RecordBatch]'",
        "Selection.to_arrow": "(self) -> 'pyarrow.Table'",
        "Selection.to_polars": "(self) -> 'polars.DataFrame'",
        "Selection.to_pandas": "(self) -> 'pandas.DataFrame'",
    }
    assert str(inspect.signature(recorder.open_archive)) == (
        "(path: 'str | os.PathLike[str]', *, incomplete: 'bool' = False) -> 'Archive'"
    )
    assert recorder.Record.__struct_fields__ == (
        *("ingest_ts", "type", "symbol", "feed", "ts", "seq", "raw", "run_id"),
    )
    assert recorder.__all__ == [
        *("Altered", "Archive", "ArchiveError", "ArchiveRun", "ArchiveSegment"),
        *("Event", "Follower", "Gap", "Incomplete", "KeyRefused"),
        *("LeftOut", "Lost", "NoArchive", "NotRecorded", "PackageMissing"),
        *("Record", "RecorderError", "Selection", "StoreAway", "StoreError"),
        *("StoreRefused", "TlsFailed", "TopicsRefused", "Unreadable", "follow"),
        *("open_archive",),
    ]
    assert [name for name in recorder.__all__ if not hasattr(recorder, name)] == []
    archive = recorder.open_archive(parted)
    assert {name for name in vars(archive) if not name.startswith("_")} == {"path", "problems", "notes"}
    for owner, names in (
        (recorder.Archive, "counts"),
        (recorder.Record, "payload"),
        (recorder.ArchiveRun, "run_id started_ms ended_ms clusters records dropped"),
        (
            recorder.ArchiveSegment,
            "path run_id records counts size_bytes sha256 codec first_seq first_ingest_ms last_ingest_ms",
        ),
        (recorder.Gap, "cluster from_ms to_ms reason run_id"),
    ):
        assert [name for name in names.split() if not hasattr(owner, name)] == []
    for error in (
        recorder.Altered,
        recorder.Incomplete,
        recorder.NoArchive,
        recorder.NotRecorded,
        recorder.Unreadable,
    ):
        assert issubclass(error, recorder.ArchiveError)
    assert issubclass(recorder.ArchiveError, recorder.RecorderError)
    assert issubclass(recorder.StoreAway, recorder.StoreError)
    assert issubclass(recorder.StoreRefused, recorder.StoreError)
    documented = PAGE.read_text()
    names = [*(name.rpartition(".")[2] for name in surface), *recorder.Record.__struct_fields__]
    assert [name for name in names if f"`{name}" not in documented and f".{name}(" not in documented] == []
    errors = documented.partition("| error | when |\n")[2].partition("\n\n")[0]
    caught = {name for row in errors.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert "NoArchive" in caught
    assert caught <= {*recorder.__all__}
    fields = {
        field.name
        for one in (recorder.ArchiveRun, recorder.ArchiveSegment, recorder.Gap)
        for field in dataclasses.fields(one)
    }
    assert [name for name in sorted(fields) if f"`{name}`" not in documented] == []
    assert [row for row in columns_table() if row not in documented.splitlines()] == []


def test_the_examples_of_the_page_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = START_MS - 5
    closed(
        tmp_path / "data",
        [
            ("T", "AAPL", b'{"ev":"T","sym":"AAPL","p":152.90,"s":100,"t":%d}' % t),
            ("Q", "MSFT", b'{"ev":"Q","sym":"MSFT","bp":1.5,"t":%d}' % t),
            ("T", "AAPL", b'{"ev":"T","sym":"AAPL","p":152.91,"s":0,"ds":"0.5","t":%d}' % t),
            ("Q", "MSFT", b'{"ev":"Q","sym":"MSFT","bp":2,"t":%d}' % t),
        ],
    )
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert found.attempted > 10
    assert found.failed == 0


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_byte_of_the_samples_comes_back(tmp_path: Path, compression: str) -> None:
    """In records, alone, and in a table."""
    events = [*sample_events(), ("T", "T", NUMBERS)]
    archive = recorder.open_archive(closed(tmp_path, events, compression=compression))
    payloads = [payload for _, _, payload in events]
    assert len(payloads) > 50
    assert list(archive.records().payloads()) == payloads
    assert [one.payload for one in archive.records()] == payloads
    table = archive.records().to_arrow()
    assert [text.encode() for text in table["payload"].to_pylist()] == payloads
    assert (
        table["seq"].to_pylist() == [one.seq for one in archive.records()] == list(range(1, len(events) + 1))
    )
    assert table["type"].to_pylist() == [code for code, _, _ in events]


def test_columns_are_what_the_payload_says(tmp_path: Path) -> None:
    archive = recorder.open_archive(
        closed(
            tmp_path,
            [
                ("T", "T", NUMBERS),
                (
                    *("T", "A"),
                    b'{"ev":"T","p":"24445.00","s":0,"ds":"0.740474","c":[12,37],"pt":1764086430905642800,"i":1.50}',
                ),
                (
                    "Q",
                    "A",
                    b'{"ev":"Q","bp":1,"ap":null,"c":1,"i":[604],"q":99999999999999999999,"bt":1734103628}',
                ),
                ("XL2", "X", b'{"ev":"XL2","b":[[33712.7,0.18635]],"a":[],"x":"1","r":1610462411128}'),
                ("T", "B", b'{"ev":"T","p":"no number","s":1e999,"c":["x"],"x":true,"q":7}'),
            ],
        )
    )
    table = archive.records(types=["T", "Q", "XL2"]).to_arrow()
    assert table.schema.names == [
        *(column.name for column in RECORD_COLUMNS),
        *(column.name for column in columns_of(["T", "Q", "XL2"])),
        PAYLOAD.name,
    ]
    rows = [{key: value for key, value in row.items() if value is not None} for row in table.to_pylist()]
    own = {column.name for column in (*RECORD_COLUMNS, PAYLOAD)}
    assert [{key: value for key, value in row.items() if key not in own} for row in rows] == [
        {"price": 152.9, "size": 4.522e-05, "id": "1234567890123456789", "sequence_number": 2**63 - 1},
        {
            "price": 24445.0,
            "size": 0.0,
            "decimal_size": "0.740474",
            "conditions": [12, 37],
            "id": "1.50",
            "participant_ts": 1764086430905,
        },
        {"bid_price": 1.0, "conditions": [1], "indicators": [604], "bid_ts": 1734103628000},
        {"bids": [[33712.7, 0.18635]], "asks": [], "exchange": 1, "received_ts": 1610462411128},
        {"sequence_number": 7},
    ]
    assert {row["run_id"] for row in rows} == {"run-1"}


def test_only_what_the_manifest_does_not_rule_out_is_read(
    parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = recorder.open_archive(parted)
    read: list[str] = []
    blocks = Segment.blocks

    def watched(self: Segment, *args: Any) -> Iterator[bytes]:
        read.append(f"{self.run_id} {self.active.name}")
        return blocks(self, *args)

    monkeypatch.setattr(Segment, "blocks", watched)
    assert archive.records().count() == 90
    assert archive.records(types="Q").count() == 30
    assert archive.counts == {"Q": 30, "T": 60}
    assert [segment.records for segment in archive.segments()] == [30, 30, 30]
    assert read == []
    assert len(list(archive.records(types="Q"))) == 30
    assert read == ["run-1 polygon.quotes.ndjson"]
    read.clear()
    assert len(list(archive.records(start=START_MS + 30_000))) == 30
    assert read == ["run-2 polygon.trades.ndjson"]


def test_records_are_chosen_by_type_symbol_and_time(parted: Path) -> None:
    archive = recorder.open_archive(parted)
    everything = list(archive.records())
    assert "run-1:1, 1795237802335, stocks, T:S0, b'{" in repr(everything[0])
    assert [(one.run_id, one.seq) for one in everything] == [
        *(("run-1", seq) for seq in range(1, 61)),
        *(("run-2", seq) for seq in range(1, 31)),
    ]
    later = START_MS + 60_000
    for chosen, is_it in (
        (archive.records(types=["T"], symbols="S1"), lambda one: one.type == "T" and one.symbol == "S1"),
        (archive.records(symbols=["S*"]), lambda one: True),
        (
            archive.records(symbols=["S0", "S2"], end=later),
            lambda one: one.symbol != "S1" and one.ingest_ts < later,
        ),
        (
            archive.records(start=datetime.fromtimestamp(later / 1000, UTC)),
            lambda one: one.ingest_ts >= later,
        ),
        (archive.records(start=numpy.int64(later)), lambda one: one.ingest_ts >= later),
        (archive.records(start=str(later), end="2100-01-01"), lambda one: one.ingest_ts >= later),
    ):
        expected = [one for one in everything if is_it(one)]
        assert expected
        assert list(chosen) == expected
        assert list(chosen) == expected, "a second time"
        assert chosen.count() == len(expected)
        assert chosen.to_arrow()["payload"].to_pylist() == [one.payload.decode() for one in expected]


def test_the_folder_that_one_is_in_is_an_archive(
    parted: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or none, which is said."""
    for here in (".", "", "./"):
        monkeypatch.chdir(parted)
        assert recorder.open_archive(here).records().count() == 90
        monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
        with pytest.raises(recorder.NoArchive, match=r"^\. has no manifest"):
            recorder.open_archive(here)


def test_what_does_not_occur_is_said(parted: Path) -> None:
    archive = recorder.open_archive(parted)
    with pytest.raises(recorder.NotRecorded, match="no records of type XT; it has Q, T"):
        archive.records(types=["T", "XT"])
    with pytest.raises(recorder.NotRecorded, match="no record of AAPL is"):
        archive.records(symbols=["S1", "AAPL"]).to_arrow()
    assert list(archive.records(symbols="S1", start="2100-01-01")) == [], "nothing was read"
    for nothing in (archive.records(symbols=[]), archive.records(types=[])):
        assert (list(nothing), nothing.count(), nothing.to_arrow().num_rows) == ([], 0, 0)
    with pytest.raises(ValueError, match="Unix ms"):
        archive.records(start="yesterday")
    with pytest.raises(ValueError, match="time zone"):
        archive.records(start=datetime(2026, 11, 21))
    for no_ms in (1.5e12, date(2026, 11, 21)):
        with pytest.raises(TypeError, match="must be Unix ms"):
            archive.records(start=no_ms)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="later than any date"):
        archive.records(start=START_MS * 1_000_000)
    with pytest.raises(recorder.NoArchive, match="has no manifest"):
        recorder.open_archive(Path(__file__).parent)
    with pytest.raises(recorder.NoArchive, match="does not exist"):
        recorder.open_archive(parted / "elsewhere")


def test_a_type_that_nobody_knows_is_looked_for(tmp_path: Path) -> None:
    """Behind the first of such types a manifest counts them together."""
    archive = recorder.open_archive(closed(tmp_path, [event(f"Z{number}", number) for number in range(80)]))
    assert archive.counts["other"] > 1
    last = archive.records(types=["Z1", "Z79"])
    assert ([one.type for one in last], last.count()) == (["Z1", "Z79"], 2)
    for missing in (archive.records(types=["Z79", "ZZ"]), archive.records(types="ZZ", symbols="AAPL")):
        with pytest.raises(recorder.NotRecorded, match="no record of ZZ"):
            missing.count()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_file_that_was_cut_off_is_never_read_as_less(tmp_path: Path, compression: str) -> None:
    """Neither is one that changed after it was found whole."""
    events = [event("T", number) for number in range(2_000)]
    archive = recorder.open_archive(closed(tmp_path, events, compression=compression))
    assert len(list(archive.records())) == 2_000
    (segment,) = archive.segments()
    data = segment.path.read_bytes()
    segment.path.write_bytes(data[: data.rfind(b"\n", 0, -1) + 1] if compression == "none" else data[:-9])
    for opened in (archive, recorder.open_archive(tmp_path, incomplete=True)):
        with pytest.raises(recorder.ArchiveError, match=r"verify|missing|damaged"):
            next(opened.records().payloads())


def test_a_missing_file_is_said_before_anything_is_read(parted: Path) -> None:
    whole = recorder.open_archive(parted)
    quotes = next(one for one in whole.segments() if one.counts.get("Q"))
    quotes.path.unlink()
    with pytest.raises(recorder.Incomplete, match=r"missing, with 30 records\n.*incomplete=True"):
        recorder.open_archive(parted)
    rest = recorder.open_archive(parted, incomplete=True)
    assert len(rest.problems) == 1
    assert len(list(rest.records())) == 60
    assert len(list(whole.records(types="Q"))) == 30, "it could have been renamed, so it was opened"


def test_an_archive_is_read_while_it_is_written(tmp_path: Path) -> None:
    """As it was when it was opened: what comes later is not in it, and what was rotated is not taken for it."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    record(archive, [event("T", 1)])
    archive.writer.flush()
    opened = recorder.open_archive(tmp_path)
    record(archive, [event("Q", 2)] * 5)
    archive.writer.flush()
    assert [(one.seq, one.type) for one in opened.records()] == [(1, "T")]
    assert opened.counts == {"T": 1}
    (run,) = opened.runs()
    assert (run.ended_ms, run.records) == (None, 1)
    assert recorder.open_archive(tmp_path).records(types="Q").count() == 5
    archive.writer.rotate("signal")
    record(archive, [event("T", number) for number in range(9)])
    archive.writer.flush()
    assert [(one.seq, one.type) for one in opened.records()] == [(1, "T")]
    late = recorder.open_archive(tmp_path)
    (tmp_path / "polygon.ndjson").write_bytes(b"")
    with pytest.raises(recorder.Altered, match="it was cut or written over since"):
        list(late.records())
    archive.close()


def test_several_archives_come_one_after_another(tmp_path: Path) -> None:
    """Though their times interleave: each run stays together, by its numbers."""
    for place, name in enumerate(("b", "a")):
        archive = Archive(archive_settings(tmp_path / name / "polygon.ndjson", flush_every=1)).open()
        archive.clock.advance(place)
        for _ in range(3):
            archive.write(name.upper())
            archive.clock.advance(10)
        archive.close()
    opened = recorder.open_archive(tmp_path)
    assert [(one.type, one.seq) for one in opened.records()] == [
        (kind, seq) for kind in "AB" for seq in (1, 2, 3)
    ]
    ordered = opened.records().to_arrow().sort_by("ingest_ts")
    assert ordered["type"].to_pylist() == ["B", "A"] * 3, "the clock of one is a second ahead"


def test_runs_and_gaps(tmp_path: Path) -> None:
    """A run that ended, a gap between sessions, and a run that was killed."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    began_ms = archive.clock.wall_ns() // 1_000_000
    archive.writer.append("session_opened", cluster="stocks", at=began_ms)
    record(archive, [event("T", 1)])
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    gap = {"cluster": "stocks", "from": began_ms + 5, "to": began_ms + 60_000, "reason": "not_running"}
    archive.writer.append("gap", **gap)
    archive.writer.append("session_opened", cluster="stocks", at=began_ms + 60_000)
    record(archive, [event("T", number) for number in range(3)])
    archive.writer.flush()
    archive.kill()
    opened = recorder.open_archive(tmp_path)
    first, second = opened.runs()
    assert (first.run_id, first.records, first.clusters) == ("run-1", 1, frozenset({"stocks"}))
    assert first.ended_ms is not None
    assert (second.run_id, second.records, second.ended_ms) == ("run-2", 3, None)
    ended, still_open = opened.gaps()
    assert ended == recorder.Gap("stocks", began_ms + 5, began_ms + 60_000, "not_running", "run-2")
    assert still_open.reason == "killed"


def test_frames_have_the_same_rows(parted: Path) -> None:
    chosen = recorder.open_archive(parted).records(types="T", symbols="S1")
    table = chosen.to_arrow()
    polars, pandas = chosen.to_polars(), chosen.to_pandas()
    assert polars["payload"].to_list() == pandas["payload"].to_list() == table["payload"].to_pylist()
    assert polars["sequence_number"].to_list() == pandas["sequence_number"].tolist()
    assert str(pandas["trf_id"].dtype) == "Int64", "whole numbers stay whole where there are none"


def test_without_a_package_the_error_says_what_to_install(
    parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recorder.open_archive(parted).records()
    monkeypatch.setattr("recorder.library.arrow.find_spec", lambda name: None)
    with pytest.raises(recorder.PackageMissing, match="pip install polars"):
        chosen.to_polars()
    with pytest.raises(recorder.PackageMissing, match="pip install pandas"):
        chosen.to_pandas()
    monkeypatch.delitem(sys.modules, "recorder.library.arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(recorder.PackageMissing, match="pip install pyarrow"):
        chosen.to_arrow()
