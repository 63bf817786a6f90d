"""The one interface of everything that lives: sources, sinks, servers, and what watches them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Part(Protocol):
    """Something that the supervisor opens, runs and closes.

    `open` acquires what the part needs: it binds, locks, repairs. `run` works until it is cancelled or until the part
    is over. `close` returns by its deadline and releases everything. A part that failed may be opened again after
    it was closed.
    """

    @property
    def name(self) -> str:
        """What the part is called in logs, in /status and in metrics; unique in a process."""

    async def open(self) -> None:
        """Acquire what the part needs.

        :raises RecorderError: it cannot be had. `close` is called next.
        """

    async def run(self) -> None:
        """Work until cancelled, or until the part is over. Whatever it raises is the part's failure."""

    async def close(self, deadline_ns: int) -> None:
        """Release everything, by `deadline_ns` on the clock that is monotonic.

        May be called after an `open` that failed, and twice.
        """


class OnFailure(Enum):
    """What the failure of a part means for the process."""

    STOP = "stop"
    """The process stops in order: without this part it has no purpose."""
    RESTART = "restart"
    """The part is closed, and opened again after a wait that grows. Everything else goes on."""
    DEGRADE = "degrade"
    """The part stays down and is shown as degraded. Everything else goes on."""
