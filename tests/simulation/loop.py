"""Virtual time: an event loop that jumps to its next timer, its clock, and a writer's thread that it schedules."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import socket
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet

from recorder.sinks.worker import Work, run_blocking
from simulation.network import Network

EPOCH_NS = 1_795_237_802_335_000_000


class Killed(BaseException):
    """The process is gone."""


class Stuck(Exception):
    """Nothing is ever going to happen any more."""


class _Selector:
    """Waits for nothing but time, which passes at once."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self._loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop without files or sockets: waiting takes no time, and the network is in memory."""

    def __init__(self) -> None:
        self.secs = 1000.0
        super().__init__()
        self._selector = _Selector(self)
        self._connecting: dict[int, tuple[str, int]] = {}
        self.network = Network(self)

    def time(self) -> float:
        return self.secs

    def pass_time(self, secs: float) -> None:
        """Jump to the next timer, exactly: sums of floats would fall short of it."""
        scheduled = self._scheduled  # type: ignore[attr-defined]
        self.secs = max(self.secs, scheduled[0].when()) if scheduled else self.secs + secs

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do it at once: there are no threads."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody is to be woken: everything runs on this thread."""

    async def sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:  # type: ignore[override]
        await self.network.dial(address)
        self._connecting[sock.fileno()] = address

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *args: Any, sock: socket.socket, **kwargs: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        address = self._connecting.pop(sock.fileno())
        sock.close()
        return self.network.connect(address, protocol_factory)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **kwargs: Any
    ) -> Any:
        return self.network.listen((host, port), protocol_factory)

    def close(self) -> None:
        """Let go of what is scheduled."""
        heapq.heapify(self._scheduled)  # type: ignore[attr-defined]
        super().close()


class VirtualClock:
    """The clock of a process on a virtual loop; the wall clock can be moved."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_ns = EPOCH_NS

    def wall_ns(self) -> int:
        return self.offset_ns + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return int(self._loop.secs * 1e9)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class VirtualWorker:
    """The writer's thread as a coroutine of its own: it runs between two steps of the loop, when time says so.

    Where the disk takes its time, `block` lets the loop go on meanwhile, as a blocked thread does.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._greenlet: greenlet | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._waiting = False

    def start(self, work: Work) -> None:
        self._greenlet = greenlet(lambda: run_blocking(work()))
        self._loop.call_soon(self._resume)

    def wake(self) -> None:
        self._woken = True
        if self._waiting and self._timer is not None:
            self._waiting = False
            self._timer.cancel()
            self._loop.call_soon(self._resume)

    def interrupt(self) -> None:
        """Nothing ends a system call."""

    def block(self, secs: float) -> None:
        """Let time pass, and the loop work meanwhile."""
        self._timer = self._loop.call_later(secs, self._resume)
        self._leave()

    async def pause(self, secs: float) -> None:
        self.block(secs)

    async def wait(self, secs: float) -> None:
        if not self._woken:
            self._waiting = True
            self.block(secs)
        self._waiting = self._woken = False

    def monotonic_ns(self) -> int:
        return int(self._loop.secs * 1e9)

    @property
    def is_held_by_kernel(self) -> bool:
        return False

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this worker, and so can block it."""
        return self._greenlet is not None and getcurrent() is self._greenlet

    def kill(self) -> None:
        """End the work where it stands, as the end of the process does."""
        if self._timer is not None:
            self._timer.cancel()
        work, self._greenlet = self._greenlet, None
        if work is not None and work and work is not getcurrent():
            work.parent = getcurrent()
            with contextlib.suppress(Killed):
                work.throw(Killed)

    def _leave(self) -> None:
        assert self._greenlet is not None
        assert self._greenlet.parent is not None
        self._greenlet.parent.switch()

    def _resume(self) -> None:
        if self._greenlet is not None and not self._greenlet.dead:
            self._waiting = False
            self._greenlet.parent = getcurrent()
            self._greenlet.switch()
