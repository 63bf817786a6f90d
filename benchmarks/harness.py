"""Programs on cores of their own, started, looked at and stopped; what was counted between two looks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from commands import KEY, Running, live_settings, running, simulating
from waiting import eventually_sync

CPUS: Final = sorted(os.sched_getaffinity(0))
"""All that we may use."""
PROGRAM_CPU: Final = CPUS[0]
"""The program under test runs here, and nothing else that we start."""
LOAD_CPU: Final = CPUS[-1]
"""Simulator, clients and this harness run here; the same one where there is no other."""
TOKEN: Final = KEY
"""What clients of the recorder authenticate with."""
TAPE_EVENTS: Final = 100_000
"""The simulator is at its full speed once it has played its tape once."""

_CLOCK_OF_PROCESS: Final = 2
"""CPUCLOCK_SCHED: with a process id, the clock of clock_getcpuclockid(3)."""
_CORE_TICKS_PER_SEC: Final = os.sysconf("SC_CLK_TCK")
_IDLE_FIELDS: Final = (3, 4)
"""Of a core's line in /proc/stat: idle, and waiting for a disk."""
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_GIVING_UP_SECS: Final = 30.0
_LOOKING_SECS: Final = 0.05


class Broken(Exception):
    """A program of the measurement did not do its part."""


def on(*cpus: int) -> tuple[str, ...]:
    """Return the words that put a command on some cores; its children stay there."""
    return ("taskset", "--cpu-list", ",".join(map(str, cpus)))


@contextmanager
def exchange(folder: Path, *arguments: str, cpu: int = LOAD_CPU) -> Iterator[int]:
    """Yield the port of a simulator of stocks; `arguments` are those of `recorder simulate`."""
    with simulating("--cluster", "stocks", *arguments, cwd=folder, prefix=on(cpu)) as port:
        yield port


@contextmanager
def recorder(
    port: int, folder: Path, cpus: Sequence[int] = (PROGRAM_CPU,), **settings: str
) -> Iterator[Running]:
    """Yield a recorder that follows the simulator at `port`, once it has started.

    Without `settings` it records trades and quotes of stocks into `folder`, and serves nothing but `/metrics`.
    """
    variables = live_settings(
        port,
        folder,
        **{
            "ROLES": "archive,ops",
            "NDJSON_MAX_BYTES": "256MiB",
            "NDJSON_RETAIN_BYTES": "2GiB",
            "SHUTDOWN_TIMEOUT_SECS": "120",
            "CLIENT_PING_INTERVAL_SECS": "86400",  # cheap clients do not answer
            **settings,
        },
    )
    with running("run", cwd=folder, prefix=on(*cpus), **variables) as started:
        started.wait_for("started")
        yield started


class Program:
    """A Python module of `benchmarks` as a process: says `ready`, answers each line of stdin with one of JSON.

    At the end of stdin it answers once more and ends.
    """

    def __init__(self, module: str, *arguments: str, cpu: int = LOAD_CPU, cwd: Path | None = None) -> None:
        command = [*on(cpu), sys.executable, "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd
        )
        self.name = module

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            self.__exit__()
            raise Broken(f"{self.name} is not ready, but says {line!r}")
        return self

    def ask(self) -> dict[str, Any]:
        """Return what it has counted so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def finish(self) -> dict[str, Any]:
        """Let it end; return what it has counted."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Broken(f"{self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()


def drain(port: int, clients: int, *topics: str, path: str = "/stocks", cpu: int = LOAD_CPU) -> Program:
    """Return clients that read and throw away; number n has the n-th `topics`, beginning again at the end."""
    return Program("benchmarks.drain", str(port), path, str(clients), *topics, cpu=cpu)


class Metrics:
    """What `/metrics` said at one moment."""

    def __init__(self, text: str) -> None:
        found = [_SAMPLE.match(line) for line in text.splitlines()]
        self._samples = [
            (match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])) for match in found if match
        ]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 where it has none."""
        return sum(
            value for sample, own, value in self._samples if sample == name and labels.items() <= own.items()
        )

    def buckets(self, name: str) -> dict[float, float]:
        """Return a histogram: how many observations were within each bound."""
        counts: dict[float, float] = {}
        for sample, labels, value in self._samples:
            if sample == f"{name}_bucket":
                bound = float(labels["le"])
                counts[bound] = counts.get(bound, 0.0) + value
        return dict(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a program."""

    at_secs: float
    own_cpu_secs: float
    """User and system time of the process so far, all threads."""
    children_cpu_secs: float
    """The same of all processes below it."""
    load_busy_secs: float
    """How long the load's core has been busy since the machine started."""
    metrics: Metrics
    """Of a recorder; else empty."""


@dataclass(frozen=True)
class Span:
    """What happened between two looks."""

    before: Look
    after: Look

    @cached_property
    def secs(self) -> float:
        return self.after.at_secs - self.before.at_secs

    @cached_property
    def own_cpu_secs(self) -> float:
        return self.after.own_cpu_secs - self.before.own_cpu_secs

    @cached_property
    def children_cpu_secs(self) -> float:
        return self.after.children_cpu_secs - self.before.children_cpu_secs

    @property
    def cpu_secs(self) -> float:
        """Return what the whole program took."""
        return self.own_cpu_secs + self.children_cpu_secs

    @property
    def cpu_share(self) -> float:
        """How busy the program was; 1 is one core."""
        return self.cpu_secs / self.secs

    @property
    def load_share(self) -> float:
        """How busy the load's core was: at 1 the load may be the limit."""
        return (self.after.load_busy_secs - self.before.load_busy_secs) / self.secs

    def counted(self, name: str, **labels: str) -> float:
        """Return how much a counter rose."""
        return self.after.metrics.total(name, **labels) - self.before.metrics.total(name, **labels)

    def per_sec(self, name: str, **labels: str) -> float:
        """Return how fast a counter rose."""
        return self.counted(name, **labels) / self.secs

    def percentile(self, name: str, share: float) -> float:
        """Return the value below which this share of a histogram's new observations is; between bounds, in proportion."""
        before, after = self.before.metrics.buckets(name), self.after.metrics.buckets(name)
        return percentile({bound: count - before.get(bound, 0.0) for bound, count in after.items()}, share)


def percentile(buckets: Mapping[float, float], share: float) -> float:
    """Return the value below which this share of a cumulated histogram is; 0 of an empty one."""
    wanted = share * max(buckets.values(), default=0.0)
    low_bound = low_count = 0.0
    for bound, count in buckets.items():
        if count >= wanted and count > low_count:
            if bound == float("inf"):
                return low_bound
            return low_bound + (bound - low_bound) * (wanted - low_count) / (count - low_count)
        low_bound, low_count = bound, count
    return 0.0


def look(program: Running | Program) -> Look:
    """Look at a program."""
    metrics = Metrics(program.get("/metrics")[1] if isinstance(program, Running) else "")
    own, *children = family(program.process.pid)
    return Look(time.monotonic(), cpu_secs(own), cpu_secs(*children), _busy_secs(LOAD_CPU), metrics)


def watch(program: Running | Program, seconds: float) -> Span:
    """Let a program work for `seconds`; return what it did meanwhile."""
    before = look(program)
    time.sleep(seconds)  # the measured time
    return Span(before, look(program))


def warmed_up(
    recorder: Running, count: float = 1.5 * TAPE_EVENTS, metric: str = "polygon_events_total"
) -> None:
    """Wait until a metric of the recorder has reached `count`, that is, until it has warmed up.

    A recorder that looks into no frame, as one that serves a firehose alone, counts `polygon_messages_received_total`.
    """
    eventually_sync(
        lambda: recorder.metric(metric) >= count, f"{count:g} of {metric}", _GIVING_UP_SECS, _LOOKING_SECS
    )


def clients_subscribed(recorder: Running, port: str, clients: int) -> None:
    """Wait until `clients` clients of a port (`firehose`, `filtered`, `bars`) are authenticated and subscribed."""

    def ready() -> bool:
        metrics = Metrics(recorder.get("/metrics")[1])
        names = ("polygon_server_clients_authenticated", "polygon_server_subscriptions")
        return all(metrics.total(name, port=port) >= clients for name in names)

    eventually_sync(ready, f"{clients} clients of {port}", 4 * _GIVING_UP_SECS, _LOOKING_SECS)


def stop(recorder: Running, *clients: Program, cut_expected: int = 0) -> list[str]:
    """Stop clients, then the recorder; return what forbids to count the run.

    That is: anything dropped, anybody cut, books that do not balance, an end that is none.
    """
    metrics = Metrics(recorder.get("/metrics")[1])
    found = []
    cut = metrics.total("polygon_server_evictions_total")
    ended = sum(client.finish()["ended"] for client in clients)
    if cut != cut_expected or ended:
        found.append(f"{max(cut, ended):,.0f} clients cut")
    failures = metrics.total("polygon_consumer_failures_total")
    if failures:
        found.append(f"{failures:,.0f} failures of a consumer")
    status = recorder.stop(timeout=180)
    if status:
        found.append(f"exit status {status}")
    balances = [*recorder.logged("balance"), *recorder.logged("balance_wrong")]
    if recorder.logged("started")[0]["sinks"] and not balances:
        found.append("no balance")
    for balance in balances:
        if balance["event"] != "balance":
            found.append("the books do not balance")
        if balance["dropped"]:
            found.append(f"{balance['dropped']:,} records dropped")
    return found


def cpu_secs(*pids: int) -> float:
    """Return the CPU time of processes so far, to the nanosecond."""
    return sum(time.clock_gettime((~pid << 3) | _CLOCK_OF_PROCESS) for pid in pids)


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a process and its children."""

    rss_bytes: int
    peak_bytes: int
    """The greatest resident size so far."""


def memory(pid: int) -> Memory:
    """Look at a process's memory."""
    texts = [Path(f"/proc/{each}/status").read_text() for each in family(pid)]

    def total(name: str) -> int:
        return (
            sum(
                int(size)
                for text in texts
                for size in re.findall(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
            )
            * 1024
        )

    return Memory(total("VmRSS"), total("VmHWM"))


def forget_peak(pid: int) -> None:
    """Let the peak of a process's memory begin again at its present size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _busy_secs(cpu: int) -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{cpu}":
            ticks = list(map(int, fields[:8]))
            return (sum(ticks) - sum(ticks[field] for field in _IDLE_FIELDS)) / _CORE_TICKS_PER_SEC
    raise Broken(f"/proc/stat has no cpu{cpu}")
