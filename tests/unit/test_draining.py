"""How a recorder takes its clients off: when each step comes, how long it takes, and what the next signal does."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeClock

from recorder.servers.draining import Draining
from recorder.servers.stats import ServerStats


class Ports:
    """Ports with this number of clients."""

    def __init__(self, clients: int, clock: FakeClock) -> None:
        self.stats = [ServerStats("firehose"), ServerStats("filtered", clients=clients)]
        self.story: list[tuple[str, float]] = []
        """What was asked for, and when, in seconds."""
        self._clock = clock
        self._begun_ns = clock.monotonic_ns()

    def note(self, what: str) -> None:
        self.story.append((what, (self._clock.monotonic_ns() - self._begun_ns) / 1e9))

    def refuse(self, *, new: bool) -> None:
        self.note("refuse" if new else "take")

    def dismiss(self, secs: float) -> None:
        self.note(f"dismiss in {secs:g} s")


def made(clients: int = 50, secs: float = 2.0) -> tuple[Draining, Ports]:
    """Return what drains these clients, and the ports; the stop is a part of their story."""
    clock = FakeClock()
    ports = Ports(clients, clock)
    return Draining(ports, secs, clock, lambda reason: ports.note(f"stop for {reason}")), ports


async def settled() -> None:
    """Let the steps come: sleeping takes no time here."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("clients", "spread"), [(0, 0.0), (50, 0.5), (100_000, 10.0)])
async def test_a_stop_waits_for_the_clients(clients: int, spread: float) -> None:
    """New ones are refused first; the others are closed 100 a second, or all within 10 s; then it stops."""
    draining, ports = made(clients)
    announced: list[float] = []
    draining.announce = announced.append
    assert draining.before_stop("SIGTERM")
    assert draining.stats.state == "refusing"
    assert draining.stats.reasons == [
        "servers: draining: new clients are refused, those that are here are closed soon; then the recorder stops"
    ]
    await settled()
    assert ports.story == [
        ("refuse", 0.0),
        (f"dismiss in {spread:g} s", 2.0),
        ("stop for SIGTERM", 2.0 + spread),
    ]
    assert announced == [12.0]


async def test_the_next_signal_does_not_wait() -> None:
    """It is told that nothing is to be waited for any more; a drain that is over has nothing to wait for either."""
    draining, ports = made()
    assert draining.before_stop("SIGTERM")
    assert not draining.before_stop("SIGTERM")
    draining.cancel()
    await settled()
    assert ports.story == [("refuse", 0.0)]
    drained, _ = made()
    drained.toggle()
    await settled()
    assert drained.stats.state == "drained"
    assert not drained.before_stop("SIGTERM")


async def test_a_stop_amid_a_drain_comes_at_its_end() -> None:
    """SIGTERM while SIGUSR2 drains: the clients that are waited for already are not waited for twice."""
    draining, ports = made()
    draining.toggle()
    assert draining.before_stop("SIGTERM")
    await settled()
    assert [what for what, _ in ports.story] == ["refuse", "dismiss in 0.5 s", "stop for SIGTERM"]


async def test_clients_are_taken_again() -> None:
    """SIGUSR2 once more ends a drain, also amid it, and no client is closed then."""
    draining, ports = made()
    draining.toggle()
    draining.toggle()
    await settled()
    assert [what for what, _ in ports.story] == ["refuse", "take"]
    assert draining.stats.state == "serving"
    assert draining.stats.reasons == []


async def test_nothing_to_wait_for() -> None:
    """Without DRAIN_SECS, and without ports, a stop is a stop."""
    assert not made(secs=0.0)[0].before_stop("SIGTERM")
    without_ports = Draining(None, 2.0, FakeClock(), lambda reason: None)
    assert not without_ports.before_stop("SIGTERM")
    without_ports.toggle()
    assert without_ports.stats.state == "serving"
