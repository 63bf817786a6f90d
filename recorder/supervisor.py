"""Opens parts in order, runs them, starts failed ones again, and closes all of them; what a failure means is one table."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from recorder.backoff import STABLE_SECS, full_jitter
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.log import get_logger, mask
from recorder.part import Part, PartState, PartStats

RESTART_FIRST_SECS: Final = 0.5
RESTART_SECS_MAX: Final = 30.0
"""The wait before a failed part is opened again is drawn from zero up to a bound that doubles between these two."""
RESTART_CLOSE_SECS: Final = 5.0
"""How long a failed part may take to release what it holds."""
CLOSE_GRACE_SECS: Final = 1.0
"""How much later than its deadline a part may return from `close` before it is left behind."""

log = get_logger("polygon_config")


class OnFailure(Enum):
    """What the failure of a part means for the process."""

    STOP = "stop"
    """The process stops in order, and the error ends it."""
    RESTART = "restart"
    """The part is degraded: it is closed, and opened again after a wait that grows. Everything else goes on."""


@dataclass(frozen=True, slots=True)
class FailureTable:
    """The one table of what the failure of a part means.

    | the part fails                                | an essential part | any other |
    |-----------------------------------------------|-------------------|-----------|
    | with one of `fatal`                           | stop              | stop      |
    | in its first `open`, with a ConfigError       | stop              | stop      |
    | in its first `open` otherwise                 | stop              | restart   |
    | in `run`                                      | stop              | restart   |
    | in a later `open`                             |                   | restart   |
    """

    essential: Collection[str]
    """Parts without which the process has no purpose, by name."""
    fatal: tuple[type[Exception], ...] = ()
    """Errors that only an operator can fix, whichever part raises them."""

    def meaning(self, name: str, error: BaseException, *, is_first_open: bool) -> OnFailure:
        """Return what `error` of the part of this name means."""
        if name in self.essential or isinstance(error, self.fatal):
            return OnFailure.STOP
        if is_first_open and isinstance(error, ConfigError):
            return OnFailure.STOP
        return OnFailure.RESTART


@dataclass(frozen=True, slots=True)
class Level:
    """Parts that are opened one after the other, and closed at the same time so that none waits for another."""

    parts: Sequence[Part]
    close_secs: float
    """How long they have for closing."""
    carries_data: bool = True
    """Whether market data is missing somewhere while one of the parts is down."""


class _Kept:
    """One part in the supervisor's care."""

    def __init__(self, part: Part, stats: PartStats) -> None:
        self.part = part
        self.stats = stats
        self.task: asyncio.Task[None] | None = None
        """Keeps the part; None before its turn has come."""
        self.settled = asyncio.Event()
        """The first `open` has returned or raised."""
        self.failure: BaseException | None = None
        """What the part raised last."""

    def __repr__(self) -> str:
        return f"{self.stats.name}: {self.stats.state}"


class Supervisor:
    """Keeps parts alive from `run` until `stop`.

    Levels are opened in order and closed in reverse, always all that were opened, whatever one of them raises. The
    failure that stopped the process, or else the first failure of its closing, is raised when everything is closed.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        table: FailureTable,
        clock: Clock,
        *,
        opening: Mapping[str, str] | None = None,
        stopping: Callable[[str], None] = lambda reason: None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`opening` says, for parts by name whose `open` may take long, what they do meanwhile.

        `stopping` is called with the reason before anything is closed.
        """
        self._table = table
        self._clock = clock
        self._stopping = stopping
        self._uniform = uniform
        self._levels = [
            (
                [_Kept(part, PartStats(part.name, carries_data=level.carries_data)) for part in level.parts],
                level.close_secs,
            )
            for level in levels
        ]
        self.parts = [kept.stats for kepts, _ in self._levels for kept in kepts]
        """How each part fares, in the order of opening."""
        for stats in self.parts:
            stats.opening = (opening or {}).get(stats.name, stats.opening)
        self.reason = ""
        """Why the process stops; empty while it does not."""
        self._over = asyncio.Event()
        self._is_closing = False
        self._errors: list[BaseException] = []

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for or a failure means one."""
        return self._over.is_set()

    def stop(self, reason: str) -> None:
        """Close everything and return from `run`; the first reason counts."""
        if not self._over.is_set():
            self.reason = reason
            self._over.set()

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Open every part, keep them running until `stop`, close every part.

        `started` is called once every part was opened, or is being restarted.

        :raises BaseException: the failure of a part that means a stop, or else what was raised while closing.
        """
        try:
            if await self._open_all():
                started()
                await self._over.wait()
        finally:
            self.stop("failed")
            await self._close_all()
        if self._errors:
            raise self._errors[0]

    async def _open_all(self) -> bool:
        """Return whether every part had its turn before the process stopped."""
        for kepts, _ in self._levels:
            for kept in kepts:
                kept.task = asyncio.create_task(self._keep(kept), name=kept.stats.name)
                waits = [asyncio.ensure_future(event.wait()) for event in (kept.settled, self._over)]
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for wait in waits:
                        wait.cancel()
                if self._over.is_set():
                    return False
        return True

    async def _keep(self, kept: _Kept) -> None:
        """Open and run one part, again after each failure, until it is over or its failure means a stop."""
        part, waits = kept.part, self._waits()
        while True:
            is_first_open = not kept.settled.is_set()
            opened_ns = self._clock.monotonic_ns()
            try:
                if is_first_open:
                    self._set_state(kept, "starting")
                await part.open()
                is_first_open = False
                opened_ns = self._clock.monotonic_ns()
                self._set_state(kept, "up")
                kept.settled.set()
                await part.run()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                kept.failure = RuntimeError("a task of the part was cancelled")
            except Exception as error:  # any failure of a part, expected or not: the table says what it means
                kept.failure = _innermost(error)
            else:
                self._set_state(kept, "over")
                return
            if self._is_closing:
                self._set_state(kept, "degraded", _words(kept.failure))
                raise kept.failure
            meaning = self._table.meaning(part.name, kept.failure, is_first_open=is_first_open)
            if meaning is OnFailure.STOP:
                self._errors.append(kept.failure)
                self.stop("failed")
            self._set_state(kept, "degraded", _words(kept.failure))
            kept.settled.set()
            if meaning is OnFailure.STOP:
                return
            if self._clock.monotonic_ns() - opened_ns >= STABLE_SECS * 1e9:
                waits = self._waits()
            await self._restart_later(kept, next(waits))

    async def _restart_later(self, kept: _Kept, wait_secs: float) -> None:
        """Close a part that failed, and wait."""
        stats = kept.stats
        stats.restarts += 1
        log.error(
            "part_failed",
            part=stats.name,
            error=_report(kept.failure),
            restarts=stats.restarts,
            retry_in_secs=round(wait_secs, 3),
        )
        error = await self._close(kept, RESTART_CLOSE_SECS)
        if error is not None and error is not kept.failure:
            log.error("part_close_failed", part=stats.name, error=_report(error))
        await self._clock.sleep(wait_secs)

    async def _close_all(self) -> None:
        self._is_closing = True
        try:
            self._stopping(self.reason)
        except Exception as error:
            self._errors.append(error)
        for kepts, close_secs in reversed(self._levels):
            opened = [kept for kept in kepts if kept.task is not None]
            found = await asyncio.gather(*(self._shut(kept, close_secs) for kept in opened))
            for kept, failures in zip(opened, found, strict=True):
                for failure in failures:
                    if not any(failure is known for known in self._errors):
                        self._errors.append(failure)
                        log.error(
                            "part_close_failed",
                            part=kept.stats.name,
                            error=_report(failure),
                        )

    async def _shut(self, kept: _Kept, close_secs: float) -> list[BaseException]:
        """Close a part for good; return what it raised."""
        known, task = kept.failure, kept.task
        assert task is not None
        if kept.stats.state != "up":
            await _cancel(task)  # it is being opened, or waits to be
        errors = [await self._close(kept, close_secs)]
        # Some work until they are closed, such as a thread that drains; the others until now.
        await _cancel(task)
        if task.done() and not task.cancelled():
            errors.append(task.exception())
        reason = kept.stats.reason
        self._set_state(kept, "closed", reason)
        return [error for error in errors if error is not None and error is not known]

    async def _close(self, kept: _Kept, secs: float) -> BaseException | None:
        """Have a part release what it holds; return what it raised, or that it did not return."""
        deadline_ns = self._clock.monotonic_ns() + int(secs * 1e9)
        closing = asyncio.ensure_future(kept.part.close(deadline_ns))
        try:
            await asyncio.wait([closing], timeout=secs + CLOSE_GRACE_SECS)
        finally:
            is_late = not closing.done()
            await _cancel(closing)
        if is_late:
            return RecorderError(f"{kept.stats.name} was not closed within {secs:g} s and is left behind")
        return None if closing.cancelled() else closing.exception()

    def _set_state(self, kept: _Kept, state: PartState, reason: str = "") -> None:
        stats = kept.stats
        stats.state, stats.reason = state, reason
        stats.since_ns = self._clock.monotonic_ns()
        if state == "degraded":
            stats.failure, stats.failed_at = reason, self._clock.wall_ns() // 1_000_000

    def _waits(self) -> Iterator[float]:
        return full_jitter(RESTART_FIRST_SECS, RESTART_SECS_MAX, self._uniform)

    def __repr__(self) -> str:
        kepts = [kept for kepts, _ in self._levels for kept in kepts]
        return f"Supervisor({kepts!r}, reason={self.reason!r})"


async def _cancel(task: asyncio.Future[None]) -> None:
    """Cancel a task and wait for its end; a task that does not end is left behind."""
    task.cancel()
    await asyncio.wait([task], timeout=CLOSE_GRACE_SECS)


def _innermost(error: Exception) -> Exception:
    """Return the one error in the group that a group of tasks has raised for it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _words(error: BaseException) -> str:
    """Return an error in the words of an operator; a defect has no message for one, so its type is named."""
    if isinstance(error, RecorderError):
        return mask(str(error))
    return mask(f"a defect: {type(error).__name__}: {error}".rstrip(": "))


def _report(error: BaseException | None) -> str:
    """Return what the log says of an error: where it happened, if it is a defect."""
    if error is None or isinstance(error, RecorderError):
        return str(error)
    return "".join(traceback.format_exception(error))
