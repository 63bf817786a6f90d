"""Any conversation with a server session: both dialects, requests in any order, odd ones among them, limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recorder.polygon import control
from recorder.polygon.control import acknowledgement
from recorder.polygon.manner import Manner
from recorder.polygon.rows import Status
from recorder.polygon.server import Close, Policy, Send, ServerSession, Subscribe, Unsubscribe, Verdict
from recorder.servers.firehose import FirehosePolicy
from recorder.servers.topics import TopicPolicy

TOPICS_MAX = 4


def check(token: str) -> Status | None:
    return None if token == "good" else control.AUTH_FAILED


class Vendor:
    """The vendor's manners: silence for what it does not know, one channel outside the plan."""

    repeats_are_acknowledged = False
    everything = ""
    topics_max = TOPICS_MAX

    def refuse_key(self, token: str) -> Status | None:
        return check(token)

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


POLICIES: dict[str, Any] = {
    "vendor": Vendor,
    "firehose": lambda: FirehosePolicy(check, TOPICS_MAX),
    "filtered": lambda: TopicPolicy(check, TOPICS_MAX, bars_ms=(1, 60_000), bars_only=False),
}
TOPIC = st.sampled_from(["T.A", "T.B", "T.C", "T.*", "Q.A", "A.*", "X.A", "*", "100Ms.A", "nonsense", "T."])
TOPICS = st.lists(TOPIC, max_size=7)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["action", "params", "token", "since", "bars", "amend"]) | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


class Conversation(RuleBasedStateMachine):
    """A client and a session, beside a model of what the client may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, None] = {}
        self.authenticated = False
        self.closed = False

    @initialize(policy=st.sampled_from(sorted(POLICIES)))
    def begin(self, policy: str) -> None:
        self.policy: Policy = POLICIES[policy]()
        self.session = ServerSession(self.policy)
        assert self.carry_out(self.session.greet()) == [control.CONNECTED.status]

    @rule(token=st.sampled_from(["good", "good", "bad", ""]), plain=st.booleans())
    def authenticate(self, token: str, plain: bool) -> None:
        said = self.ask({"action": "auth", "token" if plain else "params": token})
        if self.was_closed:
            return
        if token == "good":
            self.authenticated = True
            assert said == ["authenticated" if plain else "auth_success"]
        else:
            assert said == ["error" if plain else "auth_failed"]
            assert self.closed

    @rule(topics=TOPICS, as_text=st.booleans(), since_ms=st.none() | st.integers(0, 10**13))
    def subscribe(self, topics: list[str], as_text: bool, since_ms: int | None) -> None:
        before = dict(self.held)
        request: dict[str, Any] = {"action": "subscribe", "params": ",".join(topics) if as_text else topics}
        if since_ms is not None:
            request["since"] = since_ms
        self.ask(request)
        if self.was_closed or not self.authenticated:
            assert self.held == before
            return
        expected = dict(before)
        for topic in topics:
            room = len(expected) < self.policy.topics_max
            if topic not in expected and room and self.policy.check(topic).held:
                expected[topic] = None
        assert list(self.held) == list(expected)

    @rule(topics=TOPICS)
    def unsubscribe(self, topics: list[str]) -> None:
        before = dict(self.held)
        said = self.ask({"action": "unsubscribe", "params": topics})
        if self.was_closed or not self.authenticated:
            assert self.held == before
            return
        assert set(self.held) == set(before) - set(topics)
        if topics and self.policy.repeats_are_acknowledged:
            assert len(said) == len(topics)

    @rule(action=st.sampled_from(["subscribe", "unsubscribe"]))
    def speak_of_everything(self, action: str) -> None:
        before = dict(self.held)
        self.ask({"action": action})
        if self.was_closed or not self.authenticated or not self.policy.everything:
            assert self.held == before
            return
        assert (self.policy.everything in self.held) == (action == "subscribe")

    @rule(message=JSON)
    def say_anything(self, message: object) -> None:
        self.carry_out(self.session.receive(json.dumps(message)))

    @rule(data=st.binary(max_size=30) | st.text(max_size=30))
    def send_bytes(self, data: bytes | str) -> None:
        assert self.carry_out(self.session.receive(data)) == ([] if self.was_closed else ["error"])

    @precondition(lambda self: not self.authenticated)
    @rule()
    def wait_too_long(self) -> None:
        said = self.carry_out(self.session.auth_timed_out())
        assert said == ([] if self.was_closed else ["auth_timeout"])
        assert self.closed

    @invariant()
    def session_and_model_agree(self) -> None:
        if hasattr(self, "session"):
            assert list(self.session.topics) == list(self.held)
            assert len(self.held) <= self.policy.topics_max
            assert self.session.authenticated == self.authenticated
            assert self.session.closed == self.closed
            assert self.authenticated or not self.held

    def ask(self, request: dict[str, Any]) -> list[str]:
        return self.carry_out(self.session.receive(json.dumps(request)))

    def carry_out(self, actions: list[Any]) -> list[str]:
        """Do as a server does; return the statuses that were said. Answers come first, then what they promise."""
        self.was_closed = self.closed
        assert not (self.closed and actions)
        said = []
        for place, action in enumerate(actions):
            if isinstance(action, Send):
                message = json.loads(action.frame)
                said.append((message if isinstance(message, dict) else message[0])["status"])
                continue
            assert place == len(actions) - 1
            match action:
                case Close(code, reason):
                    assert code == 1008
                    assert len(reason.encode()) <= 123
                    self.closed = True
                case Subscribe(topics):
                    assert not self.held.keys() & set(topics)
                    assert len(set(topics)) == len(topics) > 0
                    self.held.update(dict.fromkeys(topics))
                case Unsubscribe(topics):
                    assert self.held.keys() >= set(topics)
                    assert topics
                    for topic in topics:
                        del self.held[topic]
        if {"auth_success", "authenticated"} & set(said):
            self.authenticated = True
        return said


class TestAnyConversation(Conversation.TestCase):
    """Whatever a client says, in whatever order, it gets one answer that fits, and holds what it may hold."""

    settings = settings(deadline=None, max_examples=settings.default.max_examples // 4)
