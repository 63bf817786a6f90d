"""Resume: whatever cuts a client, what it has in the end is exactly the stream, or it knows what is missing."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import Follower, Recorder, Transport, found_out, matches, number_of
from serving import event, frame_of

from recorder.bus import SessionClosed, SessionOpened
from recorder.frames import TIME_PING
from recorder.servers.past import resumes as resume_module
from recorder.servers.past.entry import Start
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.resumes import Resumes

STATUS = b'[{"ev":"status","status":"success","message":"subscribed to: T.*"}]'
ODD = b"[1, 2]"
SYMBOLS = ("A", "B")
CHANNELS = ("T", "Q", "A")
TOPICS = ("*", "T.*", "Q.*", "T.A", "T.B", "Q.A", "A.*")

FOLLOWERS = st.one_of(
    st.tuples(st.just("firehose"), st.just(["*"])),
    st.tuples(st.just("filtered"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("bars"), st.just(["A.*"])),
)
FRAMES = st.lists(
    st.one_of(
        st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=3),
        st.just("odd"),
        st.just("status"),
    ),
    min_size=1,
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["stocks", "options"]), FRAMES),
        st.tuples(st.just("connect"), st.booleans(), st.none()),
        st.tuples(st.just("take"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("cut"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("step"), st.none(), st.none()),
        st.tuples(st.just("tell"), st.none(), st.none()),
    ),
    max_size=50,
)


class Market:
    """Makes frames whose events can be told apart."""

    def __init__(self) -> None:
        self.number = 0

    def frames(self, drawn: list[Any], *, odd: bool) -> list[bytes]:
        """Return the frames of one read."""
        return [self.frame(one) for one in drawn if odd or one != "odd"] or [self.frame([("T", "A")])]

    def frame(self, drawn: Any) -> bytes:
        """Return one frame."""
        if drawn == "odd":
            return ODD
        if drawn == "status":
            return STATUS
        return frame_of(*[self.event(*one) for one in drawn])

    def event(self, channel: str, symbol: str) -> bytes:
        """Return one event."""
        self.number += 1
        return event(channel, symbol, self.number)


@given(
    follower=FOLLOWERS,
    cluster=st.sampled_from(["", "stocks"]),
    bytes_max=st.sampled_from([0, 1500, 6000, 2**20]),
    pending_max=st.sampled_from([1500, 2**20]),
    steps=STEPS,
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_client_has_is_exactly_the_stream(
    follower: tuple[str, list[str]], cluster: str, bytes_max: int, pending_max: int, steps: list[Any]
) -> None:
    """Cut anywhere, slow, too slow, behind what is kept: nothing is missing that it is not told of, and nothing is twice."""

    async def live() -> None:
        recorder, market = Recorder(bytes_max), Market()
        port, topics = follower
        client = Follower(recorder, port, *topics, cluster=cluster, pending_max=pending_max)
        for step, first, second in steps:
            if step == "publish":
                # A filtering port has no place for what is no event, so only the firehose is given that.
                recorder.publish(*market.frames(second, odd=port == "firehose"), cluster=first)
            elif step == "connect" and client.is_cut:
                client.cut(2**30)
                client.connect(**({"after": client.after, "partial": True} if first and client.after else {}))
            elif step == "take" and client.client is not None:
                client.take(first)
            elif step == "cut":
                client.cut(first)
            elif step == "step":
                recorder.resumes.step()
            elif step == "tell" and client.client is not None:
                recorder.resumes.tell([client.client])
        client.catch_up()
        client.check()
        stats = recorder.stats[port]
        if bytes_max == 2**20:
            assert not stats.resumes["refused"], "all that was asked for was kept"

    asyncio.run(live())


CHANGES = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=4),
        ),
        st.tuples(
            st.just("subscribe"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)
        ),
        st.tuples(
            st.just("unsubscribe"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)
        ),
        st.tuples(st.just("step"), st.just([])),
        st.tuples(st.just("take"), st.just([])),
    ),
    max_size=40,
)


@given(
    topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=2, unique=True),
    before=CHANGES,
    changes=CHANGES,
)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_topics_that_change_while_a_client_reads(
    topics: list[str], before: list[Any], changes: list[Any]
) -> None:
    """Each event of the topics that it holds comes once and in order, whatever overlaps and whenever it is asked for."""

    async def live() -> None:
        recorder, market = Recorder(2**20), Market()
        events: list[tuple[int, bytes]] = []

        def publish(drawn: list[tuple[str, str]]) -> None:
            made = [market.event(*one) for one in drawn]
            recorder.publish(frame_of(*made))
            events.extend((recorder.log.position, one) for one in made)

        for step, drawn in before:
            if step == "publish":
                publish(drawn)
        client = Follower(recorder, "filtered", *topics, pending_max=4000)
        client.connect(after="run:0")
        held = dict.fromkeys(topics, 0)
        """Topic to the position from which on the client wants it."""
        given_back: list[tuple[str, int, int]] = []
        for step, drawn in changes:
            position = recorder.log.position
            if step == "publish":
                publish(drawn)
            elif step == "subscribe":
                client.ask(action="subscribe", params=",".join(drawn))
                held = {**dict.fromkeys(drawn, position), **held}
            elif step == "unsubscribe":
                client.ask(action="unsubscribe", params=",".join(drawn))
                given_back += [(topic, held.pop(topic), position) for topic in drawn if topic in held]
            elif step == "step":
                recorder.resumes.step()
            elif step == "take":
                client.take()
            if client.is_cut:
                return  # too much for it at once
        while recorder.resumes.step() or client.transport.written:
            client.take()
        got = [one for stretch in client.kept for one in stretch.got] + client.loose
        numbers = [json.loads(one)["q"] for one in got]
        assert len(set(numbers)) == len(numbers), "none twice"
        for channel in CHANNELS:
            for symbol in SYMBOLS:
                of_one = [json.loads(one)["q"] for one in got if matches([f"{channel}.{symbol}"], one)]
                assert of_one == sorted(of_one), "in order"
        due = {
            one
            for position, one in events
            for topic, begin in held.items()
            if position > begin and matches([topic], one)
        }
        allowed = due | {
            one
            for position, one in events
            for topic, begin, end in given_back
            if begin < position <= end and matches([topic], one)
        }
        assert due <= set(got) <= allowed

    asyncio.run(live())


def scene(bytes_max: int = 2**20, reads: int = 0) -> tuple[Recorder, Market]:
    """Return a recorder that has received so many trades, one a read."""
    recorder, market = Recorder(bytes_max), Market()
    for _ in range(reads):
        recorder.publish(market.frame([("T", "A")]))
    return recorder, market


async def test_the_statuses_of_a_resume() -> None:
    """What becomes of it comes before any event, its end with the count behind the last, then the position."""
    recorder, market = scene(reads=3)
    client = Follower(recorder, "filtered", "T.A", "Q.*")
    client.connect(after="run:1")
    recorder.publish(market.frame([("Q", "B"), ("T", "B")]))
    recorder.resumes.step()
    client.take()
    kinds = [(status["status"], status["message"]) for status in client.statuses]
    assert kinds == [
        ("auth_success", "authenticated"),
        ("success", "subscribed to: T.A"),
        ("success", "subscribed to: Q.*"),
        ("resume", "what you missed follows"),
        ("resume_complete", "that was all you missed: 3"),
        ("position", "run:4"),
    ]
    resume, complete, position = client.statuses[3:]
    assert (resume["recovered"], resume["from"], resume["available_from"]) == (True, "run:1", "run:0")
    assert (resume["gaps"], resume["reason"]) == ([], "")
    assert complete["count"] == 3
    assert position["after"] == "run:4"
    assert len(client.kept[0].got) == 3
    assert recorder.stats["filtered"].resumes == {"recovered": 1}


@pytest.mark.parametrize(
    ("wishes", "recovered", "begin", "outcome"),
    [
        ({"after": "run:1"}, False, 20, "refused"),
        ({"after": "run:1", "partial": True}, False, -1, "partial"),
        ({"after": "nonsense", "partial": True}, False, -1, "partial"),
        ({"after": "other:1"}, False, 20, "refused"),
        ({"since": 0}, False, 20, "refused"),
        ({"since": 0, "partial": True}, False, -1, "partial"),
        ({"since": 4_102_444_800_000}, False, 20, "refused"),
        ({"after": "run:20"}, True, 20, "recovered"),
    ],
)
async def test_what_is_not_to_be_had_is_said(
    wishes: dict[str, Any], recovered: bool, begin: int, outcome: Any
) -> None:
    """All or nothing, unless the client takes less; the reason and what there is stand in the status, and live goes on."""
    recorder, market = scene(4000, reads=20)
    client = Follower(recorder, "filtered", "T.*")
    client.connect(**wishes)
    client.catch_up()
    [resume] = [status for status in client.statuses if status["status"] == "resume"]
    assert resume["recovered"] is recovered
    assert bool(resume["reason"]) is not recovered
    assert number_of(resume["from"]) == (recorder.log.offered_position if begin < 0 else begin)
    assert resume["available_from"] == recorder.log.told(recorder.log.offered_position)
    assert resume["available_since"] == recorder.log.offered_ms
    assert any(status["status"] == "resume_complete" for status in client.statuses) is (outcome != "refused")
    assert recorder.stats["filtered"].resumes == {outcome: 1}
    recorder.publish(market.frame([("T", "B")]))
    client.catch_up()
    client.check()


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"after": 5}, "after must be a position"),
        ({"after": "run:1", "since": 1}, "name after or since, not both"),
        ({"since": -1}, "since must be a time"),
        ({"after": "run:1", "partial": 1}, "partial must be true or false"),
        ({"positions": "yes"}, "positions must be true or false"),
    ],
)
async def test_a_wish_that_cannot_be_read_is_an_error(wishes: dict[str, Any], words: str) -> None:
    """It is answered in words, and its topics come live."""
    recorder, _ = scene(reads=1)
    client = Follower(recorder, "filtered", "T.*")
    client.connect(after="run:0")
    client.ask(action="subscribe", params="Q.*", **wishes)
    client.catch_up()
    assert [words in status["message"] for status in client.statuses if status["status"] == "error"] == [True]
    assert list(client.client.session.topics) == ["T.*", "Q.*"]
    client.check()


async def test_the_gaps_of_the_recorder_stand_in_the_answer() -> None:
    """What the recorder itself has not received, nobody can be sent."""
    recorder, market = scene(reads=1)
    recorder.bus.announce(SessionClosed("stocks", 2_000_000_000, "disconnected", 1_000_000_000))
    recorder.bus.announce(SessionOpened("stocks", 3_000_000_000))
    recorder.publish(market.frame([("T", "A")]))
    client = Follower(recorder, "firehose", "*")
    client.connect(after="run:1")
    client.catch_up()
    [resume] = [status for status in client.statuses if status["status"] == "resume"]
    assert resume["recovered"]
    assert resume["message"] == "what you missed follows, less what this recorder itself has missed in 1 gap"
    assert resume["gaps"] == [{"cluster": "stocks", "from": 1000, "to": 3000, "reason": "disconnected"}]


async def test_positions_are_told_when_they_change() -> None:
    """One behind the acknowledgement, then one whenever something has come, to those alone that asked."""
    recorder, market = scene(reads=2)
    asking, silent = Follower(recorder, "filtered", "T.A"), Follower(recorder, "filtered", "T.A")
    asking.connect()
    silent.connect(positions=False)
    clients = [client for client in (asking.client, silent.client) if client is not None]
    recorder.resumes.tell(clients)
    recorder.publish(market.frame([("Q", "A")]))
    recorder.resumes.tell(clients)
    recorder.resumes.tell(clients)
    for follower in (asking, silent):
        follower.take()
    told = [status["after"] for status in asking.statuses if status["status"] == "position"]
    assert told == ["run:2", "run:3"]
    assert all(status["status"] != "position" for status in silent.statuses)


async def test_a_ping_for_the_time_is_answered_behind_the_past() -> None:
    """Another recorder takes the pong for the promise that everything before has come."""
    recorder, _ = scene(reads=20)
    client = Follower(recorder, "firehose", "*")
    client.connect(after="run:0")
    assert client.client is not None
    port = recorder.ports["firehose"]
    recorder.resumes.ping(port, client.client, b"any")
    recorder.resumes.ping(port, client.client, TIME_PING + b"1")
    while recorder.resumes.step():
        pass
    got = client.transport.take()
    pongs = [(place, payload) for place, (opcode, payload) in enumerate(got) if opcode == 0xA]
    complete = next(place for place, (_, payload) in enumerate(got) if b"resume_complete" in payload)
    assert [payload for _, payload in pongs] == [b"any", TIME_PING + b"1"]
    assert pongs[0][0] < complete < pongs[1][0]


async def test_a_client_that_is_too_slow_for_what_is_kept_is_closed() -> None:
    """Never a stream with a hole: 1008, and words that say why; it can ask again, and is told what is left."""
    recorder, market = scene(20_000, reads=20)
    client = Follower(recorder, "filtered", "T.*", pending_max=1000)
    client.connect(after="run:0")
    recorder.resumes.step()
    for _ in range(100):
        recorder.publish(market.frame([("T", "A")]))
    client.take()
    recorder.resumes.step()
    [(opcode, payload)] = client.transport.take()
    assert opcode == 0x8
    assert payload[:2] == (1008).to_bytes(2)
    assert b"too slow" in payload
    assert recorder.stats["filtered"].evictions == {"slow_consumer": 1}
    client.catch_up()
    client.check()


async def test_one_client_that_breaks_costs_the_others_nothing() -> None:
    """A connection that raises is cut alone; the others get what they missed."""
    recorder, _ = scene(reads=5)
    clients = [Follower(recorder, "filtered", "T.*") for _ in range(3)]
    for client in clients:
        client.connect(after="run:0")

    def broken(data: bytes) -> None:
        raise OSError("broken")

    clients[1].transport.write = broken  # type: ignore[method-assign]
    while recorder.resumes.step():
        pass
    assert clients[1].is_cut
    for client in (clients[0], clients[2]):
        client.catch_up()
        client.check()
        assert len(client.kept[0].got) == 5


async def test_the_past_of_many_leaves_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice ends by time, and each client has its turn: the one that was served is last in the next slice."""
    recorder, _ = scene(reads=50)
    clients = [Follower(recorder, "filtered", "T.*") for _ in range(5)]
    for client in clients:
        client.connect(after="run:0")
        client.transport.take()
    ticks = iter(range(0, 10**12, resume_module.STEP_NS))
    monkeypatch.setattr(recorder.clock, "monotonic_ns", lambda: next(ticks))
    for _ in range(5):
        recorder.resumes.step()
    assert [len(client.transport.take()) for client in clients] == [1] * 5


async def test_nothing_is_kept_of_a_client_that_is_gone() -> None:
    """Also while it reads."""
    recorder, _ = scene(reads=5)
    client = Follower(recorder, "filtered", "T.*")
    client.connect(after="run:0")
    client.cut()
    assert not recorder.resumes.step()
    assert repr(recorder.resumes) == f"Resumes({recorder.log!r}, 0 clients read)"
    assert isinstance(client.transport, Transport)


# A test of the tests: what is broken at a join must show.


def random_life(seed: int) -> None:
    """Cut and resume a client at random; fail if what it has is not the stream."""

    async def live() -> None:
        dice = random.Random(seed)
        recorder, market = Recorder(2**20), Market()
        client = Follower(recorder, "filtered", "T.*")
        client.connect()
        for _ in range(40):
            match dice.choice(["publish", "publish", "cut", "step", "take", "tell"]):
                case "publish":
                    recorder.publish(market.frame([("T", "A")]))
                case "cut":
                    client.cut(2**30)
                    client.connect()
                case "step":
                    recorder.resumes.step()
                case "take":
                    client.take()
                case "tell" if client.client is not None:
                    recorder.resumes.tell([client.client])
        client.catch_up()
        client.check()

    asyncio.run(live())


def begins_off_by(monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    """Let each reader begin that much too late."""
    after = HotLog.after

    def wrong(log: HotLog, text: str, cluster: str = "") -> Start:
        start = after(log, text, cluster)
        number = max(log.first, min(log.end, start.number + reads))
        return start._replace(number=number) if start.recovered else start

    monkeypatch.setattr(HotLog, "after", wrong)


def reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client that has joined read the log all the same."""
    join = Resumes._join

    def wrong(resumes: Resumes, client: Any, queue: Any) -> None:
        again = replace(queue[0], is_resume=False)
        join(resumes, client, queue)
        if again.count:
            again.count = 0
            resumes._wishes[client] = deque([again])

    monkeypatch.setattr(Resumes, "_join", wrong)


def joins_a_turn_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is published between the end of the past and the next turn of the loop be nobody's."""
    join, step = Resumes._join, Resumes.step
    due: list[tuple[Any, Any, Any]] = []

    class Late:
        def __init__(self, port: Any) -> None:
            self.port = port

        def subscribe(self, *arguments: Any, **named: Any) -> None:
            due.append((self.port, arguments, named))

    def wrong(resumes: Resumes, client: Any, queue: Any) -> None:
        queue[0].port = Late(queue[0].port)
        join(resumes, client, queue)

    def wrong_step(resumes: Resumes) -> bool:
        now = due.copy()
        due.clear()
        has_moved = step(resumes)
        for port, arguments, named in now:
            port.subscribe(*arguments, **named)
        return has_moved or bool(now)

    monkeypatch.setattr(Resumes, "_join", wrong)
    monkeypatch.setattr(Resumes, "step", wrong_step)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda monkeypatch: begins_off_by(monkeypatch, 1),
        lambda monkeypatch: begins_off_by(monkeypatch, -1),
        reads_on,
        joins_a_turn_late,
    ],
    ids=["begins late", "begins early", "reads on", "joins late"],
)
def test_a_defect_at_the_join_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lives that are all right without the defect show an event that is missing, or one too many, with it."""
    assert found_out(random_life, lambda: break_it(monkeypatch), range(30))
