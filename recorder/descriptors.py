"""Open files: the limit of this process, and what part of it each kind of connection may use."""

from __future__ import annotations

import os
import resource
import socket
import sys
from typing import Any, Final, NamedTuple

from recorder.log import get_logger

BESIDE_CLIENTS: Final = 256
"""Files that the process needs beside its clients."""
_RESERVE_MAX: Final = 64
"""Numbers below the limit that clients never get: they are for the archive, the exchange and the ops server."""

log = get_logger("polygon_clients")


def raise_limit(clients_max: int) -> None:
    """Allow this process as many open files as its clients may need; warn where the system does not."""
    needed = clients_max + BESIDE_CLIENTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    allowed = needed if hard == unlimited else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < needed:
        log.warning(
            "open_files_limit_low",
            allowed=allowed,
            needed=needed,
            advice="raise the limit (ulimit -n, LimitNOFILE), or lower CLIENTS_MAX",
        )


class FdBudget(NamedTuple):
    """The first descriptor number that a kind of connection does not get.

    The kernel gives each new file the least number that is free. So the number of a new connection says, without
    counting, how near the limit is; and as long as connections leave the numbers from here on, there is room for the
    rest.
    """

    clients_end: int
    """Clients of the firehose, filtered and bars ports."""
    refusals_end: int
    """Clients that are only told why they cannot stay."""
    ops_end: int
    """Connections to the ops server. All numbers behind are for files, and for connections that this process makes."""


def fd_budget() -> FdBudget:
    """Return the budget under the present limit, which may change while the process runs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return FdBudget(sys.maxsize, sys.maxsize, sys.maxsize)
    kept = min(_RESERVE_MAX, limit // 3)
    return FdBudget(limit - kept, limit - kept // 2, limit - kept // 3)


class OwnSocket(socket.socket):
    """A socket that closes its descriptor only while that is its own.

    uvloop closes the descriptor of a socket that it was handed. Where the peer resets the connection before it is set up,
    uvloop does not tell the socket object (`create_connection` and `connect_accepted_socket`, uvloop 0.23). A plain one
    would close the same number once more, whoever has it by then: another connection, or a file of the archive.
    """

    def __init__(
        self, family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None
    ) -> None:
        """As for `socket.socket`."""
        super().__init__(family, kind, protocol, fileno)
        self._identity = _identity_of(self.fileno())

    def close(self) -> None:
        """Close it, unless the loop has done so already."""
        self._disown_if_closed()
        super().close()

    def __del__(self) -> None:
        self._disown_if_closed()
        super().__del__()  # type: ignore[misc]  # it is there, unknown to the hints: it closes, and warns

    def _disown_if_closed(self) -> None:
        descriptor = self.fileno()
        if descriptor >= 0 and _identity_of(descriptor) != self._identity:
            self.detach()


def own_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for an address as getaddrinfo(3) describes it: what a connector of aiohttp asks for."""
    family, kind, protocol, _, _ = address
    return OwnSocket(family, kind, protocol)


def _identity_of(descriptor: int) -> tuple[int, int]:
    """Return what an open descriptor stands for, as (device, inode); zeros if it is closed.

    A number says nothing by itself: the kernel hands it out again as soon as it is closed.
    """
    try:
        state = os.fstat(descriptor)
    except OSError:
        return 0, 0
    return state.st_dev, state.st_ino
