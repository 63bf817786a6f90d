"""Control messages, both sides: requests (auth, subscribe, unsubscribe) and the statuses that answer them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple

import orjson

from recorder.polygon.manner import PLAIN, Manner, parse_manner
from recorder.polygon.rows import Status
from recorder.words import shortened

SUCCESS: Final = "success"
"""The status of an acknowledgement; older servers answer an accepted key with it, too."""
ERROR: Final = "error"

CONNECTED: Final = Status("connected", "Connected Successfully")
GAP: Final = "gap"
"""Begins a time of which a replay has nothing, with `from`, `to` (Unix ms) and `reason`."""
REPLAY_SEEK: Final = "replay_seek"
"""A replay goes on at another time, with `at` (Unix ms)."""
REPLAY_SKIPPED: Final = "replay_skipped"
"""A replay has left out a silence, with `to` (Unix ms)."""
REPLAY_COMPLETE: Final = "replay_complete"
"""The end of a replay, with the number of `events` and the `sha256` of their payloads, a line each."""
SHIFTED: Final = "shifted"
"""The times of the events are not those at which they happened; `by_ms` says by how much, once that is known."""
OF_REPLAYS: Final = frozenset({GAP, REPLAY_SEEK, REPLAY_SKIPPED, REPLAY_COMPLETE, SHIFTED})
"""Statuses that only a replay sends, or a recorder that follows one."""
MAY_BE_SHIFTED: Final = Status(
    SHIFTED, "this may be a replay with shifted times: its events did not happen when they say"
)

POSITION: Final = "position"
"""Everything before it stands for `after`, a position, which is its message, too."""
RESUME: Final = "resume"
"""What becomes of a wish for the past, before any event of it: `recovered`, `from`, `available_from`, …."""
RESUME_COMPLETE: Final = "resume_complete"
"""The end of the past, with how much there was of it (`count`)."""
RESUME_WAITS: Final = "resume_waits"
"""What is missing has to be read from the archive, and `ahead` clients are before this one."""
MARK_BEGIN: Final = b'[{"ev":"status"'
"""How a status begins that is said to a client alone, and so the position behind a read."""
OF_RESUMES: Final = frozenset({POSITION, RESUME, RESUME_COMPLETE, RESUME_WAITS})
"""Statuses that a recorder sends to those alone that have asked for positions or for the past."""

AUTH_SUCCESS: Final = Status("auth_success", "authenticated")
AUTH_FAILED: Final = Status("auth_failed", "authentication failed")
AUTH_TIMEOUT: Final = Status("auth_timeout", "No authentication request received.")
AUTH_REQUIRED: Final = Status("auth_required", "authentication required")
NO_ACCESS: Final = Status(
    "auth_failed",
    "Your plan doesn't include websocket access. Visit https://massive.com/pricing to upgrade.",
)
"""The key is good, the cluster is not in its plan."""
NOT_AUTHORIZED: Final = Status(ERROR, "not authorized")
"""A channel is not in the plan. It names no channel, and the other topics of the request still work."""
MAX_CONNECTIONS: Final = Status(
    "max_connections",
    "Maximum number of websocket connections exceeded. You have reached the connection limit for your "
    "account. Please contact support at https://polygon.io/contact to increase your limit.",
)
SLOW_CONSUMER: Final = Status("slow_consumer", "slow consumer")

BARS: Final = "bars: "
"""Begins what a client is told of the past of bars: events and bars of one request are answered each."""
NOTHING_COMES: Final = "nothing will come of it: "
"""With the reason behind it, what clients are told of a topic."""
_AMEND_REMARK: Final = " (amend is without effect: "
_NOTHING_REMARK: Final = f" ({NOTHING_COMES}"

Verb = Literal["subscribed", "unsubscribed"]
Action = Literal["auth", "subscribe", "unsubscribe"]


Dialect = Literal["vendor", "firehose"]
"""How a request is worded, and so its answer: the vendor's statuses, or the plain objects of the firehose."""


class Request(NamedTuple):
    """What a client asks for: `auth` has a token, the others have topics (none if the client named none)."""

    action: Action
    token: str
    topics: tuple[str, ...]
    dialect: Dialect = "vendor"
    since_ms: int | None = None
    """Unix ms from which on the client wants what it has missed."""
    amend: bool = False
    """Whether the client wants bars again that late trades have changed."""
    after: str | None = None
    """A position behind which the client wants what it has missed."""
    partial: bool = False
    """Whether it takes what there is, where not all of that is kept."""
    positions: bool = False
    """Whether it wants to be told positions."""
    each: bool = False
    """Whether it wants one behind each read."""
    manner: Manner = PLAIN
    problems: tuple[str, ...] = ()
    """What is wrong with the rest of the request, in words: it is carried out without that."""


class BadRequest(NamedTuple):
    """Something that is no request; `text` tells the client what was expected."""

    text: str


def encode_status(status: Status, **facts: Any) -> bytes:
    """Return the frame that holds this status alone; `facts` are what programs read besides the message."""
    return orjson.dumps([{"ev": "status", "status": status.status, "message": status.message, **facts}])


def encode_position(after: str, *, each: bool = False) -> bytes:
    """Return the frame that tells a client its position; `each` where it gets one behind each read."""
    facts: dict[str, Any] = {"each": True} if each else {}
    return encode_status(Status(POSITION, after), after=after, **facts)


def encode_statuses(*statuses: Status) -> bytes:
    """Return the frame that holds these statuses, in this order."""
    return orjson.dumps(
        [{"ev": "status", "status": status.status, "message": status.message} for status in statuses]
    )


def encode_answer(status: str, message: str) -> bytes:
    """Return the frame with which the firehose's dialect answers."""
    return orjson.dumps({"status": status, "message": message})


def acknowledgement(verb: Verb, topic: str) -> Status:
    """Return the status that acknowledges that a topic is now subscribed or unsubscribed."""
    return Status(SUCCESS, f"{verb} to: {topic}")


def amend_remark(refusal: str) -> str:
    """Return what an acknowledgement adds where bars are not amended though a client asked for it."""
    return f"{_AMEND_REMARK}{refusal})"


def has_amend_remark(message: str) -> bool:
    """Return whether another recorder has acknowledged a topic and said that `amend` has no effect on it."""
    return _AMEND_REMARK in message


def nothing_remark(reason: str) -> str:
    """Return what an acknowledgement adds where no event will come of a topic."""
    return f"{_NOTHING_REMARK}{reason})"


def parse_nothing_remark(message: str) -> str:
    """Return why nothing will come of a topic, as another recorder's acknowledgement says; empty where it does not."""
    _, found, rest = message.partition(_NOTHING_REMARK)
    return rest.partition(_AMEND_REMARK)[0].removesuffix(")") if found else ""


def parse_ack(message: str) -> tuple[Verb, str] | None:
    """Return what a `success` status acknowledges, and for which topic; None if it acknowledges no topic."""
    words, _, rest = message.partition(" to: ")
    # No topic has a space; what another recorder adds behind one is for people.
    topic = rest.strip().partition(" ")[0]
    if not topic:
        return None
    if words == "subscribed":
        return "subscribed", topic
    if words == "unsubscribed":
        return "unsubscribed", topic
    return None


def encode_auth(key: str) -> bytes:
    """Return the request that presents the key."""
    return orjson.dumps({"action": "auth", "params": key})


def encode_subscribe(
    topics: Iterable[str],
    since_ms: int | None = None,
    *,
    amend: bool = False,
    after: str = "",
    positions: bool = False,
    each: bool = False,
    manner: Manner = PLAIN,
) -> bytes:
    """Return the request that asks for topics.

    `since_ms` asks another recorder for what was missed, be it only a part of that, and `amend` for bars that late trades
    change. `after` asks for what was missed behind a position, and `positions` for further ones; with `each` they come
    behind each read. `manner` is how the topics are wanted.
    """
    request: dict[str, Any] = {"action": "subscribe", "params": ",".join(topics)}
    if since_ms is not None:
        request["since"] = since_ms
        request["partial"] = True
    if amend:
        request["amend"] = True
    if positions:
        request["positions"] = True
        if each:
            request["each"] = True
    if after:
        request["after"] = after
        request["partial"] = True
    request |= {word: value for word, value in manner._asdict().items() if value}
    return orjson.dumps(request)


def encode_unsubscribe(topics: Iterable[str]) -> bytes:
    """Return the request that gives topics back."""
    return orjson.dumps({"action": "unsubscribe", "params": ",".join(topics)})


def parse_request(data: bytes | str) -> Request | BadRequest:
    """Read what a client sent, be it text or binary; anything whatever gets an answer, never an exception.

    The token of `auth` is in `params` (the vendor's dialect) or in `token` (the firehose's). Topics are a
    string with commas, spaces around them allowed, or a list of such strings.
    """
    try:
        # orjson bounds the depth of what it reads, and the digits of numbers.
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return BadRequest('not JSON; expected {"action":"auth|subscribe|unsubscribe","params":"…"}')
    if not isinstance(message, dict):
        return BadRequest('not a JSON object; expected {"action":"auth|subscribe|unsubscribe","params":"…"}')
    match message.get("action"):
        case "auth":
            return _parse_auth(message)
        case "subscribe" | "unsubscribe" as action:
            params = message.get("params", message.get("bars"))
            topics = _topics(params)
            if topics is None:
                return BadRequest(f"{action}: params must be topics, a string or a list of strings")
            dialect: Dialect = "firehose" if params is None else "vendor"
            return _with_wishes(Request(action, "", topics, dialect), message)
        case str() as other:
            return BadRequest(
                f"unknown action {shortened(other, 40)!r}; known are auth, subscribe and unsubscribe"
            )
    return BadRequest("no action; expected auth, subscribe or unsubscribe")


_FLAGS: Final = {
    "amend": "bars are not amended",
    "partial": "it is all or nothing",
    "positions": "no positions are told",
    "each": "no position is told behind each read",
}
"""Wishes that are true or false, and what becomes of one that is neither."""


def _with_wishes(request: Request, message: dict[str, Any]) -> Request:
    """Return a request for topics with what else the client asks for; what cannot be read of that stands in `problems`."""
    if request.action != "subscribe":
        return request
    problems: list[str] = []
    since_ms, after = message.get("since"), message.get("after")
    if since_ms is not None and (type(since_ms) is not int or since_ms < 0):
        problems.append("since must be a time in Unix milliseconds, an integer; what was missed is not sent")
        since_ms = None
    if after is not None and type(after) is not str:
        words = "after must be a position, a string, as a status named position has it"
        problems.append(f"{words}; what was missed is not sent")
        after = None
    if since_ms is not None and after is not None:
        problems.append("name after or since, not both; what was missed is not sent")
        since_ms = after = None
    flags = {word: message.get(word, False) for word in _FLAGS}
    for word, value in flags.items():
        if type(value) is not bool:
            problems.append(f"{word} must be true or false; {_FLAGS[word]}")
            flags[word] = False
    manner, unmannerly = parse_manner(message)
    return request._replace(
        since_ms=since_ms, after=after, manner=manner, problems=(*problems, *unmannerly), **flags
    )


def _parse_auth(message: dict[str, Any]) -> Request | BadRequest:
    token = message.get("params", message.get("token"))
    if not isinstance(token, str):
        return BadRequest("auth: params must be the key, a string")
    return Request("auth", token, (), "vendor" if "params" in message else "firehose")


def _topics(params: object) -> tuple[str, ...] | None:
    if params is None:
        return ()
    parts = [params] if isinstance(params, str) else params
    if not isinstance(parts, list):
        return None
    topics: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            return None
        topics += [topic for word in part.split(",") if (topic := word.strip())]
    return tuple(topics)
