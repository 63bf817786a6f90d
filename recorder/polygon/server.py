"""The server side of one connection, vendor dialect, as a plain object: requests in, actions out, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from recorder.polygon.control import (
    AUTH_REQUIRED,
    AUTH_SUCCESS,
    AUTH_TIMEOUT,
    CONNECTED,
    ERROR,
    BadRequest,
    Request,
    acknowledgement,
    encode_status,
    parse_request,
)
from recorder.polygon.events import Status

POLICY_VIOLATION: Final = 1008
"""The close code for a refused key, a silent or slow client, and every limit (RFC 6455, 7.4.1)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send `frame` as a WebSocket message of its own."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; nothing follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """From here on the client gets these topics, too; it did not hold them before."""

    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """From here on the client no longer gets these topics, which it held."""

    topics: tuple[str, ...]


Action = Send | Close | Subscribe | Unsubscribe


class Verdict(NamedTuple):
    """What a server makes of a topic that a client asks for."""

    held: bool
    """Whether the client gets it."""
    answer: Status | None
    """What the client is told; None is silence."""


class Policy(Protocol):
    """What servers differ in."""

    repeats_are_acknowledged: bool
    """Whether asking for a topic that is held already, or giving back one that is not, is answered."""

    def refuse_key(self, token: str) -> Status | None:
        """Give the status that refuses this token, None if it is good."""

    def judge(self, topic: str) -> Verdict:
        """Decide on a topic that an authenticated client asks for."""


class ServerSession:
    """One client's way from greeting to subscriptions.

    Its owner carries out the actions in order. After a `Close` the session answers nothing any more. Time is the
    owner's: it calls `auth_timed_out` when the client took too long.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.authenticated = False
        self.closed = False
        self.token = ""
        """The accepted token."""
        self.topics: dict[str, None] = {}
        """What the client holds, in the order in which it asked."""

    def greet(self) -> list[Action]:
        """Begin: what is sent before the client says anything."""
        return [_say(CONNECTED)]

    def receive(self, data: bytes | str) -> list[Action]:
        """Take one message of the client; anything that is no request is answered with an error."""
        if self.closed:
            return []
        request = parse_request(data)
        if isinstance(request, BadRequest):
            return [_say(Status(ERROR, request.text))]
        if request.action == "auth":
            return self._authenticate(request.token)
        if not self.authenticated:
            return [_say(AUTH_REQUIRED)]
        if not request.topics:
            return [_say(Status(ERROR, f"{request.action}: no topics in params"))]
        return self._subscribe(request) if request.action == "subscribe" else self._unsubscribe(request)

    def auth_timed_out(self) -> list[Action]:
        """End the session of a client that has not authenticated in time; nothing if it has."""
        return [] if self.authenticated else self.dismiss(AUTH_TIMEOUT)

    def dismiss(self, status: Status) -> list[Action]:
        """End the session: tell the client why, then close. Nothing if it has ended already."""
        if self.closed:
            return []
        self.closed = True
        return [_say(status), Close(POLICY_VIOLATION, status.message[:_REASON_CHARS_MAX])]

    def _authenticate(self, token: str) -> list[Action]:
        refusal = self._policy.refuse_key(token)
        if refusal is not None:
            return self.dismiss(refusal)
        self.authenticated = True
        self.token = token
        return [_say(AUTH_SUCCESS)]

    def _subscribe(self, request: Request) -> list[Action]:
        actions: list[Action] = []
        gained: list[str] = []
        for topic in request.topics:
            if topic in self.topics:
                if self._policy.repeats_are_acknowledged:
                    actions.append(_say(acknowledgement("subscribed", topic)))
                continue
            held, answer = self._policy.judge(topic)
            if answer is not None:
                actions.append(_say(answer))
            if held:
                self.topics[topic] = None
                gained.append(topic)
        return _with(actions, Subscribe, gained)

    def _unsubscribe(self, request: Request) -> list[Action]:
        actions: list[Action] = []
        lost: list[str] = []
        for topic in request.topics:
            held = topic in self.topics
            if held:
                del self.topics[topic]
                lost.append(topic)
            if held or self._policy.repeats_are_acknowledged:
                actions.append(_say(acknowledgement("unsubscribed", topic)))
        return _with(actions, Unsubscribe, lost)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "authenticated" if self.authenticated else "connected"
        return f"ServerSession({state}, {len(self.topics)} topics)"


_REASON_CHARS_MAX: Final = 120
"""A close frame has room for 123 bytes of reason (RFC 6455, 5.5); our reasons are ASCII."""


def _say(status: Status) -> Send:
    return Send(encode_status(status))


def _with(
    actions: list[Action], change: type[Subscribe | Unsubscribe], topics: Iterable[str]
) -> list[Action]:
    """Let a change of subscriptions follow its acknowledgements, so that no event comes before its ack."""
    changed = tuple(topics)
    if changed:
        actions.append(change(changed))
    return actions
