"""Any life of clients that resume: cut, slow, too slow, other topics, a log that forgets; each has what it is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from resuming import Follower, Recorder, events_in, matches, number_of
from serving import event, frame_of

CLIENTS = 3
TOPICS = st.sampled_from(["T.*", "Q.*", "T.A", "T.B", "Q.A", "A.*", "*"])
KINDS = st.sampled_from([(channel, symbol) for channel in "TQA" for symbol in "AB"])
CLIENT = st.integers(0, CLIENTS - 1)
_SUBJECT = re.compile(rb'"ev":"(\w+)","sym":"(\w+)".*"q":(\d+)')


@dataclass
class Span:
    """Positions between which a client gets a topic."""

    topic: str
    begin: int
    end: int | None = None
    """None while it holds the topic."""
    sure_end: int | None = None
    """Up to there it must have everything; behind, it may have been too late to get what it has given back."""


class Subscriber(Follower):
    """A client whose topics change; what it must have, and what it may have, is known for each stretch of its stream."""

    def __init__(self, recorder: Recorder, port: str, topics: list[str], cluster: str, pending: int) -> None:
        super().__init__(recorder, port, *topics, cluster=cluster, pending_max=pending)
        self.spans: list[list[Span]] = []
        """Of each stretch."""

    def connect(self, **wishes: Any) -> None:
        before = self.after
        super().connect(**wishes)
        self.take()  # nothing but statuses can have come in this turn
        if before is None or len(self.kept) > len(self.spans):
            begin = self.kept[-1].begin
            self.spans.append([])
        else:
            begin = number_of(before)
            for span in self.spans[-1]:
                # What it has given back since the position does not come again.
                span.end = begin if span.end is None else min(span.end, begin)
                span.sure_end = span.end if span.sure_end is None else min(span.sure_end, begin)
        self.spans[-1] += [Span(topic, begin) for topic in self.topics]

    def subscribe(self, topic: str) -> None:
        """Ask for one topic more."""
        self.ask(action="subscribe", params=topic)
        if topic not in self.topics:
            self.topics = (*self.topics, topic)
            self.spans[-1].append(Span(topic, self.recorder.log.position))

    def unsubscribe(self, topic: str) -> None:
        """Give a topic back."""
        self.ask(action="unsubscribe", params=topic)
        self.topics = tuple(held for held in self.topics if held != topic)
        for span in self.spans[-1]:
            if span.topic == topic and span.end is None:
                span.end = self.recorder.log.position
                span.sure_end = number_of(self.after or "run:0")

    def check(self) -> None:
        """Fail unless it has all that it must have and no more than it may have, once, each symbol in order."""
        if self.port == "firehose":
            super().check()
            return
        for stretch, spans in zip(self.kept, self.spans, strict=True):
            must: set[bytes] = set()
            may: set[bytes] = set()
            for read in self.recorder.published:
                if not stretch.begin < read.position <= stretch.end or self.cluster not in ("", read.cluster):
                    continue
                for one in (one for frame in read.frames for one in events_in(frame)):
                    for span in spans:
                        if read.position <= span.begin or not matches([span.topic], one, self.port):
                            continue
                        if span.end is None or read.position <= span.end:
                            may.add(one)
                        if span.sure_end is None or read.position <= span.sure_end:
                            must.add(one)
            assert len(set(stretch.got)) == len(stretch.got), "none twice"
            assert must <= set(stretch.got) <= may
            last: dict[tuple[bytes, bytes], int] = {}
            for one in stretch.got:
                found = _SUBJECT.search(one)
                assert found is not None
                channel, symbol, number = found.groups()
                assert last.get((channel, symbol), 0) < int(number), "in order"
                last[channel, symbol] = int(number)


def on_the_loop(step: Callable[..., None]) -> Callable[..., None]:
    """Let a rule run where clients can ask for the loop."""

    @wraps(step)
    def run(self: Any, **drawn: Any) -> None:
        async def live() -> None:
            step(self, **drawn)

        self.runner.run(live())

    return run


class Lives(RuleBasedStateMachine):
    """A recorder that forgets soon or late, and its clients."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clients: list[Subscriber] = []
        self.events = 0

    @initialize(
        bytes_max=st.sampled_from([0, 1500, 6000, 2**20]),
        pending=st.sampled_from([1500, 2**20]),
        ports=st.lists(
            st.sampled_from(["firehose", "filtered", "filtered", "bars"]),
            min_size=CLIENTS,
            max_size=CLIENTS,
        ),
        cluster=st.sampled_from(["", "stocks"]),
        topics=st.lists(TOPICS, min_size=1, max_size=2, unique=True),
    )
    @on_the_loop
    def begin(self, bytes_max: int, pending: int, ports: list[str], cluster: str, topics: list[str]) -> None:
        self.recorder = Recorder(bytes_max)
        of_port = {"firehose": ["*"], "filtered": topics, "bars": ["A.*"]}
        self.clients = [Subscriber(self.recorder, port, of_port[port], cluster, pending) for port in ports]
        self.keeps_all = bytes_max == 2**20

    @rule(cluster=st.sampled_from(["stocks", "options"]), kinds=st.lists(KINDS, min_size=1, max_size=6))
    @on_the_loop
    def publish(self, cluster: str, kinds: list[tuple[str, str]]) -> None:
        made = []
        for channel, symbol in kinds:
            self.events += 1
            made.append(event(channel, symbol, self.events))
        self.recorder.publish(frame_of(*made), cluster=cluster)

    @rule(place=CLIENT, partial=st.booleans())
    @on_the_loop
    def connect(self, place: int, partial: bool) -> None:
        client = self.clients[place]
        if client.is_cut:
            client.cut(2**30)
            client.connect(**({"after": client.after, "partial": True} if partial and client.after else {}))

    @rule(place=CLIENT, bytes_max=st.integers(0, 2000))
    @on_the_loop
    def read(self, place: int, bytes_max: int) -> None:
        if self.clients[place].client is not None:
            self.clients[place].take(bytes_max)

    @rule(place=CLIENT, bytes_max=st.integers(0, 2000))
    @on_the_loop
    def cut(self, place: int, bytes_max: int) -> None:
        self.clients[place].cut(bytes_max)

    @rule(place=CLIENT, topic=TOPICS)
    @on_the_loop
    def subscribe(self, place: int, topic: str) -> None:
        client = self.clients[place]
        if not client.is_cut and client.port == "filtered":
            client.subscribe(topic)

    @rule(place=CLIENT, which=st.integers(0, 3))
    @on_the_loop
    def unsubscribe(self, place: int, which: int) -> None:
        client = self.clients[place]
        if not client.is_cut and len(client.topics) > 1:
            client.unsubscribe(client.topics[which % len(client.topics)])

    @rule()
    @on_the_loop
    def step(self) -> None:
        self.recorder.resumes.step()

    @rule()
    @on_the_loop
    def tell(self) -> None:
        self.recorder.resumes.tell([one.client for one in self.clients if one.client is not None])

    def teardown(self) -> None:
        with self.runner:
            if self.clients:
                self.finish()

    @on_the_loop
    def finish(self) -> None:
        for client in self.clients:
            client.catch_up()
            client.check()
            if self.keeps_all:
                assert not self.recorder.stats[client.port].resumes["refused"], (
                    "all that was asked for was kept"
                )


class TestAnyLife(Lives.TestCase):
    """Whatever cuts them and whatever they ask for, each has exactly the stream, or exactly what it was told it gets."""

    settings = settings(
        deadline=None,
        max_examples=max(10, settings.default.max_examples // 2),
        suppress_health_check=[HealthCheck.too_slow],
    )
