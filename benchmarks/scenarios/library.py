"""How fast an archive is read by programs and in SQL, beside what else reads its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Final

from manifests import WrittenManifest

from benchmarks.archive import make_archive
from benchmarks.harness import PROGRAM_CPU, Broken, on
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_MEGABYTES: Final = 300
_SEGMENTS: Final = 1000
_SEGMENT_RECORDS: Final = 100_000
_WORKS: Final = (
    ("payloads, one by one", RECORDER, "payloads"),
    ("records, one by one", RECORDER, "records"),
    ("those of one symbol in 40", RECORDER, "one symbol"),
    ("a table in parts", RECORDER, "arrow batches"),
    ("a table in memory", RECORDER, "arrow table"),
    ("a table in memory", "DuckDB read_json", "duckdb table"),
    ("a table in memory", "Polars scan_ndjson", "polars table"),
    ("a sum over trades", RECORDER, "query sum"),
    ("a sum over trades", "DuckDB read_json", "duckdb sum"),
    ("a sum over trades", "Polars scan_ndjson", "polars sum"),
)
_COUNT: Final = "a count of 100 million records"


def _read(plan: Plan, codec: str, way: str) -> Run:
    with plan.scratch() as folder:
        size_bytes = int(plan.pick(_MEGABYTES, 10)) * 1_000_000
        make_archive(folder / "polygon.ndjson", codec, size_bytes, segment_bytes=2 * size_bytes)
        return _measured(folder, way)


def _counted(plan: Plan) -> Run:
    """Count by the manifest of an archive whose files have no content but their size."""
    with plan.scratch() as folder:
        manifest = WrittenManifest(folder)
        manifest.start("2026-11-23 14:30:00", "stocks")
        for number in range(int(plan.pick(_SEGMENTS, 20))):
            name = f"polygon.20261123T14{number // 60:02d}{number % 60:02d}000Z.ndjson"
            seq = number * _SEGMENT_RECORDS
            manifest.add(
                "segment_closed",
                "2026-11-23 14:31:00",
                file=name,
                records=_SEGMENT_RECORDS,
                bytes=300 * _SEGMENT_RECORDS,
                sha256=f"{number:064x}",
                first_seq=seq + 1,
                last_seq=seq + _SEGMENT_RECORDS,
                first_ingest_ts=1_795_000_000_000 + number,
                last_ingest_ts=1_795_000_000_000 + number,
                counts={"T": _SEGMENT_RECORDS},
                reason="size",
                offset=0,
            )
            with (folder / name).open("wb") as file:
                file.truncate(300 * _SEGMENT_RECORDS)
        manifest.stop("2026-11-23 15:00:00")
        sql = "SELECT count(*) FROM trades"
        command = [*on(PROGRAM_CPU), sys.executable, "-m", "recorder", "query", "--json", str(folder), sql]
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        secs = time.monotonic() - began
    if process.returncode:
        raise Broken(f"query ended with {process.returncode}: {said[-200:]!r}")
    [count] = json.loads(said).values()
    return Run(
        {
            "records": count,
            "records_per_cpu_sec": count / (usage.ru_utime + usage.ru_stime),
            "secs": secs,
            "rss_mb": usage.ru_maxrss * 1024 / 1e6,
        }
    )


def _measured(folder: Path, way: str) -> Run:
    command = [*on(PROGRAM_CPU), sys.executable, "-m", "benchmarks.reading", way, str(folder)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "POLARS_MAX_THREADS": "1"})
    if done.returncode:
        raise Broken(f"reading ended with {done.returncode}: {done.stderr[-300:]!r}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Run(
        {
            "records": found["records"],
            "records_per_cpu_sec": found["records"] / found["cpu_secs"],
            "secs": found["secs"],
            "rss_mb": found["rss_mb"] - found["before_mb"],
        }
    )


SCENARIO = Scenario(
    number=20,
    name="library",
    question="How fast is an archive read by programs and in SQL?",
    columns=(
        Column("records", "records"),
        Column("records_per_cpu_sec", "records per CPU second"),
        Column("secs", "wall time, s", ".2f"),
        Column("rss_mb", "memory for it, MB"),
    ),
    cases=lambda plan: [
        *(Case(work, who, partial(_read, codec="none", way=way)) for work, who, way in _WORKS),
        Case("a table in parts, of zstd", RECORDER, partial(_read, codec="zstd", way="arrow batches")),
        Case(_COUNT, RECORDER, _counted),
    ],
    targets=(
        Target(
            "≥ 1,000,000 records/s of the API, raw",
            "payloads, one by one",
            "records_per_cpu_sec",
            at_least=1_000_000,
        ),
        Target(
            "≥ 1,000,000 records/s as Arrow", "a table in parts", "records_per_cpu_sec", at_least=1_000_000
        ),
        Target("100 million records counted in ≤ 1 s", _COUNT, "secs", at_most=1.0, form=".2f"),
    ),
    note="One core. Four quotes for each trade, in a file that the recorder holds against its checksum first; peers check "
    "nothing. Tables have all columns of both, and the exact payload. Those of peers are without conditions, of which there "
    "are two kinds, and without the payload, which they would rewrite (`152.90` becomes `152.9`). The count is a command, "
    "and what it takes to start it counts.",
)
