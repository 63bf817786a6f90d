"""The sockets of outgoing connections: none may close a descriptor that is no longer its own."""

from __future__ import annotations

import socket
from typing import Any

from recorder.descriptors import disown_if_closed, identity_of


class OutgoingSockets:
    """Makes the sockets of connections, and disowns those whose descriptor the loop has closed."""

    def __init__(self) -> None:
        self._made: list[tuple[socket.socket, tuple[int, int]]] = []
        """Sockets of the attempt at hand, each with what its descriptor stood for when it was made."""

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """Return a new socket for an address as getaddrinfo(3) describes it: what aiohttp's connector asks for."""
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        # Held until the attempt is over, so that no garbage collection comes first.
        self._made.append((made, identity_of(made.fileno())))
        return made

    def disown_closed(self) -> None:
        """Detach every socket whose descriptor the loop has closed; to be called after each attempt."""
        made, self._made = self._made, []
        for sock, identity in made:
            disown_if_closed(sock, identity)
