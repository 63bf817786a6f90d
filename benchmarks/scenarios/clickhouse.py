"""How fast `recorder clickhouse` sends an archive, and in how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial

from clickhouse_server import ClickHouse
from commands import clean_environment, free_port

from benchmarks.archive import make_archive
from benchmarks.harness import LOAD_CPU, PROGRAM_CPU, Broken, on
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_MEGABYTES = 400


def work(codec: str) -> str:
    """Return the name of a case."""
    return f"trades and quotes, {codec}"


def _sent(plan: Plan, codec: str) -> Run:
    with plan.scratch() as folder:
        size_bytes = int(plan.pick(_MEGABYTES, 10)) * 1_000_000
        archive = folder / "archive"
        make_archive(archive / "polygon.ndjson", codec, size_bytes, segment_bytes=size_bytes // 4)
        server = ClickHouse(folder / "server", free_port(), prefix=tuple(on(LOAD_CPU))).start()
        try:
            arguments = ["clickhouse", "--create", "--json", str(archive), server.url]
            command = [*on(PROGRAM_CPU), sys.executable, "-m", "recorder", *arguments]
            began = time.monotonic()
            environment = clean_environment()
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                said = process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            secs = time.monotonic() - began
        finally:
            server.stop()
        if process.returncode:
            raise Broken(f"clickhouse ended with {process.returncode}: {said[-200:]!r}")
    found = json.loads(said)
    rows = sum(found["rows"].values())
    cpu_secs = usage.ru_utime + usage.ru_stime
    return Run(
        {
            "rows": rows,
            "inserts": found["inserts"],
            "secs": secs,
            "rows_per_cpu_sec": rows / cpu_secs,
            "rss_mb": usage.ru_maxrss * 1024 / 1e6,
        }
    )


SCENARIO = Scenario(
    number=21,
    name="clickhouse",
    question="How fast does `recorder clickhouse` send an archive, and in how much memory?",
    columns=(
        Column("rows", "rows"),
        Column("inserts", "inserts"),
        Column("secs", "wall time, s", ".2f"),
        Column("rows_per_cpu_sec", "rows per CPU second of the sender"),
        Column("rss_mb", "memory of the sender, MB"),
    ),
    cases=lambda plan: [
        Case(work(codec), RECORDER, partial(_sent, codec=codec)) for codec in ("none", "zstd")
    ],
    targets=(
        Target("≥ 300,000 rows a core of the sender", work("zstd"), "rows_per_cpu_sec", at_least=300_000),
        Target("≤ 1 GiB whatever the archive", work("zstd"), "rss_mb", at_most=1074),
    ),
    note="The server of the tests, ClickHouse's engine in a process of its own, has the other core. Its time is in the wall "
    "time, and in nothing else. What it takes to start the command counts.",
)
