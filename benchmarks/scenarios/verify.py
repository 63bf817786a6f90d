"""How fast `recorder verify` reads an archive back."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial

from benchmarks.archive import make_archive
from benchmarks.harness import LOAD_CPU, PROGRAM_CPU, Broken, on
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target

_MEGABYTES = 1_200
"""Compressed, too, it is so much that a second process begins."""
_SEGMENTS = 8
CODECS = ("none", "gzip", "zstd")


def work(codec: str, jobs: int) -> str:
    """Return the name of a case."""
    return f"{codec}, {jobs} process{'es' if jobs > 1 else ''}"


def _verified(plan: Plan, codec: str, jobs: int) -> Run:
    with plan.scratch() as folder:
        size_bytes = int(plan.pick(_MEGABYTES, 40)) * 1_000_000
        make_archive(folder / "polygon.ndjson", codec, size_bytes, segment_bytes=size_bytes // _SEGMENTS)
        cpus = (PROGRAM_CPU,) if jobs == 1 else (PROGRAM_CPU, LOAD_CPU)
        command = [*on(*cpus), sys.executable, "-m", "recorder", "verify", "--json", "--jobs", str(jobs)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run([*command, str(folder)], capture_output=True)
        secs, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Broken(f"verify ended with {done.returncode}: {done.stdout[-200:]!r}")
    report = json.loads(done.stdout)
    cpu_secs = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(
        {
            "records": report["records"],
            "secs": secs,
            "mb_per_sec": report["bytes"] / 1e6 / secs,
            "mb_per_cpu_sec": report["bytes"] / 1e6 / cpu_secs,
            "cpu_share": cpu_secs / secs,
        }
    )


SCENARIO = Scenario(
    number=10,
    name="verify",
    question="How fast does `recorder verify` read an archive back?",
    columns=(
        Column("records", "records"),
        Column("secs", "wall time, s", ".2f"),
        Column("mb_per_sec", "MB/s"),
        Column("mb_per_cpu_sec", "MB per CPU second"),
        Column("cpu_share", "cores busy", ".0%"),
    ),
    cases=lambda plan: [
        Case(work(codec, jobs), RECORDER, partial(_verified, codec=codec, jobs=jobs))
        for codec in CODECS
        for jobs in (1, 2)
    ],
    targets=(
        Target("≥ 200 MB/s of plain records a core", work("none", 1), "mb_per_cpu_sec", at_least=200),
        *(
            Target(
                f"two processes take at most 0.6 of the wall time of one, {codec}",
                work(codec, 2),
                "secs",
                at_most=0.6,
                versus=(work(codec, 1), RECORDER),
                form=".2f",
            )
            for codec in CODECS
        ),
    ),
    note="Plain bytes, 10^6 each. The archive is made by the real formatter and writer from a seeded market; what it takes "
    "to start the command counts. Two processes have both cores.",
)
