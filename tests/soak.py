"""Trial 17: hours of load with rotation, reconnects and client churn: `python tests/soak.py --hours 1 --plot FILE`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from commands import KEY, Running, live_settings, running, simulating
from oracle import read_manifest, verified
from trials import report
from waiting import eventually_sync

RATE: Final = 50_000
"""Events a second on average; moments of ten times as much are among them."""
CLIENTS: Final = 20
"""Clients of the filtered port that come, listen to some topics for a while, and go."""
SAMPLES: Final = 360
RECONNECTS: Final = 12
SLOW_SECS: Final = 12.5
"""A client that never reads comes this often, or less."""
MEMORY_GROWTH_MAX: Final = 0.10
MEMORY_SLACK_BYTES: Final = 16 * 1024 * 1024
FDS_GROWTH_MAX: Final = 8
_SYMBOLS: Final = ("AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "META", "GOOGL", "AMD", "INTC", "SPY", "QQQ", "F")


@dataclass(slots=True)
class Samples:
    """What was seen of the recorder over time; lists of equal length."""

    secs: list[float] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    lag_p99_ms: list[float] = field(default_factory=list)
    """Upper bound of the histogram's bucket, of the time since the last sample."""
    events_per_sec: list[float] = field(default_factory=list)
    pending_bytes: list[int] = field(default_factory=list)
    clients: list[int] = field(default_factory=list)
    differences: list[int] = field(default_factory=list)
    """Of the balance."""

    def growth(self, values: list[int]) -> float:
        """Return the last quarter's median less the second quarter's: the first one is warming up."""
        quarter = len(values) // 4
        return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


@dataclass(slots=True)
class Soaked:
    """How it went."""

    hours: float
    samples: Samples
    balance: dict[str, int]
    sessions: int
    segments: int
    clients_served: int
    slow_cut: int
    listener_events: int
    listener_close: int | None


class Churn:
    """Clients that come and go on a loop of their own, one that stays, and now and then one that never reads."""

    def __init__(self, recorder: Running, slow_every_secs: float) -> None:
        self.served = 0
        self.slow = 0
        self.listener_events = 0
        self.listener_close: int | None = None
        self.listening = threading.Event()
        self._filtered = f"ws://{recorder.address_of('filtered')}/stocks"
        self._firehose = f"ws://{recorder.address_of('firehose')}/stocks"
        self._slow_every_secs = slow_every_secs
        self._stopping = threading.Event()
        self._listener_ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def start(self) -> None:
        """Begin; the one that stays is subscribed on return."""
        self._thread.start()
        assert self.listening.wait(30)

    def stop(self) -> None:
        """Let the clients that come and go leave; the one that stays goes with the recorder."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until all have gone."""
        self._thread.join(60)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            group.create_task(self._stay(session))
            group.create_task(self._while_wanted(self._never_read(session)))
            for number in range(CLIENTS):
                group.create_task(self._while_wanted(self._come_and_go(session, random.Random(number))))

    async def _while_wanted(self, work: Coroutine[Any, Any, None]) -> None:
        """Let clients come and go; at the end the recorder may close one that has just come."""
        try:
            await work
        except (aiohttp.ClientError, ConnectionError):
            if not self._stopping.is_set():
                raise

    async def _connect(self, session: aiohttp.ClientSession, url: str, topics: str) -> Any:
        socket = await session.ws_connect(url, max_msg_size=0)
        await socket.send_str(json.dumps({"action": "auth", "params": KEY}))
        await socket.send_str(json.dumps({"action": "subscribe", "params": topics}))
        while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            if '"success"' in message.data:
                return socket
        raise ConnectionError(f"closed before it was subscribed: {message}")

    async def _stay(self, session: aiohttp.ClientSession) -> None:
        socket = await self._connect(session, self._firehose, "*")
        self.listening.set()
        async for message in socket:
            if '"status"' not in message.data[:20]:
                self.listener_events += message.data.count('"ev":')
        self.listener_close = socket.close_code

    async def _come_and_go(self, session: aiohttp.ClientSession, dice: random.Random) -> None:
        while not self._stopping.is_set():
            topics = ",".join(f"{dice.choice('TQ')}.{symbol}" for symbol in dice.sample(_SYMBOLS, 6))
            leave_at = time.monotonic() + dice.uniform(1, 20)
            socket = await self._connect(session, self._filtered, topics)
            self.served += 1
            while time.monotonic() < leave_at and not self._stopping.is_set():
                try:
                    await socket.receive(timeout=1)
                except TimeoutError:
                    continue
            await socket.close()

    async def _never_read(self, session: aiohttp.ClientSession) -> None:
        while not self._stopping.is_set():
            socket = await self._connect(session, self._firehose, "*")
            assert socket._conn is not None
            socket._conn.transport.pause_reading()
            self.slow += 1
            until = time.monotonic() + self._slow_every_secs
            while time.monotonic() < until and not self._stopping.is_set():  # noqa: ASYNC110  a thread sets it
                await asyncio.sleep(0.5)
            socket._conn.transport.abort()


def lag_buckets(text: str) -> dict[float, float]:
    """Return the event loop's lag so far: how many of its looks were within each bound."""
    found = re.findall(r'^polygon_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.MULTILINE)
    return {float(bound): float(count) for bound, count in found}


def percentile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """Return the bound under which this share of the looks between two moments was."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    total = max(counts.values())
    return next(bound for bound, count in counts.items() if count >= share * total)


def sample(
    recorder: Running, samples: Samples, secs: float, before: dict[float, float], received: float
) -> tuple[dict[float, float], float]:
    """Look at the recorder once; return what the next look compares with."""
    _, text = recorder.get("/metrics")
    process = Path(f"/proc/{recorder.process.pid}")
    resident = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert resident is not None

    def metric(name: str) -> float:
        lines = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, lines))

    buckets, now = lag_buckets(text), metric("polygon_events_total")
    passed = secs - (samples.secs[-1] if samples.secs else 0)
    samples.secs.append(secs)
    samples.rss_bytes.append(int(resident[1]) * 1024)
    samples.fds.append(len(list((process / "fd").iterdir())))
    samples.lag_p99_ms.append(percentile(before, buckets, 0.99) * 1000)
    samples.events_per_sec.append((now - received) / passed)
    samples.pending_bytes.append(int(metric("polygon_sink_pending_bytes")))
    samples.clients.append(int(metric("polygon_server_clients")))
    samples.differences.append(int(metric("polygon_balance_difference")))
    return buckets, now


def soak(hours: float, folder: Path, seen: Callable[[Samples], None] = lambda samples: None) -> Soaked:
    """Run it; `seen` is shown the samples before they are judged.

    Asserts what must hold at the end; raises `AssertionError` as soon as the recorder is gone.
    """
    secs = hours * 3600
    archive = folder / "archive"
    fault = f"reset:after={secs / RECONNECTS:.1f}s,times=0"
    with simulating(
        *("--cluster", "stocks", "--rate", str(RATE), "--frame-events", "50", "--fault", fault), cwd=folder
    ) as port:
        settings = live_settings(
            port,
            archive,
            NDJSON_SPLIT_PER_TYPE="true",
            NDJSON_COMPRESSION="zstd",
            NDJSON_MAX_BYTES="64MiB",
            NDJSON_ROTATE_SECS=str(max(1, round(secs / 60))),
            NDJSON_RETAIN_BYTES="256MiB",
        )
        with running("run", cwd=folder, **settings) as recorder:
            eventually_sync(lambda: recorder.received() > 0, "data")
            received_before = recorder.received()
            churn = Churn(recorder, slow_every_secs=max(SLOW_SECS, secs / 60))
            churn.start()
            received_after = recorder.received()
            samples = Samples()
            buckets, received, begun = (
                lag_buckets(recorder.get("/metrics")[1]),
                received_after,
                time.monotonic(),
            )
            for number in itertools.count(1):
                due = number * secs / SAMPLES
                if due > secs:
                    break
                threading.Event().wait(max(0, begun + due - time.monotonic()))
                assert recorder.process.poll() is None, recorder.lines[-20:]
                passed = time.monotonic() - begun
                buckets, received = sample(recorder, samples, passed, buckets, received)
            _, text = recorder.get("/metrics")
            slow_cut = re.findall(r'polygon_server_evictions_total\{.*reason="slow_consumer".*\} (\S+)', text)
            churn.stop()
            assert recorder.stop() == 0
            churn.join()
    seen(samples)
    (ended,) = read_manifest(archive, "run_ended")
    segments = read_manifest(archive, "segment_closed")
    balance: dict[str, int] = ended["balance"]
    assert balance["received"] - received_after <= churn.listener_events
    assert churn.listener_events <= balance["received"] - received_before
    assert churn.listener_close == 1012
    assert balance["difference"] == balance["dropped"] == 0
    assert balance["received"] == balance["recorded"] == sum(segment["records"] for segment in segments)
    assert not any(samples.differences)
    verified(archive, timeout_secs=1800)
    slack = max(MEMORY_SLACK_BYTES, MEMORY_GROWTH_MAX * statistics.median(samples.rss_bytes))
    assert samples.growth(samples.rss_bytes) <= slack, samples.rss_bytes
    assert abs(samples.growth(samples.fds)) <= FDS_GROWTH_MAX, samples.fds
    return Soaked(
        hours=hours,
        samples=samples,
        balance=balance,
        sessions=len(read_manifest(archive, "session_opened")),
        segments=len(segments),
        clients_served=churn.served,
        slow_cut=sum(map(int, map(float, slow_cut))),
        listener_events=churn.listener_events,
        listener_close=churn.listener_close,
    )


def tell(soaked: Soaked) -> None:
    """Report the figures."""
    samples = soaked.samples
    mib = 1024 * 1024
    hours = f"{soaked.hours:g} h" if soaked.hours >= 0.1 else f"{soaked.hours * 3600:.0f} s"
    report(
        17,
        fault=f"soak at {RATE // 1000} k events/s" if soaked.hours >= 0.1 else "soak, seconds",
        injected=f"a connection reset {soaked.sessions - 1} times, {soaked.segments} segments compressed with zstd and "
        f"deleted by retention, {soaked.clients_served} clients that came and went, some that never read",
        holds="memory and file descriptors flat, books balance at every look, nothing dropped, `verify` passes, a client "
        "that stays gets every event",
        figure=f"{hours}, {soaked.balance['received']:,} events, 0 dropped; memory "
        f"{statistics.median(samples.rss_bytes) / mib:.0f} MiB, growth {samples.growth(samples.rss_bytes) / mib:+.1f} MiB; "
        f"fds {min(samples.fds)}–{max(samples.fds)}; loop lag p99 {statistics.median(samples.lag_p99_ms):g} ms in the "
        f"median sample; {soaked.slow_cut} slow consumers cut",
    )


def plot(samples: Samples, path: Path) -> None:
    """Draw memory, file descriptors, lag and rate over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    minutes = [secs / 60 for secs in samples.secs]
    panels: list[tuple[str, list[float]]] = [
        ("resident memory, MiB", [size / 2**20 for size in samples.rss_bytes]),
        ("open file descriptors", [float(fds) for fds in samples.fds]),
        ("event loop lag, p99, ms", samples.lag_p99_ms),
        ("events/s", samples.events_per_sec),
    ]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 9), sharex=True, layout="constrained")
    for axis, (title, values) in zip(axes, panels, strict=True):
        axis.plot(minutes, values, linewidth=1)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("minutes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main() -> int:
    """Soak, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--plot", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soaked = soak(options.hours, Path(folder), lambda samples: plot(samples, options.plot))
    tell(soaked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
