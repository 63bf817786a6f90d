"""The one interface of everything that lives: sources, sinks, servers, and what watches them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from recorder.stats import AT, counter, gauge, label, shown

PartState = Literal["waiting", "starting", "up", "degraded", "over", "closed"]


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
        """Acquire what the part needs. May be cancelled.

        :raises RecorderError: it cannot be had. `close` is called next.
        """

    async def run(self) -> None:
        """Work until cancelled, or until the part is over. Whatever it raises is the part's failure."""

    async def close(self, deadline_ns: int) -> None:
        """Release everything, by `deadline_ns` on the clock that is monotonic.

        May be called while `run` works, after an `open` that failed or was cancelled, and twice.
        """


class Work:
    """A part that holds nothing between its turns, so that there is nothing to open or to close."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """`run` works until it is cancelled, and can be called again after it failed."""
        self.name = name
        self._run = run

    async def open(self) -> None:
        """Do nothing."""

    async def run(self) -> None:
        """Work until cancelled."""
        await self._run()

    async def close(self, deadline_ns: int) -> None:
        """Do nothing: the supervisor cancels `run`."""

    def __repr__(self) -> str:
        return f"Work({self.name})"


@dataclass(slots=True)
class PartStats:
    """How one part fares."""

    name: str = label("part", "What it is called.")
    carries_data: bool = True
    """Whether market data is missing somewhere while the part is down."""
    state: str = gauge(
        "polygon_part_up",
        "1 while the part works; 0 before it has started, while it waits to be started again, and once it is over.",
        about="`waiting` for the parts before it, `starting`, `up`, `degraded` (it failed and is started again), "
        "`over` or `closed`.",
        default="waiting",
        convert=lambda state: state == "up",
        over_workers=None,
    )
    opening: str = "starting"
    """What the part does while it starts, in words."""
    reason: str = shown("Why it is degraded; empty while it is not.", default="")
    restarts: int = counter(
        "polygon_part_restarts_total", "Failures after which the part was closed, to be started again."
    )
    failure: str = shown("What it failed with last; empty if it has not failed in this run.", default="")
    failed_at: int = shown("When it failed last; 0 if it has not in this run.", unit=AT, default=0)
    since_ns: int = 0
    """Monotonic time of the last change of the state."""
