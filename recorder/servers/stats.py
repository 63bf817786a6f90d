"""The counters of a port, and the figures of each of its clients."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final, Literal, get_args

from recorder.archive.block_cache import BLOCK_SOURCES, BlockSource
from recorder.stats import BYTES, EVENTS, SECS, counter, gauge, label, shown

Eviction = Literal[
    "auth_failed",
    "auth_timeout",
    "files",
    "full",
    "no_pong",
    "past_lost",
    "protocol_error",
    "slow_consumer",
    "token_removed",
    "too_many_for_token",
    "too_many_fragments",
    "too_many_requests",
    "write_failed",
]
"""Why a client was cut."""
EVICTIONS: Final[tuple[Eviction, ...]] = get_args(Eviction)
Refusal = Literal["address", "draining", "files", "full", "host", "origin", "too_many_for_token"]
"""Why a connection was turned away."""
REFUSALS: Final[tuple[Refusal, ...]] = get_args(Refusal)

Resumed = Literal["partial", "recovered", "refused"]
"""What became of a wish for the past."""
RESUMED: Final[tuple[Resumed, ...]] = get_args(Resumed)
Snapshots = Literal["refused", "sent"]
"""What became of a wish for the last values."""
SNAPSHOTS: Final[tuple[Snapshots, ...]] = get_args(Snapshots)


@dataclass(slots=True)
class ServerStats:
    """One port that clients connect to."""

    port: str = label("port", "`firehose`, `filtered` or `bars`.")
    clients: int = gauge("polygon_server_clients", "Clients connected.")
    clients_authenticated: int = gauge(
        "polygon_server_clients_authenticated", "Clients connected that gave a good token."
    )
    clients_total: int = counter("polygon_server_connections_total", "Connections accepted.")
    refused: Counter[Refusal] = counter(
        "polygon_server_refused_total", "Connections turned away, by reason.", by="reason", values=REFUSALS
    )
    auth_failures: int = counter(
        "polygon_server_auth_failures_total", "Clients that gave a token that is not known."
    )
    evictions: Counter[Eviction] = counter(
        "polygon_server_evictions_total",
        "Clients cut, by reason; slow_consumer is one that left too much unread.",
        by="reason",
        values=EVICTIONS,
    )
    requests: int = counter("polygon_server_requests_total", "Messages of clients.")
    bad_requests: int = counter(
        "polygon_server_bad_requests_total",
        "Errors sent to clients: the message was no request, or named a topic that is not served.",
    )
    resumes: Counter[Resumed] = counter(
        "polygon_server_resumes_total",
        "Requests for what a client has missed, by what became of them: all of it was kept (recovered), or not all, and "
        "the client took what there was (partial) or none of it (refused).",
        by="outcome",
        values=RESUMED,
    )
    archive_reads: int = counter(
        "polygon_server_archive_reads_total",
        "Times that the archive was read for a client: it asked for what is older than memory, or fell behind that.",
    )
    archive_blocks: Counter[BlockSource] = counter(
        "polygon_server_archive_blocks_total",
        "Blocks of sealed files that were read for clients: from disk, or from memory, where another client has just had "
        "them read.",
        by="source",
        values=BLOCK_SOURCES,
    )
    events_dropped: int = counter(
        "polygon_server_dropped_events_total",
        "Events that slow clients were not sent, as they had chosen (slow is drop or conflate).",
        unit=EVENTS,
    )
    events_conflated: int = counter(
        "polygon_server_conflated_events_total",
        "Events left out because a newer one of the same symbol took their place: for a slow client, or once for each "
        "interval that clients ask for.",
        unit=EVENTS,
    )
    snapshots: Counter[Snapshots] = counter(
        "polygon_server_snapshots_total",
        "Requests for the last values, by what became of them: refused is one that was too large.",
        by="outcome",
        values=SNAPSHOTS,
    )
    subscriptions: int = gauge("polygon_server_subscriptions", "Topics held by all clients together.")
    audiences: int = gauge(
        "polygon_server_audiences",
        "Different sets of topics among the clients; each is matched and framed once.",
    )
    events_delivered: int = counter(
        "polygon_server_events_total",
        "Deliveries: events, each counted once for every client it went to. The firehose, which passes frames on "
        "unread, counts them only where another part has read them.",
        unit=EVENTS,
    )
    frames_delivered: int = counter("polygon_server_frames_total", "Data frames sent, counted likewise.")
    bytes_delivered: int = counter(
        "polygon_server_sent_bytes_total", "Bytes of the data frames sent, counted likewise.", unit=BYTES
    )
    pending_bytes_max: int = gauge(
        "polygon_server_pending_max_bytes",
        "The most that one client holds unread, looked at each second.",
        unit=BYTES,
        over_workers="max",
    )
    lag_secs_max: float = gauge(
        "polygon_server_lag_max_seconds",
        "How long the slowest client has taken nothing of what is pending, looked at each second.",
        unit=SECS,
        default=0.0,
        over_workers="max",
    )


@dataclass(slots=True)
class ReplayStats:
    """Bars of the past, read for clients that asked for them."""

    replays: int = counter(
        "polygon_bars_replays_total",
        "Subscriptions that asked for bars of the past, with since.",
        about="Requests for bars of the past.",
    )


@dataclass(slots=True)
class RelayStats:
    """Bars taken from another recorder."""

    relayed: int = counter(
        "polygon_bars_relayed_total",
        "Bars received from the recorder that MS_AGGREGATOR_URL names.",
        about="Bars taken from another recorder.",
    )
    unreadable: int = counter(
        "polygon_bars_relay_rejects_total",
        "Bars received from there that could not be read.",
        shown=False,
    )


@dataclass(frozen=True, slots=True)
class ClientStats:
    """One client, at one moment. What it says of itself is cut, and nothing of it is trusted."""

    port: str = shown("`firehose`, `filtered` or `bars`.")
    number: int = shown("Counts the connections of a port, at each worker by itself.")
    worker: int = shown("The worker that serves it; 0: the recording process.")
    address: str = shown("Its IP address; behind a proxy, the proxy's.")
    address_port: int = shown("Its TCP port.")
    cluster: str = shown("The cluster it asked for; empty: all.")
    token: str = shown("The name of its token, never the token; empty before it has authenticated.")
    agent: str = shown("Its `User-Agent`.")
    topics: tuple[str, ...] = shown("The first of its topics.")
    topics_count: int = shown("The number of its topics.")
    unread_bytes: int = shown("What it has not taken yet.", unit=BYTES)
    lag_secs: float = shown("How long it has taken nothing while something waits for it.", unit=SECS)
    events: int = shown(
        "Delivered to it; the firehose counts them only where another part has read them.", unit=EVENTS
    )
    bytes: int = shown("Delivered to it.", unit=BYTES)
    connected_secs: float = shown("How long it has been connected.", unit=SECS)
    slow: str = shown(
        "What is done when it reads too slowly: `disconnect`, `drop` or `conflate`.", default="disconnect"
    )
    left_out: int = shown("Left out because it was slow, as it had chosen.", unit=EVENTS, default=0)
