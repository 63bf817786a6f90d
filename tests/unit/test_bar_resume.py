"""Clients of bars that are cut and go on behind their position: what they have is what one had that was never cut."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resuming import ArchivedRecorder, Follower, Recorder, found_out
from serving import bar_settings, in_production_loop

from recorder.bars import Bar, Progress
from recorder.bus import Watermark
from recorder.servers.bars import BarSource
from recorder.servers.past.bar_memory import BarMemory
from recorder.servers.past.bar_replay import Edge

DELAY_MS = 20
PAST_MAX_SECS = 100
TOPICS = ("100Ms.*", "30Ms.A", "250Ms.B")


class BarRecorder(Recorder):
    """A recorder that makes bars of the first cluster's trades."""

    def make_bars(self) -> BarSource:
        return bars_of(self)


class ArchivedBarRecorder(ArchivedRecorder):
    """The same with an archive, of which nothing is in memory but what is kept for those that read."""

    def make_bars(self) -> BarSource:
        return bars_of(self)

    def let_time_pass(self) -> bool:
        self.archive.writer.flush(forced=True)
        return True


def bars_of(recorder: Recorder) -> BarSource:
    settings = bar_settings(delay_ms=DELAY_MS, past_max_secs=PAST_MAX_SECS)
    return BarSource(
        ["stocks", "options"],
        settings,
        recorder.clock,
        recorder.log,
        recorder.resumes.cold,
        call_soon=lambda call: call(),
    )


class BarClient(Follower):
    """A client of bars, which throws away what came behind its last position when it is cut."""

    def __init__(self, recorder: Recorder, *topics: str, **wishes: Any) -> None:
        super().__init__(recorder, "bars", *topics)
        self.wishes = wishes
        self.got: list[bytes] = []

    def join(self, **wishes: Any) -> None:
        """Connect, behind the last position if there is one."""
        if self.after is not None and not wishes:
            wishes = {"after": self.after}
        self.connect(**self.wishes, **wishes)

    def begin(self, position: str) -> None:
        pass

    def keep(self, position: str) -> None:
        self.got += self.loose
        self.loose, self.after = [], position


class Life:
    """A market, a client that stays, and one that is cut."""

    def __init__(self, recorder: Recorder, seed: int, *, amend: bool) -> None:
        self.recorder = recorder
        self.dice = random.Random(seed)
        self.lateness_ms = (0, 5, DELAY_MS, 300, 1500) if amend else (0, 5, DELAY_MS)
        self.stays = BarClient(recorder, *TOPICS, amend=amend)
        self.goes = BarClient(recorder, *TOPICS, amend=amend)

    def trade(self, count: int = 1) -> None:
        """Let trades come, early and late."""
        now_ms = self.recorder.clock.wall_ns() // 1_000_000
        trades = [
            b'{"ev":"T","sym":"%s","p":%d,"s":1,"t":%d}'
            % (
                self.dice.choice((b"A", b"B")),
                self.dice.randrange(1, 99),
                now_ms - self.dice.choice(self.lateness_ms),
            )
            for _ in range(count)
        ]
        self.recorder.publish(
            b'[{"ev":"T","sym":"CLOCK","p":1,"s":1,"t":%d},%s]' % (now_ms, b",".join(trades))
        )

    def tick(self, ms: int) -> None:
        """Let time pass; the exchange answers when it is asked for the time."""
        recorder = self.recorder
        recorder.clock.advance(ms / 1000)
        assert recorder.bars is not None
        recorder.let_time_pass()
        recorder.bars.tick()
        self.stays.take()

    def be_silent(self) -> None:
        """Let nothing come for a while, until time alone has closed what was open."""
        for _ in range(4):
            self.tick(100)
            self.recorder.bus.advance(Watermark("stocks", self.recorder.clock.monotonic_ns()))
            self.tick(10)

    def tell(self) -> None:
        """Have both clients told where they are, and keep what they have."""
        for client in (self.stays, self.goes):
            if client.client is not None:
                self.recorder.resumes.tell([client.client])
                client.take()

    def catch_up(self) -> None:
        """Let the client that was cut get all that it missed."""
        for _ in range(500):
            self.tick(10)
            self.trade()
            self.goes.take()
            if any(status["status"] == "resume_complete" for status in self.goes.statuses):
                return
        raise AssertionError(f"it has not been told that it has all: {self.goes.statuses}")

    def play(self, steps: int) -> None:
        """Let things happen."""
        for client in (self.stays, self.goes):
            client.join()
        self.trade(3)
        self.tell()
        for _ in range(steps):
            step = self.dice.randrange(10)
            if step < 6:
                self.trade(self.dice.randrange(1, 5))
                self.tick(self.dice.choice((0, 10, 30)))
            elif step == 6:
                self.be_silent()
            elif step == 7:
                self.tell()
            elif self.goes.client is not None:
                self.goes.cut(self.dice.choice((0, 2**30)))
            else:
                self.goes.join()
                if step == 8:
                    self.catch_up()
        if self.goes.client is None:
            self.goes.join()
            self.catch_up()
        for _ in range(60):
            self.tick(10)
            self.trade()
        self.be_silent()
        self.trade()
        for _ in range(50):
            self.tick(10)
        self.tell()
        assert all(status["recovered"] for status in self.goes.statuses if status["status"] == "resume")
        assert self.stays.got
        assert [shown(bar) for bar in self.goes.got] == [shown(bar) for bar in self.stays.got]


def shown(bar: bytes) -> str:
    """Return what a bar is, for people."""
    read = json.loads(bar)
    return f"{read['interval']} {read['sym']} {read['s']} {read.get('rev', 0)} {read['o']} {read['n']}"


@pytest.mark.parametrize("amend", [False, True], ids=["plain", "amended"])
@pytest.mark.parametrize("seed", range(4))
@in_production_loop
async def test_a_client_that_is_cut_has_the_bars_of_one_that_stays(seed: int, amend: bool) -> None:
    """In the same order, each once and byte for byte, wherever it was cut, also where time alone had closed a bar."""
    Life(BarRecorder(2**22), seed, amend=amend).play(60)


@pytest.mark.parametrize("seed", range(4))
@in_production_loop
async def test_of_the_archive_the_same_bars_are_made(seed: int, tmp_path: Path) -> None:
    """With nothing in memory, from plain and compressed files, and in the same turn as the log goes on."""
    settings = {"compression": "zstd", "max_bytes": 2000} if seed % 2 else {}
    recorder = ArchivedBarRecorder(tmp_path, 0, **settings)
    Life(recorder, seed, amend=False).play(60)
    assert recorder.stats["bars"].archive_reads


@pytest.mark.parametrize("partial", [False, True])
@in_production_loop
async def test_who_asks_for_too_much_is_told_what_can_be_had(partial: bool, tmp_path: Path) -> None:
    """Of the archive: from then on all is there, also for a client that takes a moment to ask; and `partial` gets it."""
    recorder = ArchivedBarRecorder(tmp_path, 0)
    life = Life(recorder, 1, amend=False)
    life.stays.join()
    for _ in range(PAST_MAX_SECS + 30):
        life.trade()
        life.tick(1000)

    def ask(**wishes: Any) -> dict[str, Any]:
        life.goes.connect(**wishes)
        for _ in range(100):
            life.trade()
            life.tick(10)
            life.goes.take()
        [answer] = [status for status in life.goes.statuses if status["status"] == "resume"]
        found: dict[str, Any] = answer
        return found

    now_ms = recorder.clock.wall_ns() // 1_000_000
    answer = ask(since=0, partial=partial)
    since_ms = answer["available_since"]
    assert not answer["recovered"]
    assert abs(since_ms - (now_ms - PAST_MAX_SECS * 1000)) < 5000
    assert answer["reason"].startswith(
        f"that is longer ago than BAR_PAST_MAX_SECS: ask for what came from {since_ms} on"
    )
    got = [json.loads(bar) for bar in life.goes.loose]
    starts = sorted(bar["s"] for bar in got)
    assert (bool(got) and 0 <= starts[0] - since_ms < 2000) == partial
    life.goes.cut(2**30)
    life.tick(20_000)
    answer = ask(since=since_ms)
    assert answer["recovered"], answer
    assert answer["available_since"] > since_ms
    life.goes.cut(2**30)
    assert ask(after=answer["available_from"])["reason"].endswith("it says nothing of bars: ask with since")
    life.goes.cut(2**30)
    assert "of another recorder" in ask(after="elsewhere:1:2")["reason"]


@pytest.mark.parametrize("defect", ["drops", "doubles", "skips"])
@in_production_loop
async def test_a_defect_at_the_seam_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that leaves out a bar at the client's position, one that sends it again, one that misses a read."""
    wants, start = Edge.wants, BarMemory.start

    def drops(edge: Edge, bar: Bar) -> bool:
        return wants(edge, bar) and bar.end_ms - (edge.closed_ms or 0) > 30

    def doubles(edge: Edge, bar: Bar) -> bool:
        return wants(replace(edge, closed_ms=(edge.closed_ms or 0) - 100), bar)

    def skips(memory: BarMemory, begin_ms: int, present: Progress) -> tuple[int, Progress] | None:
        found = start(memory, begin_ms, present)
        return (min(found[0] + 2, memory.end), found[1]) if found is not None else None

    def break_it() -> None:
        if defect == "skips":
            monkeypatch.setattr(BarMemory, "start", skips)
        else:
            monkeypatch.setattr(Edge, "wants", drops if defect == "drops" else doubles)

    lives = range(3)
    assert found_out(lambda seed: Life(BarRecorder(2**22), seed, amend=False).play(60), break_it, lives)
