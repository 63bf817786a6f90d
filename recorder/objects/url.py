"""PURE. URLs of object stores: which ones can be used, and what their parts are."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final, NamedTuple
from urllib.parse import urlsplit

SCHEMES: Final = ("s3", "gs", "az", "file")
EXAMPLE: Final = "s3://bucket/prefix"
_BUCKET: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{2,221}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9!_.*'()=+@,:~-]+(/[A-Za-z0-9!_.*'()=+@,:~-]+)*")


class BadUrl(ValueError):
    """No URL of an object store; the message says what it must be."""


class StoreUrl(NamedTuple):
    """Where objects are."""

    scheme: str
    bucket: str
    """Empty for a folder."""
    prefix: str
    """Without a slash at either end; of a folder, its absolute path."""

    def __str__(self) -> str:
        """The URL in its one spelling, without a slash at the end."""
        if self.scheme == "file":
            return f"file://{self.prefix}"
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    def of(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self}/{name}"


def is_url(text: str) -> bool:
    """Return whether a text is meant to be a URL, whatever becomes of it."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) is not None


def read_url(text: str) -> StoreUrl:
    """Return the parts of a URL. Raise `BadUrl`."""
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        raise BadUrl(
            f"must be a URL of an object store, such as {EXAMPLE}: one of s3://, gs://, az:// and file://"
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadUrl(
            "must have no user, query or fragment: credentials are for the environment, such as AWS_ACCESS_KEY_ID"
        )
    if scheme == "file":
        return StoreUrl(scheme, "", _folder(parts.netloc, parts.path))
    if not parts.netloc:
        raise BadUrl(f"must name a bucket behind {scheme}://, as in {scheme}://bucket/prefix")
    if not _BUCKET.fullmatch(parts.netloc):
        raise BadUrl(
            f"names a bucket {parts.netloc!r}: a bucket's name has at least 3 letters, digits, dots, dashes or underscores"
        )
    prefix = parts.path.strip("/")
    if prefix and (not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/"))):
        raise BadUrl("must have a prefix of letters, digits and !_.*'()=+@,:~- between single slashes")
    return StoreUrl(scheme, parts.netloc, prefix)


def _folder(host: str, path: str) -> str:
    folder = PurePosixPath(path)
    if (
        host not in ("", "localhost")
        or not path.startswith("/")
        or ".." in folder.parts
        or len(folder.parts) < 2
    ):
        raise BadUrl("must name a folder by its whole path, as in file:///mnt/archive")
    return str(folder)
