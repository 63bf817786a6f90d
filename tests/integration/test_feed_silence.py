"""How long the feed waits for an exchange that is silent or slow to answer, in virtual time; and the kernel's account."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
import waiting
from aiohttp import WSMsgType, web
from exchange import sending, shake_hands, status
from feeds import (
    TRADE,
    Braking,
    Fixture,
    following,
    in_virtual_time,
    running,
    scripted,
    simulator,
)
from serving import in_production_loop
from simulation.loop import VirtualLoop
from structlog.testing import capture_logs

from recorder.bus import SessionClosed
from recorder.market_hours.hours import LEAD_NS
from recorder.sources.exchange.silence import silent_secs
from recorder.sources.exchange.web_socket import close_web_socket, http_session, open_web_socket

eventually = partial(waiting.eventually, every_secs=0.5)
SLOW = 20.0
"""Events a second: what a market sends has to be computed, however fast time passes."""


def never_closed(fixture: Fixture) -> None:
    """Let the market have been open for ever."""
    fixture.hours.learn([(0, 2**62)], 0, 2**62)


def virtual_loop() -> VirtualLoop:
    """Return the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@in_virtual_time
async def test_silence_is_a_read_timeout() -> None:
    """No byte for READ_TIMEOUT_SECS: the connection is given up; our own pings do not count as life."""
    async with (
        simulator("stall:after=50,pings=no", rate=SLOW) as exchange,
        following(exchange.port, read_timeout_secs=60.0, heartbeat_interval_secs=20.0) as fixture,
    ):
        await eventually(lambda: fixture.stats.sessions == 2)
        assert fixture.stats.ended_by == {"read_timeout": 1}
        assert fixture.stats.read_timeouts == 1
        assert fixture.stats.heartbeats_sent >= 2


@pytest.mark.parametrize("knows", [True, False], ids=["kernel tells", "kernel does not tell"])
@in_virtual_time
async def test_pings_of_the_exchange_are_answered_and_are_life(knows: bool) -> None:
    """Before the greeting, in the session, and for longer than READ_TIMEOUT_SECS without anything else."""
    virtual_loop().network.keeps_account = knows
    answers: list[bytes] = []

    async def ping(socket: web.WebSocketResponse, payload: bytes) -> None:
        await socket.ping(payload)
        message = await socket.receive()
        assert message.type is WSMsgType.PONG
        answers.append(bytes(message.data))

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await ping(socket, b"before the greeting")
        await shake_hands(socket)
        for number in range(10):
            await ping(socket, b"%d" % number)
            await asyncio.sleep(20.0)
        async for _ in socket:
            pass

    async with scripted(script, autoping=False) as port, following(port, read_timeout_secs=60.0) as fixture:
        await eventually(lambda: len(answers) == 11)
        assert answers == [b"before the greeting", *(b"%d" % number for number in range(10))]
        assert not fixture.stats.ended_by
        await eventually(lambda: fixture.stats.ended_by)
        assert fixture.stats.ended_by == {"read_timeout": 1}


@in_virtual_time
async def test_answered_pings_are_life() -> None:
    """A quiet market whose server answers our pings is not given up."""
    async with (
        simulator("stall:after=50", rate=SLOW) as exchange,
        following(exchange.port, read_timeout_secs=60.0, heartbeat_interval_secs=20.0) as fixture,
    ):
        await eventually(lambda: fixture.stats.heartbeats_sent >= 12)
        assert fixture.stats.sessions == 1
        assert not fixture.stats.ended_by


async def limits_met(fault: str, count: int) -> list[str]:
    """Return what is said of the first sessions that were given up in an open market with this fault."""
    async with (
        simulator(fault, rate=SLOW) as exchange,
        following(
            exchange.port, read_timeout_secs=60.0, heartbeat_interval_secs=10.0, data_timeout_secs=30.0
        ) as fixture,
    ):
        never_closed(fixture)
        with capture_logs() as logs:
            await eventually(lambda: fixture.stats.ended_by["data_timeout"] == count)
        assert fixture.stats.data_timeouts == count
        assert not fixture.stats.read_timeouts
        return [entry["message"] for entry in logs if entry["event"] == "disconnected"]


@in_virtual_time
async def test_an_open_market_that_brings_nothing_is_a_data_timeout() -> None:
    """Pongs are no data; where a new session is as barren, the next one is given twice the time."""
    assert await limits_met("stall:times=0", 3) == [
        f"no data for {secs} s, though the market is open" for secs in ("30", "60", "120")
    ]


@in_virtual_time
async def test_data_ends_the_patience_with_barren_sessions() -> None:
    """A session that has brought data is given the plain time again."""
    messages = await limits_met("stall:after=50,times=0", 4)
    assert messages == ["no data for 30 s, though the market is open"] * 4


@in_virtual_time
async def test_the_patience_grows_to_a_limit_and_begins_anew_with_data() -> None:
    """Each barren session doubles it, five times at most; one with data, given up later, is the last of the long ones."""
    sessions = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal sessions
        sessions += 1
        await shake_hands(socket)
        if sessions == 8:
            await eventually(lambda: fixture.stats.subscribed)
            await socket.send_frame(TRADE, 1)  # type: ignore[arg-type]
        async for _ in socket:
            pass

    async with scripted(script) as port:
        fixture = Fixture(port, read_timeout_secs=60.0, heartbeat_interval_secs=10.0, data_timeout_secs=30.0)
        never_closed(fixture)
        with capture_logs() as logs:
            async with running(fixture.feed):
                await eventually(lambda: len(fixture.clock.slept) >= 9)
    told = [entry["message"].split()[3] for entry in logs if entry["event"] == "disconnected"]
    assert told[:9] == ["30", "60", "120", "240", "480", "960", "960", "960", "30"]


@pytest.mark.parametrize(
    "changes",
    [{"topics": ("T.AAPL", "LULD.*")}, {"data_timeout_secs": 0.0}, {"topics": ("*",), "firehose": True}],
    ids=["quiet topics", "switched off", "another recorder"],
)
@in_virtual_time
async def test_silence_with_pongs_that_is_no_data_timeout(changes: dict[str, Any]) -> None:
    """Topics that may be quiet rely on pongs; a new connection to another recorder would bring nothing new."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        async for _ in socket:
            pass

    limits = {"read_timeout_secs": 60.0, "heartbeat_interval_secs": 10.0, "data_timeout_secs": 30.0}
    async with scripted(script) as port, following(port, **{**limits, **changes}) as fixture:
        never_closed(fixture)
        await eventually(lambda: fixture.stats.heartbeats_sent >= 20)
        assert not fixture.stats.ended_by
        assert fixture.stats.sessions == 1
        assert bool(fixture.stats.stale_secs) == ("firehose" in changes)
    assert fixture.stats.stale_secs == 0  # there is no session that could be stale


@in_virtual_time
async def test_a_closed_market_needs_no_pongs() -> None:
    """No byte for longer than READ_TIMEOUT_SECS: nothing is given up before the market is about to open."""
    async with (
        simulator("stall:after=50,pings=no", rate=SLOW) as exchange,
        following(exchange.port, read_timeout_secs=60.0, heartbeat_interval_secs=20.0) as fixture,
    ):
        fixture.hours.learn([], 0, 2**62)
        await eventually(lambda: fixture.stats.heartbeats_sent >= 9)
        assert not fixture.stats.ended_by
        opens_ns = fixture.clock.wall_ns() + LEAD_NS
        fixture.hours.learn([(opens_ns, 2**62)], 0, 2**62)
        await eventually(lambda: fixture.stats.ended_by == {"read_timeout": 1})


@in_virtual_time
async def test_a_slow_large_frame_is_not_silence() -> None:
    """Bytes of an unfinished frame count as received: the kernel's account decides, not the last whole message."""
    virtual_loop().network.keeps_account = True
    trickled = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal trickled
        await shake_hands(socket)
        payload = b"[" + b",".join([TRADE[1:-1]] * 20) + b"]"
        transport = request.transport
        assert transport is not None
        transport.write(b"\x81\x7e" + len(payload).to_bytes(2, "big"))
        for begin in range(0, len(payload), 100):
            transport.write(payload[begin : begin + 100])
            trickled += 1
            await asyncio.sleep(20.0)
        await socket.receive()

    async with scripted(script) as port, following(port, read_timeout_secs=60.0) as fixture:
        await eventually(lambda: fixture.events == 20)
        assert trickled > 10
        assert fixture.stats.sessions == 1
        assert not fixture.stats.ended_by


@in_production_loop
async def test_the_kernel_says_when_the_last_byte_came() -> None:
    """Silence grows while nothing comes, and a part of a frame, which nobody can have read, ends it."""
    begin, done = asyncio.Event(), asyncio.Event()

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await begin.wait()
        transport = request.transport
        assert transport is not None
        transport.write(b"\x81\x7e\xff\xff")
        while not done.is_set():
            transport.write(b" ")
            await asyncio.sleep(0.001)

    async with scripted(script) as port, http_session() as http:
        socket = await open_web_socket(http, f"ws://127.0.0.1:{port}/stocks")
        connection = socket.get_extra_info("socket")
        await waiting.eventually(lambda: silent_secs(connection) > 0.1)
        begin.set()
        await waiting.eventually(lambda: silent_secs(connection) < 0.1)
        done.set()
        await close_web_socket(socket)


@in_virtual_time
async def test_a_pause_is_no_silence_of_the_exchange() -> None:
    """While a consumer has the feed wait, neither the time for bytes nor that for data passes; afterwards both do."""
    async with scripted(sending([TRADE])) as port:
        fixture = Fixture(port, read_timeout_secs=3.0, data_timeout_secs=2.0)
        never_closed(fixture)
        full = Braking()
        fixture.bus.attach(full)
        async with running(fixture.feed):
            stats = fixture.stats
            await eventually(lambda: stats.reading_paused_secs > 10)
            assert (stats.sessions, stats.reading_pauses, stats.stale_secs) == (1, 1, 0)
            assert not stats.ended_by
            full.full = False
            await eventually(lambda: stats.ended_by)
            assert set(stats.ended_by) <= {"read_timeout", "data_timeout"}


@in_virtual_time
async def test_topics_that_are_not_authorized_are_named() -> None:
    """`not authorized` names no channel, but the log names the topics that stayed unacknowledged."""
    with capture_logs() as logs:
        async with (
            simulator("not-authorized:topics=Q", rate=SLOW) as exchange,
            following(exchange.port) as fixture,
        ):
            await eventually(lambda: any(entry["event"] == "topics_unacknowledged" for entry in logs))
            assert fixture.stats.topics_acknowledged == 1
            await eventually(lambda: fixture.events > 10)
            assert fixture.stats.subscribed
    [subscribed] = [entry for entry in logs if entry["event"] == "subscribed"]
    assert (subscribed["acknowledged"], subscribed["topics"]) == (1, 2)
    [entry] = [entry for entry in logs if entry["event"] == "topics_unacknowledged"]
    assert entry["topics"] == "Q.*"
    assert entry["not_authorized"] == 1


@in_virtual_time
async def test_nothing_authorized_is_waited_out_slowly() -> None:
    """A plan that allows none of the topics is an end of its own kind, and not asked again for a minute."""
    async with (
        simulator("not-authorized:topics=Q+T", rate=SLOW) as exchange,
        following(exchange.port) as fixture,
    ):
        await eventually(lambda: fixture.stats.ended_by["not_authorized"] >= 1)
        assert fixture.clock.slept[0] >= 60


@pytest.mark.parametrize(
    ("script_name", "words"),
    [("silent", "greeting"), ("no_answer", "answer to the key"), ("no_acks", "acknowledged")],
)
@in_virtual_time
async def test_each_step_has_its_time(script_name: str, words: str) -> None:
    """No greeting, no answer to the key, no acknowledgement: a step timeout that names the step."""

    async def silent(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.receive()

    async def no_answer(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.send_str(status("connected", "Connected Successfully"))
        await socket.receive()
        await socket.receive()

    async def no_acks(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.send_str(status("connected", "Connected Successfully"))
        await socket.receive()
        await socket.send_str(status("auth_success", "authenticated"))
        await socket.receive()
        await socket.receive()

    script = {"silent": silent, "no_answer": no_answer, "no_acks": no_acks}[script_name]
    async with scripted(script) as port, following(port) as fixture:
        await eventually(lambda: fixture.stats.ended_by["step_timeout"] >= 1)
        assert words in fixture.stats.reason


@in_virtual_time
async def test_data_that_flows_unacknowledged_is_taken() -> None:
    """An exchange that acknowledges nothing, but sends what was asked for, is followed."""
    async with simulator("no-acks", rate=SLOW) as exchange, following(exchange.port) as fixture:
        await eventually(lambda: fixture.stats.subscribed and fixture.events > 50)
        assert not fixture.stats.ended_by


@in_virtual_time
async def test_a_gap_behind_a_stop_of_this_process_begins_with_the_stop() -> None:
    """What is read after a stop had waited: the time of its reading does not tell until when everything came."""
    leave = asyncio.Event()

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        if leave.is_set():  # the session behind the gap brings nothing
            await socket.receive()
            return
        await socket.send_bytes(TRADE)
        await leave.wait()
        await socket.send_bytes(TRADE)

    async with scripted(script) as port, following(port) as fixture:
        await eventually(lambda: fixture.events == 1)
        await asyncio.sleep(3)
        stopped_ns = fixture.clock.wall_ns()
        virtual_loop().secs += 20  # the stop of the whole process, exchange included
        leave.set()
        await eventually(lambda: len(fixture.consumer.changes) >= 2)
        closed = fixture.consumer.changes[1]
        assert isinstance(closed, SessionClosed)
        assert fixture.events == 2
        # The watch looks each second, and so did shortly before the stop.
        assert stopped_ns - 1_010_000_000 <= closed.last_received_ns <= stopped_ns
