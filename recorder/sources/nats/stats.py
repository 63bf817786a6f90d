"""What following one stream counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from recorder.sources.nats.cursor import CAUSES
from recorder.stats import BYTES, EVENTS, SECS, counter, gauge, label, shown


@dataclass(slots=True)
class StreamStats:
    """How one cluster's stream is followed (SOURCE=nats)."""

    cluster: str = label("feed", "Name of the cluster.")
    stream: str = shown("Name of the stream.")
    server: str = shown("The server that it is read from; empty while there is none.", default="")
    position: str = shown(
        "The position up to which everything was passed on, as clients are told; empty before the first.",
        default="",
    )
    event: int = gauge("polygon_stream_event", "Number in the stream of the last event that was passed on.")
    sequence: int = gauge("polygon_stream_sequence", "Sequence number of its message in the stream.")
    lag_messages: int = gauge(
        "polygon_stream_lag_messages", "Messages of the stream that are yet to be read."
    )
    lag_events: int = gauge(
        "polygon_stream_lag_events",
        "Events of the stream that are yet to be read; looked at every few seconds.",
        unit=EVENTS,
    )
    lag_secs: float = gauge(
        "polygon_stream_lag_seconds",
        "Age of the last event that was passed on, since its receipt from the exchange, while more are there; else 0.",
        unit=SECS,
        default=0.0,
    )
    messages: int = counter("polygon_stream_messages_total", "Messages read.")
    bytes_read: int = counter(
        "polygon_stream_bytes_total", "Bytes of their content, as compressed.", unit=BYTES
    )
    unreadable: int = counter(
        "polygon_stream_unreadable_total", "Messages that were passed over, since their format is not known."
    )
    holes: Counter[str] = counter(
        "polygon_stream_holes_total",
        "Times that events were missing between two messages, by cause.",
        by="cause",
        values=tuple(CAUSES),
    )
    events_missing: int = counter(
        "polygon_stream_missing_events_total",
        "Events that were missing there, as far as their number is known.",
        unit=EVENTS,
    )
