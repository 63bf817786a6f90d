"""What a port counts, and what is known of each of its clients."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

Eviction = Literal[
    "auth_failed",
    "auth_timeout",
    "files",
    "full",
    "no_pong",
    "protocol_error",
    "slow_consumer",
    "too_many_for_token",
    "too_many_fragments",
    "too_many_requests",
    "write_failed",
]
"""Why a client was cut."""
EVICTIONS: Final[tuple[Eviction, ...]] = get_args(Eviction)
Refusal = Literal["address", "files", "full", "host", "origin", "too_many_for_token"]
"""Why a connection was turned away."""
REFUSALS: Final[tuple[Refusal, ...]] = get_args(Refusal)


@dataclass(slots=True)
class ServerStats:
    """One port that clients connect to."""

    port: str
    """`firehose`, `filtered` or `bars`."""
    clients: int = 0
    clients_authenticated: int = 0
    clients_total: int = 0
    """Connections that were ever accepted."""
    subscriptions: int = 0
    """Topics held by all clients together."""
    audiences: int = 0
    """Different sets of topics among the clients."""
    requests: int = 0
    bad_requests: int = 0
    auth_failures: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    """Connections that were turned away, by reason."""
    evictions: Counter[Eviction] = field(default_factory=Counter)
    """Clients that were cut, by reason."""
    events_delivered: int = 0
    """Events, each counted once for every client it went to."""
    frames_delivered: int = 0
    bytes_delivered: int = 0
    pending_bytes_max: int = 0
    """The most that one client holds unread, at the last look."""
    lag_secs_max: float = 0.0
    """How long the slowest client has held something unread, at the last look."""


@dataclass(frozen=True, slots=True)
class ClientStats:
    """One client, at one moment. What it says of itself is cut, and nothing of it is trusted."""

    port: str
    """`firehose`, `filtered` or `bars`."""
    number: int
    """Counts the connections of a port; with `worker`, of that worker's port."""
    worker: int
    """The process that serves it; 0: the recording one."""
    address: str
    address_port: int
    cluster: str
    """Empty: all."""
    token: str
    """The name of its token; empty before it has authenticated."""
    agent: str
    topics: tuple[str, ...]
    """The first of them."""
    topics_count: int
    unread_bytes: int
    lag_secs: float
    """For how long something has been unread, at the last look."""
    events: int
    """Delivered to it."""
    bytes: int
    connected_secs: float
