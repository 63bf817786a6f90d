"""`/events` and the files of the page, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout, DummyCookieJar
from integration.test_ops_server import World, serving
from ops_parts import make_ready
from waiting import eventually

import recorder.ops.live as live_module
from recorder.archive.stats import ActiveSegment
from recorder.ops.assets import INDEX, Assets
from recorder.ops.status_schema import SCHEMA_VERSION, History, Snapshot

Event = dict[str, str]


class Follower:
    """Who reads the events."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self._waiting = b""

    async def next(self, name: str = "") -> Event:
        """Return the next event; with a name, the next one of that name."""
        while True:
            while b"\n\n" not in self._waiting:
                part = await self.response.content.readany()
                if not part:
                    raise EOFError
                self._waiting += part
            whole, _, self._waiting = self._waiting.partition(b"\n\n")
            event = dict(line.split(": ", 1) for line in whole.decode().splitlines())
            if name in ("", event["event"]):
                return event


@asynccontextmanager
async def following(world: World, **headers: str) -> AsyncIterator[Follower]:
    """Follow a server."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        ClientSession(timeout=ClientTimeout(total=20), cookie_jar=DummyCookieJar()) as http,
        http.get(f"http://127.0.0.1:{world.server.port}/events", headers=given) as response,
    ):
        yield Follower(response)


def enlarge(world: World) -> None:
    """Make a snapshot larger than the kernel's buffers of both sides hold."""
    world.archive.active = {
        name: ActiveSegment(name, 1, 1)
        for name in (f"{number}-{'x' * 200}.ndjson" for number in range(25_000))
    }


def refuse_to_read(world: World) -> socket.socket:
    """Follow, and never read."""
    silent = socket.create_connection(("127.0.0.1", world.server.port))
    silent.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return silent


async def forget_who_left(world: World) -> None:
    """Let beats pass until every page that has gone is noticed: a write to it shows that."""

    def is_forgotten() -> bool:
        world.clock.advance(1)
        world.server.live.beat()
        return world.server.live.followers == 0

    await eventually(is_forgotten)


async def test_events_are_what_status_says() -> None:
    """First the history, then the snapshot of this moment, then one a beat; each is what /status answers."""
    async with serving() as world, following(world) as follower:
        make_ready(world.feed, world.clock)
        assert follower.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert follower.response.headers["Cache-Control"] == "no-store"
        first = await follower.next()
        assert (first["retry"], first["event"]) == ("2000", "history")
        assert msgspec.json.decode(first["data"], type=History).feeds.keys() == {"stocks"}
        before = msgspec.json.decode((await follower.next("snapshot"))["data"], type=Snapshot)
        world.clock.advance(1)
        world.feed.frames_received = 500
        world.server.live.beat()
        after = msgspec.json.decode((await follower.next("snapshot"))["data"], type=Snapshot)
        assert after.schema_version == SCHEMA_VERSION
        assert (before.ready, after.ready, after.at - before.at) == (False, True, 1000)
        assert (after.feeds[0].frames_received, after.feeds[0].frames_per_sec) == (500, 500.0)
        _, body, _ = await world.ask("/status")
        assert msgspec.json.decode(body, type=Snapshot) == after


async def test_one_snapshot_serves_all() -> None:
    """However many follow, a beat takes one snapshot, and all get the same bytes; without any it takes none."""
    async with serving() as world:
        live = world.server.live
        live.beat()
        assert live.snapshots_taken == 0
        async with following(world) as one, following(world) as two, following(world) as three:
            everybody = (one, two, three)
            assert len({(await each.next("snapshot"))["id"] for each in everybody}) == 1
            assert live.snapshots_taken == 1
            world.clock.advance(1)
            live.beat()
            assert len({tuple((await each.next()).items()) for each in everybody}) == 1
            assert live.snapshots_taken == 2
            assert live.followers == 3
        await forget_who_left(world)
        taken = live.snapshots_taken
        live.beat()
        assert live.snapshots_taken == taken


async def test_a_slow_follower_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads nothing misses snapshots while others get each one, and is cut after READ_SECS."""
    monkeypatch.setattr(live_module, "READ_SECS", 1.0)
    async with serving() as world, following(world) as reader:
        await reader.next("snapshot")
        enlarge(world)
        world.clock.advance(1)
        with refuse_to_read(world):
            await eventually(lambda: world.server.live.followers == 2)
            for _ in range(3):
                world.clock.advance(1)
                world.server.live.beat()
                event = await reader.next("snapshot")
                while event["id"] != f"3f1c:{world.server.live.snapshots_taken}":
                    event = await reader.next("snapshot")
            await eventually(lambda: world.server.live.followers == 1)
        world.archive.active.clear()
        world.clock.advance(1)
        world.server.live.beat()
        assert (await reader.next("snapshot"))["id"].startswith("3f1c:")


async def test_a_slow_follower_gets_the_newest() -> None:
    """Who reads again after a while gets the newest snapshot, not all that were in between."""
    async with serving() as world, following(world) as follower:
        first = await follower.next("snapshot")
        assert first["id"] == "3f1c:1"
        for _ in range(5):  # no turn of the loop in between: nobody can have been served
            world.clock.advance(1)
            world.server.live.beat()
        assert (await follower.next("snapshot"))["id"] == "3f1c:6"


async def test_followers_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told 503 and when to come again; a place that is given back is free."""
    monkeypatch.setattr(live_module, "FOLLOWERS_MAX", 1)
    async with serving() as world:
        async with following(world) as follower:
            await follower.next()
            code, body, headers = await world.ask("/events")
            assert (code, headers["Retry-After"]) == (503, "5")
            assert b"/status" in body
        await forget_who_left(world)
        async with following(world) as follower:
            await follower.next()


async def test_stopping_ends_every_stream_at_once() -> None:
    """`stop` does not wait for followers, not even for one that reads nothing; nobody new is taken."""
    async with serving() as world, following(world) as follower:
        await follower.next("snapshot")
        enlarge(world)
        world.clock.advance(1)
        with refuse_to_read(world):
            await eventually(lambda: world.server.live.followers == 2)
            await follower.next("snapshot")
            began = asyncio.get_running_loop().time()
            await world.server.close(0)
            assert asyncio.get_running_loop().time() - began < 0.5
        with pytest.raises(EOFError):
            await follower.next()


async def test_coming_back_costs_no_second_snapshot() -> None:
    """With `Last-Event-ID` of the newest snapshot only the history comes at once, then the next beat."""
    async with serving() as world:
        async with following(world) as follower:
            seen = (await follower.next("snapshot"))["id"]
        async with following(world, Last_Event_ID=seen) as follower:
            assert (await follower.next())["event"] == "history"
            world.clock.advance(1)
            world.server.live.beat()
            event = await follower.next()
            assert event["event"] == "snapshot"
            assert event["id"] != seen


async def test_pages_of_other_sites_cannot_follow() -> None:
    """A cross-site request takes no place; HEAD is answered without a stream."""
    async with serving() as world:
        assert (await world.ask("/events", Sec_Fetch_Site="cross-site"))[0] == 403
        code, body, headers = await world.ask("/events", "HEAD")
        assert (code, body, headers["Content-Type"]) == (200, b"", "text/event-stream; charset=utf-8")
        assert world.server.live.followers == 0


async def test_history_is_kept_while_nobody_looks() -> None:
    """The rates of the time before a page was opened come with it."""
    async with serving() as world:
        for frames in (10, 30, 60):
            world.clock.advance(1)
            world.feed.frames_received = frames
            world.server.live.beat()
        async with following(world) as follower:
            history = msgspec.json.decode((await follower.next())["data"], type=History)
    assert history.feeds["stocks"].frames == [10.0, 20.0, 30.0]


async def test_page_files() -> None:
    """Every file is served with its type, compressed where accepted, or 304 to a browser that has it; nothing else is."""
    async with serving() as world:
        for path in ["/", *(f"/page/{name}" for name in Assets().names)]:
            code, plain, headers = await world.ask(path, Accept_Encoding="identity")
            assert code == 200
            assert headers["Cache-Control"] == "no-cache"
            assert headers["X-Content-Type-Options"] == "nosniff"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            _, packed, packed_headers = await world.ask(path, Accept_Encoding="gzip, br")
            assert packed_headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(packed) == plain
            assert (await world.ask(path, If_None_Match=headers["Etag"]))[:2] == (304, b"")
            assert (await world.ask(path, If_None_Match='"other"'))[0] == 200
            head = await world.ask(path, "HEAD", Accept_Encoding="identity")
            assert (head[0], head[1], head[2]["Etag"]) == (200, b"", headers["Etag"])
        for path in (f"/page/{INDEX}", "/page/", "/page/../server.py", "/page/%2e%2e/server.py"):
            assert (await world.ask(path))[0] == 404


async def test_page_names_no_other_host_and_has_nothing_inline() -> None:
    """All that the page refers to is its own and served; no script or style is in the HTML."""
    async with serving() as world:
        _, html, _ = await world.ask("/", Accept_Encoding="identity")
        text = html.decode()
        references = set(re.findall(r'(?:src|href)="((?!data:,")[^"#][^"]*)"', text))
        assert "page/page.js" in references
        for reference in references:
            assert not re.match(r"[a-z]+:|/", reference), reference
            assert (await world.ask(f"/{reference}"))[0] in (200, 503), reference
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)
