"""One line of the access log: what one connection received, from when to when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from recorder.errors import ArchiveError

SCHEMA_VERSION: Final = 1
"""Rises when a field goes or means something else; a field may be added without."""
FINGERPRINT_CHARS: Final = 12

Kind = Literal["joined", "interval", "left"]


def _about(text: str) -> Meta:
    return Meta(description=text)


class AccessRecord(Struct, frozen=True):
    """A line of the access log. The lines of a connection follow each other without a break: their sums are its totals."""

    schema_version: Annotated[
        int, _about(f"{SCHEMA_VERSION}. A reader accepts fields that it does not know, and no other version.")
    ]
    kind: Annotated[
        Kind,
        _about(
            "`joined`: its token was accepted; `interval`: it is connected, and was since the line before; "
            "`left`: the connection has ended."
        ),
    ]
    token: Annotated[str, _about("The name of the token, never the token.")]
    fingerprint: Annotated[
        str,
        _about(
            f"The first {FINGERPRINT_CHARS} hexadecimal digits of the SHA-256 of the token, which stay when the name "
            "changes."
        ),
    ]
    port: Annotated[str, _about("`firehose`, `filtered` or `bars`.")]
    clusters: Annotated[list[str], _about("The clusters whose data the connection can ask for.")]
    address: Annotated[str, _about("Where the client connected from; behind a proxy, the proxy's address.")]
    address_port: Annotated[int, _about("Its TCP port.")]
    agent: Annotated[str, _about("Its `User-Agent`, as it says itself.")]
    connection: Annotated[str, _about("Identifies the connection, in all files.")]
    seq: Annotated[
        int, _about("Counts the lines of the connection from 0; where a number is missing, a line was lost.")
    ]
    connected: Annotated[datetime, _about("When its token was accepted, UTC.")]
    begun: Annotated[datetime, _about("From when the line counts, UTC; its day is the day of the line.")]
    ended: Annotated[datetime, _about("Until when the line counts, UTC.")]
    events: Annotated[
        int | None,
        _about(
            "Events sent to it in this time; null where a recorder that only passes frames on has not counted "
            "them."
        ),
    ]
    bytes: Annotated[int, _about("Bytes sent to it in this time, answers and pings included, before TLS.")]
    subscribed: Annotated[
        list[str],
        _about(
            "Topics that it began to receive in this time; in its first line of a day, also those that it held before."
        ),
    ]
    unsubscribed: Annotated[
        list[str], _about("Topics that it received in this time, and no more at its end.")
    ]
    topics_count: Annotated[int, _about("Topics that it held at the end of this time.")]
    reason: Annotated[str, _about("Why the connection ended; empty unless the line is `left`.")]

    @property
    def day(self) -> str:
        """The day to which the line belongs, as `2026-01-31`."""
        return self.begun.astimezone(UTC).date().isoformat()


encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(AccessRecord).decode


class _Version(Struct):
    schema_version: int


_decode_version: Final = msgspec.json.Decoder(_Version).decode


def decode(line: bytes) -> AccessRecord:
    """Return what a line says. Raise ArchiveError for what is no line of an access log, or of another version."""
    try:
        version = _decode_version(line).schema_version
        if version != SCHEMA_VERSION:
            raise ArchiveError(f"has schema version {version}; this recorder reads version {SCHEMA_VERSION}")
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"is no line of an access log: {error}") from error


def fingerprint(token_hash: str) -> str:
    """Return what stands for a token: the beginning of its SHA-256, in hexadecimal digits."""
    return token_hash[:FINGERPRINT_CHARS]


def moment(wall_ns: int) -> datetime:
    """Return a Unix time in nanoseconds as the log has it, to the millisecond."""
    return datetime.fromtimestamp(wall_ns // 1_000_000 / 1000, UTC)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a line (2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(AccessRecord)}
