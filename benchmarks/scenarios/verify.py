"""How fast `recorder verify` reads an archive back."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from functools import partial
from itertools import cycle
from pathlib import Path

from archives import archive_settings

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU, Broken, on
from benchmarks.scenario import RECORDER, Case, Column, Plan, Run, Scenario, Target
from recorder.archive.context import ArchiveContext
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.clock import SystemClock
from recorder.ledger import SinkStats
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter

_START_MS = 1_795_237_802_335
_BATCH_EVENTS = 100
_SYMBOLS = [f"{letter}{tail}" for letter in "ABCDEFGHIJ" for tail in ("", "A", "BC", "DEF")]
_MEGABYTES = 1_200
"""Compressed, too, it is so much that a second process begins."""
_SEGMENTS = 8
CODECS = ("none", "gzip", "zstd")


def work(codec: str, jobs: int) -> str:
    """Return the name of a case."""
    return f"{codec}, {jobs} process{'es' if jobs > 1 else ''}"


def _verified(plan: Plan, codec: str, jobs: int) -> Run:
    with plan.scratch() as folder:
        _make(folder, codec, int(plan.pick(_MEGABYTES, 40)) * 1_000_000, _SEGMENTS)
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


def _make(folder: Path, codec: str, size_bytes: int, segments: int) -> None:
    """Write an archive of trades and quotes, sealed but for its last file."""
    settings = archive_settings(
        folder / "polygon.ndjson",
        max_bytes=size_bytes // segments,
        compression=codec,
        flush_every=1_000_000,
        fsync="never",
    )
    clock = SystemClock()
    context = ArchiveContext.create(settings, run_id="bench", clock=clock, stats=ArchiveStats())
    names = context.names
    writer = ArchiveWriter(context, SinkStats("archive"), LoadShedding(), {}, background=False)
    writer.open()
    formatter = Formatter("stocks", "recorder-1", "0.1.0")
    file = names.active("stocks", "T")
    written = seq = 0
    symbols = cycle(_SYMBOLS)
    while written < size_bytes:
        ms = _START_MS + seq // 50
        seqs = range(seq + 1, seq + 1 + _BATCH_EVENTS)
        rows = Rows.of("stocks", [_event(next(symbols), ms, number) for number in seqs])
        rows.seqs = seqs
        seq += _BATCH_EVENTS
        data = formatter.format(ms, rows)
        written += len(data)
        writer.write(
            RecordBatch("stocks", ms * 1_000_000, [Lines("stocks", file, data, summarise(data))], b"")
        )
    writer.close("benchmark", None, clock.monotonic_ns() + 600_000_000_000)


def _event(symbol: str, ms: int, seq: int) -> tuple[Header, bytes]:
    """Return a quote, or a trade for every four of them, with the fields that the vendor sends."""
    name, price, size = symbol.encode(), 100 + seq % 9973 / 100, 1 + seq % 300
    if seq % 5:
        raw = b'{"ev":"Q","sym":"%b","c":1,"bx":4,"ax":7,"bp":%.2f,"ap":%.2f,"bs":%d,"as":%d,"t":%d,"q":%d,"z":3}' % (
            name, price, price + 0.01, size, size + 3, ms, seq
        )  # fmt: skip
    else:
        raw = b'{"ev":"T","sym":"%b","i":"%d","x":4,"p":%.4f,"s":%d,"c":[14,41],"t":%d,"q":%d,"z":3}' % (
            name, 52_983_525_000_000 + seq, price, size, ms, seq
        )  # fmt: skip
    return Header("Q" if seq % 5 else "T", symbol, ms), raw


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
