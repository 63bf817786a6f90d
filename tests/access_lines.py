"""Lines of an access log, made up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from recorder.access_log.record import SCHEMA_VERSION, AccessRecord, encode

NOON_NS: Final = int(datetime(2026, 1, 30, 12, tzinfo=UTC).timestamp()) * 1_000_000_000


def record(second: float, seq: int = 0, connection: str = "a", **changes: Any) -> AccessRecord:
    """Return a line that begins some seconds after noon and counts for one."""
    begun = datetime.fromtimestamp(NOON_NS / 1e9 + second, UTC)
    made = AccessRecord(
        schema_version=SCHEMA_VERSION,
        kind="interval",
        token="acme",
        fingerprint="0123456789ab",
        port="filtered",
        clusters=["stocks"],
        address="192.0.2.7",
        address_port=4711,
        agent="",
        connection=connection,
        seq=seq,
        connected=begun,
        begun=begun,
        ended=datetime.fromtimestamp(NOON_NS / 1e9 + second + 1, UTC),
        events=10,
        bytes=1000,
        subscribed=["T.*"],
        unsubscribed=[],
        topics_count=1,
        reason="",
    )
    return msgspec.structs.replace(made, **changes)


def line_of(second: float, seq: int = 0, **changes: Any) -> bytes:
    """Return such a line as it is in a file."""
    return encode(record(second, seq, **changes)) + b"\n"
