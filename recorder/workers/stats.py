"""What is known of each process that serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recorder.stats import BYTES, SECS, counter, gauge, label, shown
from recorder.workers.wire import Report


@dataclass(slots=True)
class WorkerStats:
    """One process that serves, over all its lives."""

    number: int = label("worker", "Its number, from 1.", shown=False)
    state: str = shown("`starting`, `up` or `down`.", default="starting")
    reason: str = shown("Why it is down; empty while it is not.", default="")
    pid: int = shown("Its process; 0 while it is down.", default=0)
    restarts: Counter[str] = counter(
        "polygon_serve_worker_restarts_total",
        "Workers that were replaced: ended by themselves, slow (left more than SERVE_WORKER_PENDING_BYTES_MAX "
        "unread), or silent (said nothing for 30 s). Their clients had to connect again.",
        about="Ends that were not asked for: `ended`, `slow` or `silent`.",
        by="reason",
        values=("ended", "slow", "silent"),
    )
    connections: int = shown("Clients, and connections that are not clients yet.", default=0)
    clients: dict[str, int] = gauge(
        "polygon_serve_worker_clients", "Clients connected, by worker.", about="Clients by port.", by="port"
    )
    pending_bytes: int = gauge(
        "polygon_serve_worker_pending_bytes",
        "What the worker has not taken yet of what was received, looked at each second.",
        unit=BYTES,
    )
    lag_secs: float = gauge(
        "polygon_serve_worker_lag_seconds",
        "From the receipt of data to its being taken by the worker: the most within the last second.",
        unit=SECS,
        default=0.0,
    )
    cpu_secs: float = counter(
        "polygon_serve_worker_cpu_seconds_total",
        "Processor time of the worker.",
        about="Processor time of this life.",
        unit=SECS,
        default=0.0,
    )
    memory_bytes: int = gauge(
        "polygon_serve_worker_resident_memory_bytes", "Resident memory of the worker.", unit=BYTES
    )
    consumer_failures: int = 0
    """Counted over all processes, by the reader of `polygon_consumer_failures_total`."""
    log_lines_dropped: int = 0
    """Counted over all processes, by the reader of `polygon_log_lines_dropped_total`."""

    def note(self, report: Report, before: Report | None) -> None:
        """Take a report of the present life; `before` is the last one of this life, None for its first."""
        self.connections = report.connections
        self.clients = {server.port: server.clients for server in report.servers}
        self.lag_secs = report.lag_secs
        self.cpu_secs = report.cpu_secs
        self.memory_bytes = report.memory_bytes
        self.consumer_failures += report.consumer_failures - (before.consumer_failures if before else 0)
        self.log_lines_dropped += report.log_lines_dropped - (before.log_lines_dropped if before else 0)

    def note_end(self, reason: str) -> None:
        """Note that the present life is over. What was counted stays."""
        self.state, self.reason = "down", reason
        self.pid = self.connections = self.pending_bytes = self.memory_bytes = 0
        self.lag_secs = self.cpu_secs = 0.0
        self.clients = {}
