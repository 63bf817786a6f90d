"""How the ports that clients connect to differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from recorder.bus import Batch
from recorder.polygon.manner import PLAIN, Manner, Slow
from recorder.polygon.rows import Status
from recorder.polygon.server import Policy, Subscribe
from recorder.servers.client import Client

Where = tuple[int, int]
"""Where in the past something stands: a run by its number and a record of it, or `HOT` and an entry of the hot log."""
HOT: Final = 1 << 62
"""Behind every run."""


class KeyCheck(Protocol):
    """Returns the status that refuses a token, None if it is good."""

    def __call__(self, token: str) -> Status | None: ...


class Past(Protocol):
    """What one client has missed of some topics, as its port serves it. It is read batch by batch."""

    def send(self, batch: Batch, where: Where) -> int:
        """Send the client what a batch, which stands there, has for it; return how much that was."""

    def drop(self, topics: Iterable[str]) -> None:
        """Leave out topics from now on: the client has given them back."""

    def release(self, topics: Iterable[str], where: Where) -> None:
        """From there on the client does not get these in another way any more. No batch may stand on both sides of it."""


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
        self,
        client: Client,
        topics: tuple[str, ...],
        wish: Subscribe | None = None,
        *,
        amend: bool = False,
        manner: Manner = PLAIN,
    ) -> None:
        """Send the client these topics from the next pass on; where some are bars, what `wish` names of their past first."""

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        """Send the client these topics no longer, from the next pass on."""

    async def prepare(self, manner: Manner) -> None:
        """Return once clients can have topics in this manner."""

    def when_slow(self, client: Client, slow: Slow) -> None:
        """From here on, treat the client so when it leaves too much unread."""

    def bars_closed_ms(self, client: Client) -> dict[str, int] | None:
        """Return up to which time a client has the bars of each cluster of which it has any, Unix ms; None where bars that
        have closed are still to be sent."""

    def past(self, client: Client, topics: tuple[str, ...], held: Iterable[str]) -> Past:
        """Return what a client has missed of topics, less what it gets in another way: by the topics `held`."""

    def ping(self, client: Client, payload: bytes) -> None:
        """Answer a ping of the client, behind everything that was sent to it before."""

    def forget(self, client: Client) -> None:
        """Remove a client that is gone."""
