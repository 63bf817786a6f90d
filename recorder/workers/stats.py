"""What is known of each process that serves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class WorkerStats:
    """One process that serves, over all its lives."""

    number: int
    state: str = "starting"
    """`starting up down`"""
    pid: int = 0
    """0 while it is down."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Ends that were not asked for, by reason: `ended` (by itself), `slow`, `silent`."""
    connections: int = 0
    """Clients, and connections that are none yet."""
    clients: dict[str, int] = field(default_factory=dict)
    """By port."""
    pending_bytes: int = 0
    """What it has not taken yet, at the last look."""
    lag_secs: float = 0.0
    """From the receipt of a batch to its being taken there: the most within the last second."""
    cpu_secs: float = 0.0
    """Of this life."""
    memory_bytes: int = 0
    consumer_failures: int = 0
