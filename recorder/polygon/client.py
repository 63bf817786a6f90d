"""The client side of one session as a plain object: statuses in, requests out; it never waits and knows no socket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Final

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
from recorder.polygon.manner import OF_MANNERS, PLAIN, Manner
from recorder.polygon.rows import Status

_REQUEST_TOPICS_MAX: Final = 1000
"""Topics in one subscribe request; more are asked for in several."""
REQUEST_BYTES_MAX: Final = 48 * 1024
"""Bytes of the topics in one request: a recorder takes 64 KiB in a message, unless it is set otherwise."""
_ERRORS_KEPT: Final = 10


class Step(Enum):
    """How far a session has come. The order is the protocol's: nothing is asked for before the step is reached."""

    GREETING = "waiting for the greeting"
    AUTHENTICATING = "waiting for the answer to the key"
    SUBSCRIBING = "waiting for the topics to be acknowledged"
    STREAMING = "streaming"


class ClientSession:
    """Greeting, then auth, then subscribe, strictly in this order; acknowledgements matched to topics.

    Feed it every status with `receive`; send what it returns. It raises an `UpstreamError` when the exchange ends
    the session in words. `step_timed_out` is called by the owner when a step took too long.
    """

    def __init__(
        self,
        api_key: str,
        topics: Iterable[str],
        since_ms: int | None = None,
        *,
        amend: bool = False,
        after: str | None = None,
        each: bool = False,
        manner: Manner = PLAIN,
        allow_shifted: bool = False,
    ) -> None:
        """`since_ms`: Unix ms from which on the topics are wanted; only another recorder knows the past.

        `allow_shifted`: whether a replay will do whose events have other times than those at which they happened.

        `amend`: whether bars are wanted again that late trades change, which only another recorder sends. `after`: the
        position of another recorder behind which the topics are wanted; empty to be told positions, None not to. `each`:
        whether a position is wanted behind each read. `manner`: how they are wanted.
        """
        self.manner = manner
        self.request_bytes_max = REQUEST_BYTES_MAX
        """Bytes of the topics in one request."""
        self._each = each
        self._after = after
        self._api_key = api_key
        self._since_ms = since_ms
        self._amend = amend
        self._allow_shifted = allow_shifted
        self.topics = dict.fromkeys(topics)
        """The topics to ask for, in order."""
        self.step = Step.GREETING
        self._waiting = {_comparable(topic): topic for topic in self.topics}
        self.not_authorized = 0
        """How many times the exchange said `not authorized`; it does not say which topic it means."""
        self.refused: dict[str, str] = {}
        """Topics that the exchange has refused, as far as that is known, and its words; all are unacknowledged, too."""
        self.in_vain: dict[str, str] = {}
        """Topics that another recorder has acknowledged, and why it says that nothing will come of them."""
        self._refusals_unnamed = 0
        """How many times it said `not authorized` of a topic that is not known yet."""
        self.errors: list[str] = []
        """The latest few errors that the exchange has reported in this session."""
        self.errors_count = 0

    @property
    def unacknowledged(self) -> list[str]:
        """Topics that were asked for, and not acknowledged until now."""
        return list(self._waiting.values())

    @property
    def acknowledged(self) -> int:
        """How many topics are acknowledged."""
        return len(self.topics) - len(self._waiting)

    @property
    def is_answered(self) -> bool:
        """Whether the exchange has said of every topic that it is subscribed, or that it is not authorized."""
        return self.acknowledged + self.not_authorized >= len(self.topics)

    @property
    def requests_count(self) -> int:
        """In how many requests the topics are asked for once the key is accepted."""
        return len(self._asked)

    @property
    def _asked(self) -> list[list[str]]:
        """The topics of each request: few at a time, but as many as possible where positions are wanted."""
        topics_max = _REQUEST_TOPICS_MAX if self._after is None else None
        return list(_parts(self.topics, self.request_bytes_max, topics_max))

    def begin_unasked(self) -> list[bytes]:
        """Begin without a greeting, where the server sends none; return the requests to send now."""
        self.step = Step.AUTHENTICATING
        return [control.encode_auth(self._api_key)]

    def receive(self, status: Status) -> list[bytes]:
        """Handle one status and return the requests to send now.

        Raise KeyRefused, MaxConnections, ServerDisconnect or ShiftedReplay when this status ends the session.
        """
        match status.status:
            case "connected":
                if self.step is Step.GREETING:
                    return self.begin_unasked()
            case "auth_success":
                return self._authenticated()
            case control.SUCCESS:
                acknowledgement = control.parse_ack(status.message)
                if acknowledgement:
                    self._acknowledge(*acknowledgement, control.parse_nothing_remark(status.message))
                else:
                    return self._authenticated()
            case "auth_failed":
                raise KeyRefused(status.message or "authentication failed")
            case "max_connections":
                raise MaxConnections(status.message.strip() or "too many connections for this key")
            case "auth_timeout" | "auth_required" | "slow_consumer" | "force_disconnect":
                raise ServerDisconnect(f"{status.status}: {status.message}")
            case control.SHIFTED if not self._allow_shifted:
                raise ShiftedReplay(
                    "what is followed is a replay with shifted times, whose events did not happen when they say; "
                    "ALLOW_SHIFTED=true takes it all the same"
                )
            case name if name in control.OF_RESUMES or name in control.OF_REPLAYS or name in OF_MANNERS:
                pass  # no error: it is for whoever asked for it, or for people
            case control.ERROR if "not authorized" in status.message.lower():
                self.not_authorized += 1
                self._refusals_unnamed += 1
                self._name_refusals()
                self._note(status)
            case _:
                self._take_named_refusal(status)
                self._note(status)
        return []

    def subscribe(self, topics: Iterable[str], since_ms: int | None = None) -> list[bytes]:
        """Ask for more topics; return the requests to send now. Before the key is accepted they just wait.

        `since_ms` is the time from which on they are wanted, if they are asked for now.
        """
        new = [topic for topic in topics if topic not in self.topics]
        self.topics.update(dict.fromkeys(new))
        self._waiting.update({_comparable(topic): topic for topic in new})
        if self.step in (Step.GREETING, Step.AUTHENTICATING):
            return []
        return [
            control.encode_subscribe(part, since_ms, amend=self._amend)
            for part in _parts(new, self.request_bytes_max)
        ]

    def unsubscribe(self, topics: Iterable[str]) -> list[bytes]:
        """Drop topics. Return the requests to send now."""
        held = [topic for topic in topics if topic in self.topics]
        for topic in held:
            del self.topics[topic]
            self._waiting.pop(_comparable(topic), None)
            self.refused.pop(topic, None)
            self.in_vain.pop(topic, None)
        if self.step in (Step.GREETING, Step.AUTHENTICATING):
            return []
        return [control.encode_unsubscribe(part) for part in _parts(held, self.request_bytes_max)]

    def step_timed_out(self, data_received: bool) -> None:
        """Handle that the present step got no answer in time.

        Raise StepTimeout or NotAuthorized where the session cannot go on. Where some topics are acknowledged, or
        data flows all the same, the session goes on without the others: see `unacknowledged`.
        """
        if self.step in (Step.GREETING, Step.AUTHENTICATING):
            raise StepTimeout(f"timed out {self.step.value}")
        if self.acknowledged or data_received or not self.topics:
            self.step = Step.STREAMING
            return
        topics = listed(self.unacknowledged)
        if self.not_authorized:
            raise NotAuthorized(f"the plan of this key allows none of the topics {topics}")
        raise Unacknowledged(f"none of the topics {topics} was acknowledged")

    def _authenticated(self) -> list[bytes]:
        if self.step is not Step.AUTHENTICATING:
            return []
        self.step = Step.SUBSCRIBING if self.topics else Step.STREAMING
        parts = self._asked
        return [
            control.encode_subscribe(
                part,
                self._since_ms,
                amend=self._amend,
                after=self._after or "",
                # One that came between two requests would stand for events that are only asked for by the second.
                positions=self._after is not None and part is parts[-1],
                each=self._each,
                manner=self.manner,
            )
            for part in parts
        ]

    def _note(self, status: Status) -> None:
        self.errors_count += 1
        self.errors = [*self.errors[1 - _ERRORS_KEPT :], f"{status.status}: {status.message}"]

    def _acknowledge(self, verb: control.Verb, topic: str, vain: str) -> None:
        if verb == "subscribed":
            asked = self._waiting.pop(_comparable(topic), "")
            self.refused.pop(asked, None)
            self.in_vain.pop(topic, None)
            if vain and topic in self.topics:
                self.in_vain[topic] = vain
            self._name_refusals()
        if not self._waiting and self.step is Step.SUBSCRIBING:
            self.step = Step.STREAMING

    def _name_refusals(self) -> None:
        """Find out which topics are not authorized: once that was said as often as topics have no answer, it is these."""
        if not self._refusals_unnamed:
            return
        if self._refusals_unnamed >= len(self._waiting) - len(self.refused):
            words = control.NOT_AUTHORIZED.message
            self.refused = {topic: self.refused.get(topic, words) for topic in self._waiting.values()}
            self._refusals_unnamed = 0

    def _take_named_refusal(self, status: Status) -> None:
        """Take the refusal of another recorder, which names the topic, and may come behind its acknowledgement."""
        topic, colon, words = status.message.partition(": ")
        if status.status == control.ERROR and colon and topic in self.topics:
            self._waiting[_comparable(topic)] = topic
            self.refused[topic] = words

    def __repr__(self) -> str:
        return f"ClientSession({self.step.name}, {self.acknowledged} of {len(self.topics)} topics)"


def _comparable(topic: str) -> str:
    """Pairs are asked for with a hyphen and may be acknowledged with a slash."""
    return topic.replace("/", "-")


def _parts(
    topics: Iterable[str], bytes_max: int, topics_max: int | None = _REQUEST_TOPICS_MAX
) -> Iterator[list[str]]:
    """Yield the topics in parts that a request has room for; `topics_max` None: whatever their number."""
    part: list[str] = []
    size = 0
    for topic in topics:
        topic_bytes = len(topic.encode()) + 1
        if part and (size + topic_bytes > bytes_max or len(part) == topics_max):
            yield part
            part, size = [], 0
        part.append(topic)
        size += topic_bytes
    if part:
        yield part


def listed(topics: list[str]) -> str:
    """Return the first few of them as a phrase."""
    shown = ", ".join(topics[:10])
    return shown if len(topics) <= 10 else f"{shown} and {len(topics) - 10} more"
