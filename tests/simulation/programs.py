"""Programs that follow the recorder by its own client, over every fault: they have the stream, or know what is missing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

from recorder.client.follower import Follower, Wanted
from recorder.client.parts import Event, Lost
from recorder.errors import TopicsRefused
from recorder.polygon.topics import parse_pattern
from simulation.exchange import Tape
from simulation.loop import VirtualClock
from simulation.process import FILTERED, FIREHOSE, NUMBER, Life


class Program:
    """Follows the topics of a cluster from the first process life to the last."""

    def __init__(self, clock: VirtualClock, rng: random.Random, clusters: tuple[str, ...]) -> None:
        self.cluster = rng.choice(clusters)
        host, port = rng.choice((FIREHOSE, FILTERED, FILTERED))
        topics = rng.choice((("T.*",), ("T.S1", "Q.S2"), ("*",), ("Q.S3", "T.*", "A.S1")))
        self.topics = ("*",) if port == FIREHOSE[1] else topics
        self.steady = False
        """Whether it does nothing but follow any more."""
        self.got: list[int | Lost] = []
        """The number of each event, and what was lost between them."""
        url = f"ws://{host}:{port}/{self.cluster}"
        self._follower = Follower(
            url, "good", Wanted(self.topics), clock=clock, rng=random.Random(rng.random())
        )
        self._rng = rng

    @property
    def numbers(self) -> list[int]:
        """Of the events alone."""
        return [one for one in self.got if isinstance(one, int)]

    async def run(self) -> None:
        """Follow, and take some time over an event now and then."""
        while True:
            try:
                async for one in self._follower:
                    await self._take(one)
            except TopicsRefused:
                # The exchange has acknowledged nothing, and nothing had come yet.
                assert not self.numbers

    async def _take(self, one: Event | Lost) -> None:
        if isinstance(one, Lost):
            self.got.append(one)
            return
        found = NUMBER.search(one.payload)
        assert found is not None, f"not an event of ours: {one!r}"
        self.got.append(int(found[1]))
        if not self.steady and self._rng.random() < 0.02:
            await asyncio.sleep(self._rng.expovariate(1 / 5))

    def due(self, lives: Iterable[Life], tape: Tape) -> list[int]:
        """Return the numbers of all that came by the bus for it."""
        wanted = [parse_pattern(topic) for topic in self.topics]
        return [
            number
            for life in lives
            for _, cluster, number in life.received
            if cluster == self.cluster and any(pattern.matches(*tape.topics[number]) for pattern in wanted)
        ]

    def last_of(self, life: Life, tape: Tape) -> int:
        """Return the number of the last event of a life that is due; 0 if there is none."""
        return (self.due([life], tape) or [0])[-1]

    def __repr__(self) -> str:
        return f"Program({self._follower!r}, {self.numbers[-1:]})"


def check_program(program: Program, lives: Iterable[Life], tape: Tape) -> str:
    """Say what is wrong with what a program got: doubled, out of order, or missing where nothing was said to be lost.

    What the recorder itself did not receive came by no bus, so that nothing is missing for it.
    """
    place_of = {number: place for place, number in enumerate(program.due(lives, tape))}
    last, may_miss = -1, True
    for one in program.got:
        if isinstance(one, Lost):
            may_miss = may_miss or not one.cluster
            continue
        place = place_of.get(one, -1)
        if place <= last:
            return f"{program!r}: {one} is not due, doubled, or out of order"
        if place > last + 1 and not may_miss:
            return (
                f"{program!r}: {place - last - 1} events are missing before {one}, and nothing was said of it"
            )
        last, may_miss = place, False
    return ""
