"""How many clients there may be: counted for each port and token, in this process or over all that serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from recorder.settings import ClientLimits


class Admission(Protocol):
    """Counts the clients. Each `enter` is undone by one `leave`, also of a client that was turned away."""

    async def enter(self, port: str) -> bool:
        """Count a client that has connected; return whether there is room for it."""

    async def admit(self, port: str, name: str) -> bool:
        """Count a client for the token of this name; return whether the token may have it."""

    def leave(self, port: str, name: str) -> None:
        """Count a client no more; `name` is `""` if it was never admitted."""


class Places:
    """PURE. The places of all ports: `CLIENTS_MAX` each, `CLIENTS_PER_TOKEN_MAX` for each token."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self.taken: Counter[tuple[str, str]] = Counter()
        """By port and name of the token; the name `""` is all clients of the port."""

    def enter(self, port: str) -> bool:
        """Reserve a place; return whether one was free."""
        self.taken[port, ""] += 1
        return self.taken[port, ""] <= self._limits.clients_max

    def admit(self, port: str, name: str) -> bool:
        """Reserve a place of a token; return whether one was free."""
        self.taken[port, name] += 1
        most = self._limits.clients_per_token_max
        return most is None or self.taken[port, name] <= most

    def leave(self, port: str, name: str) -> None:
        """Free the places of one client."""
        self._give_back(port, "")
        if name:
            self._give_back(port, name)

    def forget(self, taken: Mapping[tuple[str, str], int]) -> None:
        """Free the places of many clients at once."""
        for (port, name), count in taken.items():
            self._give_back(port, name, count)

    def _give_back(self, port: str, name: str, count: int = 1) -> None:
        self.taken[port, name] -= count
        if not self.taken[port, name]:
            del self.taken[port, name]

    def __repr__(self) -> str:
        return f"Places({dict(self.taken)})"


class OwnAdmission:
    """The clients of this process are all there are."""

    def __init__(self, limits: ClientLimits) -> None:
        self._places = Places(limits)

    async def enter(self, port: str) -> bool:
        """Count a client."""
        return self._places.enter(port)

    async def admit(self, port: str, name: str) -> bool:
        """Count a client for its token."""
        return self._places.admit(port, name)

    def leave(self, port: str, name: str) -> None:
        """Count a client no more."""
        self._places.leave(port, name)

    def __repr__(self) -> str:
        return f"OwnAdmission({self._places!r})"
