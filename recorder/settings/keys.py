"""Keys and tokens: how they are read, and that nothing ever shows them."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final, NamedTuple

from recorder import log
from recorder.settings.kinds import BadValueError, Spelling, ascii_word

_TOKEN_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SHA256: Final = "sha256:"
_SHA256_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")

TOKENS_MAX: Final = 1000
"""Client tokens: each request to authenticate is compared with all of them, and each log line is searched for them."""


def read_secret(text: str) -> str:
    """Read a key or token. It is masked in every log from here on, even if it is no good."""
    log.register_secret(text)
    return ascii_word(text)


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


def _read_tokens(text: str) -> tuple[str, ...]:
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


Secret = Annotated[str, Spelling(read_secret, "printable ASCII without spaces")]
"""A key or token."""
TokenList = Annotated[
    tuple[str, ...],
    Spelling(
        _read_tokens,
        f"name:token, token or name:sha256:HEX, 1 to {TOKENS_MAX} of them, separated by commas or lines",
    ),
]
"""Client tokens, separated by commas or lines. Each stays as it was given."""
