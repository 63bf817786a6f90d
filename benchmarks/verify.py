"""How fast `recorder verify` reads an archive back: plain bytes a second of wall time, and of one core's time.

    python -m benchmarks.verify --megabytes 300 --jobs 1 --jobs 2

The archive is made by the real formatter and writer from a seeded market, once for each codec, and read by the real
command. MB are 10^6 plain bytes; CPU time is user and system of all processes. What it takes to start the command is
part of it; the facts tell how much that is for one process, and the last column does without that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from recorder.archive.policy import FileNames
from recorder.archive.record import Columns, Formatter, Lines, RecordBatch, summarise
from recorder.archive.writer import ArchiveWriter
from recorder.clock import SystemClock
from recorder.settings import ArchiveSettings
from recorder.stats import ArchiveStats, SinkStats

START_MS = 1_795_237_802_335
BATCH_EVENTS = 100
SYMBOLS = [f"{letter}{tail}" for letter in "ABCDEFGHIJ" for tail in ("", "A", "BC", "DEF")]


def main() -> int:
    """Make the archives, read them, print a table or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=300, help="plain size of the archive")
    parser.add_argument("--segments", type=int, default=8, help="files it is split into")
    parser.add_argument("--codec", choices=["none", "gzip", "zstd"], action="append", help="default: all")
    parser.add_argument("--jobs", type=int, action="append", help="processes; default 1 and 2")
    parser.add_argument("--runs", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for codec in options.codec or ["none", "gzip", "zstd"]:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            make(Path(folder), codec, options.megabytes * 1_000_000, options.segments)
            for jobs in options.jobs or [1, 2]:
                runs = [measure(Path(folder), jobs) for _ in range(options.runs)]
                rows.append({"codec": codec, "jobs": jobs, **min(runs, key=lambda run: run["cpu_secs"])})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        start = min(measure(Path(folder), 1)["cpu_secs"] for _ in range(3))
    for row in rows:
        row["mb_per_cpu_sec"] = row["bytes"] / 1e6 / (row["cpu_secs"] - start)
    facts = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "start_cpu_secs": round(start, 2),
    }
    if options.json:
        print(json.dumps({"facts": facts, "results": rows}, indent=2))
        return 0
    print(json.dumps(facts))
    print(
        f"{'codec':>6} {'jobs':>5} {'records':>11} {'MB':>6} {'secs':>7} {'CPU s':>7} {'MB/s':>7} {'MB/CPU s':>9}"
    )
    for row in rows:
        megabytes = row["bytes"] / 1e6
        print(
            f"{row['codec']:>6} {row['jobs']:>5} {row['records']:>11,} {megabytes:>6,.0f} {row['secs']:>7.2f}"
            f" {row['cpu_secs']:>7.2f} {megabytes / row['secs']:>7,.0f} {row['mb_per_cpu_sec']:>9,.0f}"
        )
    return 0


def make(folder: Path, codec: str, size_bytes: int, segments: int) -> None:
    """Write an archive of trades and quotes, sealed but for its last file."""
    settings = ArchiveSettings(
        dest=str(folder / "polygon.ndjson"),
        max_bytes=size_bytes // segments,
        rotate_secs=None,
        compression=codec,  # type: ignore[arg-type]
        split_per_type=False,
        flush_every=1_000_000,
        flush_interval_ms=1000,
        fsync="never",
        channel_cap=2048,
        buffer_bytes=1 << 28,
        warn_interval_secs=5,
        reopen=True,
        retain_bytes=None,
        retain_secs=None,
        pressure="stop",
        min_free_bytes=0,
    )
    names = FileNames(settings.dest, split_per_type=False)
    clock = SystemClock()
    writer = ArchiveWriter(
        settings,
        names,
        run_id="bench",
        clock=clock,
        stats=ArchiveStats(),
        books=SinkStats("archive"),
        run_facts={},
        background=False,
    )
    writer.open()
    formatter = Formatter("stocks", "recorder-1", "0.1.0")
    file = names.active("stocks", "T")
    written = seq = 0
    symbols = cycle(SYMBOLS)
    while written < size_bytes:
        ms = START_MS + seq // 50
        columns = Columns([], [], [], [], range(seq + 1, seq + 1 + BATCH_EVENTS))
        for number in columns.seqs:
            _add_event(columns, next(symbols), ms, number)
        seq += BATCH_EVENTS
        data = formatter.format(ms, columns)
        written += len(data)
        writer.write(
            RecordBatch("stocks", ms * 1_000_000, [Lines("stocks", file, data, summarise(data))], b"")
        )
    writer.close("benchmark", None, clock.monotonic_ns() + 600_000_000_000)


def _add_event(columns: Columns, symbol: str, ms: int, seq: int) -> None:
    """Add a trade for every four quotes, with the fields that the vendor sends."""
    name, price, size = symbol.encode(), 100 + seq % 9973 / 100, 1 + seq % 300
    if seq % 5:
        body = b'"ev":"Q","sym":"%b","c":1,"bx":4,"ax":7,"bp":%.2f,"ap":%.2f,"bs":%d,"as":%d,"t":%d,"q":%d,"z":3' % (
            name, price, price + 0.01, size, size + 3, ms, seq
        )  # fmt: skip
    else:
        body = b'"ev":"T","sym":"%b","i":"%d","x":4,"p":%.4f,"s":%d,"c":[14,41],"t":%d,"q":%d,"z":3' % (
            name, 52_983_525_000_000 + seq, price, size, ms, seq
        )  # fmt: skip
    columns.channels.append("Q" if seq % 5 else "T")
    columns.symbols.append(symbol)
    columns.times_ms.append(ms)
    columns.bodies.append(body)


def measure(folder: Path, jobs: int) -> dict[str, float]:
    """Verify once; give what was read, and the time it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "recorder", "verify", "--json", "--jobs", str(jobs), str(folder)],
        capture_output=True,
        check=True,
    )
    secs = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(result.stdout)
    cpu_secs = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"records": report["records"], "bytes": report["bytes"], "secs": secs, "cpu_secs": cpu_secs}


if __name__ == "__main__":
    sys.exit(main())
