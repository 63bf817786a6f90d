"""How fast `recorder export` makes Parquet of an archive, and in how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial

from benchmarks.archive import make_archive
from benchmarks.harness import LOAD_CPU, PROGRAM_CPU, Broken, on
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_MEGABYTES = 1_200
SEGMENTS = (1, 8)


def work(codec: str, segments: int, jobs: int) -> str:
    """Return the name of a case."""
    files = f"{segments} segment{'s' if segments > 1 else ''}"
    return f"{codec}, {files}, {jobs} process{'es' if jobs > 1 else ''}"


def _exported(plan: Plan, codec: str, segments: int, jobs: int) -> Run:
    with plan.scratch() as folder:
        size_bytes = int(plan.pick(_MEGABYTES, 20)) * 1_000_000
        archive, tree = folder / "archive", folder / "tree"
        make_archive(archive / "polygon.ndjson", codec, size_bytes, segment_bytes=size_bytes // segments)
        cpus = (PROGRAM_CPU,) if jobs == 1 else (PROGRAM_CPU, LOAD_CPU)
        command = [*on(*cpus), sys.executable, "-m", "recorder", "export", "--json", "--jobs", str(jobs)]
        began = time.monotonic()
        with subprocess.Popen([*command, str(archive), "--to", str(tree)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        secs = time.monotonic() - began
        if process.returncode:
            raise Broken(f"export ended with {process.returncode}: {said[-200:]!r}")
    found = json.loads(said)
    cpu_secs = usage.ru_utime + usage.ru_stime
    return Run(
        {
            "records": found["records"],
            "secs": secs,
            "records_per_cpu_sec": found["records"] / cpu_secs,
            "mb_per_cpu_sec": found["line_bytes"] / 1e6 / cpu_secs,
            "times_smaller": found["line_bytes"] / found["file_bytes"],
            "rss_mb": usage.ru_maxrss * 1024 / 1e6,
        }
    )


SCENARIO = Scenario(
    number=19,
    name="export",
    question="How fast does `recorder export` make Parquet of an archive, and in how much memory?",
    columns=(
        Column("records", "records"),
        Column("secs", "wall time, s", ".2f"),
        Column("records_per_cpu_sec", "records per CPU second"),
        Column("mb_per_cpu_sec", "MB per CPU second"),
        Column("times_smaller", "times smaller than the lines", ".0f"),
        Column("rss_mb", "memory of the largest process, MB"),
    ),
    cases=lambda plan: [
        *(
            Case(
                work(codec, segments, 1), RECORDER, partial(_exported, codec=codec, segments=segments, jobs=1)
            )
            for codec in ("none", "zstd")
            for segments in SEGMENTS
        ),
        Case(work("zstd", 8, 2), RECORDER, partial(_exported, codec="zstd", segments=8, jobs=2)),
    ],
    targets=(
        Target("≥ 300,000 records a core", work("zstd", 8, 1), "records_per_cpu_sec", at_least=300_000),
        Target("≤ 1 GiB whatever the segment", work("zstd", 1, 1), "rss_mb", at_most=1074),
    ),
    note="Quotes and trades in one file, four to one, from a seeded market; plain bytes, 10^6 each. A segment is the whole "
    "archive, or an eighth of it. What it takes to start the command counts.",
)
