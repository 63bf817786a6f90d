"""The two dialects of the server session, under the policies of our own ports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.polygon import control
from recorder.polygon.rows import Status
from recorder.polygon.server import Close, Policy, Send, ServerSession, Subscribe, Unsubscribe
from recorder.servers.firehose import FirehosePolicy
from recorder.servers.topics import TopicPolicy


def check(token: str) -> Status | None:
    return None if token == "good" else control.AUTH_FAILED


def firehose() -> Policy:
    return FirehosePolicy(check, 10)


def filtered() -> Policy:
    return TopicPolicy(check, 10, bars_ms=(1, 60_000), bars_only=False)


def ask(session: ServerSession, **request: Any) -> list[Any]:
    """Send a request; return the answers, decoded, and the other actions as they are."""
    return [
        json.loads(action.frame) if isinstance(action, Send) else action
        for action in session.receive(json.dumps(request))
    ]


def vendor(status: str, message: str) -> list[dict[str, str]]:
    return [{"ev": "status", "status": status, "message": message}]


SUCCESS = {"status": "authenticated", "message": "Successfully authenticated"}
FAILED = {"status": "error", "message": "authentication failed"}


@pytest.mark.parametrize("policy", [firehose, filtered])
def test_the_answer_is_in_the_dialect_of_the_request(policy: Any) -> None:
    """`params` is answered in the vendor's words, `token` with a plain object, on every port."""
    assert ask(ServerSession(policy()), action="auth", params="good") == [
        vendor("auth_success", "authenticated")
    ]
    assert ask(ServerSession(policy()), action="auth", token="good") == [SUCCESS]
    assert ask(ServerSession(policy()), action="auth", params="bad") == [
        vendor("auth_failed", "authentication failed"),
        Close(1008, "authentication failed"),
    ]
    assert ask(ServerSession(policy()), action="auth", token="bad") == [
        FAILED,
        Close(1008, "authentication failed"),
    ]


def test_the_way_in_the_firehose_dialect() -> None:
    """Subscribe and unsubscribe without topics mean all there is; repeated ones are answered and change nothing."""
    session = ServerSession(firehose())
    assert ask(session, action="subscribe") == [{"status": "error", "message": "authentication required"}]
    assert ask(session, action="auth", token="good") == [SUCCESS]
    subscribed = {"status": "subscribed", "message": "Subscribed to firehose"}
    unsubscribed = {"status": "unsubscribed", "message": "Unsubscribed from firehose"}
    assert ask(session, action="subscribe") == [subscribed, Subscribe(("*",))]
    assert ask(session, action="subscribe") == [subscribed]
    assert ask(session, action="subscribe", params="*") == [vendor("success", "subscribed to: *")]
    assert ask(session, action="unsubscribe") == [unsubscribed, Unsubscribe(("*",))]
    assert ask(session, action="unsubscribe") == [unsubscribed]
    assert not session.topics


def test_both_dialects_mean_the_same_subscription() -> None:
    """What was subscribed in one dialect is given back in the other."""
    session = ServerSession(firehose())
    ask(session, action="auth", token="good")
    assert ask(session, action="subscribe", params=["*"])[-1] == Subscribe(("*",))
    assert ask(session, action="unsubscribe")[-1] == Unsubscribe(("*",))


def test_a_filtering_port_needs_topics() -> None:
    """A request without topics is an error there, not everything."""
    session = ServerSession(filtered())
    ask(session, action="auth", params="good")
    assert ask(session, action="subscribe") == [vendor("error", "subscribe: no topics in params")]
    assert ask(session, action="subscribe", params="") == [vendor("error", "subscribe: no topics in params")]
    assert not session.topics


def test_a_second_key_counts() -> None:
    """Who shows a bad key after a good one is closed all the same."""
    session = ServerSession(filtered())
    ask(session, action="auth", params="good")
    assert ask(session, action="auth", params="good") == [vendor("auth_success", "authenticated")]
    assert ask(session, action="auth", params="bad")[-1] == Close(1008, "authentication failed")
    assert ask(session, action="subscribe", params="T.A") == []


@pytest.mark.parametrize("policy", [firehose, filtered])
@given(
    requests=st.lists(
        st.tuples(st.booleans(), st.lists(st.sampled_from(["*", "T.A", "Q.*", "x"]))), max_size=12
    )
)
def test_changes_add_up_to_what_is_held(policy: Any, requests: list[tuple[bool, list[str]]]) -> None:
    """What `Subscribe` and `Unsubscribe` name, taken together, is always what the session holds; none named twice."""
    session = ServerSession(policy())
    ask(session, action="auth", params="good")
    held: set[str] = set()
    for is_wanted, topics in requests:
        for action in ask(session, action="subscribe" if is_wanted else "unsubscribe", params=topics):
            if isinstance(action, Subscribe):
                assert held.isdisjoint(action.topics)
                held |= set(action.topics)
            elif isinstance(action, Unsubscribe):
                assert held.issuperset(action.topics)
                held -= set(action.topics)
        assert held == session.topics.keys()
