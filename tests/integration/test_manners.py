"""Snapshots, intervals and slow clients over real connections; what cannot be had is said, and the rest is served."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from serving import Peer, Ports, event, frame_of, in_production_loop, serving
from waiting import eventually

from recorder.servers.spectators import Spectators

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")
SMALL = {"pending_bytes_max": 2**20}


def shown(kind: str) -> dict[str, Any]:
    """Return the example of a status that the docs show."""
    blocks = re.findall(r"^```json\n(\[.*?)\n```$", PAGE, re.MULTILINE)
    [status] = [status for [status] in map(json.loads, blocks) if status["status"] == kind]
    return status


def check(status: dict[str, Any]) -> None:
    """Fail unless a status has the fields, and the types of them, that the docs show."""
    example = shown(status["status"])
    assert {name: type(value) for name, value in status.items()} == {
        name: type(value) for name, value in example.items()
    }
    assert re.sub(r"\d+", "N", status["message"]) == re.sub(r"\d+", "N", example["message"])


async def fill(ports: Ports, channels: tuple[str, ...]) -> list[bytes]:
    """Publish until the one client of the filtered port is behind, and some more; return the events."""
    [client] = ports.hub("filtered").clients
    published: list[bytes] = []
    reads_more = 20
    while reads_more:
        made = [
            event(channel, "AAPL", len(published) + place, x="." * 1000)
            for place, channel in enumerate(channels * 16)
        ]
        ports.publish(frame_of(*made))
        published += made
        await asyncio.sleep(0)
        reads_more -= client.is_behind
        assert not client.closing
    return published


@in_production_loop
async def test_a_snapshot_comes_before_live_events() -> None:
    """From the first request on: what the hot log has, then every batch; the statuses are as the docs show them."""
    async with serving() as ports:
        ports.publish(frame_of(event("T", "AAPL", 1), event("Q", "AAPL", 2), event("Q", "AAPL", 3)))
        for number in (3, 4):
            peer = await ports.client("filtered")
            await peer.subscribe("T.AAPL", "Q.*", snapshot=True)
            [begin] = await peer.receive()
            last = await peer.receive()
            [end] = await peer.receive()
            check(begin)
            check(end)
            assert sorted(one["q"] for one in last) == [1, number]
            assert end["count"] == 2
            ports.publish(frame_of(event("Q", "AAPL", number + 1)))
            assert [one["q"] for one in await peer.receive()] == [number + 1]
        assert ports.stats("filtered").snapshots == {"sent": 2}


@in_production_loop
async def test_values_come_at_intervals() -> None:
    """Trades at once, of quotes the first and then the last of each interval."""
    async with serving() as ports:
        peer = await ports.client("filtered")
        await peer.subscribe("T.*", "Q.*", interval_ms=100)
        begun = time.monotonic()
        ports.publish(frame_of(event("Q", "AAPL", 0)))
        assert [one["q"] for one in await peer.receive()] == [0]
        for number in range(1, 6):
            ports.publish(frame_of(event("Q", "AAPL", number), event("T", "AAPL", number)))
            assert [(one["ev"], one["q"]) for one in await peer.receive()] == [("T", number)]
        assert [(one["ev"], one["q"]) for one in await peer.receive()] == [("Q", 5)]
        assert time.monotonic() - begun >= 0.1
        assert ports.stats("filtered").events_conflated == 4


@in_production_loop
async def test_the_end_of_a_replay_stands_behind_the_last_values() -> None:
    """What is held back for an interval goes out before a status that is for everybody, and before the close."""
    async with serving() as ports:
        peer = await ports.client("filtered")
        await peer.subscribe("Q.*", interval_ms=60_000)
        first, last = frame_of(event("Q", "AAPL", 1)), frame_of(event("Q", "AAPL", 2))
        ports.publish(first)
        assert await peer.raw() == first
        ports.publish(last)
        audience = Spectators(ports.serving)
        audience.say(b'[{"ev":"status","status":"replay_complete","message":"over"}]')
        assert await peer.raw() == last
        assert await peer.status() == ("replay_complete", "over")
        finishing = asyncio.create_task(audience.finish("over"))
        assert await peer.ended() == 1000
        await finishing


@pytest.mark.parametrize(("slow", "kind"), [("drop", "dropped"), ("conflate", "conflated")])
@in_production_loop
async def test_a_slow_client_is_told_what_it_missed(slow: str, kind: str) -> None:
    """It is not closed; when it reads on it is told as the docs show, and the position leads to the rest."""
    async with serving(limits=SMALL) as ports:
        peer = await ports.client("filtered", "LULD.Z")
        await peer.subscribe("T.*", "Q.*", slow=slow)
        channels = ("T", "Q") if slow == "conflate" else ("T",)
        published = await fill(ports, channels)
        got: list[bytes] = []
        account = None
        while account is None:
            account = await next_account(peer, got)
        check(account)
        assert account["status"] == kind
        held = account["conflated"] > 0
        if held:
            got += events_of(await peer.raw())
        last = event("T", "AAPL", 10**6)
        ports.publish(frame_of(last))
        while last not in got:
            more = await next_account(peer, got)
            assert more is None
        assert account["count"] == len(published) + 1 - len(got)
        if held:
            assert published[-1] in got, "the newest quote"
        [client] = ports.hub("filtered").clients
        assert client.describe("filtered", 0.0).left_out == account["count"]
        stats = ports.stats("filtered")
        assert (stats.events_dropped, stats.events_conflated) == (account["dropped"], account["conflated"])
        again = await ports.client("filtered")
        await again.subscribe("T.*", "Q.*", after=account["after"])
        [resume] = await again.receive()
        assert resume["recovered"]
        assert set(published) <= {*got, *await again.events_until(last)}


async def next_account(peer: Peer, got: list[bytes]) -> dict[str, Any] | None:
    """Read a frame: add its events to what has come, or return the status that it is."""
    raw = await peer.raw()
    if raw.startswith(b'[{"ev":"status"'):
        [status] = json.loads(raw)
        return status
    got += events_of(raw)
    return None


def events_of(payload: bytes) -> list[bytes]:
    """Return the events of a frame, byte for byte."""
    return [b"{%b}" % body for body in payload[2:-2].split(b"},{")]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"snapshot": 1}, "snapshot must be true or false"),
    ({"snapshot": "yes"}, "snapshot must be true or false"),
    ({"interval_ms": 9}, "interval_ms must be an integer, 10 to 60000"),
    ({"interval_ms": 60_001}, "interval_ms must be an integer, 10 to 60000"),
    ({"interval_ms": "250"}, "interval_ms must be an integer, 10 to 60000"),
    ({"interval_ms": True}, "interval_ms must be an integer, 10 to 60000"),
    ({"slow": "dorp"}, "slow must be disconnect, drop or conflate, not 'dorp'"),
    ({"slow": ["drop"]}, "slow must be disconnect, drop or conflate; it stays"),
]


@in_production_loop
async def test_what_is_misspelt_is_said_and_the_rest_is_served() -> None:
    """An error behind the acknowledgement says what is possible; the topics come, and the connection goes on."""
    async with serving() as ports:
        for number, (wishes, words) in enumerate(WRONG):
            peer = await ports.client("filtered")
            await peer.subscribe("Q.*", **wishes)
            status, message = await peer.status()
            assert status == "error"
            assert message.startswith(f"subscribe: {words}")
            frame = frame_of(event("Q", "AAPL", number))
            ports.publish(frame)
            assert await peer.raw() == frame
            await peer.ws.close()
        assert ports.stats("filtered").bad_requests == len(WRONG)
        assert not ports.stats("filtered").snapshots


@pytest.mark.parametrize("path", ["/", "/stocks"])
@in_production_loop
async def test_the_firehose_has_one_manner(path: str) -> None:
    """Each wish is an error in the dialect of the request, and every frame comes."""
    async with serving() as ports:
        peer = await ports.connect("firehose", path)
        await peer.authenticate(greeted=path != "/")
        topics = {} if path == "/" else {"params": "*"}
        await peer.send(action="subscribe", snapshot=True, interval_ms=250, slow="drop", **topics)
        await peer.receive()
        for word in ("snapshot", "interval_ms", "slow"):
            answer = await peer.receive()
            error = answer if path == "/" else answer[0]
            assert error["status"] == "error"
            assert error["message"].startswith(f"subscribe: {word} is not to be had here: ")
        frame = frame_of(event("T", "AAPL", 1))
        ports.publish(frame)
        assert await peer.raw() == frame
        [client] = ports.hub("firehose").clients
        assert client.lenience is None


@in_production_loop
async def test_bars_come_as_they_are_made() -> None:
    """On either port an error names the topics that are bars; aggregates of the same request come as they were asked for."""
    async with serving() as ports:
        peer = await ports.client("bars")
        await peer.subscribe("AM.*", "100Ms.AAPL", snapshot=True, interval_ms=100)
        assert await peer.status() == (
            "error",
            "subscribe: snapshot and interval_ms: only events come so, and bars as they are made (100Ms.AAPL)",
        )
        begin, end = await peer.receive(), await peer.receive()
        assert [begin[0]["status"], end[0]["status"]] == ["snapshot", "snapshot_complete"]
        ports.publish(frame_of(event("AM", "AAPL", 1), event("T", "AAPL", 2), event("T", "AAPL", 500)))
        kinds = {one["ev"] for _ in range(2) for one in await peer.receive()}
        assert kinds == {"AM", "MB"}


@in_production_loop
async def test_a_topic_that_is_held_stays_as_it_is() -> None:
    """The acknowledgement says what has no effect; how a slow client is treated can be changed at any time."""
    async with serving() as ports:
        peer = await ports.client("filtered", "Q.*")
        await peer.send(action="subscribe", params="Q.*", snapshot=True, interval_ms=100, slow="drop")
        assert await peer.status() == (
            "success",
            "subscribed to: Q.* (snapshot and interval_ms are unchanged: unsubscribe first)",
        )
        [client] = ports.hub("filtered").clients
        await eventually(lambda: client.lenience is not None)
        frame = frame_of(event("Q", "AAPL", 1))
        ports.publish(frame)
        assert await peer.raw() == frame


@in_production_loop
async def test_a_lenient_client_has_more_time_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes nothing is closed in the end, so that the recorder is not left with the dead."""
    monkeypatch.setattr("recorder.servers.hub.POLL_SECS", 0.05)
    monkeypatch.setattr("recorder.servers.client.STALLED_SECS", 0.05)
    async with serving(limits={**SMALL, "ping_interval_secs": 0.5}) as ports:
        peer = await ports.client("filtered", autoping=False)
        await peer.subscribe("T.*", slow="drop")
        begun = asyncio.get_running_loop().time()
        await fill(ports, ("T",))
        await eventually(lambda: not ports.hub("filtered").clients)
        assert asyncio.get_running_loop().time() - begun >= 0.9
