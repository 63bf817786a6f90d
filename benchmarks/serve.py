"""Scenarios 2, 3 and 5: serve a flood of stocks trades and quotes to clients that read.

    python -m benchmarks.serve firehose --clients 1 --clients 100 --clients 1000
    python -m benchmarks.serve filtered --clients 1000 --topics-each 20
    python -m benchmarks.serve filtered --clients 100 --everything
    python -m benchmarks.serve idle --clients 5000

The recorder (serving only) runs pinned to one core; simulator and clients share the other, so the clients are often
the limit: the share of its core that the recorder was busy says so. Deliveries are events times the clients they went
to. A run in which a client was cut is a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

RECORDER_CPU = 0
LOAD_CPU = 1
SYMBOLS = 1000


def main() -> int:
    """Run the scenarios and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=["firehose", "filtered", "idle"])
    parser.add_argument("--clients", type=int, action="append")
    parser.add_argument("--topics-each", type=int, default=20)
    parser.add_argument("--everything", action="store_true", help="filtered: every client asks for *")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--frame-events", type=int, default=10)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="events a second; 0: as fast as they are taken"
    )
    options = parser.parse_args()
    print(
        f"{'clients':>8} {'events/s in':>12} {'deliveries/s':>13} {'MB/s':>8} {'CPU µs/delivery':>16} "
        f"{'core busy':>10} {'cut':>4} {'KiB/client':>11}"
    )
    failed = False
    for clients in options.clients or [1, 100, 1000]:
        row = _run(clients, options)
        failed |= bool(row["cut"])
        print(
            f"{clients:>8} {row['events']:>12,.0f} {row['deliveries']:>13,.0f} {row['mb']:>8.1f} {row['us']:>16.3f} "
            f"{row['busy']:>9.0%} {row['cut']:>4.0f} {row['kib']:>11.1f}",
            flush=True,
        )
    return int(failed)


def _topics(options: argparse.Namespace, clients: int) -> list[str]:
    if options.scenario == "idle":
        return ["T.NOTHING"]
    if options.scenario == "firehose" or options.everything:
        return ["*"]
    names = _symbols()
    return [
        ",".join(
            f"{'TQ'[turn % 2]}.{names[(client * options.topics_each // 2 + turn // 2) % len(names)]}"
            for turn in range(options.topics_each)
        )
        for client in range(clients)
    ]


def _symbols() -> list[str]:
    from recorder.simulator.listings import listed

    return [each.symbol for each in listed("stocks", 1, SYMBOLS)]


def _run(clients: int, options: argparse.Namespace) -> dict[str, float]:
    python = ["taskset", "-c", str(LOAD_CPU), sys.executable, "-m"]
    market = ["simulate", "--port", "0", "--cluster", "stocks", "--symbols", str(SYMBOLS)]
    simulator = subprocess.Popen(
        [
            *python,
            "recorder",
            *market,
            "--rate",
            str(options.rate),
            "--frame-events",
            str(options.frame_events),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert simulator.stdout is not None
    port = int(re.search(r":(\d+)", simulator.stdout.readline())[1])  # type: ignore[index]
    role = "firehose" if options.scenario == "firehose" else "filtered"
    recorder = subprocess.Popen(
        ["taskset", "-c", str(RECORDER_CPU), sys.executable, "-m", "recorder", "run"],
        env={
            **{key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")},
            "ENV_FILE": os.devnull,
            "POLYGON_API_KEY": "bench",
            "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
            "POLYGON_CLUSTER": "stocks",
            "SUBSCRIPTION": "T.*,Q.*",
            "ROLES": f"{role},ops",
            "FIREHOSE_PORT": "0",
            "FILTERED_PROXY_PORT": "0",
            "METRICS_ADDR": "127.0.0.1:0",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "warning,polygon_config=info",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    drain = None
    try:
        started = _started(recorder)
        idle_rss = _rss(recorder.pid)
        drain = subprocess.Popen(
            [
                *python,
                "benchmarks.drain",
                started[role].rpartition(":")[2],
                "/stocks",
                str(clients),
                *_topics(options, clients),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert drain.stdout is not None
        assert drain.stdin is not None
        drain.stdout.readline()
        time.sleep(2.0)  # the warm-up is a part of the measurement
        kib = (_rss(recorder.pid) - idle_rss) / 1024 / clients
        before = _sample(started["metrics"], recorder.pid)
        time.sleep(options.seconds)
        after = _sample(started["metrics"], recorder.pid)
        drain.stdin.close()
        ended = json.loads(drain.stdout.readline())["ended"]
    finally:
        for process in (drain, recorder, simulator):
            if process is not None:
                process.kill()
                process.wait()
    if ended:
        print(f"cut: {after['evictions']}", file=sys.stderr)
    elapsed = after["time"] - before["time"]
    cpu = after["cpu"] - before["cpu"]
    deliveries = after["deliveries"] - before["deliveries"]
    if options.scenario == "firehose":  # which passes frames on without looking into them
        deliveries = (after["frames_delivered"] - before["frames_delivered"]) * options.frame_events
    return {
        "events": (after["frames"] - before["frames"]) * options.frame_events / elapsed,
        "deliveries": deliveries / elapsed,
        "mb": (after["bytes"] - before["bytes"]) / elapsed / 1e6,
        "us": cpu / deliveries * 1e6 if deliveries else 0.0,
        "busy": cpu / elapsed,
        "cut": ended,
        "kib": kib,
    }


def _started(recorder: subprocess.Popen[str]) -> dict[str, Any]:
    assert recorder.stderr is not None
    for line in recorder.stderr:
        entry: dict[str, Any] = json.loads(line)
        if entry["event"] == "started":
            return entry
    raise SystemExit("the recorder ended before it started")


def _rss(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return float(found[1]) * 1024 if found else 0.0


def _sample(address: str, pid: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()

    def total(name: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))

    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "time": time.monotonic(),
        "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        "evictions": [line for line in lines if line.startswith("polygon_server_evictions_total{")],
        "frames": total("polygon_messages_received_total"),
        "deliveries": total("polygon_server_events_total"),
        "frames_delivered": total("polygon_server_frames_total"),
        "bytes": total("polygon_server_sent_bytes_total"),
    }


if __name__ == "__main__":
    sys.exit(main())
