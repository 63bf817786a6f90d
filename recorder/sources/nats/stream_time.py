"""How far time has come at the exchange, as far as a stream can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from recorder.clock import Clock
from recorder.errors import RecorderError
from recorder.jetstream.streams import View
from recorder.sources.exchange.passage import Passage
from recorder.sources.nats.intake import Intake

STORE_SECS: Final = 0.25
"""How long the recorder that writes may take until what it has received is in the stream."""
PATIENCE_NS: Final = 60_000_000_000
"""How long after a cut time stands still for what is yet to come."""
_WAIT_SECS: Final = 0.01
_WAITS_MAX: Final = 200

Look = Callable[[], Awaitable[View]]
"""Asks the servers where the stream ends."""


class StreamTime:
    """Lets time pass up to a moment once all has been read that the stream had a little later.

    That proves that nothing is on its way, unless the recorder that writes cannot reach the servers: then trades come late,
    as they would after a cut of its own. While the servers do not answer, time stands still for `silence_max_ms`.
    """

    def __init__(
        self, announce: Callable[[int], None], silence_max_ms: int, intake: Intake, clock: Clock
    ) -> None:
        """`announce` is called with the monotonic time until which everything has been read."""
        self.is_held = False
        """Whether nothing is read at the moment, since the sinks have more than enough."""
        self._intake = intake
        self._clock = clock
        self._passage = Passage(announce, silence_max_ms)
        self._look: Look | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._proof: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Ask how far time has come: somebody waits for it."""
        self._passage.ask(self._clock.monotonic_ns())
        self._step()

    def connected(self, look: Look) -> None:
        """Note that there is a connection, over which the servers can be asked."""
        self._look = look
        self._step()

    def lost(self) -> None:
        """Forget the connection, and what was asked over it."""
        self._look = None
        self._passage.connection_lost()
        for waiting in (self._timer, self._proof):
            if waiting is not None:
                waiting.cancel()
        self._timer = self._proof = None
        self._step()

    def close(self) -> None:
        """Answer no more."""
        self.lost()
        if self._timer is not None:
            self._timer.cancel()

    def _step(self) -> None:
        """Do what is due, and come back while somebody waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ns, lost_ns = self._clock.monotonic_ns(), self._intake.lost_ns
        is_open = self._look is not None and self._intake.is_open
        is_gone = lost_ns > 0 and now_ns - lost_ns > PATIENCE_NS
        payload = self._passage.look(
            now_ns, connected=is_open, listening=not self.is_held and (is_open or is_gone)
        )
        if payload is not None and self._look is not None:
            if self._proof is not None:
                self._proof.cancel()
            self._proof = asyncio.get_running_loop().create_task(self._prove(payload, self._look))
        if self._passage.is_asked:
            wait_secs = max(0.0, (self._passage.look_ns - now_ns) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(wait_secs, self._step)

    async def _prove(self, payload: bytes, look: Look) -> None:
        """Wait until all has been read that the stream has now."""
        await self._clock.sleep(STORE_SECS)
        try:
            view = await look()
        except RecorderError:
            return  # it is asked again
        for _ in range(_WAITS_MAX):
            if self._intake.read_seq >= view.last_seq:
                self._passage.answered(payload)
                self._step()
                return
            await self._clock.sleep(_WAIT_SECS)

    def __repr__(self) -> str:
        return f"StreamTime({self._passage!r})"
