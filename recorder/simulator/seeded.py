"""The seeded market: thousands of symbols, made up from one number, paced or as fast as the slowest subscriber."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final

from recorder.clock import Clock
from recorder.simulator.audience import Template, compile_slice
from recorder.simulator.faults import Burst
from recorder.simulator.framing import frames_of
from recorder.simulator.market import Market
from recorder.simulator.schedule import Schedule
from recorder.simulator.settings import RATE_DEFAULT, SimulatorSettings
from recorder.simulator.tape import Board, Slice, Tape, slice_events, tape_events, walks
from recorder.simulator.windows import Closed, Windows
from recorder.simulator.wire import FIRST_NUMBER, NUMBERS, WORDS, stamps

_FLOOD_VIRTUAL_RATE: Final = 100_000
"""Events in a second of event time, where a flooding market was given a start."""


class Reel:
    """Has the stretches of a market made in a thread of their own, each one while the one before it is played."""

    def __init__(self, board: Board, rate: float) -> None:
        self._board = board
        self._walks = walks(rate)
        self.stretch_events = tape_events(rate)
        self._present: Tape | None = None
        self._next: asyncio.Future[Tape] | None = None
        """The stretch behind the present one."""

    async def stretch(self, number: int) -> Tape:
        """Return the stretch of a number; of a market that repeats itself, the one that there is."""
        wanted = number if self._walks else 0
        present = self._present
        if present is not None and present.number == wanted:
            return present
        making = self._next if present is not None and present.number == wanted - 1 else None
        self._present = present = await (making or self._make(wanted))
        self._next = self._make(wanted + 1) if self._walks else None
        return present

    def _make(self, number: int) -> asyncio.Future[Tape]:
        make = partial(
            Tape,
            self._board,
            events=self.stretch_events,
            number=number,
            # What is played again ends where it began, so that it makes no jump.
            following=number + self._walks,
        )
        return asyncio.get_running_loop().run_in_executor(None, make)


class SeededMarket(Market[list[Template]]):
    """A made-up market: the same events for the same seed, their numbers (`q`) counted from 10^11.

    A market of `tape.WALK_RATE_MAX` at most goes on without end, and no minute is like another one. A faster one
    repeats 100,000 events.

    The numbers count what the market plays, whoever is subscribed. A paced market goes on while nobody listens, and
    who comes later finds it later; a flooding one waits. Event times are those of the schedule; while flooding, the
    wall clock's, or a time of its own if the market was given a start.
    """

    def __init__(
        self, cluster: str, settings: SimulatorSettings, clock: Clock, bursts: Sequence[Burst] = ()
    ) -> None:
        super().__init__(cluster, settings, clock)
        self._rate = RATE_DEFAULT if settings.rate is None else settings.rate
        self._words = WORDS[cluster]
        self._windows = Windows()
        self._bursts = list(bursts)
        self._burst_ends_ms = 0.0
        self._burst_factor = 1
        """Above 1 while a fault makes the market faster."""

    async def run(self) -> None:
        """Open, then play until cancelled. What is played is made when somebody comes, in a thread of its own."""
        settings = self._settings
        if not settings.starts_with_subscriber:
            self._open()
        await self._audiences.someone()
        board = await asyncio.to_thread(Board, self.cluster, settings.seed, settings.symbols)
        reel = Reel(board, self._rate)
        tape = await reel.stretch(0)
        if settings.starts_with_subscriber:
            self._open()
        slices = tape.slices(slice_events(self._rate, settings.frame_events))
        if settings.flood:
            await self._flood(tape, slices)
        else:
            await self._pace(reel, slices)

    async def _pace(self, reel: Reel, slices: Sequence[Slice]) -> None:
        settings = self._settings
        schedule = Schedule(
            self._rate,
            self._opened_ms,
            bursts=Random(f"{settings.seed}/{self.cluster}/bursts") if settings.bursts else None,
            session_open=settings.session_open,
        )
        begins = [part.begin for part in slices]
        number, at = 0, 0
        present = settings.starts_with_subscriber
        while True:
            if not present:
                await self._audiences.someone()
                place = schedule.index_at(self._opened_ms + self._open_secs() * 1000)
                number, rest = divmod(place, reel.stretch_events)
                at = bisect_left(begins, rest)
                self._windows.interrupt()
            if at == len(slices):
                number, at = number + 1, 0
            part = slices[at]
            base = number * reel.stretch_events
            self._burst(schedule, base + part.begin)
            # A slice is sent when its last event has happened.
            due_secs = (schedule.time_ms(base + part.end - 1) - self._opened_ms) / 1000
            self._due_secs = due_secs
            tape = await reel.stretch(number)
            self._make_templates(tape, part, at)
            await self._wait_until(due_secs)
            times = [int(schedule.time_ms(base + run)) for run in part.runs]
            self._play(tape, part, at, base, times, tracking=True)
            at += 1
            present = len(self._audiences) > 0

    async def _flood(self, tape: Tape, slices: Sequence[Slice]) -> None:
        position = 0
        time_ms: Callable[[], int]
        if self._settings.start_ms is None:
            time_ms = self._wall_ms
        else:
            time_ms = lambda: self._opened_ms + position * 1000 // _FLOOD_VIRTUAL_RATE  # noqa: E731
        aggregates = (self._words.second, self._words.minute)
        now_ms = 0
        while True:
            base = position
            for number, part in enumerate(slices):
                await self._audiences.someone()
                # The wall clock may be set back; event time is not.
                now_ms = max(now_ms, time_ms())
                tracking = self._audiences.wants_any(aggregates)
                self._play(tape, part, number, base, [now_ms] * len(part.runs), tracking=tracking)
                position = base + part.end
                await self._let_drain()

    def _wall_ms(self) -> int:
        return self._clock.wall_ns() // 1_000_000

    def _play(
        self, tape: Tape, part: Slice, number: int, base: int, times: Sequence[int], *, tracking: bool
    ) -> None:
        """Send one slice, then the aggregates that it finished. `base` counts the events before the tape's first."""
        filling = [
            stamp
            for run, time in zip(part.runs, times, strict=True)
            for stamp in stamps(time, FIRST_NUMBER + (base + run) % NUMBERS)
        ]
        self._make_templates(tape, part, number)
        for audience in self._audiences:
            for template in audience.made[tape.number, number]:
                audience.deliver(template.fill(filling))
        self.events_played += part.end - part.begin
        if tracking:
            self._track(tape, part, times)
        else:
            self._windows.interrupt()

    def _make_templates(self, tape: Tape, part: Slice, number: int) -> None:
        """Make what each audience gets of a slice, unless it was played before."""
        for audience in self._audiences:
            if (tape.number, number) not in audience.made:
                if walks(self._rate):
                    audience.made.clear()  # what was played does not come again
                audience.made[tape.number, number] = compile_slice(
                    tape, part, audience.selection, self._settings.frame_events
                )

    def _track(self, tape: Tape, part: Slice, times: Sequence[int]) -> None:
        ended: list[tuple[str, Closed]] = []
        for begin, end, time in zip(part.runs, (*part.runs[1:], part.end), times, strict=True):
            seconds, minutes = self._windows.advance(time)
            ended += [(self._words.second, closed) for closed in seconds]
            ended += [(self._words.minute, closed) for closed in minutes]
            self._windows.add(tape.trades(begin, end))
        for channel, closed in ended:
            if self._audiences.wants_any((channel,)):
                self._send_aggregates(tape, channel, closed)

    def _send_aggregates(self, tape: Tape, channel: str, closed: Closed) -> None:
        word = self._words.aggregate
        rows = []
        for place, window in closed.windows.items():
            entry = tape.listing[place]
            text = word(channel, entry, window, closed.days[place], closed.start_ms, closed.end_ms)
            rows.append((entry, text.encode()))
        for audience in self._audiences:
            wants = audience.selection.wants
            events = [text for entry, text in rows if wants(channel, entry.symbol, entry.venue)]
            if events:
                audience.deliver(frames_of(events, self._settings.frame_events))

    def _burst(self, schedule: Schedule, index: int) -> None:
        """Speed up, or slow down again, in front of an event, as the faults say."""
        now_ms = schedule.time_ms(index)
        if self._burst_factor > 1 and now_ms >= self._burst_ends_ms:
            schedule.change_rate(index, 1 / self._burst_factor)
            self._burst_factor = 1
        for fault in self._bursts:
            if self._burst_factor == 1 and fault.is_due(
                self.events_played, (now_ms - self._opened_ms) / 1000
            ):
                fault.count()
                self._burst_factor = fault.factor
                self._burst_ends_ms = now_ms + fault.secs * 1000
                schedule.change_rate(index, fault.factor)
