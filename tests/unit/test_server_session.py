"""Control messages and the server side of a connection."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recorder.polygon import control
from recorder.polygon.careful import statuses_in
from recorder.polygon.control import (
    BadRequest,
    Request,
    acknowledgement,
    encode_status,
    parse_ack,
    parse_request,
)
from recorder.polygon.manner import PLAIN, Manner
from recorder.polygon.rows import Status
from recorder.polygon.server import Close, Send, ServerSession, Subscribe, Unsubscribe, Verdict

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class Vendor:
    """The vendor's manners: one good key, silence for unknown channels, one channel outside the plan."""

    repeats_are_acknowledged = False
    everything = ""
    topics_max = 1000

    def refuse_key(self, token: str) -> Status | None:
        return None if token == "good" else control.AUTH_FAILED

    def check(self, topic: str) -> Verdict:
        if topic.startswith("Q."):
            return Verdict(held=False, answer=control.NOT_AUTHORIZED)
        if not topic.startswith("T."):
            return Verdict(held=False, answer=None)
        return Verdict(held=True, answer=acknowledgement("subscribed", topic))

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        """Everything is to be had."""
        return []

    def amend_refusal(self, topic: str) -> str:
        return "" if topic == "T.BARS" else "no bars"


class Polite(Vendor):
    """Answers a repeated request again."""

    repeats_are_acknowledged = True


def authenticated(policy: Vendor | None = None) -> ServerSession:
    session = ServerSession(policy or Vendor())
    assert session.receive(control.encode_auth("good")) == [Send(encode_status(control.AUTH_SUCCESS))]
    return session


def said(actions: list[object]) -> list[str]:
    """Return the messages that were sent, each of which must be a frame of its own."""
    messages = []
    for action in actions:
        if isinstance(action, Send):
            [status] = statuses_in(action.frame)
            messages.append(status.message)
    return messages


@given(TEXT, TEXT)
def test_a_status_survives_the_wire(status: str, message: str) -> None:
    """What one side encodes, the other side reads back."""
    assert statuses_in(encode_status(Status(status, message))) == [Status(status, message)]


@given(st.lists(st.from_regex(r"[A-Z]{1,4}\.[A-Za-z.:/-]{1,12}", fullmatch=True), min_size=1))
def test_topics_survive_the_wire(topics: list[str]) -> None:
    """A request for topics is read back with the same topics in the same order."""
    assert parse_request(control.encode_subscribe(topics)) == Request("subscribe", "", tuple(topics))
    assert parse_request(control.encode_unsubscribe(topics)) == Request("unsubscribe", "", tuple(topics))


@given(st.from_regex(r"[A-Z]{1,4}\.\S{1,12}", fullmatch=True))
def test_an_acknowledgement_names_its_topic(topic: str) -> None:
    """The client learns verb and topic from the message of an acknowledgement."""
    assert parse_ack(acknowledgement("subscribed", topic).message) == ("subscribed", topic)
    assert parse_ack(acknowledgement("unsubscribed", topic).message) == ("unsubscribed", topic)


@pytest.mark.parametrize(
    "message", ["", "authenticated", "subscribed to: ", "resubscribed to: T.A", "to: T.A"]
)
def test_other_messages_acknowledge_nothing(message: str) -> None:
    """A success that is no acknowledgement is not taken for one."""
    assert parse_ack(message) is None


@pytest.mark.parametrize(
    ("sent", "request_"),
    [
        ('{"action":"auth","params":"k"}', Request("auth", "k", ())),
        ('{"action":"auth","token":"k"}', Request("auth", "k", (), "firehose")),
        (b'{"action":"subscribe","params":"T.A, Q.*,,"}', Request("subscribe", "", ("T.A", "Q.*"))),
        (
            '{"action":"subscribe","params":["T.A","Q.*, AM.B"]}',
            Request("subscribe", "", ("T.A", "Q.*", "AM.B")),
        ),
        ('{"action":"subscribe"}', Request("subscribe", "", (), "firehose")),
        (' {"params":" T.BRK.B ","action":"unsubscribe"} ', Request("unsubscribe", "", ("T.BRK.B",))),
    ],
)
def test_requests_in_all_their_spellings(sent: str | bytes, request_: Request) -> None:
    """Strings and lists, spaces, either place of the token, text or binary: all are understood."""
    assert parse_request(sent) == request_


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "[object Object]",
        "[]",
        "null",
        "1e999",
        "{}",
        '{"action":1}',
        '{"action":"' + "x" * 100_000 + '"}',
        '{"action":"auth"}',
        '{"action":"auth","params":{}}',
        '{"action":"auth","params":' + "9" * 1_000_000 + "}",
        '{"action":"subscribe","params":7}',
        '{"action":"subscribe","params":["T.A",7]}',
        "[" * 1_000_000,
        '{"action":' * 100_000,
        b"\xff\xfe",
        "\ud800",
    ],
    ids=lambda sent: repr(sent[:30]),
)
def test_garbage_gets_a_short_answer(sent: str | bytes) -> None:
    """Whatever is no request is answered with an error that cannot be used to send much back."""
    answer = parse_request(sent)
    assert isinstance(answer, BadRequest)
    assert 0 < len(answer.text) < 200
    assert len(said(authenticated().receive(sent))) == 1


@given(st.binary() | st.text())
@example(b'{"action":"subscribe","params":"T.A"}')
def test_nothing_gets_data_before_the_key(data: bytes | str) -> None:
    """No message whatever changes subscriptions, authenticates or ends a session that has shown no key."""
    session = ServerSession(Vendor())
    actions = session.receive(data)
    assert len(said(actions)) == len(actions) == 1
    assert not session.authenticated
    assert not session.topics


def test_the_way_from_greeting_to_data() -> None:
    """Greeting, key, topics: each answer in its own frame, in the vendor's words; data only behind the acks."""
    session = ServerSession(Vendor())
    assert said(session.greet()) == ["Connected Successfully"]
    assert said(session.receive('{"action":"subscribe","params":"T.A"}')) == ["authentication required"]
    assert said(session.receive('{"action":"auth","params":"good"}')) == ["authenticated"]
    actions = session.receive('{"action":"subscribe","params":"T.A, XX.B, Q.*,T.*"}')
    assert said(actions) == ["subscribed to: T.A", "not authorized", "subscribed to: T.*"]
    assert actions[-1] == Subscribe(("T.A", "T.*"))
    assert list(session.topics) == ["T.A", "T.*"]
    assert session.token == "good"
    assert json.loads(actions[0].frame) == [
        {"ev": "status", "status": "success", "message": "subscribed to: T.A"}
    ]


def test_a_refused_key_ends_the_session() -> None:
    """The refusal is sent, then the connection is closed with 1008, then nothing is answered."""
    session = ServerSession(Vendor())
    actions = session.receive(control.encode_auth("bad"))
    assert said(actions) == ["authentication failed"]
    assert actions[-1] == Close(1008, "authentication failed")
    assert session.receive(control.encode_auth("good")) == []
    assert repr(session) == "ServerSession(closed, 0 topics)"


def test_who_shows_no_key_in_time_is_told_so() -> None:
    """The timeout closes a session without a key, and does nothing to one with a key."""
    actions = ServerSession(Vendor()).auth_timed_out()
    assert said(actions) == ["No authentication request received."]
    assert isinstance(actions[-1], Close)
    assert authenticated().auth_timed_out() == []


def test_a_session_is_dismissed_once() -> None:
    """The second reason to end a session is not sent; a close reason fits into its frame."""
    session = authenticated()
    [_, close] = session.dismiss(control.MAX_CONNECTIONS)
    assert isinstance(close, Close)
    assert len(close.reason.encode()) <= 123
    assert session.dismiss(control.SLOW_CONSUMER) == []


def test_repeats_are_silent_or_answered_by_policy() -> None:
    """The vendor does not acknowledge a topic twice; our own servers do; neither subscribes twice."""
    subscribe, unsubscribe = control.encode_subscribe(["T.A"]), control.encode_unsubscribe(["T.A"])
    for policy, repeated in ((Vendor(), 0), (Polite(), 1)):
        session = authenticated(policy)
        assert session.receive(subscribe)[-1] == Subscribe(("T.A",))
        again = session.receive(subscribe)
        assert len(again) == len(said(again)) == repeated
        assert session.receive(unsubscribe)[-1] == Unsubscribe(("T.A",))
        again = session.receive(unsubscribe)
        assert len(again) == len(said(again)) == repeated
        assert not session.topics


def test_a_request_without_topics_is_an_error() -> None:
    """Nobody waits for an acknowledgement that never comes."""
    assert said(authenticated().receive('{"action":"subscribe"}')) == ["subscribe: no topics in params"]


class Firehose(Polite):
    """A request without topics means everything."""

    everything = "*"

    def check(self, topic: str) -> Verdict:
        return Verdict(held=topic == "*", answer=acknowledgement("subscribed", topic))


def test_an_answer_is_in_the_dialect_of_its_request() -> None:
    """The firehose's dialect is answered with plain objects, the vendor's with statuses, by one session."""
    session = ServerSession(Firehose())
    [refused] = session.receive('{"action":"subscribe"}')
    assert refused == Send(b'{"status":"error","message":"authentication required"}')
    [welcome] = session.receive('{"action":"auth","token":"good"}')
    assert welcome == Send(b'{"status":"authenticated","message":"Successfully authenticated"}')
    answer, change = session.receive('{"action":"subscribe"}')
    assert answer == Send(b'{"status":"subscribed","message":"Subscribed to firehose"}')
    assert change == Subscribe(("*",))
    [again] = session.receive('{"action":"subscribe"}')
    assert again == answer
    assert said(session.receive('{"action":"subscribe","params":"T.A"}')) == ["subscribed to: T.A"]
    answer, change = session.receive('{"action":"unsubscribe"}')
    assert change == Unsubscribe(("*",))


def test_a_bad_token_is_refused_in_its_dialect() -> None:
    """The connection ends with 1008 either way."""
    said_no, close = ServerSession(Firehose()).receive('{"action":"auth","token":"bad"}')
    assert said_no == Send(b'{"status":"error","message":"authentication failed"}')
    assert close == Close(1008, "authentication failed")


def test_topics_beyond_the_limit_are_refused_in_one_answer() -> None:
    """What fits is held; the rest is one error that says how many and the limit."""
    policy = Polite()
    policy.topics_max = 2
    session = authenticated(policy)
    actions = session.receive(control.encode_subscribe(["T.A", "T.B", "T.C", "T.D"]))
    assert said(actions)[-1] == "subscribe: 2 topics are beyond the limit of 2"
    assert [action for action in actions if isinstance(action, Subscribe)] == [Subscribe(("T.A", "T.B"))]


def test_a_client_may_ask_for_amended_bars() -> None:
    """The wish goes along with the topics; where it cannot be granted the acknowledgement says why."""
    session = authenticated(Polite())
    actions = session.receive(control.encode_subscribe(["T.BARS", "T.A", "X.A"], amend=True))
    assert said(actions) == [
        "subscribed to: T.BARS",
        "subscribed to: T.A (amend is without effect: no bars)",
    ]
    assert actions[-1] == Subscribe(("T.BARS", "T.A"), None, amend=True)
    assert said(session.receive(control.encode_subscribe(["T.BARS"], amend=True))) == [
        "subscribed to: T.BARS (amend is unchanged: unsubscribe first)"
    ]
    assert said(session.receive(control.encode_subscribe(["T.A"]))) == ["subscribed to: T.A"]


@pytest.mark.parametrize("amend", ["1", '"true"', "null", "[]"])
def test_amend_is_true_or_false(amend: str) -> None:
    """Anything else is an error that says so; the topics come all the same."""
    request = f'{{"action":"subscribe","params":"T.A","amend":{amend}}}'
    actions = authenticated().receive(request)
    assert said(actions)[-1] == "subscribe: amend must be true or false; bars are not amended"
    assert actions[-1] == Subscribe(("T.A",))
    assert parse_request('{"action":"subscribe","params":"T.A","amend":false}') == Request(
        "subscribe", "", ("T.A",)
    )


def test_what_an_acknowledgement_adds_is_no_part_of_the_topic() -> None:
    """Another recorder may add a note for people."""
    assert parse_ack("subscribed to: 100Ms.* (amend is without effect: why)") == ("subscribed", "100Ms.*")


@given(
    st.sampled_from(["snapshot", "interval_ms", "slow"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["drop", "conflate", "disconnect", "Drop", ""]),
        st.lists(st.booleans(), max_size=2),
    ),
)
def test_a_manner_is_read_or_said_to_be_wrong(word: str, value: object) -> None:
    """Whatever stands there: it counts, or one sentence says what is possible; the topics are asked for in any case."""
    request = parse_request(json.dumps({"action": "subscribe", "params": "T.A", word: value}))
    assert isinstance(request, Request)
    assert request.topics == ("T.A",)
    good = {
        "snapshot": type(value) is bool,
        "interval_ms": type(value) is int and 10 <= value <= 60_000,
        "slow": value in ("drop", "conflate", "disconnect") if isinstance(value, str) else False,
    }[word]
    if good:
        assert getattr(request.manner, word) == value
        assert not request.problems
    else:
        assert request.manner == PLAIN
        assert [problem.startswith(word) for problem in request.problems] == [True] * (value is not None)


def test_a_manner_that_is_nested_deep_is_no_manner() -> None:
    """It is said to be wrong without being shown."""
    deep = b"[" * 900 + b"]" * 900
    request = parse_request(b'{"action":"subscribe","params":"T.A","slow":%b}' % deep)
    assert isinstance(request, Request)
    assert request.problems == ("slow must be disconnect, drop or conflate; it stays as it was",)


def test_giving_topics_back_has_no_manner() -> None:
    """What is said of one is not looked at."""
    request = parse_request('{"action":"unsubscribe","params":"T.A","slow":"dorp"}')
    assert isinstance(request, Request)
    assert not request.problems


def test_a_notice_comes_with_the_answer_to_the_key() -> None:
    """In one frame, so that nobody takes events before having read it; a refused key gets none."""
    session = ServerSession(Vendor(), control.MAY_BE_SHIFTED)
    [answer] = session.receive(control.encode_auth("good"))
    assert isinstance(answer, Send)
    assert statuses_in(answer.frame) == [control.AUTH_SUCCESS, control.MAY_BE_SHIFTED]
    plain = ServerSession(Vendor(), control.MAY_BE_SHIFTED).receive(b'{"action":"auth","token":"good"}')
    assert [b"authenticated" in action.frame for action in plain if isinstance(action, Send)] == [True, False]
    refused = ServerSession(Vendor(), control.MAY_BE_SHIFTED).receive(control.encode_auth("bad"))
    assert all(b"shifted" not in action.frame for action in refused if isinstance(action, Send))
