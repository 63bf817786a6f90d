"""Resume over real connections: every port and dialect, bars beside events, and many at once beside a live client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from serving import event, frame_of, in_production_loop, serving

from recorder.polygon.control import encode_position


async def until_complete(peer: Any) -> tuple[list[bytes], dict[str, Any]]:
    """Return the frames up to the end of the past, and what the status behind them says."""
    found: list[bytes] = []
    while True:
        raw = await peer.raw()
        if b'"status":"resume_complete"' in raw:
            [complete] = json.loads(raw)
            return found, complete
        found.append(raw)


@pytest.mark.parametrize("path", ["/", "/stocks"])
@in_production_loop
async def test_the_firehose_resumes_in_both_dialects(path: str) -> None:
    """Frames come untouched from the position on, then live ones; a path gets its cluster alone."""
    async with serving(["stocks", "options"]) as ports:
        frames = [frame_of(event("T", "A", number)) for number in range(6)]
        ports.publish(frames[0])
        position = ports.log.told(ports.log.position)
        ports.publish(frames[1], b"[1, 2]", frames[2])
        ports.publish(frames[3], cluster="options")
        peer = await ports.connect("firehose", path)
        await peer.authenticate(greeted=path != "/")
        topics = {} if path == "/" else {"params": "*"}
        await peer.send(action="subscribe", after=position, **topics)
        answer = await peer.receive()
        assert "ubscribed" in str(answer)
        [resume] = await peer.receive()
        assert resume["recovered"]
        got, complete = await until_complete(peer)
        expected = [frames[1], b"[1, 2]", frames[2], *([frames[3]] if path == "/" else [])]
        assert got == expected
        assert complete["count"] == len(expected)
        ports.publish(frames[4])
        assert await peer.raw() == frames[4]


@in_production_loop
async def test_bars_and_events_of_one_request_are_answered_each() -> None:
    """Behind a position come the events, and the bars that had not closed by then; live ones follow."""
    async with serving() as ports:
        trade = frame_of(event("T", "AAPL", 1))
        ports.publish(trade)
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.AAPL,100Ms.AAPL", after="run:0")
        assert [(await peer.status())[0] for _ in range(2)] == ["success", "success"]
        [resume] = await peer.receive()
        assert resume["recovered"]
        assert await until_complete(peer) == ([trade], resume_complete(1))
        [resume] = await peer.receive()
        assert (resume["recovered"], resume["message"]) == (True, "bars: what you missed follows")
        assert (await peer.receive())[0]["message"] == "bars: that was all you missed: 0"
        ports.publish(frame_of(event("T", "AAPL", 500)))
        assert (await peer.receive())[0]["ev"] == "T"
        assert (await peer.receive())[0]["ev"] == "MB"


def resume_complete(count: int) -> dict[str, Any]:
    """Return the status behind the past."""
    message = f"that was all you missed: {count}"
    return {"ev": "status", "status": "resume_complete", "message": message, "count": count}


@in_production_loop
async def test_a_client_of_deflated_frames_resumes() -> None:
    """What is missed is deflated as what is live."""
    async with serving(compression=True) as ports:
        trade = frame_of(event("T", "AAPL", 1))
        ports.publish(trade)
        peer = await ports.client("filtered", compress=15)
        await peer.subscribe("T.AAPL", since=0)
        assert (await peer.receive())[0]["recovered"]
        assert await until_complete(peer) == ([trade], resume_complete(1))


@in_production_loop
async def test_positions_come_by_themselves() -> None:
    """A client that asked is told where it stands, a second after something came, and by no event of its own."""
    async with serving() as ports:
        peer = await ports.client("bars")
        await peer.subscribe("AM.*", positions=True)
        assert (await peer.receive())[0]["after"] == "run:0"
        ports.publish(frame_of(event("T", "A", 1)))
        [position] = await peer.receive()
        assert position == {"ev": "status", "status": "position", "message": "run:1", "after": "run:1"}


@in_production_loop
async def test_those_who_resume_do_not_stop_the_others() -> None:
    """Fifty clients that want all there is, at once: a live client gets its events all the same."""
    async with serving(resume_bytes=2**22) as ports:
        for read in range(150):
            ports.publish(frame_of(*(event("T", f"S{number}", read) for number in range(100))))
        live = await ports.client("filtered", "T.PING")
        greedy = [await ports.client("filtered") for _ in range(50)]
        for peer in greedy:
            await peer.send(action="subscribe", params="T.*", since=0)
        clock = asyncio.get_running_loop().time
        slowest = 0.0
        for number in range(100):
            begun = clock()
            ping = frame_of(event("T", "PING", number))
            ports.publish(ping)
            assert await live.raw() == ping
            slowest = max(slowest, clock() - begun)
        assert slowest < 1.0


@in_production_loop
async def test_another_recorder_is_told_a_position_behind_each_read() -> None:
    """On the path of a cluster, behind what it has missed and behind what comes; elsewhere once a second, as all."""
    async with serving(["stocks", "options"]) as ports:
        frames = [frame_of(event("T", "A", number)) for number in range(5)]
        ports.publish(frames[0], frames[1])
        ports.publish(frames[2], cluster="options")
        ports.publish(frames[3])
        peer = await ports.connect("firehose", "/stocks")
        await peer.authenticate(greeted=True)
        await peer.send(action="subscribe", params="*", positions=True, each=True, after="run:0")
        assert (await peer.status())[0] == "success"
        [resume] = await peer.receive()
        assert (resume["recovered"], resume["each"]) == (True, True)
        got, _ = await until_complete(peer)
        assert got == [*frames[:2], told("run:2"), frames[3], told("run:4")]
        assert await peer.raw() == told("run:4")
        ports.publish(frames[4])
        assert [await peer.raw(), await peer.raw()] == [frames[4], told("run:5")]
        for port, path in (("firehose", "/"), ("filtered", "/stocks")):
            other = await ports.connect(port, path)
            await other.authenticate(greeted=port == "filtered")
            await other.send(action="subscribe", params="*", positions=True, each=True)
            assert (await other.status())[0] == "success"
            assert "each" not in (await other.receive())[0]


async def said(peer: Any) -> tuple[str, str]:
    """Return the next frame, which must be one status, alone."""
    [status] = await peer.receive()
    return status["status"], status["message"]


def told(after: str) -> bytes:
    """Return the frame with a position behind a read."""
    return encode_position(after, each=True)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"after": "48213"}, "is no position: take one from a status named position"),
        ({"after": "another-run:5"}, "of another recorder, or from before this one was started"),
        ({"after": ""}, "is no position"),
        ({"since": 4_102_444_800_000}, "since is a time that has not come yet"),
        ({"since": 1}, "what is kept was received from"),
    ],
)
@in_production_loop
async def test_a_past_that_nobody_has_is_refused_in_words(wishes: dict[str, Any], words: str) -> None:
    """What is asked rightly is served all the same, and so is the next request."""
    async with serving(resume_bytes=2000) as ports:
        for number in range(20):
            ports.publish(frame_of(event("T", "A", number)))
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.A,nonsense,Q.*", **wishes)
        answers = [await said(peer) for _ in range(4)]
        assert [status for status, _ in answers] == ["success", "error", "success", "resume"]
        assert words in answers[-1][1]
        live = frame_of(event("T", "A", 30))
        ports.publish(live)
        assert await peer.raw() == live
        await peer.send(action="subscribe", params="A.*", after=ports.log.told(ports.log.position))
        assert [(await said(peer))[0] for _ in range(3)] == ["success", "resume", "resume_complete"]


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"after": "48213"}, "is no position: take one from a status named position"),
        ({"after": "another-run:5@stocks=7"}, "of another recorder, or from before this one was started"),
        ({"after": "run:1"}, "the position is older than what is kept (RESUME_BUFFER_BYTES)"),
        ({"since": 4_102_444_800_000}, "since is a time that has not come yet"),
        ({"since": 1}, "that is longer ago than BAR_PAST_MAX_SECS: ask for what came from 1790000000"),
        ({"since": 1_790_000_000_000}, "memory has them from 1790000000"),
    ],
)
@in_production_loop
async def test_bars_that_nobody_has_are_refused_in_words(wishes: dict[str, Any], words: str) -> None:
    """As events are, before anything is read; live ones come at once, and the next request is served."""
    async with serving(resume_bytes=2000) as ports:
        for number in range(200):
            ports.publish(frame_of(event("T", "A", number)))
        peer = await ports.client("bars")
        await peer.send(action="subscribe", params="100Ms.A,nonsense", **wishes)
        answers = [await said(peer) for _ in range(3)]
        assert [status for status, _ in answers] == ["success", "error", "resume"]
        assert answers[-1][1].startswith("bars: what you missed cannot be sent, events come from now on: ")
        assert words in answers[-1][1]
        ports.publish(frame_of(event("T", "A", 350)), frame_of(event("T", "A", 600)))
        assert [bar["s"] for bar in await peer.receive()] == [1_790_000_000_300]
        now = f"{ports.log.told(ports.log.position)}@stocks=1790000000580"
        await peer.send(action="subscribe", params="50Ms.A", after=now, partial=True, positions=True)
        answers = [await said(peer) for _ in range(3)]
        assert [status for status, _ in answers] == ["success", "resume", "resume_complete"]


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"since": -1}, "since must be a time in Unix milliseconds, an integer"),
        ({"since": 1.5}, "since must be a time"),
        ({"since": "2026-11-21"}, "since must be a time"),
        ({"since": True}, "since must be a time"),
        ({"since": 10**30}, "since must be a time"),
        ({"after": 48213}, "after must be a position, a string"),
        ({"after": ["run:1"]}, "after must be a position"),
        ({"after": "run:1", "since": 5}, "name after or since, not both"),
        ({"positions": "yes"}, "positions must be true or false"),
        ({"positions": True, "each": 1}, "each must be true or false"),
    ],
)
@in_production_loop
async def test_a_wish_that_cannot_be_read_is_an_error(wishes: dict[str, Any], words: str) -> None:
    """One that says what was expected and what becomes of the topics: they come live."""
    async with serving() as ports:
        ports.publish(frame_of(event("T", "A", 1)))
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.A", **wishes)
        answers = [await said(peer) for _ in range(2)]
        assert [status for status, _ in answers] == ["success", "error"]
        assert words in answers[-1][1]
        if wishes.get("positions") is True:
            assert (await said(peer))[0] == "position"
        live = frame_of(event("T", "A", 2))
        ports.publish(live)
        assert await peer.raw() == live


@in_production_loop
async def test_a_position_of_the_future_is_waited_for_a_moment() -> None:
    """Another recorder, or another worker, may have told it a moment ago: then it is served; else it is refused."""
    async with serving() as ports:
        frames = [frame_of(event("T", "A", number)) for number in range(3)]
        ports.publish(frames[0])
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.A", after="run:2")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.ws.receive(), 0.2)
        ports.publish(frames[1])
        assert [(await said(peer))[0] for _ in range(3)] == ["success", "resume", "resume_complete"]
        ports.publish(frames[2])
        assert await peer.raw() == frames[2]
