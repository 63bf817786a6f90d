"""`recorder.follow`: each event once over any cut, what is lost by name, and an error where to try again cannot help."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from commands import clean_environment
from exchange import shake_hands, status
from feeds import TRADE, UnhurriedClock, scripted
from serving import TOKEN, Ports, event, frame_of, in_production_loop, serving
from waiting import eventually

import recorder
from recorder import Event, KeyRefused, LeftOut, Lost, RecorderError, TlsFailed, TopicsRefused
from recorder.bus import SessionClosed, SessionOpened, TopicsAnswered
from recorder.client import follower as module
from recorder.client import line
from recorder.client.follower import Follower, Wanted
from recorder.client.parts import NO_BAR_YET
from recorder.polygon.manner import Manner

PACKAGE = Path(recorder.__file__).parent


def follower_of(url: str, *topics: str, token: str = TOKEN, **wanted: Any) -> Follower:
    """Return a follower that does not wait between two attempts."""
    return Follower(url, token, Wanted(topics, **wanted), clock=UnhurriedClock(), rng=random.Random(1))


class Program:
    """A program that follows, and keeps what it got."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.got: list[Event | Lost | LeftOut] = []
        self.may_read = asyncio.Event()
        self.may_read.set()

    @property
    def events(self) -> list[bytes]:
        """The events among it."""
        return [one.payload for one in self.got if isinstance(one, Event)]

    @property
    def lost(self) -> list[Lost]:
        """What was lost."""
        return [one for one in self.got if isinstance(one, Lost)]

    async def run(self) -> None:
        """Follow to the end."""
        async for one in self.follower:
            self.got.append(one)
            await self.may_read.wait()


@asynccontextmanager
async def running(follower: Follower) -> AsyncIterator[Program]:
    """Run a program for as long as the context lasts; it must not have ended by itself."""
    program = Program(follower)
    task = asyncio.create_task(program.run())
    try:
        yield program
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def cut(ports: Ports, port: str = "filtered") -> None:
    """Cut every connection of a port, without a word."""
    for client in list(ports.hub(port).clients):
        client.ended()


async def subscribed(ports: Ports, port: str = "filtered", topics: int = 1) -> None:
    """Wait until a client holds its topics."""
    await eventually(
        lambda: [len(one.session.topics) for one in ports.hub(port).clients] == [topics], "a client"
    )


def trades(numbers: Iterable[int]) -> list[bytes]:
    """Return trades that can be told apart."""
    return [event("T", "AAPL", number) for number in numbers]


@pytest.mark.parametrize(("port", "topic"), [("filtered", "T.*"), ("firehose", "*")])
@in_production_loop
async def test_each_event_comes_once_over_any_cut(port: str, topic: str) -> None:
    """Whatever was read when the connection broke: nothing is missing, nothing comes twice, and nothing is said lost."""
    async with serving() as ports, running(follower_of(ports.url(port, "/stocks"), topic)) as program:
        await subscribed(ports, port)
        await eventually(lambda: program.follower.position, "a position")
        dice = random.Random(3)
        every: list[bytes] = []
        for _ in range(300):
            made = trades(range(len(every), len(every) + dice.randint(1, 9)))
            every += made
            ports.publish(frame_of(*made))
            if dice.random() < 0.1:
                cut(ports, port)
            if dice.random() < 0.5:
                await asyncio.sleep(dice.choice((0, 0, 0.003)))
        await eventually(lambda: program.events[-1:] == every[-1:], "the last event")
        assert ports.stats(port).resumes["recovered"] > 3
    assert program.events == every
    assert program.lost == []
    first = program.got[0]
    assert isinstance(first, Event)
    assert first == Event("T", "AAPL", 1_790_000_000_000, every[0])


@in_production_loop
async def test_a_position_is_where_the_next_program_goes_on() -> None:
    """It stands for all before the present event and for no more, so nothing is missing and little comes again."""
    async with serving() as ports:
        made = trades(range(6))
        follower = follower_of(ports.url("filtered", "/stocks"), "T.*")
        async with aclosing(aiter(follower)) as events:
            await_first = asyncio.ensure_future(anext(events))
            await subscribed(ports)
            ports.publish(frame_of(made[0]))
            assert (await await_first).payload == made[0]
            ports.publish(frame_of(made[1]))
            assert (await anext(events)).payload == made[1]
            ports.serving.resumes.tell(list(ports.hub("filtered").clients))
            assert follower.position in map(ports.log.told, (0, 1)), "the event is still being handled"
        await eventually(lambda: not ports.hub("filtered").clients, "the end of the connection")
        ports.publish(frame_of(made[2]), frame_of(made[3]))
        after = ports.log.told(2)
        async with running(follower_of(ports.url("filtered"), "T.*", after=after)) as program:
            await eventually(lambda: len(program.got) == 2, "what was missed")
            ports.publish(frame_of(made[4]))
            await eventually(lambda: len(program.got) == 3, "what comes")
            await eventually(lambda: program.follower.position == ports.log.told(5), "the position")
        assert program.events == made[2:5]
        again = Program(program.follower)
        task = asyncio.create_task(again.run())
        ports.publish(frame_of(made[5]))
        await eventually(lambda: again.got, "what came behind the position")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert again.events == made[5:]


@in_production_loop
async def test_what_is_lost_is_an_object_of_its_own() -> None:
    """In its place: what is no longer kept, and what the recorder itself has not received, once each."""
    async with (
        serving(resume_bytes=0) as ports,
        running(follower_of(ports.url("filtered"), "T.*")) as program,
    ):
        await subscribed(ports)
        made = trades(range(4))
        ports.publish(frame_of(made[0]))
        await eventually(lambda: program.got, "an event")
        cut(ports)
        ports.publish(frame_of(made[1]))
        await eventually(lambda: ports.stats("filtered").resumes["partial"], "a resume")
        ports.publish(frame_of(made[2]))
        await eventually(lambda: made[2] in program.events, "an event behind the cut")
        first, lost, third = program.got
        assert isinstance(lost, Lost)
        assert [first, third] == [one for one in program.got if isinstance(one, Event)]
        assert "older than what is kept" in lost.reason
        assert lost.from_ms is not None
        assert lost.to_ms is not None
        assert str(lost).startswith("events are missing from 20")


@in_production_loop
async def test_the_gaps_of_the_recorder_are_told_once() -> None:
    """Also where the next cut comes before anything else did."""
    async with serving() as ports, running(follower_of(ports.url("filtered"), "T.*")) as program:
        await subscribed(ports)
        await eventually(lambda: program.follower.position, "a position")
        ports.bus.announce(SessionClosed("stocks", 2_000_000_000, "disconnected", 1_000_000_000))
        ports.bus.announce(SessionOpened("stocks", 3_000_000_000))
        for number in range(3):
            cut(ports)
            resumes = ports.stats("filtered").resumes
            await eventually(lambda number=number: resumes["recovered"] == number + 1, "a resume")
        ports.publish(frame_of(*trades([1])))
        await eventually(lambda: program.events, "an event")
    assert program.lost == [Lost("disconnected", 1000, 3000, "stocks")]
    assert str(program.lost[0]) == (
        "events of stocks are missing from 1970-01-01T00:00:01.000Z to 1970-01-01T00:00:03.000Z: disconnected"
    )


@in_production_loop
async def test_last_values_are_marked_and_come_once() -> None:
    """They are no events of the stream. After a cut that costs nothing they are left out; after one that does, they come."""
    async with serving() as ports:
        made = trades(range(9))
        quote = event("Q", "AAPL", 1)
        ports.publish(frame_of(made[0], quote))
        follower = follower_of(ports.url("filtered"), "T.*", "Q.*", manner=Manner(snapshot=True))
        async with running(follower) as program:
            await eventually(lambda: len(program.got) == 2, "the last values")
            ports.publish(frame_of(made[0]))
            for number in range(3):
                cut(ports)
                ports.publish(frame_of(made[number + 1]))
                await eventually(lambda number=number: len(program.got) == number + 4, "what was missed")
                stats = ports.stats("filtered")
                await eventually(lambda number=number: stats.snapshots["sent"] == number + 2, "a snapshot")
            ports.publish(frame_of(made[4]))
            await eventually(lambda: made[4] in program.events, "what comes live")
        values = [one for one in program.got if isinstance(one, Event) and one.is_snapshot]
        assert [one.payload for one in values] == [made[0], quote]
        assert program.events == [made[0], quote, made[0], *made[1:5]]
        after_another = follower_of(
            ports.url("filtered"), "T.*", "Q.*", manner=Manner(snapshot=True), after="another:1"
        )
        async with running(after_another) as again:
            await eventually(lambda: [one for one in again.got if isinstance(one, Event) and one.is_snapshot])
        assert again.lost


@in_production_loop
async def test_values_come_at_intervals() -> None:
    """Trades at once; of quotes the first, and the last of each interval."""
    async with serving() as ports:
        follower = follower_of(ports.url("filtered"), "T.*", "Q.*", manner=Manner(interval_ms=50))
        async with running(follower) as program:
            await subscribed(ports, topics=2)
            for number in range(50):
                ports.publish(frame_of(event("Q", "AAPL", number), event("T", "AAPL", number)))
                await asyncio.sleep(0)
            await eventually(lambda: event("Q", "AAPL", 49) in program.events, "the last quote")
        assert channels(program).count("T") == 50
        assert channels(program).count("Q") < 50


@pytest.mark.parametrize("slow", ["drop", "conflate"])
@in_production_loop
async def test_what_is_left_out_is_an_object_of_its_own(slow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow program is told how much, from when to when, and where a second one finds it; it is not closed."""
    monkeypatch.setattr(line, "AHEAD_BYTES_MAX", 20_000)
    async with serving(limits={"pending_bytes_max": 2**20}) as ports:
        follower = follower_of(ports.url("filtered"), "T.*", "Q.*", manner=Manner(slow=slow))
        async with running(follower) as program:
            await subscribed(ports, topics=2)
            program.may_read.clear()
            [client] = ports.hub("filtered").clients
            every: list[bytes] = []
            reads_more = 20
            while reads_more:
                made = [event(channel, "AAPL", len(every), x="." * 1000) for channel in "TQ" * 16]
                every += made
                ports.publish(frame_of(*made))
                await asyncio.sleep(0)
                reads_more -= client.is_behind
            program.may_read.set()
            await eventually(lambda: left_out_of(program), "the account")
            last = event("T", "AAPL", 10**6)
            ports.publish(frame_of(last))
            await eventually(lambda: last in program.events, "what comes behind it")
        [left_out] = left_out_of(program)
        assert left_out.events_count == len(every) + 1 - len(program.events)
        assert (left_out.conflated > 0) is (slow == "conflate")
        assert left_out.from_ms <= left_out.to_ms
        assert str(left_out).startswith(f"{left_out.events_count:,} events are left out")
        assert program.lost == []
        async with running(follower_of(ports.url("filtered"), "T.*", "Q.*", after=left_out.after)) as second:
            await eventually(lambda: last in second.events, "the rest")
        assert set(every) <= {*program.events, *second.events}


def left_out_of(program: Program) -> list[LeftOut]:
    """Return what a program was not sent because it was slow."""
    return [one for one in program.got if isinstance(one, LeftOut)]


@in_production_loop
async def test_what_a_port_cannot_do_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The firehose passes everything on as it came: the program is told, and followed it is all the same."""
    async with serving() as ports:
        follower = follower_of(ports.url("firehose", "/stocks"), "*", manner=Manner(slow="drop"))
        async with running(follower) as program:
            await subscribed(ports, "firehose")
            ports.publish(frame_of(event("T", "AAPL", 1)))
            await eventually(lambda: program.events, "an event")
    [warning] = caplog.messages
    assert "says: subscribe: slow is not to be had here: this port passes every frame on" in warning


@in_production_loop
async def test_the_firehose_of_every_cluster_is_followed() -> None:
    """It greets nobody, so the program speaks first; over cuts each event comes once."""
    async with serving(clusters=("stocks", "crypto")) as ports:
        async with running(follower_of(ports.url("firehose"), "*")) as program:
            await subscribed(ports, "firehose")
            every = trades(range(6))
            for number, one in enumerate(every):
                ports.publish(frame_of(one), cluster=("stocks", "crypto")[number % 2])
                if number % 3 == 0:
                    cut(ports, "firehose")
                await eventually(lambda one=one: program.events[-1:] == [one], "an event")
        assert program.events == every
        assert program.lost == []
        words = "nothing will come of it: this port does not filter; subscribe to \\* for every event"
        with pytest.raises(TopicsRefused, match=words):
            await anext(aiter(recorder.follow(ports.url("firehose"), "T.AAPL", token=TOKEN)))


@in_production_loop
async def test_a_server_may_take_small_messages_alone() -> None:
    """It says so as it ends the connection; the next request is smaller, until it is small enough."""
    topics = [f"T.SYMBOL{number}" for number in range(2000)]
    limits = {"message_bytes_max": 1024, "requests_per_sec_max": 1000}
    async with (
        serving(limits=limits) as ports,
        running(follower_of(ports.url("filtered"), *topics)) as program,
    ):
        await eventually(lambda: program.follower.position, "a position")
        made = [event("T", f"SYMBOL{number}", number) for number in range(2000)]
        ports.publish(frame_of(*made))
        await eventually(lambda: len(program.events) == 2000, "an event of each")
    assert program.events == made


@in_production_loop
async def test_any_number_of_topics_is_resumed() -> None:
    """More than one message has room for are asked for in several; each event comes once over any cut."""
    topics = [f"T.SYMBOL{number}" for number in range(6000)]
    async with serving() as ports, running(follower_of(ports.url("filtered"), *topics)) as program:
        await subscribed(ports, topics=len(topics))
        await eventually(lambda: program.follower.position, "a position")
        dice = random.Random(3)
        every: list[bytes] = []
        for number in range(12):
            made = [event("T", f"SYMBOL{dice.randrange(6000)}", len(every) + one) for one in range(20)]
            every += made
            ports.publish(frame_of(*made))
            if number % 4 == 1:
                before = ports.stats("filtered").resumes["recovered"]
                cut(ports)
                await eventually(
                    lambda before=before: ports.stats("filtered").resumes["recovered"] == before + 2,
                    "a resume",
                )
            await asyncio.sleep(dice.choice((0, 0.003)))
        await eventually(lambda: len(program.events) >= len(every), "every event")
    assert sorted(program.events) == sorted(every)
    assert program.lost == []


@in_production_loop
async def test_bars_come_once_over_any_cut() -> None:
    """They have no positions: those of a cut are asked for by time, beside the events, and come as whoever was not cut got
    them."""
    async with (
        serving() as ports,
        running(follower_of(ports.url("bars"), "100Ms.AAPL")) as whole,
        running(follower_of(ports.url("filtered"), "T.AAPL", "100Ms.AAPL")) as program,
    ):
        await subscribed(ports, "bars")
        await subscribed(ports, topics=2)
        dice = random.Random(5)
        for number in range(0, 20_000, 25):
            ports.publish(frame_of(event("T", "AAPL", number)))
            if number > 500 and dice.random() < 0.02:
                cut(ports)
            await asyncio.sleep(dice.choice((0, 0, 0.002)))
            if number == 500:
                await eventually(lambda: "MB" in channels(program), "a bar")
        await eventually(lambda: len(bars(whole)) == 200 and channels(program).count("T") == 800, "the end")
        await eventually(lambda: bars(program) == bars(whole)[-len(bars(program)) :], "every bar")
        assert len(bars(program)) >= 199
        numbers = [json.loads(one)["q"] for one in program.events if b'"ev":"T"' in one]
        assert numbers == list(range(0, 20_000, 25))
        assert ports.stats("filtered").resumes["recovered"] > 3
    assert program.lost == []


@in_production_loop
async def test_bars_that_are_no_longer_kept_are_lost() -> None:
    """The server says so in its answer; so it is where none had come before the cut."""
    async with (
        serving(resume_bytes=0) as ports,
        running(follower_of(ports.url("filtered"), "T.AAPL", "100Ms.AAPL")) as program,
    ):
        for words in (NO_BAR_YET, "bars: memory has them from "):
            await subscribed(ports, topics=2)
            reached = ports.log.told(ports.log.position)
            await eventually(
                lambda reached=reached: program.follower.position.startswith(reached), "a position"
            )
            cut(ports)
            recovered = ports.stats("filtered").resumes["recovered"]
            await eventually(
                lambda recovered=recovered: ports.stats("filtered").resumes["recovered"] > recovered,
                "a resume",
            )
            await subscribed(ports, topics=2)
            had = len(bars(program))
            for number in (1, 500):
                ports.publish(frame_of(event("T", "AAPL", number + 1000 * had)))
            await eventually(lambda had=had: len(bars(program)) > had, "a bar")
            assert words in program.lost[-1].reason


def bars(program: Program) -> list[bytes]:
    """Return the bars that a program got."""
    return [one.payload for one in program.got if isinstance(one, Event) and one.channel == "MB"]


def channels(program: Program) -> list[str]:
    """Return the channel of each event that a program got."""
    return [one.channel for one in program.got if isinstance(one, Event)]


@in_production_loop
async def test_a_server_without_positions_is_followed_too() -> None:
    """The exchange keeps nothing of the past: after a cut the time between is lost, and what comes is passed on."""
    sessions = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal sessions
        sessions += 1
        await shake_hands(socket)
        await socket.send_str(TRADE.decode())
        if sessions == 2:
            await asyncio.Event().wait()

    async with scripted(script) as port:
        url = f"ws://127.0.0.1:{port}/stocks"
        async with running(follower_of(url, "T.*")) as program:
            await eventually(lambda: len(program.got) == 3, "an event of each session")
    assert program.events == [TRADE[1:-1]] * 2
    [lost] = program.lost
    assert program.got.index(lost) == 1
    assert lost.reason.endswith("; the server sends nothing of the past")
    assert program.follower.position == ""


@in_production_loop
async def test_a_refused_token_ends_it_at_once() -> None:
    """Nobody but a person can help; the error is typed, names the address, and does not show the token."""
    async with serving() as ports:
        follower = recorder.follow(ports.url("filtered"), "T.*", token="not-the-token")
        with pytest.raises(KeyRefused, match="refused the token: authentication failed") as caught:
            await anext(aiter(follower))
    assert "not-the-token" not in str(caught.value)
    assert isinstance(caught.value, RecorderError)


@in_production_loop
async def test_a_refused_topic_ends_it_at_once() -> None:
    """Also where others are served: the error names the topic and why. So it is where the exchange refuses it."""
    async with serving() as ports:
        url = ports.url("filtered", "/stocks")
        with pytest.raises(TopicsRefused, match=f"{url} refuses some topics: nonsense: a topic is") as caught:
            await anext(aiter(recorder.follow(url, ["T.AAPL", "nonsense"], token=TOKEN)))
        assert list(caught.value.refusals) == ["nonsense"]
        await eventually(lambda: not ports.hub("filtered").clients, "the end of the connection")
        program = Program(follower_of(url, "T.AAPL"))
        task = asyncio.create_task(program.run())
        await subscribed(ports)
        ports.bus.answer(TopicsAnswered("stocks", ("T.AAPL",), "the plan"))
        with pytest.raises(TopicsRefused, match=r"T\.AAPL: nothing will come of it: the plan"):
            await task
        # Whoever asks now learns it from the acknowledgement.
        with pytest.raises(TopicsRefused, match=r"T\.AAPL: nothing will come of it: the plan"):
            await anext(aiter(recorder.follow(url, ["T.AAPL", "T.MSFT"], token=TOKEN)))


@in_production_loop
async def test_a_topic_that_the_recorder_does_not_follow_ends_it_at_once() -> None:
    """Its acknowledgement says that nothing will come: the error says what the recorder does follow."""
    async with serving(followed={"stocks": ("T.*",)}) as ports:
        words = "Q.AAPL: nothing will come of it: this recorder follows stocks: T.\\*. Name topics"
        with pytest.raises(TopicsRefused, match=words):
            await anext(aiter(recorder.follow(ports.url("filtered"), "T.AAPL,Q.AAPL", token=TOKEN)))


@in_production_loop
async def test_a_topic_that_the_exchange_refuses_later_may_come_again() -> None:
    """As after a session in which it acknowledged nothing: its events are missing from then on, and the program goes on."""
    async with (
        serving() as ports,
        running(follower_of(ports.url("filtered", "/stocks"), "T.AAPL")) as program,
    ):
        await subscribed(ports)
        made = trades(range(2))
        ports.publish(frame_of(made[0]))
        ports.bus.answer(TopicsAnswered("stocks", ("T.AAPL",), "the plan"))
        ports.publish(frame_of(made[1]))
        await eventually(lambda: len(program.got) == 3, "the second event")
    assert program.events == made
    assert program.got[1] == program.lost[0]
    assert program.lost[0].reason == "T.AAPL: nothing will come of it: the plan"
    assert program.lost[0].to_ms is None


@in_production_loop
async def test_what_is_never_acknowledged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vendor ignores what it does not know: once its time is over, the program is told which topic that is."""
    monkeypatch.setattr(module, "STEP_TIMEOUT_SECS", 0.1)

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket, acknowledge=False)
        await socket.send_str(status("success", "subscribed to: T.*"))
        async for _ in socket:
            pass

    async with scripted(script) as port:
        follower = recorder.follow(f"ws://127.0.0.1:{port}/stocks", "T.*,AAPL", token=TOKEN)
        with pytest.raises(TopicsRefused, match="some topics: AAPL: the server has not acknowledged it"):
            await anext(aiter(follower))


@in_production_loop
async def test_tls_that_cannot_work_ends_it_at_once() -> None:
    """An address of the wrong kind: the error says which is right."""
    async with serving() as ports:
        host, number = ports.address("filtered")
        follower = recorder.follow(f"wss://{host}:{number}", "T.*", token=TOKEN)
        with pytest.raises(TlsFailed, match="this port speaks no TLS; its address begins with ws://"):
            await anext(aiter(follower))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"url": "http://127.0.0.1:1"}, "it begins with ws:// or wss://"),
        ({"topics": " , "}, "name a topic"),
        ({"after": "run:1", "since_ms": 1}, "name one of them"),
        ({"interval_ms": 9}, r"interval_ms must be an integer, 10 to 60000 \(milliseconds\)$"),
        ({"slow": "dorp"}, "slow must be disconnect, drop or conflate, not 'dorp'$"),
    ],
)
def test_what_nobody_can_follow_is_a_mistake_of_the_program(arguments: dict[str, Any], words: str) -> None:
    """It is told before anything is connected."""
    with pytest.raises(ValueError, match=words):
        recorder.follow(**{"url": "ws://127.0.0.1:1", "topics": "T.*", "token": TOKEN, **arguments})


@in_production_loop
async def test_whoever_leaves_the_loop_has_left_the_recorder() -> None:
    """By `break`, and by the end of the task: the connection is closed, and no task is left."""
    async with serving() as ports:
        url = ports.url("filtered")

        async def take_one() -> None:
            async for _ in recorder.follow(url, "T.*", token=TOKEN):
                break

        for leave in ("break", "cancel"):
            task = asyncio.create_task(take_one())
            await subscribed(ports)
            if leave == "break":
                ports.publish(frame_of(event("T", "AAPL", 1)))
            else:
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() is (leave == "cancel")
            await eventually(lambda: not ports.hub("filtered").clients, "the end of the connection")
            await eventually(lambda: "Line." not in repr(asyncio.all_tasks()), "no task of it")


@in_production_loop
async def test_a_slow_program_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not ask for stays with the recorder, beyond a bound; all of it comes once it asks."""
    monkeypatch.setattr(line, "AHEAD_BYTES_MAX", 20_000)
    lines: list[line.Line] = []
    make = line.Line.__init__

    def note(self: line.Line, *arguments: Any) -> None:
        make(self, *arguments)
        lines.append(self)

    monkeypatch.setattr(line.Line, "__init__", note)
    async with (
        serving(limits={"pending_bytes_max": 2**27}) as ports,
        running(follower_of(ports.url("filtered"), "T.*")) as program,
    ):
        await subscribed(ports)
        program.may_read.clear()
        [client] = ports.hub("filtered").clients
        frames = [frame_of(event("T", "AAPL", number, pad="x" * 10_000)) for number in range(3000)]
        for frame in frames:
            ports.publish(frame)
            await asyncio.sleep(0)
        await eventually(lambda: client.pending_bytes > 1_000_000, "bytes that wait at the recorder")
        assert len(program.got) == 1
        assert lines[0]._bytes < 40_000
        program.may_read.set()
        await eventually(lambda: len(program.got) == 3000, "all of it")
    assert program.events == [frame[1:-1] for frame in frames]


@in_production_loop
async def test_it_ends_with_a_replay() -> None:
    """A gap of the recording is lost, the end of a replay is the end of the iteration."""
    gap = {"ev": "status", "status": "gap", "message": "nothing", "from": 1, "to": 2, "reason": "x"}

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        await socket.send_str(json.dumps([{**gap, "cluster": "stocks"}]))
        await socket.send_str(TRADE.decode())
        await socket.send_str(status("replay_complete", "1 event"))
        await socket.close()

    async with scripted(script) as port:
        program = Program(recorder.follow(f"ws://127.0.0.1:{port}/stocks", "T.*", token=TOKEN))
        await program.run()
    assert program.got[0] == Lost("x", 1, 2, "stocks")
    assert program.events == [TRADE[1:-1]]


@in_production_loop
async def test_why_there_is_no_connection_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """By the standard library's logging: a program that sets up nothing sees it on stderr."""
    async with serving() as ports:
        url = ports.url("filtered")
    async with running(follower_of(url, "T.*")):
        await eventually(lambda: len(caplog.records) > 1, "two attempts")
    record = caplog.records[0]
    assert (record.name, record.levelno) == ("recorder.client", logging.WARNING)
    assert record.getMessage().startswith(
        f"{url}: Connection refused: nothing listens there; the next attempt"
    )


def test_a_program_needs_no_settings_and_starts_with_nothing(tmp_path: Path) -> None:
    """The package imports nothing of it before it is asked; no settings are read, and nothing is printed or set up."""
    code = (
        "import sys, logging, recorder\n"
        "assert not {'aiohttp', 'structlog'} & set(sys.modules)\n"
        "recorder.follow('ws://127.0.0.1:9', 'T.*', token='x')\n"
        "assert 'recorder.settings' not in sys.modules, 'settings'\n"
        "assert not logging.getLogger().handlers\n"
        "try:\n    recorder.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    environment = {**clean_environment(), "POLYGON_CLUSTER": "nonsense", "LOG_LEVEL": "nonsense"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "module 'recorder' has no attribute 'nothing'\n"


def test_the_public_names_are_typed() -> None:
    """A checker finds them: each name that is exported is imported for it, and the package says that it is typed."""
    assert (PACKAGE / "py.typed").exists()
    for name in recorder.__all__:
        assert getattr(recorder, name).__doc__
