"""The kinds of values that name something: what is followed, files, addresses, log levels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field

from recorder import addresses
from recorder.log_events import LEVELS, TARGETS
from recorder.objects.url import BadUrl, read_url
from recorder.polygon.clusters import CLUSTERS, is_cluster_path
from recorder.polygon.topics import parse_pattern, parse_topic
from recorder.settings.kinds import (
    BadValueError,
    Spelling,
    ascii_word,
    choices,
    each_of,
    items_in,
    one_of,
)

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://|file:", re.IGNORECASE)
_CODEC_SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd"}
_RESERVED_ENDINGS: Final = (".lock", ".tmp", ".manifest.ndjson", ".rejected.ndjson")
"""Endings of the archive's files that contain no records."""
_PLACEHOLDER: Final = re.compile(r"\{(cluster|type)\}")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
_ORIGIN_PORTS: Final = {"http": "80", "https": "443"}
"""Ports that browsers leave out of an origin."""
_ZMQ_TCP: Final = re.compile(r"tcp://(\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5}|\*)")
_ZMQ_IPC: Final = re.compile(r"ipc://[^\s]+")


_CLUSTERS: Final = choices(tuple(CLUSTERS))


def _read_clusters(text: str) -> object:
    for item in items_in(text.lower()):
        if "/" in item and is_cluster_path(item):
            raise BadValueError(f"{item} belongs in POLYGON_WS_URL, as in wss://socket.polygon.io/{item}")
    return _CLUSTERS.read(text)


Clusters = Annotated[tuple[str, ...], Spelling(_read_clusters, _CLUSTERS.allowed)]
"""Clusters by name. An exchange of the futures cluster is a matter of the URL."""


def _read_topic(text: str) -> str:
    try:
        return str(parse_topic(text))
    except ValueError as error:
        channel, symbol = re.split("[.:]", f"{text}:", maxsplit=1)
        if channel and symbol.rstrip(":").endswith("*"):
            pattern = f"{channel}:{symbol.rstrip(':')}"
            raise ValueError(f"{error}; set SUBSCRIPTION={channel}.* and NDJSON_INCLUDE={pattern}") from error
        raise


Topics = Annotated[tuple[str, ...], each_of(_read_topic, "topics such as T.AAPL or T.*")]
"""Upstream topics, as they are sent."""
Patterns = Annotated[
    tuple[str, ...],
    each_of(lambda text: str(parse_pattern(text)), "patterns such as T:ES*, *:AAPL or T:*"),
]
"""Patterns that choose events."""


def _read_channel(text: str) -> str:
    if "." in text or ":" in text:
        raise BadValueError(f"{text!r} is more than a channel; topics belong in SUBSCRIPTION")
    return parse_topic(f"{text}.*").channel


Channels = Annotated[tuple[str, ...], each_of(_read_channel, "channels such as T, A or AM")]
"""Channel codes, which stand for all of the channel: `T` for `T.*`."""


def _read_path(text: str) -> str:
    """Return the path with `~` filled in, as a shell does where it sees the value."""
    if not text or "\0" in text:
        raise ValueError
    if _URL.match(text):
        raise BadValueError("must be a path such as /var/p.ndjson, not a URL")
    home, slash, rest = text.partition("/")
    if not home.startswith("~"):
        return text
    try:
        return f"{Path(home).expanduser()}{slash}{rest}"
    except RuntimeError:
        raise BadValueError("names the home folder of a user that does not exist") from None


File = Annotated[str, Spelling(_read_path, "the path of a file")]


def _read_access_log(text: str) -> str:
    if not text.isprintable():
        raise ValueError
    if text in (".", "..", "~") or text.endswith(("/", "/.", "/..")):
        raise BadValueError("must name a file, not a folder")
    if text.lower().endswith((".ndjson", *_CODEC_SUFFIXES)):
        raise BadValueError(
            "must not end with .ndjson, .gz or .zst, which files of the archive do; take a name such as access.jsonl"
        )
    return _read_path(text)


AccessLogFile = Annotated[str, Spelling(_read_access_log, "the path of a file such as access.jsonl")]
"""The path of the access log."""


def _read_destination(text: str) -> str:
    if not text:
        raise BadValueError(
            "must not be empty: set the path of a file, or stdout if no file is to be written"
        )
    if text.lower() == "stdout":
        return "stdout"
    if not text.isprintable():
        raise ValueError
    rest = _PLACEHOLDER.sub("", text)
    if "{" in rest or "}" in rest:
        raise BadValueError("knows the placeholders {cluster} and {type} only")
    if text in (".", "..", "~") or text.endswith(("/", "/.", "/..")):
        raise BadValueError("must name a file, not a folder")
    for suffix, codec in _CODEC_SUFFIXES.items():
        if text.lower().endswith(suffix):
            raise BadValueError(
                f"must not end with {suffix}, since the file that is written is plain: "
                f"NDJSON_COMPRESSION={codec} compresses rotated files and adds {suffix}"
            )
    for ending in _RESERVED_ENDINGS:
        if text.endswith(ending):
            raise BadValueError(f"must not end with {ending}, which other files of the archive do")
    return _read_path(text)


Destination = Annotated[str, Spelling(_read_destination, "stdout or the path of a file", takes_empty=True)]
"""`stdout`, or the path of a file with placeholders. An empty one is refused: it would write no file."""


def _read_store_url(text: str) -> str:
    try:
        return str(read_url(text))
    except BadUrl as error:
        raise BadValueError(str(error)) from error


ObjectStoreUrl = Annotated[
    str,
    Spelling(_read_store_url, "a URL such as s3://bucket/prefix, gs://bucket/prefix or file:///mnt/folder"),
]
"""Where objects are put."""


def websocket_url(example: str) -> Spelling:
    """The address of an exchange, or of another recorder."""

    def read(text: str) -> str:
        parts = urlsplit(text)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or not text.isprintable() or " " in text:
            raise ValueError
        if parts.port == 0:
            raise BadValueError("must not have port 0")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise BadValueError("must have no user, query or fragment: the key is POLYGON_API_KEY")
        return text

    return Spelling(read, f"a ws:// or wss:// URL with a host, such as {example}")


def _read_http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise ValueError(f"{text.rpartition('@')[2]!r} is not an address such as http://10.0.0.5:9898")
    if parts.port == 0:
        raise BadValueError("must not have port 0")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadValueError("must have no user, query or fragment: the token is one of AUTH_TOKENS")
    return text.rstrip("/")


HttpUrls = Annotated[tuple[str, ...], each_of(_read_http_url, "addresses such as http://10.0.0.5:9898")]
"""Ops servers of other recorders."""


def _read_address(text: str) -> str:
    if text:
        addresses.split(text)
    return text


Address = Annotated[
    str,
    Spelling(
        _read_address,
        "host:port, [::1]:port, :port for every IPv4 address, or empty",
        takes_empty=True,
    ),
]
"""Where to listen; empty for nowhere."""


def _read_host(text: str) -> str:
    """Return it in lower case and without the brackets of IPv6."""
    text = text.lower()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError:
        if not _HOST_NAME.fullmatch(text) or _DIGITS_AND_DOTS.fullmatch(text):
            raise ValueError(f"{text!r} is not a host name without a port") from None
    return text


Host = Annotated[str, Spelling(_read_host, "an IP address or a host name, without port")]
"""An address or a name to listen on."""
Hosts = Annotated[
    tuple[str, ...],
    each_of(_read_host, "host names such as feed.example.com or IP addresses, without port"),
]
"""What may stand before the port in a `Host` header."""
Port = Annotated[
    int,
    Spelling(lambda text: text, f"a port from 1 to {addresses.PORT_MAX}, or 0 for any free one"),
    Field(ge=0, le=addresses.PORT_MAX),
]


def _read_origin(text: str) -> str:
    if text.lower() == "null":
        return "null"
    match = _ORIGIN.fullmatch(text.lower())
    if match is None or int(match[3] or 1) not in range(1, addresses.PORT_MAX + 1):
        raise ValueError(f"{text!r} is not an origin such as https://app.example.com")
    scheme, name, number = match.groups()
    if number is None or number == _ORIGIN_PORTS.get(scheme):
        return f"{scheme}://{name}"
    return f"{scheme}://{name}:{number}"


Origins = Annotated[
    tuple[str, ...], each_of(_read_origin, "origins such as https://app.example.com, or null")
]
"""Origins of browser pages, as browsers send them: lower case, no default port."""


def _read_zmq_endpoint(text: str) -> str:
    if not _ZMQ_IPC.fullmatch(text) or not text.isprintable():
        split_zmq_endpoint(text)
    return text


ZmqEndpoint = Annotated[
    str,
    Spelling(_read_zmq_endpoint, "tcp://host:port or ipc:///path; tcp://*:port binds every interface"),
]
"""Where a ZeroMQ socket binds or connects."""


def split_zmq_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of a `tcp` endpoint, 0 for any free port. Raise ValueError for any other."""
    match = _ZMQ_TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a tcp endpoint")
    host, number = match.groups()
    number = "0" if number == "*" else number
    if int(number) > addresses.PORT_MAX:
        raise ValueError(f"{text!r} has no port")
    return host.strip("[]"), int(number)


def _read_name(text: str) -> str:
    if text != "*" and not _NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a name such as API_KEY")
    return text


OtherNames = Annotated[tuple[str, ...], each_of(_read_name, "names such as API_KEY, or * for all")]
"""Names of other programs' variables."""
Prefix = Annotated[str, Spelling(ascii_word, "printable ASCII without spaces")]
"""The beginning of a topic."""


_OTHER_WORDS: Final = {"warn": "warning", "trace": "debug", "off": "critical"}
"""Levels of other programs: there is nothing below debug, and no recorder that cannot say why it ends."""


def _read_levels(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in items_in(text):
        target, equals, level = (part.strip().lower() for part in item.rpartition("="))
        level = _OTHER_WORDS.get(level, level)
        if level not in LEVELS or (equals and target not in TARGETS):
            raise BadValueError(
                f"{item!r}: must be {one_of(LEVELS)}, or TARGET=LEVEL, where TARGET is {one_of(TARGETS)}"
            )
        if target in found:
            raise BadValueError(f"sets the level of {target or 'the rest'} twice")
        found[target] = level
    if not found:
        raise ValueError
    return {"": "info", **found}


def _show_levels(value: Mapping[str, str]) -> str:
    return ",".join(f"{target}={level}" if target else level for target, level in value.items())


Levels = Annotated[
    Mapping[str, str],
    Spelling(_read_levels, "a level, or a list such as warning,polygon_stats=info", _show_levels),
]
"""The level of the log, `""`, and of targets."""
