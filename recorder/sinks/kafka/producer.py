"""A producer of librdkafka, and the one home of confluent-kafka: what it sends and hears, and which topics exist."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from recorder import log
from recorder.errors import ConfigError, RecorderError
from recorder.settings.kafka import KafkaSettings, read_options
from recorder.settings.kinds import BadValueError
from recorder.sinks.kafka.shapes import Draft

LOOK_SECS: Final = 1.0
"""How long the brokers may take to say what a topic is like."""
_STATE: Final = re.compile(r" \(after \d+ms in state \w+[^)]*\)$")
"""What librdkafka says behind an error, for whoever knows its states."""
_ASK_SECS: Final = 0.2
"""A question that is answered later is asked again: only between two of them is a refusal heard."""
_MAKE_SECS: Final = 2.0
_PURGE_SECS: Final = 0.15
"""The reports of what is taken back are there at once; the end of the recorder waits no longer for one that is not."""
_FILE_BYTES_MAX: Final = 64 * 1024
_UNLIMITED_KBYTES: Final = 2**31 - 1

_SILENT: Final[Mapping[str, str | int | float]] = {"log_level": 0}
"""librdkafka would log each attempt to connect. `failure` says what is worth a line."""
_PATIENCE: Final[Mapping[str, str | int | float]] = {
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 2000,
    # A broker that stands still is given up before the others have a new leader, not half a minute later.
    "request.timeout.ms": 10_000,
    "socket.timeout.ms": 10_000,
    "socket.keepalive.enable": True,
}
_OF_SHAPE: Final[Mapping[str, Mapping[str, object]]] = {
    "frames": {"compression.codec": "none"},  # they are compressed
    # Java's own clients place keys like this, so that streams of theirs can be joined with ours.
    "records": {"compression.codec": "zstd", "partitioner": "murmur2_random"},
}

_library: Final = logging.getLogger("librdkafka")
# It would say for each attempt, at any level, that a producer has ended; `broken` says so.
_library.addFilter(lambda record: not record.getMessage().startswith("FATAL "))

_REFUSED: Final = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)
_FORBIDDEN: Final = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_PASSING: Final = (
    KafkaError.INVALID_REPLICATION_FACTOR,  # fewer brokers than replicas now, as while they start
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_CONTROLLER,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
)
_TOO_LARGE: Final = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
)

REFUSALS: Final = (KafkaException, BufferError)
"""What `produce` raises of a message that it does not take."""
Report = Callable[[Any, Any], None]
"""Called by `poll` with what librdkafka says of a message: an error for `is_final`, or None once it is acknowledged."""


class KafkaAway(RecorderError):
    """No broker answers now, or they refuse for a reason that may pass."""


class KafkaRefused(ConfigError):
    """The brokers refuse the credentials, or cannot be trusted; somebody must change something."""


class TopicUnfit(ConfigError):
    """A topic cannot be had as the settings want it; somebody must change something."""


class Producer:
    """Sends messages, each once and in order, over whatever becomes of the brokers; and hears of each by `poll`.

    librdkafka does it on threads of its own. `produce` and `poll(0)` do not wait; whatever asks the brokers something
    waits for a limited time.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        """Begin to connect.

        :raises ConfigError: librdkafka does not take the options.
        """
        self._settings = settings
        self._shared: dict[str, str | int | float] = {
            "bootstrap.servers": ",".join(settings.brokers),
            **_SILENT,
            **_PATIENCE,
            **_options_of(settings),
        }
        self.trouble = ""
        """The newest thing that librdkafka has said of a broker; empty once somebody has looked into it."""
        self.broken: RecorderError | None = None
        """Why it sends nothing any more, whatever the brokers do; a new producer must take its place."""
        self.brokers = 0
        """How many brokers there are, as the last answer had it."""
        self._refusal = ""
        self._are_down = False
        options = {
            "client.id": "recorder",
            **_OF_SHAPE[settings.shape],
            **self._shared,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": 0,
            "linger.ms": settings.linger_ms if settings.shape == "records" else 0,
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": _UNLIMITED_KBYTES,
            "error_cb": self._hear,
            "logger": _library,
        }
        try:
            self._client = confluent_kafka.Producer(options)
        except KafkaException as error:
            raise ConfigError(f"KAFKA_OPTIONS: librdkafka says: {_words(error.args[0])}") from error

    def produce(self, topic: str, partition: int, draft: Draft, report: Report) -> None:
        """Hand a message over. Raise one of `REFUSALS` where it is too large, or the producer is broken."""
        if draft.headers is None:
            self._client.produce(topic, draft.value, draft.key, partition, report)
        else:
            self._client.produce(topic, draft.value, draft.key, partition, report, headers=draft.headers)

    def poll(self, secs: float) -> None:
        """Hear what librdkafka has to say: call the reports of messages, and note trouble. Wait for it, at most so long."""
        with self._noting_its_end():
            self._client.poll(secs)

    def flush(self, secs: float) -> None:
        """Send without lingering, and wait until all is acknowledged, at most so long."""
        with self._noting_its_end():
            self._client.flush(secs)

    def purge(self) -> None:
        """Take back all that is not acknowledged: each of these messages is reported as failed."""
        self._client.purge()
        until = time.monotonic() + _PURGE_SECS
        while len(self._client) and time.monotonic() < until:
            self.poll(0.01)

    def ensure(self, topics: Sequence[str], made: Callable[[str], None], secs: float) -> None:
        """See that the topics exist, and make those that do not; `made` is called with each that was made.

        :raises KafkaRefused: the credentials, or a certificate.
        :raises TopicUnfit: one is of another shape, or may not be used.
        :raises KafkaAway: nobody answers within `secs`, or a topic cannot be made now.
        """
        found = self.shapes_of(topics, secs)
        if missing := [topic for topic in topics if topic not in found]:
            self._make(missing, made)

    def shapes_of(self, topics: Sequence[str], secs: float) -> dict[str, tuple[int, int]]:
        """Return the partitions, and the replicas of the first, of each of the topics that exists.

        :raises RecorderError: as `ensure` does.
        """
        metadata = self._metadata(None, secs)
        found = {}
        for topic in topics:
            partitions = _partitions_of(metadata, topic)
            if not partitions:
                continue
            if self._settings.shape == "frames" and len(partitions) != 1:
                raise TopicUnfit(
                    f"topic {topic} has {len(partitions)} partitions, and frames need exactly one, to keep their order: "
                    "make it again with one, choose another KAFKA_TOPIC_PREFIX, or set KAFKA_SHAPE=records"
                )
            found[topic] = len(partitions), len(partitions[0].replicas)
        return found

    def look(self, topic: str) -> None:
        """Ask the brokers about a topic, which proves that they are there.

        :raises RecorderError: as `ensure` does.
        """
        if not _partitions_of(self._metadata(topic, LOOK_SECS), topic):
            raise KafkaAway(f"topic {topic} does not exist any more")

    def close(self) -> None:
        """End its threads and connections."""
        with self._noting_its_end():
            self._client.close()

    def _metadata(self, topic: str | None, secs: float) -> Any:
        """Return what the brokers say within this time; a refusal that comes meanwhile is raised at once."""
        known, self.trouble = self.trouble, ""
        heard, self._refusal = self._refusal, ""
        self._are_down = False
        if heard:  # between two questions
            self._renew()
        until = time.monotonic() + secs
        while True:
            try:
                found = self._client.list_topics(topic, timeout=_ASK_SECS)
            except KafkaException as error:
                self.poll(0)
                if self.broken:
                    raise self.broken from error
                if self._refusal:
                    self._renew()
                    raise KafkaRefused(self._refusal) from error
                self.trouble = self.trouble or known
                if heard and time.monotonic() >= until:
                    raise KafkaRefused(heard) from error
                if self._are_down or time.monotonic() >= until:
                    servers = ", ".join(self._settings.brokers)
                    words = self.trouble or _words(error.args[0])
                    raise KafkaAway(f"no broker of {servers} can be used: {words}") from error
            else:
                self.brokers = len(found.brokers)
                self.trouble = self._refusal = ""
                return found

    def _renew(self) -> None:
        """Let the next connection use the credentials that the file has by then."""
        options = _options_of(self._settings)
        self._shared |= options
        user, password = options.get("sasl.username"), options.get("sasl.password")
        if user and password:
            self._client.set_sasl_credentials(user, password)

    def _make(self, topics: list[str], made: Callable[[str], None]) -> None:
        settings = self._settings
        partitions = 1 if settings.shape == "frames" else settings.partitions
        wanted = [NewTopic(topic, partitions, settings.replicas or -1) for topic in topics]
        with AdminClient(self._shared) as admin:
            futures = admin.create_topics(wanted, request_timeout=_MAKE_SECS)
            for topic, future in futures.items():
                try:
                    future.result(_MAKE_SECS + 0.5)
                except KafkaException as error:
                    problem = error.args[0]
                    if problem.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                        raise KafkaAway(f"topic {topic} was just made by somebody else") from error
                    raise _unfit(topic, problem) from error
                except TimeoutError as error:
                    raise KafkaAway(f"topic {topic} was not made within {_MAKE_SECS:g} s") from error
                made(topic)

    @contextmanager
    def _noting_its_end(self) -> Iterator[None]:
        """Note an error that ends the producer, which confluent-kafka raises where it would call back."""
        try:
            yield
        except KafkaException as error:
            problem = error.args[0]
            if not problem.fatal():
                raise
            words = _words(problem)
            self.broken = (
                KafkaRefused(f"{words}: let the user write to the topics")
                if problem.code() in _FORBIDDEN
                else KafkaAway(words)
            )

    def _hear(self, error: KafkaError) -> None:
        """Note what librdkafka says of a broker."""
        words = _words(error)
        if error.code() in _REFUSED:
            self._refusal = f"{words}: see KAFKA_OPTIONS and KAFKA_OPTIONS_FILE"
            self.trouble = self._refusal
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._are_down = True
            self.trouble = self.trouble or words  # why they are down is more than that they are
        else:
            self.trouble = words


def is_final(error: Any) -> bool:
    """Whether a message that failed with this error would fail each time: then it is too large."""
    code = error.args[0].code() if isinstance(error, KafkaException) else error.code()
    return code in _TOO_LARGE


def words_of(error: Any) -> str:
    """Return why a message failed."""
    return _words(error.args[0] if isinstance(error, KafkaException) else error)


def _partitions_of(metadata: Any, topic: str) -> Mapping[int, Any]:
    """Return the partitions of a topic; none if it does not exist."""
    found = metadata.topics.get(topic)
    if found is None:
        return {}
    if found.error is not None:
        if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return {}
        raise _unfit(topic, found.error)
    partitions: Mapping[int, Any] = found.partitions
    return partitions


def _unfit(topic: str, error: KafkaError) -> RecorderError:
    """Return what the brokers say against a topic as an error of ours."""
    words = _words(error)
    if error.code() in _FORBIDDEN:
        return TopicUnfit(
            f"topic {topic}: {words}: make it first, and let the user describe it and write to it, or let the user create it"
        )
    if error.retriable() or error.code() in _PASSING:
        return KafkaAway(f"topic {topic} cannot be had now: {words}")
    return TopicUnfit(f"topic {topic}: {words}")


def _words(error: KafkaError) -> str:
    """Return an error in words, without anything secret in it."""
    text = _STATE.sub("", error.str())
    return log.mask(text.removeprefix("Broker: ").removeprefix("Local: ").strip(" ."))


def _options_of(settings: KafkaSettings) -> dict[str, str]:
    """Return what librdkafka is told besides; the file is read each time.

    :raises ConfigError: the file cannot be used.
    """
    options = read_options(settings.options)
    file = settings.options_file
    if file is None:
        return options
    try:
        with Path(file).open("rb") as stream:
            text = stream.read(_FILE_BYTES_MAX).decode()
        options |= read_options(text.splitlines())
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"KAFKA_OPTIONS_FILE: {file} cannot be read: {words}") from error
    except BadValueError as error:
        raise ConfigError(f"KAFKA_OPTIONS_FILE: {file}: {error}") from error
    return options
