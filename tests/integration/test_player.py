"""The player of a replay on a clock of the test's own: pace, orders, lag, and the times of what it sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, archive_settings
from fakes import CollectingConsumer, FakeClock
from ops_parts import feed_of
from waiting import eventually

from recorder.archive.recording import open_recordings
from recorder.bus import Bus
from recorder.ops.replay import where
from recorder.sources.replay.options import PlayOptions
from recorder.sources.replay.player import Player
from recorder.sources.replay.reader import ReplayReader, Span
from recorder.sources.source import SourceContext

AT_SECS = (0.0, 1.0, 2.0, 10.0, 11.0)
"""When the reads came, after the first one."""
GAP_UNTIL_SECS = 10.0
"""Which of them came behind a gap that was recorded."""


class Clients:
    """Those that a replay is for, as far as it knows them."""

    def __init__(self) -> None:
        self.subscribed = 0
        self.fullest = 0.0
        self.statuses: list[dict[str, Any]] = []
        self.finished = ""

    async def look(self) -> None:
        """What is set is how they stand."""

    def say(self, payload: bytes) -> None:
        self.statuses += json.loads(payload)

    async def finish(self, words: str) -> None:
        self.finished = words

    def told(self, status: str) -> list[dict[str, Any]]:
        return [one for one in self.statuses if one["status"] == status]


class Scene:
    """A player of a small archive, with the clock that it lives by and what it has put on the bus."""

    def __init__(self, folder: Path, options: PlayOptions) -> None:
        archive = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1)).open()
        archive.writer.append("session_opened", cluster="stocks")
        self.begin_ms = archive.clock.wall_ns() // 1_000_000
        for at, before in zip(AT_SECS, (0.0, *AT_SECS), strict=False):
            before_ms = archive.clock.wall_ns() // 1_000_000
            archive.clock.advance(at - before)
            if at == GAP_UNTIL_SECS:
                now_ms = archive.clock.wall_ns() // 1_000_000
                bounds = {"from": before_ms, "to": now_ms}
                archive.writer.append("gap", cluster="stocks", reason="disconnected", **bounds)
            archive.write("TT")
        archive.close()
        self.lines = archive.lines
        self.clock = FakeClock(wall_ns=archive.clock.wall_ns() + 3_600_000_000_000)
        self.clients = Clients()
        self.sent = CollectingConsumer()
        self.ended = asyncio.Event()
        bus = Bus()
        bus.attach(self.sent)
        reader = ReplayReader(open_recordings(folder), Span(finds_times=options.shifts))
        self.player = Player(reader, ("stocks",), options, self.clock)
        self.player.source(SourceContext(bus, "stocks", feed_of("stocks"), self.clock, {}))
        self.player.attach(self.clients, lambda reason: self.ended.set())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for frame in self.sent.frames for event in json.loads(frame)]

    async def sends(self, count: int) -> None:
        """Wait until so many reads were passed on, and no more."""
        await eventually(lambda: len(self.sent.frames) >= count, f"{count} reads")
        assert len(self.sent.frames) == count

    def wait(self, secs: float) -> None:
        """Let time pass, and the player look at its clock."""
        self.clock.advance(secs)
        self.player.set_rate(self.player.pace.rate)

    @property
    def at_secs(self) -> float:
        """Where it stands, after the first read."""
        return (self.player.position_ms - self.begin_ms) / 1000


@asynccontextmanager
async def playing(folder: Path, **options: Any) -> AsyncIterator[Scene]:
    """Yield a player at work."""
    scene = Scene(folder, PlayOptions(**options))
    task = asyncio.create_task(scene.player.run())
    try:
        yield scene
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await scene.player.close(0)


async def test_what_is_overdue_comes_at_once(tmp_path: Path) -> None:
    """By default: after half a minute in which nothing was played, everything comes, and it is said how late it was."""
    async with playing(tmp_path) as scene:
        await scene.sends(1)
        scene.wait(9.5)
        await eventually(lambda: len(scene.events) == 6, "what was due")
        assert where(scene.player)["lag_secs"] == pytest.approx(7.5, abs=0.01)
        assert scene.at_secs == pytest.approx(9.5, abs=0.01)
        scene.wait(0.5)
        await eventually(lambda: len(scene.events) == 8, "the next read")
        assert where(scene.player)["lag_secs"] == pytest.approx(0.0, abs=0.01)
        assert where(scene.player)["moved_secs"] == 0


async def test_the_clock_can_be_late_instead(tmp_path: Path) -> None:
    """With `--catch-up shift` the reads keep the time between them, and by how much the clock was moved is added up."""
    async with playing(tmp_path, catch_up="shift") as scene:
        await scene.sends(1)
        scene.wait(9.0)
        await eventually(lambda: len(scene.events) == 4, "the read that was due")
        stand = where(scene.player)
        assert (stand["lag_secs"], stand["moved_secs"]) == (pytest.approx(8.0), pytest.approx(8.0))
        assert scene.at_secs == pytest.approx(1.0)
        scene.wait(0.95)
        await asyncio.sleep(0)
        assert len(scene.events) == 4
        scene.wait(0.1)  # late by less than counts
        await eventually(lambda: len(scene.events) == 6, "the next read")
        assert where(scene.player)["moved_secs"] == pytest.approx(8.0)


async def test_a_burst_plays_a_stretch_at_once(tmp_path: Path) -> None:
    """So many ms of the data, also while it stands still; then it stands at their end, and an order more goes on there."""
    async with playing(tmp_path, is_paused=True) as scene:
        await eventually(lambda: scene.player.position_ms, "the first read")
        scene.player.burst(2_500)
        await eventually(lambda: len(scene.events) == 6, "three reads")
        await eventually(lambda: scene.at_secs == 2.5, "the end of the stretch")
        assert where(scene.player)["state"] == "paused"
        scene.player.burst(1_000)
        await eventually(lambda: scene.at_secs == 3.5, "silence")
        assert len(scene.events) == 6
        scene.player.step(2)
        await eventually(lambda: scene.ended.is_set(), "the end")
        assert len(scene.events) == 10
        assert [line["payload"] for line in map(json.loads, scene.lines)] == scene.events
        for order in (scene.player.step, lambda: scene.player.burst(1)):
            with pytest.raises(ValueError, match="the replay has ended"):
                order()


async def test_progress_goes_from_begin_to_end(tmp_path: Path) -> None:
    """By the time of the data; recorded gaps and events are counted from the last seek on."""
    async with playing(tmp_path, is_paused=True) as scene:
        await eventually(lambda: scene.player.position_ms, "the first read")
        stand = where(scene.player)
        assert (stand["from"], stand["to"]) == (scene.begin_ms, scene.begin_ms + 11_000)
        assert (stand["progress"], stand["position"]) == (0.0, scene.begin_ms)
        scene.player.seek(scene.begin_ms + 5_500)
        assert where(scene.player)["progress"] == 0.5
        scene.player.seek(0)
        stand = where(scene.player)
        assert (stand["progress"], stand["position"], stand["events"]) == (0.0, scene.begin_ms, 0)
        scene.player.set_rate(None)
        scene.player.play()
        await scene.ended.wait()
        stand = where(scene.player)
        assert (stand["state"], stand["progress"], stand["events"], stand["rate"]) == (
            "ended",
            1.0,
            10,
            "max",
        )
        assert scene.clients.finished == "replay complete"


async def test_an_order_before_the_beginning_counts(tmp_path: Path) -> None:
    """Who pauses a replay that still waits for clients finds it paused once they are there."""
    async with playing(tmp_path, clients_min=1) as scene:
        await eventually(lambda: scene.clock.slept, "waiting")
        assert where(scene.player)["state"] == "waiting"
        scene.player.pause()
        scene.clients.subscribed = 1
        await eventually(lambda: where(scene.player)["state"] == "paused", "the beginning")
        scene.wait(5)
        await asyncio.sleep(0)
        assert not scene.events
        scene.player.play()
        await scene.sends(1)


async def test_a_delay_comes_before_the_beginning(tmp_path: Path) -> None:
    """Clients that need time after they have subscribed get it."""
    async with playing(tmp_path, delay_secs=20.0) as scene:
        await scene.sends(1)
        assert 20.0 in scene.clock.slept


async def test_times_can_be_those_of_now(tmp_path: Path) -> None:
    """Only digits change. Behind a pause and a seek, time goes on from now, and clients are told by how much it moved."""
    async with playing(tmp_path, shifts=True) as scene:
        await scene.sends(1)
        recorded = [json.loads(line)["payload"] for line in scene.lines]
        by_ms = scene.clock.wall_ns() // 1_000_000 - scene.begin_ms
        assert [event["t"] - old["t"] for event, old in zip(scene.events, recorded, strict=False)] == [
            by_ms
        ] * 2
        assert scene.clients.told("shifted")[-1]["by_ms"] == where(scene.player)["shifted_ms"] == by_ms
        scene.player.pause()
        scene.wait(60)
        scene.player.play()
        scene.wait(1)
        await scene.sends(2)
        assert scene.events[2]["t"] - recorded[2]["t"] == by_ms + 60_000
        scene.player.seek(scene.begin_ms)
        await scene.sends(3)
        assert scene.events[4]["t"] - recorded[0]["t"] == by_ms + 61_000
        assert {**scene.events[4], "t": 0} == {**recorded[0], "t": 0}
        assert [told["by_ms"] for told in scene.clients.told("shifted")] == [
            by_ms,
            by_ms + 60_000,
            by_ms + 61_000,
        ]
