"""Recorders behind recorders: whatever is cut, each has the stream once, and a client goes on at any of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import Follower, Recorder, found_out
from serving import event, frame_of
from tiering import Tier

from recorder.bus import Border, Mark
from recorder.polygon.position import Position
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.upstream import EPOCHS_MAX, Upstream
from recorder.sources.exchange.marks import Marks

STATUS = b'[{"ev":"status","status":"success","message":"subscribed to: T.*"}]'

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["stocks", "options"]), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(1, 1500)),
        st.tuples(st.just("cut"), st.integers(0, 3), st.integers(0, 1500)),
        st.tuples(st.just("link"), st.integers(0, 3), st.none()),
        st.tuples(st.just("step"), st.integers(0, 2), st.none()),
        st.tuples(st.just("move"), st.integers(0, 2), st.integers(0, 2000)),
        st.tuples(st.just("take"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("tell"), st.none(), st.none()),
    ),
    max_size=60,
)


def live_on(port: str, steps: list[Any]) -> None:
    """Let recorders and a client live through these steps, and compare what each has in the end."""

    async def live() -> None:
        first = Recorder(2**20)
        second = Tier(first, "second")
        third = Tier(second, "third")
        recorders = [first, second, third]
        feeds = [*second.feeds.values(), *third.feeds.values()]
        client = Follower(first, port, "*" if port == "firehose" else "T.*")
        client.connect()
        client.take()
        made = 0
        sent: dict[str, list[bytes]] = {"stocks": [], "options": []}
        for step, one, two in steps:
            if step == "publish":
                frames = [frame_of(event("T", "A", made + number)) for number in range(two)]
                made += two
                sent[one] += frames
                first.publish(*frames, *([STATUS] if two == 3 else []), cluster=one)
            elif step == "read" and feeds[one].client is not None:
                feeds[one].read(two)
            elif step == "cut":
                feeds[one].unlink(two)
            elif step == "link" and feeds[one].client is None:
                feeds[one].link()
            elif step == "step":
                recorders[one].resumes.step()
            elif step == "move":
                client.cut(two)
                client.recorder = recorders[one]
                log = client.recorder.log
                if client.after is not None and log.is_ahead(client.after, client.cluster):
                    client.recorder.catch_up()  # a real one waits for that
                client.connect()
            elif step == "take":
                client.take(one)
            elif step == "tell" and client.client is not None:
                client.recorder.resumes.tell([client.client])
        third.catch_up()
        client.cut(2**30)
        client.recorder = third
        client.catch_up()
        client.check()
        assert len(client.kept) == 1, "nothing was missing"
        for feed in feeds:
            assert feed.frames == sent[feed.cluster]
            assert [recovered for recovered, _ in feed.answers] == [True] * len(feed.answers)

    asyncio.run(live())


@given(port=st.sampled_from(["firehose", "filtered"]), steps=STEPS)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_a_client_goes_on_at_any_recorder(port: str, steps: list[Any]) -> None:
    """Two tiers in a chain, each cluster on a connection of its own; all are cut anywhere, and so is the client."""

    live_on(port, steps)


def random_life(seed: int) -> None:
    """Let them live through random steps."""
    dice = random.Random(seed)
    steps: list[Any] = []
    for _ in range(80):
        recorder, feed, size = dice.randrange(3), dice.randrange(4), dice.randrange(1500)
        cluster = dice.choice(["stocks", "options"])
        steps.append(
            dice.choice(
                [
                    *[("publish", cluster, dice.randint(1, 3))] * 3,
                    *[("read", feed, size)] * 2,
                    ("cut", feed, size),
                    ("link", feed, None),
                    ("step", recorder, None),
                    ("move", recorder, size),
                    ("take", size, None),
                    ("tell", None, None),
                ]
            )
        )
    live_on(dice.choice(["firehose", "filtered"]), steps)


def ranks_off_by(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Let a position of another recorder stand for so many frames more."""
    find = Upstream.find

    def wrong(upstream: Upstream, position: Position, cluster: str) -> tuple[int, str]:
        rank, reason = find(upstream, position, cluster)
        return rank + frames, reason

    monkeypatch.setattr(Upstream, "find", wrong)


def forgets_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a feed take a position for what it has not read whole."""
    begun = Marks._begun

    def wrong(marks: Marks, rest: list[bytes], wire: bytes) -> Any:
        yield from begun(marks, rest, wire)
        marks._drop_held()

    monkeypatch.setattr(Marks, "_begun", wrong)


def asks_for_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a feed take again what it has, as far as the other recorder sends it."""
    monkeypatch.setattr(Marks, "_is_behind", lambda marks, after: False)
    whole = Marks._whole

    def wrong(marks: Marks, read: list[bytes], wire: bytes, after: str) -> Any:
        before = marks.after
        yield from whole(marks, read, wire, after)
        marks.after = before or after

    monkeypatch.setattr(Marks, "_whole", wrong)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda monkeypatch: ranks_off_by(monkeypatch, 1),
        lambda monkeypatch: ranks_off_by(monkeypatch, -1),
        forgets_what_is_held,
        asks_for_too_much,
    ],
    ids=["begins late", "begins early", "forgets", "asks for too much"],
)
def test_a_defect_between_recorders_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lives that are all right without the defect show an event that is missing, or one too many, with it."""
    assert found_out(random_life, lambda: break_it(monkeypatch), range(20))


def tier_of(*marks: Mark, frames: int = 0, clusters: tuple[str, ...] = ("stocks",)) -> HotLog:
    """Return the log of a recorder that has come to `run:10` of another one, and then read one batch."""
    log = HotLog("own", 2**20, clusters, 0)
    for cluster in clusters:
        log.upstream.reach(cluster, "run:10")
    if frames:
        log.take("stocks", [b"[%d]" % number for number in range(frames)], 0, frames, 0, marks)
    return log


def behind(log: HotLog, text: str, cluster: str = "stocks") -> list[bytes]:
    """Return what a client gets behind a position."""
    start = log.after(text, cluster)
    assert start.recovered, start.reason
    found = []
    for number in range(start.number, log.end):
        if not log.has_come(number, start.rank):
            found += log.batch(number).frames
    return found


def test_the_reads_of_one_batch_have_their_own_positions() -> None:
    """A client that another recorder has told one between two reads goes on there."""
    log = tier_of(Mark(2, "run:12"), Mark(3, "run:20"), frames=3)
    assert behind(log, "run:10") == [b"[0]", b"[1]", b"[2]"]
    assert behind(log, "run:12") == behind(log, "run:15") == [b"[2]"]  # other clusters came in between
    assert behind(log, "run:20") == []
    assert log.told_to("stocks") == log.told_to("") == "run:20"
    assert log.told_to("stocks", (2, 0)) == "run:12"
    assert log.told_to("stocks", (0, 0)) == ""
    assert log.available_to("stocks") == "run:10"
    assert [mark.after for number in range(2) for mark in log.batch(number).marks] == ["run:12", "run:20"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run:9", "older than what is kept"),
        ("run:21", "has not come as far"),
        ("other:5", "of another recorder"),
        ("run", "is no position"),
    ],
)
def test_a_position_that_is_not_kept_is_refused(text: str, words: str) -> None:
    """With the reason, whoever told it."""
    log = tier_of(Mark(1, "run:20"), frames=1)
    start = log.after(text, "stocks")
    assert not start.recovered
    assert words in start.reason
    assert log.is_ahead(text, "stocks") is (text == "run:21")


def test_a_border_without_frames_moves_the_position() -> None:
    """Nothing came of the cluster, but of others: a client that was told so elsewhere goes on here."""
    log = tier_of(Mark(1, "run:20"), frames=1)
    log.upstream.reach("stocks", "run:30")
    assert behind(log, "run:30") == behind(log, "run:25") == []
    assert log.told_to("stocks") == "run:30"


def test_clients_of_several_clusters_are_told_positions_of_our_own() -> None:
    """These come on connections each: no position of the other recorder stands for what such a client has."""
    log = tier_of(Mark(1, "run:20"), frames=1, clusters=("stocks", "options"))
    assert log.told_to("") == "own:1"
    assert log.told_to("stocks") == "run:20"
    assert log.after("run:20").reason == "this recorder has not come as far as the position"
    log.take("options", [b"[5]"], 0, 2, 0, [Mark(1, "run:15")])
    log.upstream.reach("options", "run:20")
    assert behind(log, "run:12", "") == [b"[0]", b"[5]"]
    assert behind(log, "run:15", "") == [b"[0]"]
    assert behind(log, "own:1", "") == [b"[5]"]


def test_another_run_of_the_other_recorder_comes_behind_the_one_before() -> None:
    """A position of the first one has the rest of it behind it, and the second."""
    log = tier_of(Mark(1, "run:20"), frames=1)
    log.take("stocks", [b"[7]"], 0, 2, 0, [Mark(0, "next:0"), Mark(1, "next:3")])
    assert behind(log, "run:10") == [b"[0]", b"[7]"]
    assert behind(log, "run:20") == behind(log, "next:0") == [b"[7]"]
    assert behind(log, "next:3") == []
    log.take("stocks", [b"[8]"], 0, 3, 0, [Mark(1, "run:50")])
    assert behind(log, "next:3") == [b"[8]"]
    assert not log.after("run:20", "stocks").recovered, "the run has begun again"
    for number in range(EPOCHS_MAX):
        log.upstream.reach("stocks", f"later{number}:1")
    assert "of another recorder" in log.after("next:3", "stocks").reason


def test_behind_frames_of_no_position_nobody_goes_on() -> None:
    """Until the next is told: from there on. Statuses have none, and need none."""
    log = tier_of(Mark(1, "run:20"), frames=1)
    log.take("stocks", [STATUS], 0, 2, 0, [])
    assert log.told_to("stocks") == "run:20"
    log.take("stocks", [b"[1]"], 0, 3, 0, [])
    assert log.told_to("stocks") == ""
    assert not log.after("run:20", "stocks").recovered
    assert log.upstream.marks == {}
    log.take("stocks", [b"[2]"], 0, 4, 0, [Mark(1, "run:30")])
    assert not log.after("run:20", "stocks").recovered
    assert behind(log, "run:30") == []


def test_what_is_forgotten_is_not_offered() -> None:
    """The oldest position moves with what is kept, also where nothing is."""
    log = HotLog("own", 2000, ["stocks"], 0)
    log.upstream.reach("stocks", "run:0")
    for number in range(1, 20):
        log.take("stocks", [b"[%d]" % number], 0, number, 0, [Mark(1, f"run:{10 * number}")])
    oldest = log.available_to("stocks")
    assert oldest not in ("run:0", "run:190")
    assert len(behind(log, oldest)) == 19 - int(oldest[4:]) // 10
    assert not log.after("run:0", "stocks").recovered
    nothing = HotLog("own", 0, ["stocks"], 0)
    nothing.take("stocks", [b"[1]"], 0, 1, 0, [Mark(1, "run:5")])
    nothing.take("stocks", [b"[1]"], 0, 2, 0, [Mark(1, "run:6")])
    assert behind(nothing, "run:6") == []
    assert not nothing.after("run:5", "stocks").recovered


def test_a_worker_begins_where_the_others_are() -> None:
    """With the positions that the other recorder has told."""
    log = HotLog("own", 2**20, ["stocks"], 0)
    log.begin(7, 0, 0, {"stocks": "run:40"})
    assert log.told_to("stocks") == log.available_to("stocks") == "run:40"
    assert behind(log, "run:40") == []
    assert Border("stocks", "run:40").after == log.upstream.marks["stocks"]
    assert repr(log.upstream) == "Upstream({'stocks': 'run:40'})"


def test_a_recorder_that_was_just_started_tells_no_positions_of_its_own() -> None:
    """Who follows it would take what it has yet to catch up with for news; it waits for the other recorder's position."""
    log = HotLog("own", 2**20, ["stocks"], 0, follows=True)
    assert log.told_to("stocks") == log.told_to("") == ""
    assert log.is_ahead("first:5:9", "stocks")
    assert log.take("stocks", [STATUS], 1, 1, 0, []) == []
    assert log.is_ahead("first:5:9", "stocks"), "an acknowledgement is no event"
    log.upstream.reach("stocks", "first:3:7")
    assert log.told_to("stocks") == "first:3:7"
    assert log.is_ahead("first:5:9", "stocks")
    log.upstream.reach("stocks", "first:5:9")
    assert log.after("first:5:9", "stocks").recovered
    older = HotLog("own", 2**20, ["stocks"], 0, follows=True)
    older.take("stocks", [frame_of(event("T", "A", 1))], 1, 1, 0, [])
    assert older.told_to("stocks") == "own:1", "the other recorder tells none"
    assert not older.is_ahead("first:5:9", "stocks")
