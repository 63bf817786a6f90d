"""Resume over real connections: every port and dialect, bars beside events, and many at once beside a live client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from serving import event, frame_of, in_production_loop, serving


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
async def test_bars_are_asked_for_by_time() -> None:
    """A position says nothing of bars: they come from now on, and an error says so; events of the request are resumed."""
    async with serving() as ports:
        trade = frame_of(event("T", "AAPL", 1))
        ports.publish(trade)
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.AAPL,100Ms.AAPL", after="run:0")
        assert [(await peer.status())[0] for _ in range(3)] == ["success", "success", "error"]
        [resume] = await peer.receive()
        assert resume["recovered"]
        assert await until_complete(peer) == ([trade], resume_complete(1))
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
