"""Which clients may connect: tokens compared in constant time, and a delay for addresses that guess them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

from recorder.clock import Clock
from recorder.errors import ConfigError
from recorder.settings import ServersSettings
from recorder.settings.keys import TOKENS_MAX, read_token

API_KEY_NAME: Final = "api-key"
"""The name of the token that is the key of the exchange."""
FILE_BYTES_MAX: Final = 2**20

DELAY_FIRST_SECS: Final = 0.5
DELAY_SECS_MAX: Final = 10.0
FORGET_SECS: Final = 600.0
"""After this time without a failure an address is forgotten."""
ADDRESSES_MAX: Final = 10_000
"""Addresses remembered; past it the one whose last failure is oldest is forgotten."""

_DOUBLINGS_MAX: Final = 16


class Tokens:
    """The tokens that clients may use, each under a name, which is what logs and limits go by.

    Only hashes are kept. What the tokens were is masked in every log.
    """

    def __init__(self, entries: Iterable[str], file: str | None = None) -> None:
        """`entries` are as in `AUTH_TOKENS`: `name:token`, `token`, `name:sha256:HEX`; `file` holds more, one a line.

        A token without a name is called `token-N` by its place among all. Raise ConfigError with one line for each
        entry that cannot be used, and no token in it.
        """
        self._digests: dict[str, bytes] = {}
        places = ((f"AUTH_TOKENS: entry {place}", text) for place, text in enumerate(entries, start=1))
        problems = [*self._add_all(places), *(self._add_all(_read_file(file)) if file else ())]
        if problems:
            raise ConfigError("\n".join(problems))
        if not self._digests:
            raise ConfigError(f"AUTH_TOKENS_FILE: {file}: holds no token, so no client could ever connect")

    @classmethod
    def from_settings(cls, servers: ServersSettings, api_key: str) -> Tokens:
        """Return the tokens of the settings; where there are none, the key of the exchange is the only one."""
        if servers.tokens or servers.tokens_file:
            return cls(servers.tokens, servers.tokens_file)
        if not api_key:
            raise ConfigError("AUTH_TOKENS: must be set if there is no POLYGON_API_KEY to serve as the token")
        return cls([f"{API_KEY_NAME}:{api_key}"])

    @classmethod
    def from_digests(cls, digests: Mapping[str, bytes]) -> Tokens:
        """Return the tokens with these names and hashes."""
        made = cls.__new__(cls)
        made._digests = dict(digests)
        return made

    @property
    def digests(self) -> dict[str, bytes]:
        """The hash (SHA-256) of each token by its name."""
        return dict(self._digests)

    @property
    def names(self) -> dict[str, str]:
        """The name of each token by its hash in hexadecimal digits."""
        return {digest.hex(): name for name, digest in self._digests.items()}

    def hash_of(self, name: str) -> str:
        """Return the hash of the token of this name, in hexadecimal digits."""
        return self._digests[name].hex()

    def check(self, token: str) -> str | None:
        """Return the name of a good token, None for any other. The time that it takes says nothing about the token."""
        given = sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = None
        for name, digest in self._digests.items():
            if compare_digest(digest, given):
                found = name
        return found

    def _add_all(self, places: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Add entries; yield what is wrong with them."""
        for place, text in places:
            try:
                entry = read_token(text)
            except ValueError as error:
                yield f"{place}: {error}"
                continue
            name = entry.name or f"token-{len(self._digests) + 1}"
            twin = next((known for known, digest in self._digests.items() if digest == entry.digest), None)
            if name in self._digests:
                yield f"{place}: the name {name} is taken"
            elif twin is not None:
                yield f"{place}: {name} has the same token as {twin}"
            elif len(self._digests) == TOKENS_MAX:
                yield f"{place}: is one too many; {TOKENS_MAX} tokens are allowed"
                return
            else:
                self._digests[name] = entry.digest

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"Tokens({len(self)})"


def _read_file(file: str) -> Iterator[tuple[str, str]]:
    """Yield the entries of a file, each with its place. Raise ConfigError where it is no readable text."""
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"AUTH_TOKENS_FILE: {file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"AUTH_TOKENS_FILE: {file!r}: is not a path") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"AUTH_TOKENS_FILE: {file}: is larger than {FILE_BYTES_MAX} bytes")
    # What is no UTF-8 is no ASCII either, so that its line is refused like any other.
    for number, line in enumerate(content.decode("utf-8-sig", "replace").split("\n"), start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield f"AUTH_TOKENS_FILE: {file}:{number}", text


class _Failures(NamedTuple):
    times: int
    last_ns: int
    """Monotonic."""


class Guard:
    """Makes guessing slow: an address that has failed waits, twice as long after each failure, up to `DELAY_SECS_MAX`.

    The first failure is free, since everybody mistypes once. An address is forgotten `FORGET_SECS` after its last
    failure, or earlier where more than `ADDRESSES_MAX` fail. An IPv6 address stands for its /64, which one host has
    all of. Behind a proxy all clients have the proxy's address, and wait for each other's failures.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        """By the time of the last failure, oldest first."""

    def failed(self, address: str) -> None:
        """Count a wrong token of a client of this address."""
        now_ns = self._clock.monotonic_ns()
        while self._failures and self._is_over(next(iter(self._failures.values())), now_ns):
            self._failures.popitem(last=False)
        source = _source(address)
        before = self._failures.pop(source, None)
        self._failures[source] = _Failures(before.times + 1 if before else 1, now_ns)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def delay_secs(self, address: str) -> float:
        """Return how long the next answer to this address must wait; the time since its last failure counts."""
        failures = self._failures.get(_source(address))
        now_ns = self._clock.monotonic_ns()
        if failures is None or failures.times < 2 or self._is_over(failures, now_ns):
            return 0.0
        doublings = min(failures.times - 2, _DOUBLINGS_MAX)
        delay_secs = min(DELAY_FIRST_SECS * (1 << doublings), DELAY_SECS_MAX)
        return max(0.0, delay_secs - (now_ns - failures.last_ns) / 1e9)

    @staticmethod
    def _is_over(failures: _Failures, now_ns: int) -> bool:
        return now_ns - failures.last_ns >= FORGET_SECS * 1e9

    def __len__(self) -> int:
        return len(self._failures)

    def __repr__(self) -> str:
        return f"Guard({len(self)} addresses)"


class TokenCheck:
    """Checks the token that each request brings; guesses wait, as `Guard` says."""

    def __init__(self, tokens: Tokens, guard: Guard) -> None:
        self.tokens = tokens
        """May be exchanged."""
        self._guard = guard

    async def __call__(self, address: str, token: str) -> bool:
        """Return whether the token is good."""
        delay_secs = self._guard.delay_secs(address)
        if delay_secs:
            await asyncio.sleep(delay_secs)
        if self.tokens.check(token) is not None:
            return True
        self._guard.failed(address)
        return False

    def __repr__(self) -> str:
        return f"TokenCheck({self.tokens!r}, {self._guard!r})"


def plain_token(servers: ServersSettings) -> str:
    """Return the first token that is known in plain text, for programs that ask this recorder; empty: none is.

    Raise ConfigError where the file of tokens cannot be read.
    """
    lines = [*servers.tokens]
    if servers.tokens_file:
        lines += [text for _, text in _read_file(servers.tokens_file)]
    return next((entry.token for entry in map(read_token, lines) if entry.token), "")


def _source(address: str) -> str:
    """Return what failures are counted under: an IPv4 address itself, the /64 of an IPv6 address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return address
    return str(ip.ipv4_mapped or IPv6Address(int(ip) >> 64 << 64))
