"""Snapshots: the last values first, then what comes: together they are the state, and no event of the join is missing."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import Follower
from scenes import Scene, in_a_loop, kind_of

from recorder.bus import SOUGHT, SessionClosed
from recorder.servers.manners import manners as manners_module
from recorder.servers.manners.last_values import KEPT, LastValues

CHANNELS = ("T", "Q", "A", "LULD")
SYMBOLS = ("A", "B", "C")
ROOM = 2**20
TOPICS = ("*", "T.*", "Q.*", "T.A", "Q.B", "A.C")
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("publish"),
            st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=6),
        ),
        st.tuples(st.just("begin"), st.none()),
        st.tuples(st.just("read"), st.none()),
    ),
    max_size=30,
)


def snapshot_of(client: Follower, **wishes: Any) -> tuple[list[bytes], dict[str, Any], dict[str, Any]]:
    """Subscribe with a snapshot; return its events and the two statuses around them."""
    client.connect(positions=False, snapshot=True, **wishes)
    client.take()
    [begin] = [status for status in client.statuses if status["status"] == "snapshot"]
    [end] = [status for status in client.statuses if status["status"] == "snapshot_complete"]
    found, client.loose = client.loose, []
    assert end["count"] == len(found)
    return found, begin, end


@given(
    topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True),
    before=STEPS,
    after=STEPS,
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_snapshot_and_live_are_the_state(topics: list[str], before: list[Any], after: list[Any]) -> None:
    """Whenever keeping began, the snapshot has the last of each symbol, and live goes on behind it without a seam."""

    def live() -> None:
        scene = Scene(("LULD.Z",), pending_max=ROOM)
        play(scene, before)
        client = Follower(scene.recorder, "filtered", *topics, pending_max=ROOM)
        due_before = scene.due(topics)
        found, begin, _ = snapshot_of(client)
        assert begin["is_whole"]
        last = {kind_of(one): one for one in due_before if kind_of(one)[0] in KEPT}
        assert sorted(found) == sorted(last.values())
        play(scene, after)
        client.take()
        assert due_before + client.loose == scene.due(topics)
        state = {kind_of(one): one for one in (*found, *client.loose) if kind_of(one)[0] in KEPT}
        assert state == {kind_of(one): one for one in scene.due(topics) if kind_of(one)[0] in KEPT}

    in_a_loop(live)


def play(scene: Scene, steps: list[Any]) -> None:
    """Live through some steps."""
    for step, drawn in steps:
        if step == "publish":
            scene.publish(drawn)
        elif step == "begin":
            scene.recorder.values.begin()
        else:
            scene.recorder.values.read_on()


async def test_the_statuses_around_a_snapshot() -> None:
    """Between the acknowledgements and the first live event; a symbol without events has no place in it."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", "A"), ("T", "A"), ("Q", "A"), ("T", "B"), ("A", "A")])
    client = Follower(scene.recorder, "filtered", "Q.A", "T.A", "T.NONE", pending_max=ROOM)
    found, begin, end = snapshot_of(client)
    assert sorted(found) == sorted(scene.published[1:3])
    assert begin == {
        "ev": "status",
        "status": "snapshot",
        "message": "the last values of your topics follow",
        "available_since": scene.recorder.clock.wall_ns() // 1_000_000,
        "is_whole": True,
    }
    assert end == {
        "ev": "status",
        "status": "snapshot_complete",
        "message": "that was the snapshot: 2",
        "count": 2,
    }
    kinds = [status["status"] for status in client.statuses]
    assert kinds[-5:] == ["success", "success", "success", "snapshot", "snapshot_complete"]
    assert scene.recorder.stats["filtered"].snapshots == {"sent": 1}


async def test_a_snapshot_stands_behind_what_was_missed() -> None:
    """With `after`, the past comes first, then the last values as they are by then, then live."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", "A")])
    scene.publish([("Q", "B")])
    client = Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM)
    client.connect(after="run:1", snapshot=True, positions=False)
    scene.publish([("Q", "A")])
    while scene.recorder.resumes.step():
        pass
    client.take()
    scene.publish([("Q", "C")])
    client.take()
    kinds = [
        status["status"] for status in client.statuses if status["status"] not in ("success", "auth_success")
    ]
    assert kinds == ["resume", "resume_complete", "snapshot", "snapshot_complete"]
    past, last, live = client.loose[:2], client.loose[2:4], client.loose[4:]
    assert past == scene.published[1:3]
    assert sorted(last) == sorted(past)
    assert live == scene.published[3:]


async def test_a_snapshot_that_is_too_large_is_refused() -> None:
    """An error says how large it is; what was subscribed comes live."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", f"S{number}") for number in range(50)])
    client = Follower(scene.recorder, "filtered", "Q.*", pending_max=4000)
    client.connect(snapshot=True, positions=False)
    client.take()
    [error] = [status["message"] for status in client.statuses if status["status"] == "error"]
    assert error.startswith("snapshot: it has ")
    assert "ask for fewer topics at a time" in error
    assert scene.recorder.stats["filtered"].snapshots == {"refused": 1}
    scene.publish([("Q", "A")])
    client.take()
    assert client.loose == scene.published[-1:]


async def test_snapshots_cost_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks again and again is refused them, and nothing else."""
    monkeypatch.setattr(manners_module, "SNAPSHOT_PRICE", 1)
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", f"S{number}") for number in range(300)])
    client = Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM)
    client.connect(snapshot=True, positions=False)
    for _ in range(100):
        client.take()
        if scene.recorder.stats["filtered"].snapshots["refused"]:
            break
        client.ask(action="unsubscribe", params="Q.*")
        client.ask(action="subscribe", params="Q.*", snapshot=True)
    client.take()
    assert "too many of them" in client.statuses[-1]["message"]
    assert not client.is_cut


async def test_a_large_snapshot_has_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing, and nothing twice."""
    monkeypatch.setattr(manners_module, "SLICE_VALUES", 2)
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", f"S{number}") for number in range(5)])
    found, _, end = snapshot_of(Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM))
    assert found == scene.published
    assert end["count"] == 5


async def test_values_have_a_limit() -> None:
    """Of more values than may be kept, those whose symbols have been known longest are forgotten, and it is said."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.recorder.values.values_max = 3
    scene.recorder.prepare()
    scene.publish([("Q", "A"), ("Q", "B")])
    scene.publish([("Q", "C"), ("Q", "D"), ("T", "A")])
    client = Follower(scene.recorder, "filtered", "*", pending_max=ROOM)
    found, begin, _ = snapshot_of(client)
    assert sorted(found) == sorted(scene.published[2:])
    assert not begin["is_whole"]
    assert "SNAPSHOT_VALUES_MAX" in begin["message"]


async def test_a_recorder_without_last_values_says_so() -> None:
    """An error, and the topics come without."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.recorder.values.values_max = 0
    client = Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM)
    client.connect(snapshot=True, positions=False)
    scene.publish([("Q", "A")])
    client.take()
    [error] = [status["message"] for status in client.statuses if status["status"] == "error"]
    assert error == "subscribe: snapshot: this recorder keeps no last values (SNAPSHOT_VALUES_MAX is 0)"
    assert client.loose == scene.published


async def test_nothing_is_kept_before_somebody_asks() -> None:
    """A flood costs nothing; with `from_start` it is kept at once."""
    scene = Scene(("*",), pending_max=ROOM)
    scene.publish([("Q", "A")])
    assert repr(scene.recorder.values) == "LastValues(not asked for)"
    recorder = scene.recorder
    values = LastValues(["stocks"], recorder.log, recorder.clock, 10, from_start=True)
    recorder.bus.attach(values)
    scene.publish([("Q", "B")])
    while values.read_on():
        pass
    assert [b"{" + fragment[:-1] for fragment in values.of("stocks", ["*"])] == scene.published
    assert not values.is_awaited()


async def test_what_the_log_forgets_while_it_is_read_is_missing() -> None:
    """The snapshot says from when on it has everything."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", "A")])
    scene.recorder.clock.advance(5.0)
    scene.publish([("Q", "B")])
    scene.recorder.values.begin()
    scene.recorder.log._forget_first()
    client = Follower(scene.recorder, "filtered", "*", pending_max=ROOM)
    found, begin, _ = snapshot_of(client)
    assert found == scene.published[1:]
    assert begin["available_since"] == scene.recorder.clock.wall_ns() // 1_000_000


@pytest.mark.parametrize("is_ready", [True, False])
async def test_a_replay_that_goes_on_elsewhere_begins_anew(is_ready: bool) -> None:
    """What comes may be older than what came."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    scene.publish([("Q", "A")])
    scene.recorder.values.begin()
    if is_ready:
        scene.recorder.prepare()
    scene.publish([("Q", "B")])
    scene.recorder.bus.announce(SessionClosed("stocks", 2_000_000_000, SOUGHT, 1_000_000_000))
    scene.publish([("Q", "C")])
    found, _, _ = snapshot_of(Follower(scene.recorder, "filtered", "Q.*", pending_max=ROOM))
    assert found == scene.published[2:]


async def test_pairs_have_their_spellings() -> None:
    """A topic finds its symbol as the exchange delivers it."""
    scene = Scene(("LULD.Z",), pending_max=ROOM)
    values = LastValues(["forex"], scene.recorder.log, scene.recorder.clock, 10, from_start=True)
    values._kept["forex"] = {"C": {"EUR/USD": b"1", "GBP/USD": b"2"}}
    assert values.of("forex", ["C.EUR-USD", "C.EUR/USD"]) == [b"1"]
    assert values.of("forex", ["C.EUR-USD", "C.*"]) == [b"1", b"2"]
    assert values.of("forex", ["C.*", "C.EUR-USD"]) == [b"1", b"2"]
