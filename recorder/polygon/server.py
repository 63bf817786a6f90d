"""The server side of one connection, in both dialects, as a plain object: requests in, actions out, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from recorder.polygon.control import (
    AUTH_REQUIRED,
    AUTH_SUCCESS,
    AUTH_TIMEOUT,
    CONNECTED,
    ERROR,
    BadRequest,
    Dialect,
    Request,
    acknowledgement,
    amend_remark,
    encode_answer,
    encode_status,
    encode_statuses,
    parse_request,
)
from recorder.polygon.manner import PLAIN, Manner
from recorder.polygon.rows import Status

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
    since_ms: int | None = None
    """Unix ms from which on it wants what it has missed."""
    amend: bool = False
    """Whether it wants bars again that late trades have changed."""
    after: str | None = None
    """The position behind which it wants what it has missed."""
    partial: bool = False
    """Whether it takes what there is, where not all of that is kept."""
    positions: bool = False
    """Whether it wants to be told positions."""
    manner: Manner = PLAIN
    """How it wants them."""
    each: bool = False
    """Whether it wants one behind each read, as another recorder does."""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """From here on the client no longer gets these topics, which it held."""

    topics: tuple[str, ...]


Action = Send | Close | Subscribe | Unsubscribe


class Verdict(NamedTuple):
    """How a server treats a topic that a client asks for."""

    held: bool
    """Whether the client gets it."""
    answer: Status | None
    """What the client is told; None is silence."""


class Policy(Protocol):
    """What servers differ in."""

    repeats_are_acknowledged: bool
    """Whether asking for a topic that is held already, or giving back one that is not, is answered."""
    everything: str
    """The topic that a request without topics means, in the firehose's dialect; empty: such a request is an error."""
    topics_max: int
    """Topics that a client may hold. It may change; what is held already stays."""

    def refuse_key(self, token: str) -> Status | None:
        """Return the status that refuses this token, None if it is good."""

    def check(self, topic: str) -> Verdict:
        """Decide on a topic that an authenticated client asks for."""

    def amend_refusal(self, topic: str) -> str:
        """Return why a topic that a client may hold cannot be amended; empty if it can."""

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        """Return why topics do not come in the manner that a client asks for, in words; they come without that."""


class ServerSession:
    """One client's way from greeting to subscriptions.

    Its owner carries out the actions in order. After a `Close` the session answers nothing any more. Time is the
    owner's: it calls `auth_timed_out` when the client took too long.
    """

    def __init__(self, policy: Policy, notice: Status | None = None) -> None:
        """`notice` is what the client is told once its token is accepted; None: nothing."""
        self.policy = policy
        self._notice = notice
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
        """Handle one message of the client. Anything that is not a request is answered with an error."""
        if self.closed:
            return []
        request = parse_request(data)
        if isinstance(request, BadRequest):
            return [_say(Status(ERROR, request.text))]
        if request.action == "auth":
            return self._authenticate(request)
        if not self.authenticated:
            return [_answer(request.dialect, AUTH_REQUIRED)]
        if not request.topics:
            if not self.policy.everything or request.dialect != "firehose":
                return [_say(Status(ERROR, f"{request.action}: no topics in params"))]
            return self._take_everything(request)
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

    def _authenticate(self, request: Request) -> list[Action]:
        refusal = self.policy.refuse_key(request.token)
        if refusal is not None:
            if request.dialect == "vendor":
                return self.dismiss(refusal)
            self.closed = True
            return [
                _answer(request.dialect, refusal),
                Close(POLICY_VIOLATION, refusal.message[:_REASON_CHARS_MAX]),
            ]
        self.authenticated = True
        self.token = request.token
        return list(self._welcome(request.dialect))

    def _welcome(self, dialect: Dialect) -> Iterator[Action]:
        """Yield the answer to a good token."""
        if self._notice is None:
            yield _answer(dialect, AUTH_SUCCESS)
        elif dialect == "vendor":
            # One frame: whoever has read the answer has read the notice, before any event can come.
            yield Send(encode_statuses(AUTH_SUCCESS, self._notice))
        else:
            yield _answer(dialect, AUTH_SUCCESS)
            yield _say(self._notice)

    def _take_everything(self, request: Request) -> list[Action]:
        """Carry out a request of the firehose's dialect that names no topics: it means all there is."""
        topic = self.policy.everything
        if request.action == "subscribe":
            gained = () if topic in self.topics else (topic,)
            self.topics[topic] = None
            answer = Send(encode_answer("subscribed", "Subscribed to firehose"))
            return [answer, *self._refuse_manner((topic,), request), *_wishes(gained, request)]
        lost = (topic,) if topic in self.topics else ()
        self.topics.pop(topic, None)
        return _with([Send(encode_answer("unsubscribed", "Unsubscribed from firehose"))], lost)

    def _subscribe(self, request: Request) -> list[Action]:
        actions: list[Action] = []
        gained: list[str] = []
        too_many = 0
        for topic in request.topics:
            if topic in self.topics:
                if self.policy.repeats_are_acknowledged:
                    answer = acknowledgement("subscribed", topic)
                    actions.append(_say(Status(answer.status, answer.message + _unchanged(request))))
                continue
            if len(self.topics) >= self.policy.topics_max:
                too_many += 1
                continue
            held, verdict = self.policy.check(topic)
            if verdict is not None:
                refusal = self.policy.amend_refusal(topic) if held and request.amend else ""
                note = amend_remark(refusal) if refusal else ""
                actions.append(_say(Status(verdict.status, verdict.message + note)))
            if held:
                self.topics[topic] = None
                gained.append(topic)
        if too_many:
            words = f"subscribe: {too_many} topics are beyond the limit of {self.policy.topics_max}"
            actions.append(_say(Status(ERROR, words)))
        return [*actions, *self._refuse_manner(gained, request), *_wishes(gained, request)]

    def _refuse_manner(self, topics: Sequence[str], request: Request) -> Iterator[Action]:
        """Yield what a client is told of wishes that cannot be read, or are not to be had here."""
        words = [*request.problems]
        if request.manner != PLAIN:
            words += self.policy.manner_refusals(topics, request.manner)
        for problem in words:
            yield _answer(request.dialect, Status(ERROR, f"subscribe: {problem}"))

    def _unsubscribe(self, request: Request) -> list[Action]:
        actions: list[Action] = []
        lost: list[str] = []
        for topic in request.topics:
            held = topic in self.topics
            if held:
                del self.topics[topic]
                lost.append(topic)
            if held or self.policy.repeats_are_acknowledged:
                actions.append(_say(acknowledgement("unsubscribed", topic)))
        return _with(actions, lost)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "authenticated" if self.authenticated else "connected"
        return f"ServerSession({state}, {len(self.topics)} topics)"


_REASON_CHARS_MAX: Final = 120
"""A close frame has room for 123 bytes of reason (RFC 6455, 5.5); our reasons are ASCII."""


def _say(status: Status) -> Send:
    return Send(encode_status(status))


def _answer(dialect: Dialect, status: Status) -> Send:
    """Return a status in the dialect of the request that it answers."""
    if dialect == "vendor":
        return _say(status)
    if status == AUTH_SUCCESS:
        return Send(encode_answer("authenticated", "Successfully authenticated"))
    return Send(encode_answer(ERROR, status.message))


def _wishes(gained: Iterable[str], request: Request) -> Iterator[Action]:
    """Yield what follows the acknowledgements, so that no event comes before its ack; nothing where nothing changes."""
    topics = tuple(gained)
    if topics or request.positions or request.manner.slow:
        yield Subscribe(
            topics,
            request.since_ms,
            request.amend,
            request.after,
            request.partial,
            request.positions,
            request.manner,
            request.each,
        )


def _unchanged(request: Request) -> str:
    """Return what the acknowledgement of a topic that is held already says of wishes that come too late."""
    late = ["amend"] if request.amend else []
    late += [word for word in request.manner.words if word != "slow"]
    are = "are" if len(late) > 1 else "is"
    return f" ({' and '.join(late)} {are} unchanged: unsubscribe first)" if late else ""


def _with(actions: list[Action], lost: Iterable[str]) -> list[Action]:
    """Let the end of subscriptions follow its acknowledgements."""
    topics = tuple(lost)
    if topics:
        actions.append(Unsubscribe(topics))
    return actions
