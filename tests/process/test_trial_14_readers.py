"""Trial 14: sealed files, read by everything that people read them with."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars
import pyarrow
import pyarrow.json
import pytest
import zstandard
from commands import live_settings, running, simulating
from oracle import read_manifest, verified
from tools import tool
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]


class Found(NamedTuple):
    """What a reader says of a file; the manifest says the same of its segment."""

    records: int
    seqs: int
    """Sum of all `seq`."""
    ts_max: int


def by_python(path: Path) -> Found:
    """Read with the standard library, and zstandard as its documentation says."""
    if path.suffix == ".gz":
        text = gzip.decompress(path.read_bytes())
    elif path.suffix == ".zst":
        with path.open("rb") as file:
            text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    else:
        text = path.read_bytes()
    records = [json.loads(line) for line in text.splitlines()]
    return Found(len(records), sum(r["seq"] for r in records), max(r["ts"] for r in records))


def by_tools(path: Path) -> Found:
    """Read with cat, zcat or zstdcat, and jq."""
    cat = {".gz": tool("zcat"), ".zst": tool("zstdcat")}.get(path.suffix, "cat")
    program = "[inputs | [.seq, .ts]] | [length, (map(.[0]) | add), (map(.[1]) | max)] | @tsv"
    with subprocess.Popen([cat, str(path)], stdout=subprocess.PIPE) as reader:
        result = subprocess.run(
            [tool("jq"), "-nr", program], stdin=reader.stdout, capture_output=True, text=True, check=True
        )
        assert reader.wait() == 0
    return Found(*map(int, result.stdout.split()))


def by_duckdb(path: Path) -> Found:
    """Read with DuckDB."""
    query = f"select count(*), sum(seq)::hugeint, max(ts) from read_ndjson('{path}')"
    [row] = duckdb.sql(query).fetchall()
    return Found(*map(int, row))


def by_polars(path: Path) -> Found:
    """Read with Polars; the columns are named, since payloads of different channels have no one schema."""
    frame = polars.scan_ndjson(path, schema={"seq": polars.Int64, "ts": polars.Int64}).collect()
    return Found(len(frame), int(frame["seq"].sum()), int(frame["ts"].max()))


def by_pyarrow(path: Path) -> Found:
    """Read with pyarrow."""
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    schema = pyarrow.schema([("seq", pyarrow.int64()), ("ts", pyarrow.int64())])
    with pyarrow.input_stream(str(path), compression=compression) as stream:
        table = pyarrow.json.read_json(
            stream, parse_options=pyarrow.json.ParseOptions(schema, unexpected_field_behavior="ignore")
        )
    seqs, times = table["seq"].to_pylist(), table["ts"].to_pylist()
    return Found(table.num_rows, sum(seqs), max(times))


READERS: dict[str, Callable[[Path], Found]] = {
    "Python": by_python,
    "cat/zcat/zstdcat and jq": by_tools,
    "DuckDB": by_duckdb,
    "Polars": by_polars,
    "pyarrow": by_pyarrow,
}


def told(segment: dict[str, Any]) -> Found:
    """Return what the manifest says; files of one run that follow only one channel have no holes in `seq`."""
    first, last = segment["first_seq"], segment["last_seq"]
    assert last - first + 1 == segment["records"]
    return Found(segment["records"], (first + last) * segment["records"] // 2, segment["max_ts"])


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_reader_counts_what_the_manifest_says(tmp_path: Path, compression: str) -> None:
    """Python, zcat, zstdcat, jq, DuckDB, Polars and pyarrow read each sealed file to its end, and agree."""
    events = scale(50_000, 2_000_000)
    folder = tmp_path / "archive"
    market = ("--cluster", "stocks", "--rate", "40000", "--fault", f"stall:after={events}")
    with simulating(*market, cwd=tmp_path) as port:
        settings = live_settings(port, folder, NDJSON_MAX_BYTES="4MiB", NDJSON_COMPRESSION=compression)
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.received() >= events, "data", deadline_secs=300)
            # A stop leaves files to compress to the next start.
            eventually_sync(
                lambda: (
                    not (
                        recorder.metric("polygon_sink_pending_bytes")
                        + recorder.metric("polygon_compress_pending_files")
                    )
                ),
                "all of it in its files, and these compressed",
                deadline_secs=600,
            )
            assert recorder.stop() == 0
    verified(folder)
    suffix = {"none": "", "gzip": ".gz", "zstd": ".zst"}[compression]
    segments = read_manifest(folder, "segment_closed")
    read = 0
    for segment in segments:
        path = folder / (segment["file"] + (suffix if segment["reason"] == "size" else ""))
        expected = told(segment)
        assert {name: reader(path) for name, reader in READERS.items()} == dict.fromkeys(READERS, expected)
        read += expected.records
    assert read == recorder.logged("balance")[0]["recorded"]
    report(
        14,
        fault=f"other readers, compression `{compression}`",
        injected=f"every sealed file read by {', '.join(READERS)}",
        holds="count, sum of `seq` and greatest `ts` of each reader are the manifest's",
        figure=f"{len(segments)} files, {read:,} records, all equal",
    )
