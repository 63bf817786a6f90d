"""Plays archives: puts on the bus what is due, says what happens in between, and takes orders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from recorder.bus import SOUGHT, Bus, Watermark
from recorder.clock import Clock
from recorder.errors import ArchiveError
from recorder.log import get_logger
from recorder.sources.replay.announcements import Announcements, Audience
from recorder.sources.replay.options import PASS_BYTES_MAX, PlayOptions
from recorder.sources.replay.pace import Pace
from recorder.sources.replay.reader import Read, ReplayReader
from recorder.sources.replay.shift import Shift, moved
from recorder.sources.replay.source import ReplaySource
from recorder.sources.replay.stats import PlayStats
from recorder.sources.source import SourceContext
from recorder.words import moment_text

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
_LATE_SECS_MAX: Final = 0.1
"""A read that is late by less than this moves no clock: each timer is late by a little, and that would add up."""

log = get_logger("polygon_upstream")


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
        self.ended = False
        """Whether everything has been played."""
        self._reader = reader
        self._options = options
        self._clock = clock
        self._stats = PlayStats(options.catch_up, *reader.span_ms)
        self._shift = Shift(clock.wall_ns) if options.shifts else None
        self._sources: dict[str, ReplaySource] = {}
        self._bus: Bus | None = None
        self._audience: Audience | None = None
        self._announcements = Announcements(None)
        self._end: Callable[[str], None] = lambda reason: None
        self._block: list[Read] = []
        self._place = 0
        self._changed = asyncio.Event()
        self._steps = 0
        """Reads that are to be passed on whatever the pace says."""
        self._ahead_ns = 0
        """Time of the data that is to be passed on likewise, from wherever it stands."""
        self._ahead_until_ns = 0
        """The same, as a time; 0: none."""
        self._sought = False
        """Whether the place has changed since somebody last looked."""
        self._has_begun = False
        """Whether clients and the delay were waited for."""
        self._holds = options.is_paused
        """Whether it is to stand still once it begins."""
        self._is_placed = False
        """Whether the data's time is known; the first read sets it."""
        self._first_ms = self._stats.begin
        """When the first read came."""
        self._reached_ms = 0
        """When the last read came that was passed on, or where a seek went."""

    def source(self, context: SourceContext) -> ReplaySource:
        """Return the source of one cluster."""
        self._bus = context.bus
        made = self._sources[context.cluster] = ReplaySource(context.cluster, context.session())
        return made

    def attach(self, audience: Audience | None, end: Callable[[str], None]) -> None:
        """Have these clients served; `end` is called with a reason once all is played."""
        self._audience = audience
        self._announcements = Announcements(audience)
        self._end = end

    @property
    def position_ms(self) -> int:
        """The data's time: everything that came until then has been played, and nothing that came later. Unix ms."""
        position_ms = self.pace.position_ns // 1_000_000
        if self._place < len(self._block):
            return min(position_ms, self._block[self._place].at_ms)
        # While more is read, nobody knows when that came.
        return position_ms if self.ended else min(position_ms, self._reached_ms)

    @property
    def clients(self) -> int:
        """How many clients have subscribed to something."""
        return self._audience.subscribed if self._audience is not None else 0

    @property
    def stats(self) -> PlayStats:
        """Where it stands at this moment."""
        stats, pace = self._stats, self.pace
        if self.ended:
            stats.state = "ended"
        elif not self._has_begun:
            stats.state = "waiting"
        else:
            stats.state = "paused" if pace.is_paused else "playing"
        stats.rate = pace.rate
        stats.position = self.position_ms
        if stats.end is not None:
            span_ms = max(1, stats.end - stats.begin)
            stats.progress = (
                1.0 if self.ended else min(1.0, max(0.0, (stats.position - stats.begin) / span_ms))
            )
        return stats

    def play(self) -> None:
        """Go on, or begin once everybody is there."""
        self._holds = False
        if self._has_begun and self.pace.is_paused:
            self._move_times(self.pace.position_ns)
            self.pace.play()
        self._changed.set()

    def pause(self) -> None:
        """Stand still until `play`, `step` or `burst`."""
        self._holds = True
        self.pace.pause()
        self._changed.set()

    def set_rate(self, rate: float | None) -> None:
        """Play so many times faster than it was recorded; None: as fast as clients take it."""
        self.pace.set_rate(rate)
        self._changed.set()

    def seek(self, at_ms: int) -> None:
        """Go on from a time of the data, earlier or later. Each cluster's session ends, and another begins.

        A time before the first record means that one. Raise ValueError once everything has been played.
        """
        self._require_more()
        at_ms = max(at_ms, self._stats.begin)  # before that there is nothing but silence
        self._reader.seek(at_ms)
        self._move_times(at_ms * 1_000_000)
        self.pace.seek(at_ms * 1_000_000)
        self._block, self._place = [], 0
        self._steps = self._ahead_ns = self._ahead_until_ns = 0
        self._sought = self._is_placed = True
        self._reached_ms = at_ms
        self._stats.events = self._stats.gaps = 0
        self._stats.lag_secs = 0.0
        for source in self._sources.values():
            source.session.close(SOUGHT)
        self._announcements.sought(at_ms)
        self._changed.set()

    def step(self, count: int = 1) -> None:
        """Pass on the next reads at once, also while it stands still. Raise ValueError once everything has been played."""
        self._require_more()
        self._steps += count
        self._changed.set()

    def burst(self, span_ms: int) -> None:
        """Pass on so much of the data's time at once, also while it stands still. Raise ValueError as `step`."""
        self._require_more()
        self._ahead_ns += span_ms * 1_000_000
        self._changed.set()

    def _require_more(self) -> None:
        if self.ended:
            raise ValueError("the replay has ended")

    def stop(self) -> None:
        """End the replay, and the process."""
        self._end("stopped over HTTP")

    async def open(self) -> None:
        """Do nothing: the archives are open."""

    async def run(self) -> None:
        """Play until the end, and then for as long as is asked for."""
        await self._await_clients()
        self._has_begun = True
        if not self._holds:
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
        """Wait for as many as must be there, and then for as long as is asked for."""
        wanted, audience = self._options.clients_min, self._audience
        if wanted and audience is not None:
            log.info("replay_waits", clients=wanted)
            while audience.subscribed < wanted:
                await self._clock.sleep(_LOOK_SECS)
        if self._options.delay_secs:
            await self._clock.sleep(self._options.delay_secs)

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
            self._move_times(at_ms * 1_000_000)
        for source in self._sources.values():
            if not source.session.opened_at_ns:
                source.session.open()

    async def _wait_until_due(self) -> bool:
        """Wait for the next read to be due; return False if the place has changed meanwhile."""
        while True:
            self._changed.clear()
            at_ns = self._block[self._place].at_ms * 1_000_000
            if self._is_ordered(at_ns):
                self.pace.seek(max(at_ns, self.pace.position_ns))
                self._stats.lag_secs = 0.0
                return True
            self._skip_silence(at_ns)
            if self.pace.is_due(at_ns):
                self._note_lag(at_ns)
                return True
            wait_secs = self.pace.wait_secs(at_ns)
            with suppress(TimeoutError):
                async with asyncio.timeout(None if wait_secs is None else min(wait_secs, _TICK_SECS)):
                    await self._changed.wait()
            self._let_time_pass(min(self.pace.position_ns, at_ns) - _SILENCE_NS)
            if self._sought:
                return False

    def _is_ordered(self, at_ns: int) -> bool:
        """Return whether a read is to be passed on whatever the pace says; where an order ends, time goes on from there."""
        if self._ahead_ns:
            begin_ns = max(self._ahead_until_ns, self.pace.position_ns)
            self._ahead_until_ns, self._ahead_ns = begin_ns + self._ahead_ns, 0
        if self._steps:
            self._steps -= 1
            return True
        if at_ns < self._ahead_until_ns:
            return True
        if self._ahead_until_ns:
            self.pace.seek(max(self._ahead_until_ns, self.pace.position_ns))
            self._ahead_until_ns = 0
        return False

    def _skip_silence(self, at_ns: int) -> None:
        """Go to the next read at once, where it is further away than silence is played."""
        skip_secs = self._options.skip_secs
        if skip_secs is None or self.pace.is_paused or at_ns - self.pace.position_ns <= skip_secs * 1e9:
            return
        self._announcements.skipped(at_ns // 1_000_000)
        self.pace.seek(at_ns)

    def _note_lag(self, at_ns: int) -> None:
        """Note how late a read is, and move the clock by that if it is to be."""
        pace, stats = self.pace, self._stats
        stats.lag_secs = 0.0
        if pace.rate is not None:
            stats.lag_secs = max(0.0, (pace.position_ns - at_ns) / 1e9 / pace.rate)
        if stats.catch_up == "shift" and stats.lag_secs > _LATE_SECS_MAX:
            pace.seek(at_ns)
            stats.moved_secs += stats.lag_secs

    async def _pass_on(self) -> None:
        """Pass on what is due, of one cluster or one gap, and give the loop its turn."""
        read = self._block[self._place]
        if read.gap is not None:
            self._place += 1
            self._stats.gaps += 1
            self._announcements.gap(read.gap)
            return
        source = self._sources.get(read.cluster)
        if source is None:
            raise ArchiveError(
                f"from {moment_text(read.at_ms)} on there are records of {read.cluster}, of which the manifest has no "
                f"session; --from {moment_text(read.at_ms)} plays them"
            )
        frames, at_ms = self._take_due(read.cluster)
        at_ns = at_ms * 1_000_000
        self._let_time_pass(at_ns - _SILENCE_NS)
        source.session.publish(frames, read_ns=at_ns)
        self.pace.reach(at_ns)
        self._reached_ms = at_ms
        await asyncio.sleep(0)
        if self.pace.rate is None:
            await self._await_room()

    def _take_due(self, cluster: str) -> tuple[list[bytes], int]:
        """Return the frames that are due of one cluster, the next one at least, and when the last of them came."""
        block = self._block
        frames: list[bytes] = []
        size, size_max = 0, self._options.pass_bytes_max if self.pace.rate is None else PASS_BYTES_MAX
        at_ms = block[self._place].at_ms
        while self._place < len(block) and size < size_max:
            read = block[self._place]
            is_apart = read.cluster != cluster or read.gap is not None or read.at_ms - at_ms > _QUIET_MS
            if frames and (is_apart or not self.pace.is_due(read.at_ms * 1_000_000)):
                break
            frames += read.frames if self._shift is None else self._shifted(read, self._shift)
            size += sum(map(len, read.frames))
            self._stats.events += read.events
            at_ms = read.at_ms
            self._place += 1
        return frames, at_ms

    @staticmethod
    def _shifted(read: Read, shift: Shift) -> list[bytes]:
        by_ms = shift.by_ms or 0
        return [moved(frame, places, by_ms) for frame, places in zip(read.frames, read.times, strict=True)]

    def _move_times(self, data_ns: int) -> None:
        """Let the times of the events be those of now, from a time of the data on."""
        shift = self._shift
        if shift is not None and shift.begin(data_ns, self.pace.position_ns):
            self._stats.shifted_ms = shift.by_ms
            self._announcements.shifted(shift.by_ms or 0)

    async def _await_room(self) -> None:
        """Let clients take what they have; one that takes nothing at all is cut by the ports."""
        audience = self._audience
        if audience is None:
            return
        await audience.look()
        while audience.fullest > 0.5 and not self._sought:
            await self._clock.sleep(_ROOM_SECS)
            await audience.look()

    def _let_time_pass(self, until_ns: int) -> None:
        """Let time pass in all clusters: everything until then has been passed on."""
        if self._bus is not None:
            for cluster in self.clusters:
                self._bus.advance(Watermark(cluster, until_ns))

    async def _finish(self) -> None:
        events, sha256 = self._stats.events, self._reader.sha256
        log.info("replay_complete", events=events, sha256=sha256)
        self._announcements.completed(events, sha256)
        await self._clock.sleep(self._options.linger_secs)
        if self._audience is not None:
            await self._audience.finish("replay complete")
        self._end("replay complete")

    def __repr__(self) -> str:
        return f"Player({self.pace!r}, {self._stats.events} events)"
