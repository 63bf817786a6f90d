"""Hosts and ports as text: `127.0.0.1:9898`, `[::1]:9898`, `:9898`."""

from __future__ import annotations

import errno
import os
import re
from ipaddress import IPv6Address, ip_address
from typing import Final

PORT_MAX: Final = 65535
_HOST: Final = re.compile(r"[A-Za-z0-9._-]*|\[[^\[\]]+\]")
_PORT: Final = re.compile(r"[0-9]{1,5}")


def joined(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `[::1]:port` or `:port` (every IPv4 address). Raise ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not _PORT.fullmatch(port) or int(port) > PORT_MAX:
        raise ValueError(f"{text!r} is not an address")
    if host.startswith("["):
        IPv6Address(host[1:-1])
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - who writes `:port` asks for it


def host_in(header: str) -> str:
    """Return the name in a `Host` header, without port and brackets, in lower case."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens there."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def why_unusable(error: OSError) -> str:
    """Return why nothing can listen at an address; asyncio's own text names the address once more."""
    number = error.errno or 0
    return os.strerror(number) if number in errno.errorcode else error.strerror or str(error)


def from_here(host: str) -> str:
    """Return the address under which this machine reaches what listens on `host`, which may stand for all of them."""
    try:
        if ip_address(host).is_unspecified:
            return "::1" if ":" in host else "127.0.0.1"
    except ValueError:
        pass  # a name
    return host
