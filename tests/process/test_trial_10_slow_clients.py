"""Trial 10: clients that never read, or drip, beside a good one."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from lateness import latencies_ms, p99
from listening import Listener, listening
from oracle import follow, read_sent
from rawclient import RawClient, raw_client, rss_bytes
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.alone, pytest.mark.timeout(scale(120, 900))]

MIB = 2**20
PENDING_BYTES_MAX = 2 * MIB
RATE = 20_000
WAYS = ("never reads", "drips")
KERNEL_BYTES = 4096
"""What a bad client's own kernel takes for it, so that the rest waits in the recorder."""


class Dripping:
    """Takes one byte from each client every 50 ms, on a thread."""

    def __init__(self, clients: list[RawClient]) -> None:
        self._clients = clients
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            for client in self._clients:
                try:
                    client.socket.recv(1)
                except OSError:
                    continue

    def close(self) -> None:
        self._over.set()
        self._thread.join(40)


def watched(good: Listener, frames: int) -> list[float]:
    """Measure the good client's latency over its next frames."""
    first = len(good.frames)
    eventually_sync(lambda: len(good.frames) >= first + frames, "the frames of a measurement", 120)
    return latencies_ms(good, first, first + frames)


@pytest.mark.parametrize("port", ["firehose", "filtered"])
def test_slow_clients_harm_nobody(tmp_path: Path, port: str) -> None:
    """Each is cut within 10 s of filling up, with 1008 and a count; the good client waits and misses nothing."""
    log = tmp_path / "sent.ndjson"
    settings = {"CLIENT_PENDING_BYTES_MAX": str(PENDING_BYTES_MAX), "ROLES": "firehose,filtered,ops"}
    figures: dict[str, list[str]] = {way: [] for way in WAYS}
    with ExitStack() as stack:
        simulator = stack.enter_context(
            simulating(
                "--cluster", "stocks", "--rate", str(RATE), "--no-bursts", "--log", str(log), cwd=tmp_path
            )
        )
        recorder = stack.enter_context(
            running("run", cwd=tmp_path, **live_settings(simulator, tmp_path / "a", **settings))
        )
        good = stack.enter_context(listening(f"ws://{recorder.address_of(port)}/stocks", "*"))
        eventually_sync(lambda: len(good.frames) > 500, "data")
        before = watched(good, scale(400, 4000))
        for way, count in product(WAYS, scale((100,), (1, 10, 30, 100))):
            figures[way].append(crowded(recorder, good, before, port, way, count))
        assert recorder.stop() == 0
        eventually_sync(lambda: good.close_code, "the close")
    assert good.close_code == 1012
    stream = follow(read_sent(log).events, good.events)
    assert stream.faultless, stream
    for way, found in figures.items():
        report(
            10,
            fault=f"clients of the {port} port: {way}",
            injected=f"raw sockets with a {KERNEL_BYTES} B buffer subscribe to everything at {RATE:,} events/s, "
            f"CLIENT_PENDING_BYTES_MAX={PENDING_BYTES_MAX // MIB} MiB, beside a good client",
            holds="cut within 10 s with 1008, counted and logged; memory within the limit; the good client misses nothing",
            figure="; ".join(found) + f"; {stream.got:,} events to the good client, 0 missing",
        )


def crowded(recorder: Running, good: Listener, before: list[float], port: str, way: str, count: int) -> str:
    """Let so many slow clients come to a port, and see how they are cut; return the figures.

    `before` is how late events were at the good client while it was alone.
    """
    rss = rss_bytes(recorder.process.pid)
    cut_before, left_before = evicted(recorder, port), len(goodbyes(recorder))
    begun = time.monotonic()
    with ExitStack() as crowd:
        bad = [
            crowd.enter_context(raw_client(recorder.address_of(port), receive_bytes=KERNEL_BYTES))
            for _ in range(count)
        ]
        for client in bad:
            client.subscribe("*")
        joined = time.monotonic()
        first = len(good.frames)
        if way == "drips":
            crowd.callback(Dripping(bad).close)
        rss_max = rss

        # Asking for /metrics again and again would be load of its own.
        def all_cut() -> bool:
            nonlocal rss_max
            rss_max = max(rss_max, rss_bytes(recorder.process.pid))
            return len(goodbyes(recorder)) == left_before + count

        eventually_sync(all_cut, "the end of them", 60)
        cut_secs = time.monotonic() - joined
    during = latencies_ms(good, first, len(good.frames))
    assert evicted(recorder, port) - cut_before == count
    assert recorder.metric(f'polygon_server_clients{{port="{port}"}}') == 1
    reasons = {json.loads(line)["reason"] for line in goodbyes(recorder)[left_before:]}
    assert reasons == {"slow_consumer"}
    grown = rss_max - rss
    assert grown <= count * (PENDING_BYTES_MAX + MIB) + 16 * MIB
    figures = (
        f"{count}: cut within {cut_secs:.1f} s, p99 {p99(before):.1f} ms alone, {p99(during):.1f} ms beside them "
        f"({p99(during) / p99(before):.2f} ×), memory {grown / MIB:+.0f} MiB"
    )
    assert cut_secs <= 10 + (joined - begun), figures
    assert p99(during) <= max(5 * p99(before), 1000), figures
    return figures


def evicted(recorder: Running, port: str) -> int:
    """How many slow consumers were cut."""
    return int(recorder.metric(f'polygon_server_evictions_total{{port="{port}",reason="slow_consumer"}}'))


def goodbyes(recorder: Running) -> list[str]:
    """The log's lines of clients that left."""
    return [line for line in list(recorder.lines) if '"client_left"' in line]
