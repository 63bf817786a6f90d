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

    async def admit(self, port: str, token: str) -> bool:
        """Count a client for the token with this hash; return whether the token may have it."""

    def leave(self, port: str, token: str) -> None:
        """Count a client no more; `token` is `""` if it was never admitted."""

    def change(self, limits: ClientLimits) -> None:
        """Use other limits from the next client on."""


class Places:
    """PURE. The places of all ports: `CLIENTS_MAX` each, `CLIENTS_PER_TOKEN_MAX` for each token."""

    def __init__(self, limits: ClientLimits) -> None:
        self.limits = limits
        """May be exchanged: clients that are there stay, and the next ones are held to the new limits."""
        self.taken: Counter[tuple[str, str]] = Counter()
        """By port and hash of the token; the hash `""` is all clients of the port."""

    def enter(self, port: str) -> bool:
        """Reserve a place; return whether one was free."""
        self.taken[port, ""] += 1
        return self.taken[port, ""] <= self.limits.clients_max

    def admit(self, port: str, token: str) -> bool:
        """Reserve a place of a token; return whether one was free."""
        self.taken[port, token] += 1
        most = self.limits.clients_per_token_max
        return most is None or self.taken[port, token] <= most

    def leave(self, port: str, token: str) -> None:
        """Free the places of one client."""
        self._give_back(port, "")
        if token:
            self._give_back(port, token)

    def forget(self, taken: Mapping[tuple[str, str], int]) -> None:
        """Free the places of many clients at once."""
        for (port, token), count in taken.items():
            self._give_back(port, token, count)

    def _give_back(self, port: str, token: str, count: int = 1) -> None:
        self.taken[port, token] -= count
        if not self.taken[port, token]:
            del self.taken[port, token]

    def __repr__(self) -> str:
        return f"Places({dict(self.taken)})"


class OwnAdmission:
    """The clients of this process are all there are."""

    def __init__(self, limits: ClientLimits) -> None:
        self._places = Places(limits)

    async def enter(self, port: str) -> bool:
        """Count a client."""
        return self._places.enter(port)

    async def admit(self, port: str, token: str) -> bool:
        """Count a client for its token."""
        return self._places.admit(port, token)

    def leave(self, port: str, token: str) -> None:
        """Count a client no more."""
        self._places.leave(port, token)

    def change(self, limits: ClientLimits) -> None:
        """Use other limits from the next client on."""
        self._places.limits = limits

    def __repr__(self) -> str:
        return f"OwnAdmission({self._places!r})"
