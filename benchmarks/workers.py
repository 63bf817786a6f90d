"""What SERVE_WORKERS takes off the recording process: record a flood, and serve it to firehose and filtered clients.

    python -m benchmarks.workers --workers 0 --workers 1 --workers 2 --clients 100 --rate 20000

So many clients on each of the two ports; a filtered one holds --topics-each topics. Nothing is pinned: recording,
workers, simulator and clients share the cores there are. CPU is what counts, since it does not depend on who else has
a turn: of the recording process, and of all workers together. A run with a drop or with a client that was cut fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.drain import TOKEN
from recorder.simulator.listings import listed

SYMBOLS = 1000
WARM_UP_SECS = 3.0


def main() -> int:
    """Run with each number of workers and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--topics-each", type=int, default=20)
    parser.add_argument(
        "--rate", type=float, default=20_000.0, help="events a second; 0: as fast as they are taken"
    )
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {options.clients} firehose and {options.clients} filtered clients\n"
        f"{'workers':>8} {'events/s in':>12} {'MB/s out':>9} {'recording CPU':>14} {'µs/event':>9} {'p99 pass ms':>12} "
        f"{'workers CPU':>12} {'lag ms':>7} {'dropped':>8} {'cut':>4}"
    )
    failed = False
    for workers in options.workers or [0, 1, 2]:
        row = _run(workers, options)
        failed |= bool(row["cut"] or row["dropped"])
        print(
            f"{workers:>8} {row['events']:>12,.0f} {row['mb']:>9.1f} {row['cpu']:>13.0%} {row['us']:>9.2f} "
            f"{row['pass_ms']:>12} {row['workers_cpu']:>11.0%} {row['lag_ms']:>7.1f} {row['dropped']:>8.0f} "
            f"{row['cut']:>4}",
            flush=True,
        )
    return int(failed)


def _run(workers: int, options: argparse.Namespace) -> dict[str, Any]:
    python = [sys.executable, "-m"]
    market = ["--cluster", "stocks", "--symbols", str(SYMBOLS), "--frame-events", "10", "--no-bursts"]
    started: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            simulator = _start(
                started,
                [*python, "recorder", "simulate", "--port", "0", *market, "--rate", str(options.rate)],
            )
            found = re.search(r":(\d+)", _line(simulator.stdout))
            assert found is not None
            recorder = _start(
                started, [*python, "recorder", "run"], env=_settings(found[1], Path(folder), workers)
            )
            address = _addresses(recorder)
            drains = [
                _start(started, [*python, "benchmarks.drain", *arguments])
                for arguments in _clients(address, options)
            ]
            for drain in drains:
                _line(drain.stdout)
            time.sleep(WARM_UP_SECS)
            before = _sample(address["metrics"])
            time.sleep(options.seconds)
            after = _sample(address["metrics"])
            ended = 0
            for drain in drains:
                assert drain.stdin is not None
                drain.stdin.close()
                ended += json.loads(_line(drain.stdout))["ended"]
        finally:
            for process in reversed(started):
                process.kill()
                process.wait()
    elapsed = after["time"] - before["time"]
    events = after["events"] - before["events"]
    cpu = after["cpu"] - before["cpu"]
    return {
        "events": events / elapsed,
        "mb": (after["bytes"] - before["bytes"]) / elapsed / 1e6,
        "cpu": cpu / elapsed,
        "us": cpu / events * 1e6,
        "pass_ms": _p99_ms(before["passes"], after["passes"]),
        "workers_cpu": (after["workers_cpu"] - before["workers_cpu"]) / elapsed,
        "lag_ms": after["lag"] * 1000,
        "dropped": after["dropped"],
        "cut": ended,
    }


def _start(started: list[subprocess.Popen[str]], command: list[str], **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    stderr = pipe if "env" in options else None
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, **options)
    started.append(process)
    return process


def _line(stream: Any) -> str:
    line: str = stream.readline()
    return line


def _settings(port: str, folder: Path, workers: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return {
        **kept,
        "ENV_FILE": os.devnull,
        "POLYGON_API_KEY": TOKEN,
        "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
        "POLYGON_CLUSTER": "stocks",
        "SUBSCRIPTION": "T.*,Q.*",
        "SINK": "ndjson",
        "NDJSON_DEST": str(folder / "polygon.ndjson"),
        "NDJSON_MAX_BYTES": "64MiB",
        "NDJSON_RETAIN_BYTES": "256MiB",
        "ROLES": "archive,firehose,filtered,ops",
        "FIREHOSE_PORT": "0",
        "FILTERED_PROXY_PORT": "0",
        "METRICS_ADDR": "127.0.0.1:0",
        "SERVE_WORKERS": str(workers),
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "error,polygon_config=info",
    }


def _addresses(recorder: subprocess.Popen[str]) -> dict[str, Any]:
    assert recorder.stderr is not None
    for line in recorder.stderr:
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == "started":
            return entry
    raise SystemExit("the recorder ended before it started")


def _clients(address: dict[str, Any], options: argparse.Namespace) -> list[list[str]]:
    """Give the arguments of the two programs that are the clients."""
    names = [each.symbol for each in listed("stocks", 1, SYMBOLS)]
    half = options.topics_each // 2
    topics = [
        ",".join(
            f"{channel}.{names[(client * half + turn) % SYMBOLS]}" for turn in range(half) for channel in "TQ"
        )
        for client in range(options.clients)
    ]
    count = str(options.clients)
    return [
        [address[port].rpartition(":")[2], "/stocks", count, *wanted]
        for port, wanted in (("firehose", ["*"]), ("filtered", topics))
    ]


def _sample(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()

    def total(name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

    buckets = {
        float(re.search(r'le="([^"]+)"', line)[1]): float(line.rpartition(" ")[2])  # type: ignore[index]
        for line in lines
        if line.startswith("polygon_pass_duration_seconds_bucket")
    }
    return {
        "time": time.monotonic(),
        "events": total("polygon_events_total"),
        "bytes": total("polygon_server_sent_bytes_total"),
        "cpu": total("process_cpu_seconds_total"),
        "workers_cpu": total("polygon_serve_worker_cpu_seconds_total"),
        "lag": max(
            0.0,
            *(float(line.split()[1]) for line in lines if line.startswith("polygon_serve_worker_lag")),
            0.0,
        ),
        "dropped": total("polygon_ndjson_drops_total"),
        "passes": buckets,
    }


def _p99_ms(before: dict[float, float], after: dict[float, float]) -> str:
    """Give the bucket of the pass that 99 % of all passes are shorter than."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
    whole = max(counts.values())
    bound = min(bound for bound, count in counts.items() if count >= 0.99 * whole)
    return f"<= {bound * 1000:g}"


if __name__ == "__main__":
    sys.exit(main())
