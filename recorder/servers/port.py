"""How the ports that clients connect to differ."""

from __future__ import annotations

from typing import Protocol

from recorder.polygon.rows import Status
from recorder.polygon.server import Policy
from recorder.servers.client import Client


class KeyCheck(Protocol):
    """Returns the status that refuses a token, None if it is good."""

    def __call__(self, token: str) -> Status | None: ...


class Port(Protocol):
    """One port, as its clients' conversations see it."""

    name: str
    topics_max: int
    """Topics that a client may hold."""

    def policy(self, cluster: str, refuse_key: KeyCheck) -> Policy:
        """Return what a client of `cluster` (`""`: all) may ask for."""

    def greets(self, cluster: str) -> bool:
        """Return whether a client of `cluster` is greeted."""

    def subscribe(
        self, client: Client, topics: tuple[str, ...], since_ms: int | None, *, amend: bool = False
    ) -> None:
        """Send the client these topics from the next pass on."""

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        """Send the client these topics no longer, from the next pass on."""

    def ping(self, client: Client, payload: bytes) -> None:
        """Answer a ping of the client, behind everything that was sent to it before."""

    def forget(self, client: Client) -> None:
        """Remove a client that is gone."""
