"""The settings of NATS, sink and source: where the servers are, how they are trusted, what the streams keep."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from recorder.addresses import PORT_MAX
from recorder.settings import values
from recorder.settings.kinds import (
    ANY_CASE,
    DURATION,
    MILLIS,
    BadValueError,
    Size,
    Spelling,
    WholeSeconds,
    each_of,
)
from recorder.settings.option import Section, option, same_as

MIB: Final = 2**20
NATS_PORT: Final = 4222
"""Where a server listens if its URL names no port."""
_YEAR_SECS: Final = 365 * 86_400
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_USER: Final = re.compile(r"[\x21-\x7e]{1,256}")


def _read_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("nats", "tls") or not parts.hostname or not text.isprintable() or " " in text:
        raise ValueError(
            f"{_without_user(text)!r} is not a URL such as nats://127.0.0.1:4222 or tls://nats.example.com"
        )
    if "@" in parts.netloc:
        raise BadValueError(
            "must have no user: that is NATS_USER and NATS_PASSWORD_FILE, or a file of its own"
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise BadValueError(f"{text!r} must end with the port")
    port = NATS_PORT if parts.port is None else parts.port
    if not 0 < port <= PORT_MAX:
        raise BadValueError(f"{text!r} must have a port from 1 to {PORT_MAX}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _without_user(text: str) -> str:
    return text.rpartition("@")[2]


NatsUrls = Annotated[
    tuple[str, ...], each_of(_read_url, "URLs such as nats://127.0.0.1:4222 or tls://nats.example.com")
]
"""Addresses of servers, each with its port."""


def _read_word(pattern: re.Pattern[str]) -> Spelling:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError
        return text

    allowed = (
        "up to 32 of the letters A-Z a-z, digits, _ and -"
        if pattern is _PREFIX
        else "printable ASCII without spaces"
    )
    return Spelling(read, allowed)


NatsStandby = Literal["connected", "waiting"]
NatsRole = Literal["active", "standby", "auto"]
StreamPrefix = Annotated[str, _read_word(_PREFIX)]
"""What the names of streams and subjects begin with."""
UserName = Annotated[str, _read_word(_USER)]
"""A user of the servers."""


RESUME: Final = "resume"
NEW: Final = "new"
ALL: Final = "all"


def _read_start(text: str) -> str:
    word = text.lower()
    if word in (RESUME, NEW, ALL):
        return word
    if text.isascii() and text.isdigit() and 0 < int(text) < 10**18:
        return str(int(text))
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise BadValueError(f"{text!r} has no time zone: write it as in 2026-09-18T13:30:00Z")
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


StreamStart = Annotated[
    str,
    Spelling(
        _read_start,
        "resume, new, all, the sequence number of a message, or a time such as 2026-09-18T13:30:00Z",
    ),
]
"""Where to begin in a stream."""


class NatsSettings(Section, group="Consumers"):
    """The streams of a NATS cluster: JetStream."""

    urls: NatsUrls = option("NATS_URL", ("nats://127.0.0.1:4222",))
    """Servers of the NATS cluster; name all of them. `tls://` demands TLS, as a file of `NATS_TLS_…` does."""
    stream_prefix: StreamPrefix = option("NATS_STREAM_PREFIX", "MD")
    """Each cluster has a stream: `MD_STOCKS` with the subject `md.stocks.frames`."""
    replicas: int = option("NATS_REPLICAS", 1, ge=1, le=5)
    """Servers that hold each stream: 3 survive the loss of one server."""
    max_bytes: Size | None = option("NATS_MAX_BYTES", None, ge=MIB)
    """Size of each stream; past it the oldest messages go. `SINK=nats` requires it."""
    max_age_secs: WholeSeconds | None = option("NATS_MAX_AGE_SECS", None, le=100 * _YEAR_SECS)
    """Age at which messages go. `SINK=nats` requires it."""
    buffer_bytes: Size = option("NATS_BUFFER_BYTES", 256 * MIB)
    """Bytes that may wait for the servers, acknowledgements included. Past this limit the newest batch is dropped, counted,
    and noted in the stream."""
    linger_ms: Annotated[int, MILLIS] = option("NATS_LINGER_MS", 3, ge=0, le=1000)
    """How long frames wait for others of their cluster, to be one message."""
    role: Annotated[NatsRole, ANY_CASE] = option("NATS_ROLE", "auto")
    """How the recorder begins where two record one feed into the same streams. An `active` one appends at once, and the
    other one steps back. A `standby` follows, adds what the other one has not got, and takes over when that one is silent.
    `auto`: a standby where the stream has messages of the last 10 s, else active."""
    takeover_secs: Annotated[float, DURATION] = option("NATS_TAKEOVER_SECS", 1.0, ge=0.1, le=60)
    """How long a standby waits for the other recorder to append an event, before it does. It must be longer than the
    connections of the two to the exchange may differ."""
    per_symbol: values.Channels = option("NATS_PER_SYMBOL", ())
    """Channels of which each event goes into a second stream, too, `MD_STOCKS_SYMBOLS`, under a subject for its symbol, such
    as `md.stocks.symbols.AM.AAPL`. It takes 20,000 events a second, so trades and quotes cannot be among them."""
    start: StreamStart = option("NATS_START", RESUME, group="Source")
    """Where `SOURCE=nats` begins in a stream of which the archive has nothing: with what is `new` (`resume` means that,
    too), with `all` there is, at a message, or at a time. Where the archive has something, it goes on behind that, but for
    `new`, which leaves out what came meanwhile."""
    silence_max_ms: Annotated[int, MILLIS] = same_as("BAR_SILENCE_MAX_MS", 10_000)
    """How long time stands still where nothing comes of a stream."""
    standby: Annotated[NatsStandby, ANY_CASE] = option("NATS_STANDBY", "connected")
    """Whether a recorder that follows is connected to the exchange. `waiting`: only one of the two is, as where both have
    one key; the other one connects once it has heard nothing of the first for `NATS_TAKEOVER_SECS`."""
    user: UserName | None = option("NATS_USER", None)
    """User, whose password is in `NATS_PASSWORD_FILE`."""
    password_file: values.File | None = option("NATS_PASSWORD_FILE", None)
    """File that holds the password."""
    token_file: values.File | None = option("NATS_TOKEN_FILE", None)
    """File that holds a token, where the servers want that instead."""
    creds_file: values.File | None = option("NATS_CREDS_FILE", None)
    """File with credentials as `nsc` writes them (JWT and NKey), or with the seed of an NKey alone. It needs the package
    `nkeys`, which the extra `nkeys` brings."""
    tls_ca_file: values.File | None = option("NATS_TLS_CA_FILE", None)
    """Certificates (PEM) that vouch for the servers, instead of those of the machine."""
    tls_cert_file: values.File | None = option("NATS_TLS_CERT_FILE", None)
    """Certificate chain (PEM) of this client, where the servers ask for one."""
    tls_key_file: values.File | None = option("NATS_TLS_KEY_FILE", None)
    """Private key of that certificate (PEM), not encrypted."""

    @property
    def wants_tls(self) -> bool:
        """Whether a connection without TLS is refused."""
        files = (self.tls_ca_file, self.tls_cert_file)
        return any(files) or any(url.startswith("tls:") for url in self.urls)
