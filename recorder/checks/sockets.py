"""Who listens, and who is connected where, on this machine: proc(5). What cannot be read is not known, and no error."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

LISTENING: Final = "0A"
ESTABLISHED: Final = "01"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


class Process(NamedTuple):
    """A process of this machine."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


class TcpSocket(NamedTuple):
    """A line of `/proc/net/tcp`."""

    local_port: int
    remote: IPv4Address | IPv6Address
    remote_port: int
    state: str
    inode: int


def listener_on(port: int) -> Process | None:
    """Give who listens on a port, None where that is not known."""
    for entry in _table():
        if entry.state == LISTENING and entry.local_port == port and (found := owner_of(entry.inode)):
            return found
    return None


def connections_to(addresses: set[str], port: int) -> list[int]:
    """Give the inodes of the connections of this machine to one of these addresses."""
    wanted = {_plain(ip_address(address)) for address in addresses}
    return [
        entry.inode
        for entry in _table()
        if entry.state == ESTABLISHED and entry.remote_port == port and entry.remote in wanted
    ]


def owner_of(inode: int) -> Process | None:
    """Give the process that has a socket open; of other users' processes only root sees that."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            for link in (folder / "fd").iterdir():
                match = _SOCKET.fullmatch(str(link.readlink()))
                if match and int(match[1]) == inode:
                    return Process(int(folder.name), (folder / "comm").read_text().strip())
        except OSError:
            continue
    return None


def _table() -> Iterator[TcpSocket]:
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, port = fields[2].split(":")
            local_port = int(fields[1].rpartition(":")[2], 16)
            yield TcpSocket(local_port, _address(address), int(port, 16), fields[3], int(fields[9]))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Read an address, which stands as 32-bit words in the machine's own order."""
    words = [int(text[place : place + 8], 16) for place in range(0, len(text), 8)]
    packed = b"".join(socket.htonl(word).to_bytes(4, "big") for word in words)
    return _plain(ip_address(packed))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
