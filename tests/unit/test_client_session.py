"""The client side of a session."""

from __future__ import annotations

import orjson
import pytest

from recorder.errors import (
    KeyRefused,
    MaxConnections,
    NotAuthorized,
    ServerDisconnect,
    ShiftedReplay,
    StepTimeout,
    Unacknowledged,
)
from recorder.polygon import control
from recorder.polygon.client import ClientSession, Step
from recorder.polygon.control import Request, parse_request
from recorder.polygon.rows import Status


def subscribed(topic: str) -> Status:
    return control.acknowledgement("subscribed", topic)


def authenticated(*topics: str) -> ClientSession:
    session = ClientSession("KEY", topics)
    session.receive(control.CONNECTED)
    session.receive(control.AUTH_SUCCESS)
    return session


def test_each_request_waits_for_its_step() -> None:
    """Nothing is sent before the greeting, and no subscribe before the key is accepted."""
    session = ClientSession("KEY", ["T.AAPL", "Q.*"])
    assert session.receive(control.AUTH_SUCCESS) == []
    [auth] = session.receive(control.CONNECTED)
    assert orjson.loads(auth) == {"action": "auth", "params": "KEY"}
    assert session.receive(control.CONNECTED) == []
    [subscribe] = session.receive(control.AUTH_SUCCESS)
    assert orjson.loads(subscribe) == {"action": "subscribe", "params": "T.AAPL,Q.*"}
    assert session.step is Step.SUBSCRIBING


def test_the_older_answer_to_the_key_is_understood() -> None:
    """`success` with `authenticated` is what older servers say."""
    session = ClientSession("KEY", ["T.*"])
    session.receive(control.CONNECTED)
    assert session.receive(Status("success", "authenticated"))
    assert session.step is Step.SUBSCRIBING


def test_acknowledgements_are_matched_to_topics() -> None:
    """Streaming begins when the last topic is acknowledged; pairs match in both spellings."""
    session = authenticated("T.AAPL", "C.EUR-USD")
    session.receive(subscribed("T.AAPL"))
    assert (session.acknowledged, session.unacknowledged) == (1, ["C.EUR-USD"])
    session.receive(subscribed("T.MSFT"))
    assert session.step is Step.SUBSCRIBING
    session.receive(subscribed("C.EUR/USD"))
    assert session.step is Step.STREAMING
    assert session.unacknowledged == []


def test_many_topics_go_in_several_requests() -> None:
    """A request names at most a thousand topics; together they name all, in order."""
    topics = [f"T.S{number}" for number in range(2500)]
    session = ClientSession("KEY", topics)
    session.receive(control.CONNECTED)
    requests = session.receive(control.AUTH_SUCCESS)
    assert len(requests) == 3
    assert ",".join(orjson.loads(request)["params"] for request in requests).split(",") == topics


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (control.AUTH_FAILED, KeyRefused),
        (control.NO_ACCESS, KeyRefused),
        (control.MAX_CONNECTIONS, MaxConnections),
        (control.AUTH_TIMEOUT, ServerDisconnect),
        (control.SLOW_CONSUMER, ServerDisconnect),
        (Status("force_disconnect", "disconnected"), ServerDisconnect),
    ],
)
def test_an_end_in_words_is_typed(status: Status, error: type[Exception]) -> None:
    """What the exchange says when it ends a session decides what kind of end it is."""
    session = ClientSession("KEY", ["T.*"])
    session.receive(control.CONNECTED)
    with pytest.raises(error):
        session.receive(status)


@pytest.mark.parametrize(("greeted", "words"), [(False, "greeting"), (True, "key")])
def test_a_step_without_an_answer_is_named(greeted: bool, words: str) -> None:
    """The error says which step got no answer."""
    session = ClientSession("KEY", ["T.*"])
    if greeted:
        session.receive(control.CONNECTED)
    with pytest.raises(StepTimeout, match=words):
        session.step_timed_out(data_received=False)


def test_unacknowledged_topics_do_not_end_a_session_that_has_others() -> None:
    """`not authorized` names no channel; what stayed unacknowledged is known all the same."""
    session = authenticated("T.*", "Q.*")
    session.receive(control.NOT_AUTHORIZED)
    session.receive(subscribed("T.*"))
    session.step_timed_out(data_received=False)
    assert session.step is Step.STREAMING
    assert session.unacknowledged == ["Q.*"]
    assert session.not_authorized == 1


def test_no_topic_at_all_ends_the_session() -> None:
    """All refused is `NotAuthorized` with the topics; all silent, without data, is a timeout."""
    session = authenticated("T.*", "Q.*")
    session.receive(control.NOT_AUTHORIZED)
    with pytest.raises(NotAuthorized, match=r"T\.\*, Q\.\*"):
        session.step_timed_out(data_received=False)
    with pytest.raises(Unacknowledged, match=r"T\.\*"):
        authenticated("T.*").step_timed_out(data_received=False)


def test_data_without_acknowledgement_is_enough() -> None:
    """An exchange that sends what was asked for without saying so is believed."""
    session = authenticated("T.*")
    session.step_timed_out(data_received=True)
    assert session.step is Step.STREAMING


def test_the_past_is_asked_for_with_the_first_topics() -> None:
    """`since` goes with what is asked for at the beginning; topics that are wanted later are wanted from then on."""
    session = ClientSession("KEY", ["100Ms.AAPL"], since_ms=1_760_375_617_600)
    session.receive(control.CONNECTED)
    [first] = session.receive(control.AUTH_SUCCESS)
    assert orjson.loads(first)["since"] == 1_760_375_617_600
    [later] = session.subscribe(["100Ms.MSFT"])
    assert "since" not in orjson.loads(later)


def test_another_recorder_is_asked_for_amended_bars() -> None:
    """In each request, those of topics that come later included."""
    session = ClientSession("KEY", ["100Ms.AAPL"], amend=True)
    session.receive(Status("connected", ""))
    [first] = session.receive(Status("auth_success", ""))
    [second] = session.subscribe(["100Ms.*"])
    assert orjson.loads(first) == {"action": "subscribe", "params": "100Ms.AAPL", "amend": True}
    assert orjson.loads(second) == {"action": "subscribe", "params": "100Ms.*", "amend": True}


def test_refusals_mean_the_topics_that_are_left() -> None:
    """`not authorized` names no topic; said as often as topics have no answer, it means each of these."""
    session = authenticated("T.A", "T.B", "T.C")
    session.receive(control.NOT_AUTHORIZED)
    session.receive(subscribed("T.A"))
    assert session.refused == {}
    session.receive(subscribed("T.C"))
    assert session.refused == {"T.B": "not authorized"}
    session.subscribe(["T.D", "T.E"])
    session.receive(control.NOT_AUTHORIZED)
    assert list(session.refused) == ["T.B"]
    session.receive(control.NOT_AUTHORIZED)
    assert list(session.refused) == session.unacknowledged == ["T.B", "T.D", "T.E"]
    session.receive(subscribed("T.D"))
    session.unsubscribe(["T.B"])
    assert list(session.refused) == session.unacknowledged == ["T.E"]


def test_a_refusal_of_what_was_given_back_means_nothing_else() -> None:
    """A topic that is asked for later is not taken for the one that was refused."""
    session = authenticated("T.A", "T.B")
    session.unsubscribe(["T.B"])
    session.receive(subscribed("T.A"))
    session.receive(control.NOT_AUTHORIZED)
    session.subscribe(["T.C"])
    session.receive(subscribed("T.X"))
    assert session.refused == {}


def test_another_recorder_names_what_it_refuses() -> None:
    """It may do so behind the acknowledgement, and acknowledge the topic again later."""
    session = authenticated("T.A", "T.B")
    session.receive(subscribed("T.A"))
    session.receive(Status("error", "T.A: nothing will come of it: the plan"))
    session.receive(Status("error", "T.X: nothing will come of it: the plan"))
    assert session.refused == {"T.A": "nothing will come of it: the plan"}
    assert session.acknowledged == 0
    session.receive(subscribed("T.A"))
    assert session.refused == {}
    assert session.acknowledged == 1


def test_shifted_times_end_a_session_unless_they_are_allowed() -> None:
    """A replay says so along with the answer to the key, before any event; what else it says is no error."""
    with pytest.raises(ShiftedReplay, match="ALLOW_SHIFTED=true"):
        authenticated("*").receive(control.MAY_BE_SHIFTED)
    session = ClientSession("KEY", ["*"], allow_shifted=True)
    said = [Status(name, "") for name in control.OF_REPLAYS]
    for status in (control.CONNECTED, control.AUTH_SUCCESS, control.MAY_BE_SHIFTED, *said):
        session.receive(status)
    assert session.errors_count == 0


@pytest.mark.parametrize(("name", "requests"), [("S", 1), ("A-LONG-NAME-OF-SOMETHING", 2)])
def test_who_wants_positions_asks_for_all_topics_at_once(name: str, requests: int) -> None:
    """A position between two requests would stand for events of the second, which nobody has asked for yet: where one has
    not room for all, the last asks for positions."""
    topics = [f"T.{name}{number}" for number in range(2500)]
    for after in (None, "", "run:1"):
        session = ClientSession("KEY", topics, after=after)
        session.receive(Status("connected", ""))
        sent = session.receive(Status("auth_success", ""))
        asked = [parse_request(request) for request in sent]
        assert all(isinstance(request, Request) for request in asked)
        assert [topic for request in asked for topic in request.topics] == topics
        assert len(asked) == session.requests_count == (3 if after is None else requests)
        assert max(map(len, sent)) < 50 * 1024
        positions = [request.positions for request in asked]
        assert positions == ([False] * 3 if after is None else [*[False] * (requests - 1), True])
        assert {request.after for request in asked} == {after or None}


def test_an_acknowledgement_may_say_that_nothing_comes() -> None:
    """Another recorder knows it; the topic counts as acknowledged, and one more acknowledgement takes that back."""
    session = authenticated("T.A", "T.B")
    amended = control.amend_remark("only bars are amended")
    session.receive(Status("success", f"subscribed to: T.A{control.nothing_remark('x (y)')}{amended}"))
    session.receive(control.acknowledgement("subscribed", "T.B"))
    assert (session.in_vain, session.acknowledged) == ({"T.A": "x (y)"}, 2)
    session.receive(control.acknowledgement("subscribed", "T.A"))
    assert session.in_vain == {}
