"""Slow clients that miss events rather than be closed: what they get, what they are told, and that the two are all."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import Follower, number_of
from scenes import Scene, in_a_loop, kind_of

from recorder.polygon.channels import REPLACEABLE_CHANNELS

CHANNELS = ("T", "Q", "A", "LULD")
SYMBOLS = ("A", "B", "C")
EVENTS = st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), EVENTS),
        st.tuples(st.just("take"), st.integers(0, 2500)),
        st.tuples(st.just("step"), st.none()),
    ),
    max_size=60,
)


@given(topics=st.sampled_from([("*",), ("T.*", "Q.A"), ("Q.*",)]), steps=STEPS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_what_drop_leaves_out_is_counted(topics: tuple[str, ...], steps: list[Any]) -> None:
    """All events come once and in order, or are counted; what was left out lies behind the position that is named."""

    def live() -> None:
        scene = Scene(topics, slow="drop")
        scene.do(steps)
        scene.finish()
        assert not scene.client.is_cut
        due = scene.due(topics)
        got, had = scene.got, set(scene.got)
        assert got == [one for one in due if one in had], "once each, in the stream's order"
        missing = [one for one in due if one not in had]
        accounts = scene.accounts("dropped")
        assert sum(account["count"] for account in accounts) == len(missing)
        assert all(account["conflated"] == 0 for account in accounts)
        if missing:
            assert number_of(accounts[0]["after"]) < min(scene.positions[one] for one in missing)
        assert scene.recorder.stats["filtered"].events_dropped == len(missing)
        assert scene.recorder.stats["filtered"].events_delivered == len(got)

    in_a_loop(live)


@given(topics=st.sampled_from([("*",), ("T.*", "Q.*", "A.A"), ("Q.*",)]), steps=STEPS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_the_last_value_always_arrives(topics: tuple[str, ...], steps: list[Any]) -> None:
    """Values may be left out for newer ones, the newest never; the rest comes while there is room; all is counted."""

    def live() -> None:
        scene = Scene(topics, slow="conflate")
        scene.do(steps)
        scene.finish()
        assert not scene.client.is_cut
        due = scene.due(topics)
        got, had = scene.got, set(scene.got)
        assert len(had) == len(got)
        assert had <= set(due)
        newest = {kind_of(one): one for one in due if kind_of(one)[0] in REPLACEABLE_CHANNELS}
        assert set(newest.values()) <= had
        for kind in {kind_of(one) for one in got}:
            of_kind = [one for one in got if kind_of(one) == kind]
            expected = [one for one in due if one in had and kind_of(one) == kind]
            assert of_kind == expected, "each symbol in the stream's order"
        due_rest = [one for one in due if kind_of(one)[0] not in REPLACEABLE_CHANNELS]
        rest = [one for one in got if kind_of(one)[0] not in REPLACEABLE_CHANNELS]
        assert rest == [one for one in due_rest if one in had], "what is not conflated in the stream's order"
        accounts = scene.accounts("conflated")
        assert sum(account["count"] for account in accounts) == len(due) - len(got)
        assert sum(account["dropped"] for account in accounts) == len(due_rest) - len(rest)

    in_a_loop(live)


def flood(scene: Scene, channel: str, reads: int = 30) -> None:
    """Publish more of a channel than the client has room for."""
    for _ in range(reads):
        scene.publish([(channel, "A")] * 5)


async def test_the_status_of_drop() -> None:
    """It comes as soon as there is room, before any further event, and says how much, from when to when, from where."""
    scene = Scene(("T.A",), slow="drop")
    scene.recorder.clock.advance(1.0)
    flood(scene, "T", 6)
    assert not scene.client.is_cut
    scene.recorder.clock.advance(1.0)
    from_ms = scene.recorder.clock.wall_ns() // 1_000_000
    flood(scene, "T", 10)
    scene.recorder.clock.advance(1.0)
    flood(scene, "T", 1)
    to_ms = scene.recorder.clock.wall_ns() // 1_000_000
    assert scene.recorder.pacer.step() <= 0.02
    assert scene.client.client is not None
    assert scene.client.client.is_behind
    scene.client.take()
    had = set(scene.got)
    count = len(scene.published) - len(had)
    assert 20 < count < 40
    scene.recorder.pacer.step()
    scene.client.take()
    [account] = scene.accounts("dropped")
    after = min(scene.positions[one] for one in scene.published if one not in had) - 1
    assert account == {
        "ev": "status",
        "status": "dropped",
        "message": f"you were slow: {count} events were left out",
        "count": count,
        "dropped": count,
        "conflated": 0,
        "from": from_ms,
        "to": to_ms,
        "after": f"run:{after}",
    }
    assert not scene.client.client.is_behind
    shown = scene.client.client.describe("filtered", 0.0)
    assert (shown.slow, shown.left_out) == ("drop", count)
    scene.publish([("T", "A")])
    scene.client.take()
    assert scene.got[-1] == scene.published[-1]
    late = Follower(scene.recorder, "filtered", "T.A")
    late.connect(after=account["after"])
    late.catch_up()
    assert set(scene.published) <= {*scene.got, *late.kept[0].got}, "the position leads to what was left out"


async def test_conflate_keeps_trades_while_there_is_room() -> None:
    """From half of the limit on quotes wait; trades come up to the limit, and are then counted."""
    scene = Scene(("T.*", "Q.*"), slow="conflate")
    flood(scene, "Q", 8)
    trades = len(scene.published)
    scene.publish([("T", "B")] * 3)
    flood(scene, "Q", 5)
    flood(scene, "T", 10)
    scene.finish()
    assert set(scene.published[trades : trades + 3]) <= set(scene.got)
    assert scene.published[trades + 3 + 24] in scene.got, "the newest quote"
    [account] = scene.accounts("conflated")
    assert account["dropped"] > 0
    assert account["conflated"] > 0
    assert account["message"] == (
        f"you were slow: {account['count']} events were left out, {account['conflated']} of them for newer ones of the "
        "same symbols"
    )


async def test_disconnect_is_the_rule_and_can_be_chosen_again() -> None:
    """Who asks for nothing is closed; so is a client that goes back to that."""
    for wishes in ({}, {"slow": "disconnect"}):
        scene = Scene(("T.*",), **wishes)
        flood(scene, "T")
        assert scene.client.is_cut
    scene = Scene(("T.*",), slow="drop")
    flood(scene, "T")
    assert not scene.client.is_cut
    scene.client.ask(action="subscribe", params="T.*", slow="disconnect")
    scene.client.take()
    assert len(scene.accounts("dropped")) == 1, "what was left out before is not forgotten"
    flood(scene, "T")
    assert scene.client.is_cut


async def test_no_position_stands_for_what_was_left_out() -> None:
    """While events are left out, no position is told; the next one comes behind the status that says so."""
    scene = Scene(("T.*",), slow="drop", positions=True)
    client = scene.client.client
    assert client is not None
    flood(scene, "T")
    scene.recorder.resumes.tell([client])
    scene.client.take()
    scene.recorder.resumes.tell([client])
    assert not scene.client.transport.written
    scene.recorder.pacer.step()
    scene.recorder.resumes.tell([client])
    scene.client.take()
    kinds = [status["status"] for status in scene.client.statuses]
    assert kinds[-2:] == ["dropped", "position"]


async def test_what_is_held_for_topics_that_are_given_back_does_not_come() -> None:
    """Behind the acknowledgement nothing comes of them; what is held for the others does."""
    scene = Scene(("Q.A", "Q.B"), slow="conflate")
    for _ in range(60):
        scene.publish([("Q", "A"), ("Q", "B")])
    scene.client.ask(action="unsubscribe", params="Q.A")
    scene.client.take()
    had = len(scene.got)
    scene.finish()
    assert scene.got[had:] == scene.published[-1:]


async def test_a_slow_client_that_goes_leaves_nothing_behind() -> None:
    """Nobody looks at it any more."""
    scene = Scene(("T.*", "Q.*"), slow="conflate")
    flood(scene, "Q")
    assert scene.client.client is not None
    scene.client.cut()
    assert scene.recorder.pacer.step() > 60
    scene.publish([("Q", "A")])


@pytest.mark.parametrize("way", ["drop", "conflate"])
async def test_requests_of_a_client_that_does_not_read_have_a_limit(way: str) -> None:
    """Answers go on while events are left out, up to the limit: beyond it the client is closed as any other."""
    scene = Scene(("T.*",), slow=way)
    flood(scene, "T")
    assert not scene.client.is_cut
    for _ in range(100):
        if scene.client.is_cut:
            break
        scene.client.ask(action="subscribe", params="T.A,T.B,T.C")
    assert scene.client.is_cut
