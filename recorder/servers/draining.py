"""Takes clients off this recorder before it stops, or while it works on: new ones go elsewhere, the others leave in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from recorder.clock import Clock
from recorder.log import get_logger
from recorder.servers.stats import ServerStats
from recorder.stats import AT, gauge, shown

CLOSES_PER_SEC: Final = 100
"""How many clients are closed in a second, so that they do not all come to another recorder at once."""
SPREAD_SECS_MAX: Final = 10.0
"""How long the closing of all of them takes at most; where there are many, more are closed in a second."""

State = Literal["serving", "refusing", "closing", "drained"]

log = get_logger("polygon_clients")


@dataclass(slots=True)
class DrainStats:
    """Whether clients are taken."""

    state: State = gauge(
        "polygon_draining",
        "1 while new clients are refused, because the recorder is about to stop or SIGUSR2 has asked for it.",
        about="`serving`, `refusing` (new clients are sent away, the others served), `closing` (these are closed one after "
        "the other) or `drained`.",
        default="serving",
        convert=lambda state: state != "serving",
        over_workers=None,
    )
    since_at: int = shown("When this state began; 0 if there was no other in this run.", unit=AT, default=0)
    is_stopping: bool = shown("Whether the recorder stops once it is drained.", default=False)

    @property
    def reasons(self) -> list[str]:
        """Why the recorder is not ready for clients, in words; empty while it is."""
        then = "then the recorder stops" if self.is_stopping else "SIGUSR2 lets clients in again"
        match self.state:
            case "refusing":
                return [
                    f"servers: draining: new clients are refused, those that are here are closed soon; {then}"
                ]
            case "closing":
                return [f"servers: draining: clients are closed one after the other; {then}"]
            case "drained":
                return [f"servers: drained: no client is taken; {then}"]
            case _:
                return []


class Ports(Protocol):
    """All ports of this recorder, in this process or in workers."""

    @property
    def stats(self) -> Sequence[ServerStats]:
        """The counters of each port."""

    def refuse(self, *, new: bool) -> None:
        """Answer new clients with 503 from now on; or, where `new` is false, take them again."""

    def dismiss(self, secs: float) -> None:
        """Begin to close every client with 1012, the last of them in `secs`."""


class Draining:
    """The way out for clients. While it lasts, what is recorded and sent goes on as usual.

    A balancer in front needs time to see that /ready is 503; those that do not ask it see that new clients are refused.
    """

    def __init__(self, ports: Ports | None, secs: float, clock: Clock, stop: Callable[[str], None]) -> None:
        """`ports` is None where none are served; `stop` begins the stop of the process, for a reason."""
        self._ports = ports
        self._secs = secs
        self._clock = clock
        self._stop = stop
        self.stats = DrainStats()
        self.announce: Callable[[float], None] = lambda secs: None
        """Is called with the time that a drain takes at most, where a stop waits for it."""
        self._reason = ""
        """Why the process stops once it is drained."""
        self._task: asyncio.Task[None] | None = None

    def before_stop(self, reason: str) -> bool:
        """Drain, then stop for this reason; return False where nothing is to be waited for, or no longer."""
        if self._ports is None or not self._secs or self._reason or self.stats.state == "drained":
            return False
        self._reason = reason
        self.stats.is_stopping = True
        self.announce(self._secs + SPREAD_SECS_MAX)
        if self._task is None:
            self._begin(self._ports, reason)
        return True

    def toggle(self) -> None:
        """Drain and work on; or, where that was asked for before, take clients again."""
        if self._ports is None:
            log.info("nothing_to_drain")
        elif self._reason:
            log.info("drain_kept", reason=self._reason)
        elif self.stats.state == "serving":
            self._begin(self._ports, "SIGUSR2")
        else:
            self.cancel()
            self._set("serving")
            self._ports.refuse(new=False)
            log.info("drain_ended")

    def cancel(self) -> None:
        """Wait no longer: the process stops, or takes clients again."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _begin(self, ports: Ports, trigger: str) -> None:
        self._set("refusing")
        ports.refuse(new=True)
        log.info("draining", trigger=trigger, drain_secs=self._secs, clients=_clients(ports))
        self._task = asyncio.create_task(self._drain(ports), name="drain")

    async def _drain(self, ports: Ports) -> None:
        await self._clock.sleep(self._secs)
        clients = _clients(ports)
        spread_secs = min(SPREAD_SECS_MAX, clients / CLOSES_PER_SEC)
        self._set("closing")
        ports.dismiss(spread_secs)
        await self._clock.sleep(spread_secs)
        self._set("drained")
        log.info("drained", clients=clients, spread_secs=round(spread_secs, 3))
        self._task = None
        if self._reason:
            self._stop(self._reason)

    def _set(self, state: State) -> None:
        self.stats.state = state
        self.stats.since_at = self._clock.wall_ns() // 1_000_000

    def __repr__(self) -> str:
        return f"Draining({self.stats.state}, {self._secs:g} s)"


def _clients(ports: Ports) -> int:
    return sum(port.clients for port in ports.stats)
