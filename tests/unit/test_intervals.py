"""Values at intervals: of each symbol the newest, at most so often; everything else as it comes."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import Follower, number_of
from scenes import Scene, in_a_loop, kind_of

from recorder.polygon.channels import REPLACEABLE_CHANNELS
from recorder.servers.manners import intervals as intervals_module
from recorder.servers.manners import manners as manners_module

CHANNELS = ("T", "Q", "A", "LULD")
SYMBOLS = ("A", "B", "C")
ROOM = 2**20
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=8),
        ),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.05, 0.1, 0.3])),
    ),
    max_size=60,
)


def wait(scene: Scene, secs: float) -> list[bytes]:
    """Let time pass, have what is due sent, and return what has come."""
    before = len(scene.got)
    scene.recorder.clock.advance(secs)
    scene.recorder.pacer.step()
    scene.client.take()
    return scene.got[before:]


@given(topics=st.sampled_from([("*",), ("T.*", "Q.*"), ("Q.A", "Q.B", "A.*")]), steps=STEPS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_the_last_value_always_arrives(topics: tuple[str, ...], steps: list[Any]) -> None:
    """Within an interval; no symbol comes more often; what is no value comes at once; nothing twice, all in order."""

    def live() -> None:
        scene = Scene(topics, pending_max=ROOM, interval_ms=100)
        clock = scene.recorder.clock
        came: dict[tuple[str, str], list[int]] = defaultdict(list)
        for step, drawn in steps:
            before = len(scene.got)
            if step == "publish":
                published = len(scene.published)
                scene.publish(drawn)
                scene.client.take()
                new = scene.published[published:]
                at_once = [one for one in scene.due(topics) if one in new and not is_value(one)]
                assert scene.got[before:] == at_once
                wait(scene, 0.0)
            else:
                wait(scene, drawn)
            for one in scene.got[before:]:
                came[kind_of(one)].append(clock.mono_ns)
        wait(scene, 0.1)
        due, got = scene.due(topics), scene.got
        assert len(set(got)) == len(got)
        newest = {kind_of(one): one for one in due if is_value(one)}
        assert {kind: one for one in got if is_value(one) for kind in [kind_of(one)]} == newest
        for kind, moments in came.items():
            if kind[0] in REPLACEABLE_CHANNELS:
                assert all(later - earlier >= 100_000_000 for earlier, later in pairwise(moments))
        assert scene.recorder.pacer.step() > 60, "nothing is held any more"
        values = sum(map(is_value, due))
        assert scene.recorder.stats["filtered"].events_conflated == values - sum(map(is_value, got))

    in_a_loop(live)


CHANGES = st.lists(
    st.one_of(
        st.tuples(
            st.just("subscribe"),
            st.tuples(
                st.sampled_from(["*", "Q.*", "T.*", "Q.A", "Q.B", "T.A", "A.*"]),
                st.sampled_from([0, 100, 300]),
            ),
        ),
        st.tuples(st.just("unsubscribe"), st.sampled_from(["*", "Q.*", "T.*", "Q.A", "Q.B", "T.A", "A.*"])),
        st.tuples(
            st.just("publish"),
            st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=4),
        ),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.2])),
    ),
    max_size=40,
)


@given(changes=CHANGES)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_topics_overlap_an_event_comes_once(changes: list[Any]) -> None:
    """Topics come and go, with intervals and without: nothing comes twice; trades that were wanted come, and last values."""

    def live() -> None:
        scene = Scene(("LULD.Z",), pending_max=ROOM)
        held: dict[str, int] = {}
        wanted: set[bytes] = set()
        newest: dict[tuple[str, str], bytes] = {}
        """Values that a client has wanted without a break since they came."""
        for change, drawn in changes:
            if change == "subscribe":
                topic, interval_ms = drawn
                scene.client.ask(
                    action="subscribe", params=topic, **({"interval_ms": interval_ms} if interval_ms else {})
                )
                held.setdefault(topic, interval_ms)
            elif change == "unsubscribe":
                scene.client.ask(action="unsubscribe", params=drawn)
                held.pop(drawn, None)
                newest = {kind: one for kind, one in newest.items() if drawn not in topics_of(kind)}
            elif change == "publish":
                before = len(scene.published)
                scene.publish(drawn)
                for one in scene.published[before:]:
                    kind = kind_of(one)
                    newest.pop(kind, None)
                    if not held.keys() & topics_of(kind):
                        continue
                    if is_value(one):
                        newest[kind] = one
                    else:
                        wanted.add(one)
            else:
                wait(scene, drawn)
        for _ in range(3):
            wait(scene, 0.3)
        got = set(scene.got)
        assert len(got) == len(scene.got)
        assert wanted <= got
        assert set(newest.values()) <= got
        assert scene.recorder.pacer.step() > 60

    in_a_loop(live)


def topics_of(kind: tuple[str, str]) -> set[str]:
    """Return the topics that an event of a channel and a symbol is of."""
    channel, symbol = kind
    return {"*", f"{channel}.*", f"{channel}.{symbol}"}


def is_value(one: bytes) -> bool:
    """Return whether an event is held back for an interval."""
    return kind_of(one)[0] in REPLACEABLE_CHANNELS


async def test_values_of_one_moment_keep_the_order_of_the_stream() -> None:
    """The order is that of the newest events, whatever the order in which their symbols came first."""
    scene = Scene(("Q.*", "A.*"), pending_max=ROOM, interval_ms=60_000)
    scene.publish([("Q", "A"), ("Q", "B"), ("A", "C")])
    assert wait(scene, 0.0) == scene.published, "the first after a pause comes at once"
    scene.publish([("Q", "A"), ("A", "C"), ("Q", "B")])
    scene.publish([("Q", "B"), ("Q", "A")])
    assert wait(scene, 59.9) == []
    assert wait(scene, 0.1) == [scene.published[place] for place in (4, 6, 7)]


async def test_an_event_of_several_topics_comes_once_and_soonest() -> None:
    """A topic without an interval is the soonest; then the shortest interval counts."""
    scene = Scene(("Q.*",), pending_max=ROOM, interval_ms=1000)
    scene.client.ask(action="subscribe", params="Q.A,T.A")
    scene.client.ask(action="subscribe", params="Q.B", interval_ms=100)
    everybody = Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM)
    everybody.connect(interval_ms=1000, positions=False)
    scene.publish([("Q", "A"), ("Q", "B"), ("Q", "C")])
    scene.client.take()
    assert scene.got == scene.published[:1]
    wait(scene, 0.0)
    assert sorted(scene.got) == sorted(scene.published)
    scene.publish([("Q", "A"), ("Q", "B"), ("Q", "C")])
    scene.client.take()
    assert scene.got[3:] == scene.published[3:4]
    assert wait(scene, 0.1) == scene.published[4:5]
    assert wait(scene, 0.9) == scene.published[5:6]
    everybody.take()
    assert everybody.loose == scene.published, "others are served as if there were nobody else"
    scene.client.ask(action="unsubscribe", params="Q.A,Q.B")
    scene.publish([("Q", "A"), ("Q", "B")])
    assert sorted(wait(scene, 1.0)) == sorted(scene.published[6:])


async def test_everything_at_intervals_overlaps_with_nothing_twice() -> None:
    """`*` at an interval: trades come at once, and once, whatever else the client holds."""
    scene = Scene(("*",), pending_max=ROOM, interval_ms=100)
    scene.client.ask(action="subscribe", params="T.A,Q.A")
    scene.publish([("T", "A"), ("T", "B"), ("Q", "A"), ("Q", "B")])
    scene.client.take()
    assert sorted(scene.got) == sorted(scene.published[:3])
    wait(scene, 0.1)
    assert sorted(scene.got) == sorted(scene.published)


async def test_a_change_of_topics_neither_loses_nor_doubles_what_is_held() -> None:
    """What is held when a topic comes or goes is sent by the topics of then: once, and at once where it is still wanted."""
    scene = Scene(("Q.*",), pending_max=ROOM, interval_ms=1000)
    scene.publish([("Q", "A")])
    wait(scene, 0.0)
    scene.publish([("Q", "A"), ("Q", "B")])
    scene.client.ask(action="subscribe", params="Q.A")
    scene.client.take()
    assert scene.got == scene.published[:3]
    scene.publish([("Q", "A"), ("Q", "B")])
    scene.client.take()
    scene.client.ask(action="unsubscribe", params="Q.A")
    wait(scene, 1.0)
    assert scene.got == scene.published
    scene.publish([("Q", "C")])
    late = Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM)
    late.connect(interval_ms=1000, snapshot=True, positions=False)
    wait(scene, 1.0)
    late.take()
    assert sorted(late.loose) == sorted(scene.published[-3:]), "the snapshot has it already"


async def test_topics_that_are_given_back_leave_nothing_behind() -> None:
    """What is held for them is not sent, and a client that is gone holds nobody up."""
    scene = Scene(("Q.*",), pending_max=ROOM, interval_ms=1000)
    scene.publish([("Q", "A")])
    wait(scene, 0.0)
    scene.publish([("Q", "A")])
    scene.client.ask(action="unsubscribe", params="Q.*")
    assert wait(scene, 1.0) == []
    assert scene.recorder.pacer.step() > 60
    scene.client.ask(action="subscribe", params="Q.*", interval_ms=500)
    scene.publish([("Q", "A")])
    assert wait(scene, 0.0) == scene.published[2:]
    scene.publish([("Q", "A")])
    scene.client.cut()
    assert scene.recorder.pacer.step() > 60


async def test_no_position_stands_for_what_is_held() -> None:
    """A client that is cut and resumes from its last position gets what was held back."""
    scene = Scene(("Q.A",), pending_max=ROOM, interval_ms=1000, positions=True)
    client = scene.client.client
    assert client is not None
    scene.publish([("Q", "A")])
    wait(scene, 0.0)
    scene.publish([("Q", "A")])
    scene.publish([("Q", "A")])
    scene.recorder.resumes.tell([client])
    scene.client.take()
    assert scene.client.after == "run:1"
    wait(scene, 1.0)
    scene.recorder.resumes.tell([client])
    scene.client.take()
    assert scene.client.after == "run:3"
    assert number_of(scene.client.after) == scene.recorder.log.position


async def test_the_past_is_whole_though_a_topic_at_an_interval_has_it_too() -> None:
    """What is asked for with `after` comes event by event, whatever the client holds at intervals."""
    scene = Scene(("Q.*",), pending_max=ROOM, interval_ms=1000)
    scene.publish([("Q", "A")])
    for _ in range(3):
        scene.publish([("Q", "A"), ("Q", "B")])
    scene.client.ask(action="subscribe", params="Q.A", after="run:1")
    while scene.recorder.resumes.step():
        pass
    scene.client.take()
    assert scene.got == [*scene.published[1::2], *scene.published[-2:]], "the past, then what was held"
    scene.publish([("Q", "A"), ("Q", "B")])
    scene.client.take()
    assert scene.got[5:] == scene.published[-2:-1]


async def test_a_slow_client_at_intervals_gets_the_last_value() -> None:
    """What has no room when it is due is held back further, with the newest values of the next intervals."""
    scene = Scene(("*",), interval_ms=100, slow="conflate")
    for _ in range(60):
        scene.publish([("T", "A"), ("Q", "A"), ("Q", "B")])
        scene.recorder.clock.advance(0.1)
        scene.recorder.pacer.step()
    assert not scene.client.is_cut
    for _ in range(100):
        wait(scene, 0.1)
    assert set(scene.published[-2:]) <= set(scene.got)
    [*accounts] = scene.accounts("conflated")
    assert accounts


async def test_intervals_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than are possible is an error that names those in use, and the topic comes at once."""
    monkeypatch.setattr(manners_module, "INTERVALS_MAX", 1)
    scene = Scene(("Q.A",), pending_max=ROOM, interval_ms=100)
    scene.client.ask(action="subscribe", params="Q.B", interval_ms=200)
    scene.client.take()
    [error] = [status["message"] for status in scene.client.statuses if status["status"] == "error"]
    assert error == (
        "subscribe: interval_ms: other clients use 1 intervals already: take one of [100]; each event comes at once"
    )
    scene.publish([("Q", "B")])
    scene.client.take()
    assert scene.got == scene.published


async def test_a_wide_market_is_sent_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn of the loop sends so many values, the next turns the others; what comes in between waits its interval."""
    monkeypatch.setattr(intervals_module, "SLICE_VALUES", 2)
    scene = Scene(("Q.*",), pending_max=ROOM, interval_ms=100)
    scene.publish([("Q", "A"), ("Q", "B"), ("Q", "C")])
    assert wait(scene, 0.0) == scene.published[:2]
    scene.publish([("Q", "A")])
    assert wait(scene, 0.0) == scene.published[2:3]
    assert wait(scene, 0.09) == []
    assert wait(scene, 0.01) == scene.published[3:]


async def test_the_bars_port_has_aggregates_at_intervals() -> None:
    """There as on the filtered port."""
    scene = Scene(("A.*",), "bars", pending_max=ROOM, interval_ms=100)
    scene.publish([("A", "A"), ("Q", "A"), ("T", "A")])
    assert wait(scene, 0.0) == scene.published[:1]
    scene.publish([("A", "A")])
    scene.publish([("A", "A")])
    assert wait(scene, 0.1) == scene.published[-1:]
