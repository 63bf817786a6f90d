"""How late a client gets what happened."""

from __future__ import annotations

import statistics
from itertools import pairwise

from listening import Listener
from oracle import time_ms


def latencies_ms(client: Listener, first: int, last: int) -> list[float]:
    """From each frame's newest event to its arrival, both by the clock of this machine."""
    found = []
    for frame, at_ns in zip(client.frames[first:last], client.times_ns[first:last], strict=True):
        newest = frame.rfind(b"{")
        found.append(at_ns / 1e6 - time_ms(frame[newest:-1]))
    return found


def silence_ms(client: Listener, first: int, last: int) -> float:
    """Return the longest time between two of its frames."""
    times_ns = client.times_ns[first:last]
    return max(after - before for before, after in pairwise(times_ns)) / 1e6


def p99(values: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(values, n=100)[98]
