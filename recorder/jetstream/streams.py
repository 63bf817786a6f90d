"""The streams of JetStream: found or made, of the right shape, and where each of them ends."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import orjson

from recorder.errors import ConfigError, RecorderError
from recorder.jetstream.connection import Connection, NoAnswer, NoResponders
from recorder.settings.nats import NatsSettings
from recorder.stream_message import End, Heading, UnknownMessage, heading_of

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
REQUEST_SECS: Final = 2.0
"""How long the servers may take for an answer. A stream without a leader is silent, and an election may take 10 s, so it is
asked again and again."""

# Codes of nats-server's errors.json.
_STREAM_NOT_FOUND: Final = 10059
_MESSAGE_NOT_FOUND: Final = 10037
_STREAM_EXISTS: Final = 10058
_NOT_ENABLED: Final = (10039, 10076)
_NO_REPLICAS: Final = 10074
"""Several replicas, and a server that is alone."""
_OVERLAP: Final = 10065
_STORAGE: Final = (10023, 10047)
_PLACEMENT: Final = 10005


class StreamUnfit(ConfigError):
    """A stream cannot be had as the settings want it; somebody must change something."""


class ForeignMessage(StreamUnfit):
    """A message of a stream is not one that this version reads."""

    def __init__(self, stream: str, seq: int, error: UnknownMessage) -> None:
        super().__init__(
            f"message {seq} of stream {stream} is not of a recorder: {error}; choose another NATS_STREAM_PREFIX"
        )
        self.seq = seq


class StreamAway(RecorderError):
    """The servers cannot say anything of a stream now, or refuse for a reason that may pass."""


class ApiError(Exception):
    """The answer of the stream API is an error."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


class Stored(NamedTuple):
    """A message of a stream, without its content."""

    seq: int
    heading: Heading


class View(NamedTuple):
    """What a reader sees of a stream."""

    created: str
    """When it was made, as the servers write it: another stream of the same name has another time."""
    created_ns: int
    """The same in Unix nanoseconds."""
    first_seq: int
    """Of the oldest message, or of the next one where there is none."""
    last_seq: int
    messages: int


class JetStream:
    """The stream API over one connection."""

    def __init__(self, connection: Connection, settings: NatsSettings) -> None:
        self._connection = connection
        self._settings = settings

    async def end_of(self, stream: str, subject: str) -> tuple[End, bool]:
        """Return where a stream ends, and whether it was made for that.

        :raises StreamUnfit: it cannot be made, or is of another shape.
        :raises StreamAway: the servers do not say.
        """
        found = await self._find(stream)
        answer = found if found is not None else await self._make(stream, subject)
        return await self._end(answer, stream, subject), found is None

    async def ensure(self, stream: str, subject: str) -> bool:
        """Find a stream, or make it; return whether it was made.

        :raises StreamUnfit: it cannot be made, or is of another shape.
        :raises StreamAway: the servers do not say.
        """
        found = await self._find(stream)
        self._require_fit(found if found is not None else await self._make(stream, subject), stream, subject)
        return found is None

    async def exists(self, stream: str, subject: str) -> bool:
        """Return whether a stream exists. It is not made.

        :raises StreamUnfit: it is of another shape.
        :raises StreamAway: the servers do not say.
        """
        found = await self._find(stream)
        if found is not None:
            self._require_fit(found, stream, subject)
        return found is not None

    async def end_if_made(self, stream: str, subject: str) -> End | None:
        """Return where a stream ends; None if it does not exist. It is not made.

        :raises StreamUnfit: it is of another shape.
        :raises StreamAway: the servers do not say.
        """
        found = await self._find(stream)
        return None if found is None else await self._end(found, stream, subject)

    async def _find(self, stream: str) -> Any:
        try:
            return await self._ask(f"STREAM.INFO.{stream}", {})
        except ApiError as error:
            if error.code == _STREAM_NOT_FOUND:
                return None
            raise _ours(stream, error, self._settings) from error

    def _require_fit(self, answer: Any, stream: str, subject: str) -> None:
        differences = differences_of(answer["config"], self._wanted(stream, subject))
        if differences:
            raise StreamUnfit(
                f"stream {stream} is of another shape: {'; '.join(differences)}. Change it (nats stream edit {stream}), "
                "or the settings, or choose another NATS_STREAM_PREFIX"
            )

    async def _end(self, answer: Any, stream: str, subject: str) -> End:
        self._require_fit(answer, stream, subject)
        state = answer["state"]
        newest = await self._message(stream, {"last_by_subj": subject}) if state["messages"] else None
        return End(answer["created"], state["last_seq"], *_of(newest), _ns_of(state["last_ts"]))

    async def message_at(self, stream: str, seq: int) -> Stored | None:
        """Return the message at a place of a stream; None if there is none."""
        return await self._message(stream, {"seq": seq})

    async def view_of(self, stream: str, subject: str) -> View:
        """Return what a reader of a stream sees of it, whatever its limits are.

        :raises StreamUnfit: JetStream is off, or the stream is not one of that subject.
        :raises StreamAway: it does not exist, or the servers do not say.
        """
        answer = await self._find(stream)
        if answer is None:
            raise StreamAway(
                f"stream {stream} does not exist: it is made by the recorder that writes it (SINK=nats), with the same "
                "NATS_STREAM_PREFIX"
            )
        config, state = answer["config"], answer["state"]
        if subject not in config.get("subjects", [subject]) or config.get("retention") != "limits":
            raise StreamUnfit(
                f"stream {stream} is of another shape: its subjects are {config.get('subjects')}, its retention is "
                f"{config.get('retention')}, and {subject} with limits is wanted; choose another NATS_STREAM_PREFIX"
            )
        created = answer["created"]
        return View(created, _ns_of(created), state["first_seq"], state["last_seq"], state["messages"])

    async def newest(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of a stream; None if it has none."""
        return await self._message(stream, {"last_by_subj": subject})

    async def newest_id(self, stream: str, subject: str) -> str:
        """Return the id of the newest message of a subject; empty if there is none, or it has no id.

        :raises StreamAway: the servers do not say.
        """
        try:
            answer = await self._ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except ApiError as error:
            if error.code == _MESSAGE_NOT_FOUND:
                return ""
            raise StreamAway(f"stream {stream}: {error}") from error
        return _headers_of(b64decode(answer["message"].get("hdrs", ""))).get("Nats-Msg-Id", "")

    async def place_of(self, stream: str, subject: str, view: View, event: int) -> int:
        """Return the place of the first message that has an event of this number or a later one; it may be yet to come."""
        low, high = view.first_seq if view.messages else view.last_seq + 1, view.last_seq + 1
        while low < high:
            middle = (low + high) // 2
            found = await self._readable_from(stream, subject, middle)
            if found is None or found.heading.next_first > event:
                high = middle
            else:
                low = found.seq + 1
        return low

    async def _readable_from(self, stream: str, subject: str, seq: int) -> Stored | None:
        """Return the first message of ours at a place of a stream or behind it; None if there is none."""
        while True:
            try:
                return await self._message(stream, {"seq": seq, "next_by_subj": subject})
            except ForeignMessage as error:
                seq = error.seq + 1

    async def make_consumer(self, stream: str, config: Mapping[str, object]) -> int:
        """Make a consumer that lives as long as it is listened to; return how many messages it has before it.

        :raises StreamAway: the servers do not make it now.
        """
        try:
            answer = await self._ask(f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
        except ApiError as error:
            raise StreamAway(f"stream {stream}: {error}") from error
        return int(answer["num_pending"])

    async def state_of(self, stream: str) -> tuple[str, Mapping[str, Any]]:
        """Return when a stream was made, and what it says of its messages.

        :raises StreamAway: the servers do not say.
        """
        try:
            answer = await self._ask(f"STREAM.INFO.{stream}", {})
        except ApiError as error:
            raise StreamAway(f"stream {stream}: {error}") from error
        return answer["created"], answer["state"]

    async def limits(self) -> Mapping[str, Any]:
        """Return what the account of this connection may use.

        :raises StreamUnfit: JetStream is off.
        """
        try:
            limits: Mapping[str, Any] = await self._ask("INFO", {})
        except ApiError as error:
            raise _ours("", error, self._settings) from error
        return limits

    async def _message(self, stream: str, which: Mapping[str, object]) -> Stored | None:
        try:
            answer = await self._ask(f"STREAM.MSG.GET.{stream}", which)
        except ApiError as error:
            if error.code == _MESSAGE_NOT_FOUND:
                return None
            raise StreamAway(f"stream {stream}: {error}") from error
        message = answer["message"]
        seq = int(message["seq"])
        try:
            return Stored(seq, heading_of(_headers_of(b64decode(message.get("hdrs", "")))))
        except UnknownMessage as error:
            raise ForeignMessage(stream, seq, error) from error

    async def _make(self, stream: str, subject: str) -> Any:
        try:
            return await self._ask(f"STREAM.CREATE.{stream}", self._wanted(stream, subject))
        except ApiError as error:
            if error.code == _STREAM_EXISTS:  # somebody else was quicker
                raise StreamAway(f"stream {stream}: {error}") from error
            raise _ours(stream, error, self._settings) from error

    def _wanted(self, stream: str, subject: str) -> dict[str, object]:
        settings = self._settings
        assert settings.max_age_secs is not None
        assert settings.max_bytes is not None
        return {
            "name": stream,
            "subjects": [subject],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "max_age": settings.max_age_secs * 1_000_000_000,
            "max_bytes": settings.max_bytes,
            "max_msgs": -1,
            "max_msgs_per_subject": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "num_replicas": settings.replicas,
        }

    async def _ask(self, what: str, request: Mapping[str, object]) -> Any:
        """Return the answer of the API.

        :raises ApiError: it is an error.
        """
        content = orjson.dumps(request) if request else b""
        try:
            data = await self._connection.request(f"$JS.API.{what}", content, REQUEST_SECS)
        except NoResponders as error:
            if not self._connection.has_jetstream:
                raise StreamUnfit(
                    f"JetStream is off at {self._connection.server}: switch it on (jetstream {{ store_dir: … }}), or name "
                    "servers that have it in NATS_URL"
                ) from error
            raise StreamAway(
                f"nobody answers for JetStream at {self._connection.server}: its servers elect a leader, or JetStream is "
                "not enabled for this account"
            ) from error
        except NoAnswer as error:
            raise StreamAway(f"{error} ({what}): its servers elect a leader, or are overloaded") from error
        answer = orjson.loads(data)
        if "error" in answer:
            problem = answer["error"]
            raise ApiError(
                int(problem.get("err_code", 0)), str(problem.get("description", "no reason given"))
            )
        return answer


def differences_of(config: Mapping[str, Any], wanted: Mapping[str, object]) -> list[str]:
    """Return what is different about a stream, in words."""
    found = [
        f"{name} is {config.get(name)}, and {value} is wanted"
        for name, value in wanted.items()
        if config.get(name) != value
    ]
    for name, why in (
        ("mirror", "nothing can be appended to it"),
        ("sources", "others append to it"),
        ("sealed", "nothing can be appended to it"),
        ("no_ack", "nothing is acknowledged"),
    ):
        if config.get(name):
            found.append(f"{name} is set, so {why}")
    return found


def _ours(stream: str, error: ApiError, settings: NatsSettings) -> RecorderError:
    """Return an error of the API as one of ours, with what to do about it."""
    if error.code in _NOT_ENABLED:
        return StreamUnfit(
            f"JetStream is off for this account ({error}): give the account limits, or use another one"
        )
    if error.code == _NO_REPLICAS:
        return StreamUnfit(
            f"stream {stream}: NATS_REPLICAS is {settings.replicas}, and the server is alone ({error}): set "
            "NATS_REPLICAS=1, or name a cluster of servers"
        )
    if error.code == _OVERLAP:
        return StreamUnfit(
            f"stream {stream}: another stream takes its subject ({error}); choose another NATS_STREAM_PREFIX"
        )
    if error.code in _STORAGE:
        return StreamUnfit(
            f"stream {stream}: the servers have no room for NATS_MAX_BYTES={settings.max_bytes} ({error}): lower it, "
            "or raise max_file_store of the servers"
        )
    if error.code == _PLACEMENT:
        return StreamAway(
            f"stream {stream}: too few servers are up for NATS_REPLICAS={settings.replicas} ({error}): start them, or "
            "lower it"
        )
    return StreamAway(f"stream {stream}: {error}")


def _ns_of(text: str) -> int:
    """Return a time of the servers in Unix nanoseconds, exact to the microsecond."""
    return int((datetime.fromisoformat(text) - _EPOCH) / timedelta(microseconds=1)) * 1000


def text_of(at_ns: int) -> str:
    """Return a time as the stream API has it."""
    return (_EPOCH + timedelta(microseconds=at_ns // 1000)).isoformat()


def _of(stored: Stored | None) -> tuple[Heading | None, int]:
    return (None, 0) if stored is None else (stored.heading, stored.seq)


def _headers_of(raw: bytes) -> dict[str, str]:
    """Return the headers of a stored message: a status line, then a header a line."""
    found: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found
