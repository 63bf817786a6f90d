"""Which processes of this machine listen or are connected, and where. What cannot be read is unknown, and not an error."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, NamedTuple

import psutil


class Process(NamedTuple):
    """A process of this machine."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def listener_on(port: int) -> Process | None:
    """Return the process that listens on a port, None where that is unknown; only root sees other users' processes."""
    owners = (_owner(each) for each in _sockets(psutil.CONN_LISTEN) if each.laddr.port == port)
    return next(filter(None, owners), None)


def connected_to(addresses: set[str], port: int) -> list[Process | None]:
    """Return the owner, None where it is not known, of each connection of this machine to one of these addresses."""
    wanted = set(map(_plain, addresses))
    return [
        _owner(each)
        for each in _sockets(psutil.CONN_ESTABLISHED)
        if each.raddr.port == port and _plain(each.raddr.ip) in wanted
    ]


def _sockets(status: str) -> Iterator[Any]:
    try:
        found = psutil.net_connections("tcp")
    except (OSError, psutil.Error):
        return
    yield from (each for each in found if each.status == status)


def _owner(connection: Any) -> Process | None:
    try:
        return Process(connection.pid, psutil.Process(connection.pid).name()) if connection.pid else None
    except psutil.Error:
        return None


def _plain(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
