"""Plays archives: puts on the bus what is due, says what happens in between, and takes orders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from recorder.archive.gaps import Gap
from recorder.bus import SOUGHT, Bus, Watermark
from recorder.clock import Clock
from recorder.errors import ArchiveError
from recorder.log import get_logger
from recorder.polygon import control
from recorder.sources.bus_session import BusSession
from recorder.sources.replay.pace import Pace
from recorder.sources.replay.reader import Read, ReplayReader
from recorder.sources.source import SourceContext
from recorder.words import moment_text

PASS_BYTES_MAX: Final = 512 * 1024
"""What is passed on at once, of one cluster."""
_LOOK_SECS: Final = 0.05
"""Time between two looks at clients, while these are waited for."""
_ROOM_SECS: Final = 0.001
"""The same, while these have much to take."""
_QUIET_MS: Final = 500
"""Reads that are further apart are passed on apart, so that time can pass between them."""
_SILENCE_NS: Final = 1_000_000_000
"""What was sent came so much later at most: the recorder may have been slow to read it, and nobody can tell any more.
Time passes on the bus only so far behind the data's."""
_TICK_SECS: Final = 0.1
"""How often time passes in silence."""
_END_NS: Final = 5_000_000_000
"""Behind the last event the data's time goes on by so much, so that every bar closes."""

log = get_logger("polygon_upstream")


class Audience(Protocol):
    """Those that a replay is for, on all ports."""

    @property
    def subscribed(self) -> int:
        """How many clients have subscribed to something."""

    @property
    def fullest(self) -> float:
        """How much the slowest client has not taken yet, as a share of what it may leave."""

    def say(self, payload: bytes) -> None:
        """Send every client that has subscribed a status."""

    async def finish(self, words: str) -> None:
        """Let every client take what is pending, and close it with 1000."""


@dataclass(frozen=True, slots=True)
class PlayOptions:
    """How a replay is to be played."""

    rate: float | None = 1.0
    """How many times faster than it was recorded; None: as fast as clients take it."""
    is_paused: bool = False
    """Whether it waits for `play`."""
    loops: bool = False
    """Whether it begins again at the end."""
    skip_secs: float | None = None
    """Silence longer than this is skipped; None: none is."""
    clients_min: int = 0
    """So many clients must have subscribed before it begins."""
    linger_secs: float = 0.0
    """How long it goes on serving behind the end."""


class Player:
    """Plays what a reader reads, for all clusters by one clock.

    Time on the bus is that of the data, so that bars are the same at any rate. Where a silence was recorded, watermarks
    pass it on, a second late. At the end every client gets a `replay_complete` and is closed with 1000.
    """

    def __init__(
        self, reader: ReplayReader, clusters: Sequence[str], options: PlayOptions, clock: Clock
    ) -> None:
        self.name = "replay"
        self.clusters = tuple(clusters)
        self.pace = Pace(clock.monotonic_ns, options.rate)
        self.events = 0
        """Events played since the beginning, or the last `seek`."""
        self.ended = False
        """Whether everything has been played."""
        self.lag_secs = 0.0
        """How late the last read was passed on."""
        self._reader = reader
        self._options = options
        self._clock = clock
        self._sources: dict[str, ReplaySource] = {}
        self._bus: Bus | None = None
        self._audience: Audience | None = None
        self._end: Callable[[str], None] = lambda reason: None
        self._block: list[Read] = []
        self._place = 0
        self._changed = asyncio.Event()
        self._steps = 0
        """Reads that are to be passed on whatever the pace says."""
        self._sought = False
        """Whether the place has changed since somebody last looked."""
        self._is_placed = False
        """Whether the data's time is known; the first read sets it."""
        self._first_ms = 0
        """When the first read came."""

    def source(self, context: SourceContext) -> ReplaySource:
        """Return the source of one cluster."""
        self._bus = context.bus
        made = self._sources[context.cluster] = ReplaySource(context.cluster, context.session())
        return made

    def attach(self, audience: Audience | None, end: Callable[[str], None]) -> None:
        """Have these clients served; `end` is called with a reason once all is played."""
        self._audience = audience
        self._end = end

    @property
    def position_ms(self) -> int:
        """The data's time: everything that came until then has been played, and nothing that came later. Unix ms."""
        position_ms = self.pace.position_ns // 1_000_000
        return (
            min(position_ms, self._block[self._place].at_ms)
            if self._place < len(self._block)
            else position_ms
        )

    def play(self) -> None:
        """Go on."""
        self.pace.play()
        self._changed.set()

    def pause(self) -> None:
        """Stand still until `play` or `step`."""
        self.pace.pause()
        self._changed.set()

    def set_rate(self, rate: float | None) -> None:
        """Play so many times faster than it was recorded; None: as fast as clients take it."""
        self.pace.set_rate(rate)
        self._changed.set()

    def seek(self, at_ms: int) -> None:
        """Go on from a time of the data, earlier or later. Each cluster's session ends, and another begins.

        Raise ValueError once everything has been played.
        """
        if self.ended:
            raise ValueError("the replay has ended")
        self._reader.seek(at_ms)
        self.pace.seek(at_ms * 1_000_000)
        self._block, self._place = [], 0
        self._steps = 0
        self._sought = self._is_placed = True
        self.events = 0
        for source in self._sources.values():
            source.session.close(SOUGHT)
        self._say(control.REPLAY_SEEK, f"the replay goes on from {moment_text(at_ms)}", at=at_ms)
        self._changed.set()

    def step(self, count: int = 1) -> None:
        """Pass on the next reads at once, also while it stands still."""
        self._steps += count
        self._changed.set()

    def stop(self) -> None:
        """End the replay, and the process."""
        self._end("stopped over HTTP")

    def describe(self) -> dict[str, Any]:
        """Return where it stands."""
        rate = self.pace.rate
        return {
            "state": "ended" if self.ended else "paused" if self.pace.is_paused else "playing",
            "rate": "max" if rate is None else rate,
            "position": self.position_ms,
            "position_text": moment_text(self.position_ms),
            "events": self.events,
            "lag_secs": round(self.lag_secs, 6),
            "clients": self._audience.subscribed if self._audience is not None else 0,
        }

    async def open(self) -> None:
        """Do nothing: the archives are open."""

    async def run(self) -> None:
        """Play until the end, and then for as long as is asked for."""
        await self._await_clients()
        if not self._options.is_paused:
            self.pace.play()
        while True:
            await self._play_to_the_end()
            if not self._options.loops:
                break
            self.ended = False
            self.seek(self._first_ms)
        await self._finish()

    async def close(self, deadline_ns: int) -> None:
        """Stop reading."""
        self._reader.close()

    async def _await_clients(self) -> None:
        wanted, audience = self._options.clients_min, self._audience
        if not wanted or audience is None:
            return
        log.info("replay_waits", clients=wanted)
        while audience.subscribed < wanted:
            await self._clock.sleep(_LOOK_SECS)

    async def _play_to_the_end(self) -> None:
        while True:
            self._sought = False
            if self._place >= len(self._block):
                block = await self._reader.next_block()
                if self._sought:
                    continue
                self._block, self._place = block, 0
                if not block:
                    break
                self._begin(block[0].at_ms)
            if await self._wait_until_due():
                await self._pass_on()
        self.ended = True
        self._let_time_pass(self.pace.position_ns + _END_NS)

    def _begin(self, at_ms: int) -> None:
        """Open the sessions, where none is; the data's time begins with the first read."""
        if not self._is_placed:
            self.pace.seek(at_ms * 1_000_000)
            self._is_placed = True
            self._first_ms = at_ms
        for source in self._sources.values():
            if not source.session.opened_at_ns:
                source.session.open()

    async def _wait_until_due(self) -> bool:
        """Wait for the next read to be due; return False if the place has changed meanwhile."""
        while True:
            self._changed.clear()
            read = self._block[self._place]
            at_ns = read.at_ms * 1_000_000
            if self._steps:
                self._steps -= 1
                self.pace.seek(max(at_ns, self.pace.position_ns))
                return True
            skip_secs = self._options.skip_secs
            if skip_secs is not None and at_ns - self.pace.position_ns > skip_secs * 1e9:
                self._say(
                    control.REPLAY_SKIPPED,
                    f"silence until {moment_text(read.at_ms)} is skipped",
                    to=read.at_ms,
                )
                self.pace.seek(at_ns)
            if self.pace.is_due(at_ns):
                return True
            wait_secs = self.pace.wait_secs(at_ns)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait_secs is None else min(wait_secs, _TICK_SECS)):
                    await self._changed.wait()
            self._let_time_pass(min(self.pace.position_ns, at_ns) - _SILENCE_NS)
            if self._sought:
                return False

    async def _pass_on(self) -> None:
        """Pass on what is due, of one cluster or one gap, and give the loop its turn."""
        read = self._block[self._place]
        if read.gap is not None:
            self._place += 1
            self._say_gap(read.gap)
            return
        source = self._sources.get(read.cluster)
        if source is None:
            raise ArchiveError(
                f"from {moment_text(read.at_ms)} on there are records of {read.cluster}, of which the manifest has no "
                f"session; --from {moment_text(read.at_ms)} plays them"
            )
        frames, at_ms = self._take_due(read.cluster)
        at_ns = at_ms * 1_000_000
        pace = self.pace
        if pace.rate is not None and not pace.is_paused:
            self.lag_secs = max(0.0, (pace.position_ns - at_ns) / 1e9 / pace.rate)
        self._let_time_pass(at_ns - _SILENCE_NS)
        source.session.publish(frames, read_ns=at_ns)
        pace.reach(at_ns)
        await asyncio.sleep(0)
        if pace.rate is None:
            await self._await_room()

    def _take_due(self, cluster: str) -> tuple[list[bytes], int]:
        """Return the frames that are due of one cluster, the next one at least, and when the last of them came."""
        block = self._block
        frames: list[bytes] = []
        size = 0
        at_ms = block[self._place].at_ms
        while self._place < len(block) and size < PASS_BYTES_MAX:
            read = block[self._place]
            is_apart = read.cluster != cluster or read.gap is not None or read.at_ms - at_ms > _QUIET_MS
            if frames and (is_apart or not self.pace.is_due(read.at_ms * 1_000_000)):
                break
            frames += read.frames
            size += sum(map(len, read.frames))
            self.events += read.events
            at_ms = read.at_ms
            self._place += 1
        return frames, at_ms

    async def _await_room(self) -> None:
        """Let clients take what they have; one that takes nothing at all is cut by the ports."""
        audience = self._audience
        while audience is not None and audience.fullest > 0.5 and not self._sought:
            await self._clock.sleep(_ROOM_SECS)

    def _let_time_pass(self, until_ns: int) -> None:
        """Let time pass in all clusters: everything until then has been passed on."""
        if self._bus is not None:
            for cluster in self.clusters:
                self._bus.advance(Watermark(cluster, until_ns))

    def _say_gap(self, gap: Gap) -> None:
        secs = (gap.to_ms - gap.from_ms) / 1000
        words = f"nothing was recorded of {gap.cluster} for {secs:,.3f} s from {moment_text(gap.from_ms)}: {gap.reason}"
        facts = {"cluster": gap.cluster, "from": gap.from_ms, "to": gap.to_ms, "reason": gap.reason}
        self._say(control.GAP, words, **facts)

    def _say(self, status: str, words: str, **facts: Any) -> None:
        if self._audience is not None:
            fields = {"ev": "status", "status": status, "message": words, **facts}
            self._audience.say(orjson.dumps([fields]))

    async def _finish(self) -> None:
        facts = {"events": self.events, "sha256": self._reader.sha256}
        words = f"{self.events:,} events were replayed; all of their payloads, a line each: sha256 {facts['sha256']}"
        log.info("replay_complete", **facts)
        self._say(control.REPLAY_COMPLETE, words, **facts)
        await self._clock.sleep(self._options.linger_secs)
        if self._audience is not None:
            await self._audience.finish("replay complete")
        self._end("replay complete")

    def __repr__(self) -> str:
        return f"Player({self.pace!r}, {self.events} events)"


class ReplaySource:
    """One cluster of a replay. What is played, and when, is the player's."""

    def __init__(self, cluster: str, session: BusSession) -> None:
        self.name = cluster
        self.session = session

    async def open(self) -> None:
        """Do nothing: the player opens the session with the first read."""

    async def run(self) -> None:
        """Wait until cancelled."""
        await asyncio.Event().wait()

    async def close(self, deadline_ns: int) -> None:
        """End the session."""
        self.session.close("shutdown")

    def __repr__(self) -> str:
        return f"ReplaySource({self.name})"
