"""How the text of a variable becomes its value: a kind for each sort, with the words for what is allowed."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from recorder import addresses, log
from recorder.polygon.clusters import CLUSTERS, is_cluster_path
from recorder.polygon.topics import parse_pattern, parse_topic

_N = TypeVar("_N", int, float)

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,18})?)\s*([a-z]*)", re.IGNORECASE)
_DECIMAL: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS: Final = {name.lower(): size for name, size in {"": 1, "B": 1, **_DECIMAL, **_BINARY}.items()}
_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://|file:", re.IGNORECASE)
_CODEC_SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd"}
_RESERVED_ENDINGS: Final = (".lock", ".tmp", ".manifest.ndjson", ".rejected.ndjson")
"""What names the archive's files that hold no records."""
_PLACEHOLDER: Final = re.compile(r"\{(cluster|type)\}")
_HOST_NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+")
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?")
_ORIGIN_PORTS: Final = {"http": "80", "https": "443"}
"""What browsers leave out of an origin."""
_ZMQ_TCP: Final = re.compile(r"tcp://(\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5}|\*)")
_ZMQ_IPC: Final = re.compile(r"ipc://[^\s]+")
_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SHA256: Final = "sha256:"
_SHA256_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")

TOKENS_MAX: Final = 1000
"""Client tokens: each request to authenticate is compared with all of them, and each log line is searched for them."""


class BadValueError(ValueError):
    """A value that cannot be used; the message says what is wrong with it, or what must be there instead."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value.

    `read` takes the text of the variable and raises ValueError if it cannot be used. `show` returns a text that `read`
    takes. What is not a text (a command's option) is shown and then read, so that bounds hold for it too.
    """

    read: Callable[[str], object]
    allowed: str
    show: Callable[[Any], str] = str
    takes_empty: bool = False
    """Whether an empty text is a value; for all others it means that the variable is not set."""
    secret: bool = False

    def value(self, given: object) -> object:
        """Return the value of what was given. Raise BadValueError."""
        assert isinstance(given, str) or not self.secret, "a mask would be read as the secret"
        text = given.strip() if isinstance(given, str) else self.show(given)
        try:
            return self.read(text)
        except BadValueError:
            raise
        except ValueError as error:
            raise BadValueError(f"must be {self.allowed}") from error


def flag() -> Kind:
    """Yes or no."""

    def read(text: str) -> bool:
        if text.lower() not in _FLAGS:
            raise ValueError
        return _FLAGS[text.lower()]

    return Kind(read, "1, true, yes or on; or 0, false, no or off", lambda value: str(value).lower())


def whole(at_least: int, at_most: int | None = None) -> Kind:
    """A whole number."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise ValueError
        return _within(int(text), at_least, at_most)

    return Kind(read, f"a whole number {_span(at_least, at_most)}")


def seconds(at_least: float, at_most: float) -> Kind:
    """A time, fractions allowed."""

    def read(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise ValueError
        return _within(float(text), at_least, at_most)

    return Kind(read, f"a number of seconds {_span(at_least, at_most)}", _show_number)


def size(at_least: int = 1) -> Kind:
    """A number of bytes: KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB powers of 1024."""

    def read(text: str) -> int:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError
        number, unit = match.groups()
        if unit.lower() not in _UNITS:
            raise ValueError
        count = Decimal(number) * _UNITS[unit.lower()]
        if count != int(count):
            raise BadValueError("must be a whole number of bytes")
        return _within(int(count), at_least, None)

    floor = f", at least {_show_size(at_least)}" if at_least > 1 else ""
    return Kind(read, f"a size such as 1048576, 64MiB or 1GB{floor}", _show_size)


def choice(*allowed: str) -> Kind:
    """One of a few words, any case."""

    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError
        return text.lower()

    return Kind(read, _one_of(allowed))


def choices(allowed: Sequence[str], alone: str = "") -> Kind:
    """Several of a few words, each once; the word `alone` only by itself."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(item.lower() for item in _items(text))
        if not words or not set(words) <= set(allowed):
            raise ValueError
        if len(set(words)) < len(words):
            raise BadValueError("names one twice")
        if alone in words and len(words) > 1:
            raise BadValueError(f"{alone} excludes the others")
        return words

    return Kind(read, f"one or several of {', '.join(allowed)}, comma-separated", ",".join)


def clusters() -> Kind:
    """Clusters by name. An exchange of the futures cluster is a matter of the URL."""
    plain = choices(tuple(CLUSTERS))

    def read(text: str) -> object:
        for item in _items(text.lower()):
            if "/" in item and is_cluster_path(item):
                raise BadValueError(
                    f"{item} belongs into POLYGON_WS_URL, as in wss://socket.polygon.io/{item}"
                )
        return plain.read(text)

    return Kind(read, plain.allowed, plain.show)


def topics() -> Kind:
    """Upstream topics, each kept once, in order, as they are sent."""
    return Kind(
        lambda text: _each(text, lambda item: str(parse_topic(item))),
        "topics such as T.AAPL or T.*, comma-separated",
        ",".join,
    )


def channels() -> Kind:
    """Channel codes, which stand for all of the channel: `T` for `T.*`."""

    def read_one(text: str) -> str:
        if "." in text or ":" in text:
            raise BadValueError(f"{text!r} is more than a channel; topics belong into SUBSCRIPTION")
        return parse_topic(f"{text}.*").channel

    return Kind(lambda text: _each(text, read_one), "channels such as T, A or AM, comma-separated", ",".join)


def patterns() -> Kind:
    """Patterns that choose events, each kept once, in order."""
    return Kind(
        lambda text: _each(text, lambda item: str(parse_pattern(item))),
        "patterns such as T:ES*, *:AAPL or T:*, comma-separated",
        ",".join,
    )


def buckets() -> Kind:
    """The upper bounds of a histogram."""

    def read(text: str) -> tuple[float, ...]:
        items = _items(text)
        if not items or not all(map(_NUMBER.fullmatch, items)):
            raise ValueError
        bounds = tuple(map(float, items))
        if bounds[0] <= 0 or math.isinf(bounds[-1]) or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError
        return bounds

    return Kind(
        read,
        "positive numbers of seconds, each greater than the one before, comma-separated",
        lambda bounds: ",".join(map(_show_number, bounds)),
    )


def secret() -> Kind:
    """A key or token."""
    return Kind(read_secret, "printable ASCII without spaces", lambda _: log.MASK, secret=True)


def read_secret(text: str) -> str:
    """Read a key or token. It is masked in every log from here on, even if it is no good."""
    log.register_secret(text)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


class TokenEntry(NamedTuple):
    """A client token: the name that is logged, the SHA-256 of the token, and the token itself where it is known."""

    name: str
    """Empty: none was given."""
    digest: bytes
    token: str
    """Empty: only its hash was given."""

    def __repr__(self) -> str:
        return f"TokenEntry({self.name!r})"


def read_token(text: str) -> TokenEntry:
    """Read `token`, `name:token` or `name:sha256:HEX`; what is before the first colon is the name.

    The token is masked in every log from here on, even if it is no good. Raise ValueError with words that do
    not show it.
    """
    name, colon, rest = text.partition(":")
    named = bool(colon) and not text.startswith(_SHA256)
    if not named:
        name, rest = "", text
    if rest.startswith(_SHA256):
        digits = rest.removeprefix(_SHA256)
        if not _SHA256_HEX.fullmatch(digits):
            raise BadValueError("sha256: must be followed by 64 hexadecimal digits")
        digest, token = bytes.fromhex(digits), ""
    else:
        token = rest
        log.register_secret(rest)
        if not rest or not rest.isascii() or not rest.isprintable() or " " in rest:
            log.register_secret(text)
            raise BadValueError("a token must be printable ASCII without spaces")
        digest = hashlib.sha256(rest.encode()).digest()
    if named and not _TOKEN_NAME.fullmatch(name):
        # Then the colon may well be one of a token without a name.
        log.register_secret(text)
        raise BadValueError("a name must be 1 to 64 of the letters A-Z a-z, digits and . _ @ -")
    return TokenEntry(name, digest, token)


def tokens() -> Kind:
    """Client tokens, separated by commas or lines. Each stays as it was given."""

    def read(text: str) -> tuple[str, ...]:
        found: dict[str, str] = {}
        wrong: list[str] = []
        items = [item.strip() for item in re.split("[,\n]", text) if item.strip()]
        for place, item in enumerate(items, start=1):
            try:
                name = read_token(item).name or f"#{place}"
            except ValueError as error:
                wrong.append(f"entry {place}: {error}")
                continue
            if name in found:
                wrong.append(f"entry {place}: the name {name} is taken")
            found[name] = item
        if wrong:
            raise BadValueError("; ".join(wrong))
        if not 0 < len(found) <= TOKENS_MAX:
            raise ValueError
        return tuple(found.values())

    return Kind(
        read,
        f"name:token, token or name:sha256:HEX, 1 to {TOKENS_MAX} of them, separated by commas or lines",
        lambda _: log.MASK,
        secret=True,
    )


def path() -> Kind:
    """A file."""
    return Kind(_read_path, "the path of a file")


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


def destination() -> Kind:
    """`stdout`, or the path of a file with placeholders."""

    def read(text: str) -> str:
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

    return Kind(read, "stdout or the path of a file")


def websocket_url(example: str) -> Kind:
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

    return Kind(read, f"a ws:// or wss:// URL with a host, such as {example}")


def address() -> Kind:
    """Where to listen; empty for nowhere."""

    def read(text: str) -> str:
        if text:
            addresses.split(text)
        return text

    return Kind(read, "host:port, [::1]:port, :port for every IPv4 address, or empty", takes_empty=True)


def host() -> Kind:
    """An address or a name to listen on."""

    return Kind(_read_host, "an IP address or a host name, without port")


def _read_host(text: str) -> str:
    """Return it in lower case and without the brackets of IPv6."""
    text = text.lower()
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ip_address(bare))
    except ValueError:
        if not _HOST_NAME.fullmatch(text) or _DIGITS_AND_DOTS.fullmatch(text):
            raise ValueError(f"{text!r} is no host without a port") from None
    return text


def port() -> Kind:
    """A TCP port."""
    return Kind(
        whole(0, addresses.PORT_MAX).read, f"a port from 1 to {addresses.PORT_MAX}, or 0 for any free one"
    )


def origins() -> Kind:
    """Origins of browser pages, as browsers send them: lower case, no default port."""

    def read_one(text: str) -> str:
        if text.lower() == "null":
            return "null"
        match = _ORIGIN.fullmatch(text.lower())
        if match is None or int(match[3] or 1) not in range(1, addresses.PORT_MAX + 1):
            raise ValueError(f"{text!r} is no origin, such as https://app.example.com")
        scheme, name, number = match.groups()
        if number is None or number == _ORIGIN_PORTS.get(scheme):
            return f"{scheme}://{name}"
        return f"{scheme}://{name}:{number}"

    return Kind(
        lambda text: _each(text, read_one),
        "origins such as https://app.example.com, or null, comma-separated",
        ",".join,
    )


def hosts() -> Kind:
    """What may stand before the port in a `Host` header."""
    return Kind(
        lambda text: _each(text, _read_host),
        "host names such as feed.example.com or IP addresses, without port, comma-separated",
        ",".join,
    )


def zmq_endpoint() -> Kind:
    """Where a ZeroMQ socket binds or connects."""

    def read(text: str) -> str:
        if not _ZMQ_IPC.fullmatch(text) or not text.isprintable():
            split_zmq_endpoint(text)
        return text

    return Kind(read, "tcp://host:port or ipc:///path; tcp://*:port binds every interface")


def split_zmq_endpoint(text: str) -> tuple[str, int]:
    """Return host and port of a `tcp` endpoint, 0 for any free port. Raise ValueError for any other."""
    match = _ZMQ_TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no tcp endpoint")
    host, number = match.groups()
    number = "0" if number == "*" else number
    if int(number) > addresses.PORT_MAX:
        raise ValueError(f"{text!r} has no port")
    return host.strip("[]"), int(number)


def prefix() -> Kind:
    """The beginning of a topic."""

    def read(text: str) -> str:
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError
        return text

    return Kind(read, "printable ASCII without spaces")


def levels() -> Kind:
    """The level of the log, and of targets."""

    def read(text: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for item in _items(text):
            target, equals, level = (part.strip().lower() for part in item.rpartition("="))
            level = "warning" if level == "warn" else level
            if level not in log.LEVELS or (equals and target not in log.TARGETS):
                raise BadValueError(
                    f"{item!r}: must be {_one_of(log.LEVELS)}, or TARGET=LEVEL, "
                    f"where TARGET is {_one_of(log.TARGETS)}"
                )
            if target in found:
                raise BadValueError(f"sets the level of {target or 'the rest'} twice")
            found[target] = level
        if not found:
            raise ValueError
        return {"": "info", **found}

    return Kind(read, "a level, or a list such as warning,polygon_stats=info", _show_levels)


def _show_levels(value: Mapping[str, str]) -> str:
    return ",".join(f"{target}={level}" if target else level for target, level in value.items())


def _show_number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _show_size(value: int) -> str:
    units = {"": 1, **_BINARY, **_DECIMAL}
    return min((f"{value // unit}{name}" for name, unit in units.items() if value % unit == 0), key=len)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _each(text: str, read: Callable[[str], str]) -> tuple[str, ...]:
    """Read every item of a list, and say everything that is wrong with them at once."""
    found: list[str] = []
    wrong: list[str] = []
    for item in _items(text):
        try:
            found.append(read(item))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise BadValueError("; ".join(wrong))
    if not found:
        raise ValueError
    return tuple(dict.fromkeys(found))


def _within(number: _N, at_least: float, at_most: float | None) -> _N:
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError
    return number


def _span(at_least: float, at_most: float | None) -> str:
    low = _show_number(at_least)
    return f"of {low} or more" if at_most is None else f"from {low} to {_show_number(at_most)}"


def _one_of(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
