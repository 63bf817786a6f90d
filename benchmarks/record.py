"""Scenario 1: record stocks trades and quotes from a simulator that sends as fast as it is read.

    python -m benchmarks.record --seconds 10 --runs 3 --frame-events 10 --frame-events 100

The recorder runs pinned to one core and the simulator to another; figures are medians over the runs. CPU time is the
recorder's own, user and system, all threads. A run with drops, or whose books do not balance, is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

RECORDER_CPU = 0
LOAD_CPU = 1


def main() -> int:
    """Run the scenario and print a table, or JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="measured time of a run, after a second of warm-up"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--frame-events", type=int, action="append", help="events a frame; default 10 and 100"
    )
    parser.add_argument("--compression", choices=["none", "gzip", "zstd"], default="none")
    parser.add_argument("--max-bytes", default="256MiB", help="size of a segment")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the archive goes; default: a temporary folder"
    )
    parser.add_argument(
        "--roles", default="archive,ops", help="archive,firehose,filtered,bars,ops: servers, too"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for frame_events in options.frame_events or [10, 100]:
        runs = [_run(frame_events, options) for _ in range(options.runs)]
        results.append(_summary(frame_events, runs))
    facts = _facts(options)
    if options.json:
        print(json.dumps({"facts": facts, "results": results}, indent=2))
    else:
        print(json.dumps(facts))
        print(
            f"{'events/frame':>12} {'events/s':>12} {'CPU µs/event':>13} {'core busy':>10} {'drops':>6}   spread of events/s"
        )
        for row in results:
            print(
                f"{row['frame_events']:>12} {row['events_per_sec']:>12,.0f} {row['cpu_us_per_event']:>13.3f} "
                f"{row['cpu_share']:>9.0%} {row['drops']:>6}   {row['lowest']:,.0f} … {row['highest']:,.0f}"
            )
    return 1 if any(row["drops"] or row["unbalanced"] for row in results) else 0


def _run(frame_events: int, options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-") as folder:
        simulator = subprocess.Popen(
            [
                *_pinned(LOAD_CPU),
                "simulate",
                "--port",
                "0",
                "--cluster",
                "stocks",
                "--rate",
                "0",
                "--frame-events",
                str(frame_events),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert simulator.stdout is not None
            port = int(re.search(r":(\d+)", simulator.stdout.readline())[1])  # type: ignore[index]
            recorder = subprocess.Popen(
                [*_pinned(RECORDER_CPU), "run"],
                env={
                    **{key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")},
                    "ENV_FILE": os.devnull,
                    "POLYGON_API_KEY": "bench",
                    "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
                    "POLYGON_CLUSTER": "stocks",
                    "SUBSCRIPTION": "T.*,Q.*",
                    "SINK": "ndjson",
                    "ROLES": options.roles,
                    "NDJSON_DEST": f"{folder}/polygon.ndjson",
                    "NDJSON_MAX_BYTES": options.max_bytes,
                    "NDJSON_COMPRESSION": options.compression,
                    "NDJSON_RETAIN_BYTES": "2GiB",
                    "METRICS_ADDR": "127.0.0.1:0",
                    "FIREHOSE_PORT": "0",
                    "FILTERED_PROXY_PORT": "0",
                    "AGGREGATOR_PORT": "0",
                    "LOG_FORMAT": "json",
                    "LOG_LEVEL": "info",
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                return _measure(recorder, options.seconds)
            finally:
                recorder.kill()
                recorder.wait()
        finally:
            simulator.kill()
            simulator.wait()


def _pinned(cpu: int) -> list[str]:
    return ["taskset", "-c", str(cpu), sys.executable, "-m", "recorder"]


def _measure(recorder: subprocess.Popen[str], seconds: float) -> dict[str, float]:
    assert recorder.stderr is not None
    address = ""
    while not address:
        line = recorder.stderr.readline()
        if not line:
            raise SystemExit("the recorder ended before it started")
        entry = json.loads(line)
        if entry["event"] == "started":
            address = entry["metrics"]
    time.sleep(1.0)  # the warm-up is a part of the measurement, not a wait for a fact
    before = _sample(address, recorder.pid)
    time.sleep(seconds)
    after = _sample(address, recorder.pid)
    recorder.send_signal(signal.SIGTERM)
    balance: dict[str, Any] = {}
    for line in recorder.stderr:
        entry = json.loads(line)
        if entry["event"] in ("balance", "the books do not balance"):
            balance = entry
    recorder.wait()
    events = after["events"] - before["events"]
    elapsed = after["time"] - before["time"]
    return {
        "events_per_sec": events / elapsed,
        "cpu_us_per_event": (after["cpu"] - before["cpu"]) / events * 1e6,
        "cpu_share": (after["cpu"] - before["cpu"]) / elapsed,
        "drops": balance.get("dropped", -1),
        "unbalanced": float(balance.get("event") != "balance"),
    }


def _sample(address: str, pid: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    events = sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("polygon_events_total{")
    )
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "events": events,
        "time": time.monotonic(),
        "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    }


def _summary(frame_events: int, runs: list[dict[str, float]]) -> dict[str, Any]:
    rates = [run["events_per_sec"] for run in runs]
    return {
        "frame_events": frame_events,
        **{
            name: statistics.median(run[name] for run in runs)
            for name in ("events_per_sec", "cpu_us_per_event", "cpu_share")
        },
        "lowest": min(rates),
        "highest": max(rates),
        "drops": max(int(run["drops"]) for run in runs),
        "unbalanced": any(run["unbalanced"] for run in runs),
    }


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "workload": "stocks T.* and Q.* of the seeded market, flood",
        "seconds": options.seconds,
        "runs": options.runs,
        "compression": options.compression,
        "roles": options.roles,
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


if __name__ == "__main__":
    sys.exit(main())
