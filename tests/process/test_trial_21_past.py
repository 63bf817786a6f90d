"""Trial 21: a hundred clients that want everything that was ever recorded, beside a live one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from checkouts import PROJECT
from commands import Running, live_settings, running, simulating
from lateness import latencies_ms, p99, silence_ms
from listening import Listener, listening
from oracle import follow, read_sent
from rawclient import rss_bytes
from trials import report, scale
from waiting import eventually_sync

from benchmarks.archive import make_archive
from benchmarks.harness import Metrics

pytestmark = [pytest.mark.trial, pytest.mark.alone, pytest.mark.timeout(scale(60, 900))]

MIB: Final = 2**20
RECORDED_BYTES: Final = scale(40, 10_000) * 1_000_000
SEGMENT_BYTES: Final = scale(4, 256) * MIB
DISTINCT_BATCHES: Final = 50
"""Of a thousand events: more than a compressor looks back."""
RATE: Final = scale(4000, 10_000)
SECS: Final = scale(1.0, 45.0)
"""For which the live client is looked at without the others, and with them."""
PENDING_BYTES_MAX: Final = 2 * MIB
GROWTH_BYTES_MAX: Final = 64 * MIB
"""What is read ahead, and the blocks that readers share; what clients have not taken waits in the kernel mostly."""
CROWDS: Final = {"firehose": (34, ("*",)), "filtered": (66, ("T.*", "*", "Q.A,Q.B"))}
"""Of each port, how many clients come, and what they want in turn."""


class Crowd:
    """Clients of one port that want all that was ever recorded, in a process of its own; it throws away what it reads."""

    def __init__(self, port: str, clients: int, topics: tuple[str, ...]) -> None:
        command = (sys.executable, "-m", "benchmarks.drain", "--past", port, "/stocks", str(clients), *topics)
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait(self) -> None:
        """Wait until all have asked."""
        assert self._line() == "ready"

    def counts(self) -> dict[str, Any]:
        """Return the bytes that each has got, and how many connections have ended."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self._line())
        return found

    def close(self) -> None:
        """Let all of them go."""
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def crowds(recorder: Running) -> Iterator[list[Crowd]]:
    """Yield clients that have all asked, those of one port among those of the other."""
    found: list[Crowd] = []
    try:
        for port, (clients, topics) in CROWDS.items():
            found.append(Crowd(recorder.port_of(port), clients, topics))
        for crowd in found:
            crowd.wait()
        yield found
    finally:
        for crowd in found:
            crowd.close()


@dataclass
class Look:
    """What was seen of a live client, and of the process that serves it, for some time."""

    p99_ms: float
    silence_ms: float
    late_turns: float
    """Share of the timers of the loop that fired more than 10 ms late."""
    rss_bytes: list[int]
    """Memory, as time went on."""


def looked_at(recorder: Running, live: Listener) -> Look:
    """Look at a live client for a while."""
    first, before = len(live.frames), metrics(recorder)
    until, memory = time.monotonic() + SECS, [rss_bytes(recorder.process.pid)]

    def has_passed() -> bool:
        memory.append(rss_bytes(recorder.process.pid))
        return time.monotonic() >= until

    eventually_sync(has_passed, "the end of a measurement", SECS + 30, every_secs=0.1)
    last, after = len(live.frames), metrics(recorder)
    within, fired = (
        after.total(name, **labels) - before.total(name, **labels)
        for name, labels in (
            ("polygon_event_loop_lag_seconds_bucket", {"le": "0.01"}),
            ("polygon_event_loop_lag_seconds_count", {}),
        )
    )
    late = latencies_ms(live, first, last)
    return Look(p99(late), silence_ms(live, first, last), 1 - within / fired, memory)


def metrics(recorder: Running) -> Metrics:
    return Metrics(recorder.get("/metrics")[1])


@pytest.mark.parametrize("compression", scale(["zstd"], ["none", "zstd"]))
def test_those_who_want_all_that_was_recorded_cost_the_others_nothing(
    tmp_path: Path, compression: str
) -> None:
    """The live client misses nothing and is not kept waiting; memory stays where it is, however much there is to read."""
    log, folder = tmp_path / "sent.ndjson", tmp_path / "archive"
    folder.mkdir()
    recorded = make_archive(
        folder / "polygon.ndjson",
        compression,
        RECORDED_BYTES,
        segment_bytes=SEGMENT_BYTES,
        batches_max=DISTINCT_BATCHES,
    )
    settings = {
        "RESUME_BUFFER_BYTES": str(2 * MIB),
        "CLIENT_PENDING_BYTES_MAX": str(PENDING_BYTES_MAX),
        "NDJSON_COMPRESSION": compression,
    }
    market = ("--cluster", "stocks", "--rate", str(RATE), "--no-bursts", "--log", str(log))
    with (
        simulating(*market, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **settings)) as recorder,
        listening(f"ws://{recorder.address_of('filtered')}/stocks", "*") as live,
    ):
        eventually_sync(lambda: len(live.frames) > 50, "live events")
        alone = looked_at(recorder, live)
        with crowds(recorder) as found:
            eventually_sync(lambda: any(max(crowd.counts()["bytes"]) > MIB for crowd in found), "the past")
            beside = looked_at(recorder, live)
            counts = [crowd.counts() for crowd in found]
        blocks = metrics(recorder)
        assert recorder.stop() == 0
        eventually_sync(lambda: live.close_code, "the close")
    stream = follow(read_sent(log).events, live.events)
    assert stream.faultless, stream
    assert sum(count["ended"] for count in counts) == 0, "a client was cut"
    growth = max(beside.rss_bytes) - max(alone.rss_bytes)
    half = len(beside.rss_bytes) // 2
    later = max(beside.rss_bytes[half:]) - max(beside.rss_bytes[:half])
    sent = sum(sum(count["bytes"]) for count in counts)
    disk, memory = (
        blocks.total("polygon_server_archive_blocks_total", source=source) for source in ("disk", "memory")
    )
    report(
        21,
        fault=f"100 clients want everything since ever, {compression}",
        injected=f"34 of the firehose, 66 of the filtered port, `since` 0, all at once, an archive of "
        f"{recorded:,} events; a live client of `*` at {RATE:,} events/s",
        holds="the live client misses nothing; no client is cut; memory has a bound whatever there is to read",
        figure=f"p99 of the live client {alone.p99_ms:.1f} ms alone, with them {beside.p99_ms:.1f} ms; longest silence "
        f"{alone.silence_ms:.0f} ms, with them {beside.silence_ms:.0f} ms; timers of the loop more than 10 ms late "
        f"{alone.late_turns:.1%}, with them {beside.late_turns:.1%}; memory {growth / MIB:+.1f} MiB, in the second half "
        f"{later / MIB:+.1f} MiB; {sent / 1e6:,.0f} MB to them, {memory:,.0f} blocks of {disk + memory:,.0f} from memory",
    )
    assert growth < GROWTH_BYTES_MAX + sum(clients for clients, _ in CROWDS.values()) * PENDING_BYTES_MAX / 2
    assert beside.silence_ms < 1000
