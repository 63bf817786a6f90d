"""What is known of each process that serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recorder.stats import BYTES, SECS, counter, gauge, label, shown


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
