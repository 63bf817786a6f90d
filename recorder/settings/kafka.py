"""The settings of the Kafka sink: where the brokers are, what its topics hold, what librdkafka is told besides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

from recorder import log
from recorder.addresses import PORT_MAX
from recorder.settings import values
from recorder.settings.kinds import ANY_CASE, MILLIS, BadValueError, Size, Spelling, each_of
from recorder.settings.option import Section, option

MIB: Final = 2**20
KAFKA_PORT: Final = 9092
"""Where a broker listens if its address names no port."""
_BROKER: Final = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_NAME: Final = re.compile(r"[a-z][a-z0-9._-]*")
_SECRET: Final = re.compile(r"passw|passphrase|secret|\.pem$|oauthbearer\.config$")
"""What the names of librdkafka's options have whose values nobody may see."""
_OURS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("bootstrap.servers", "metadata.broker.list"), "is KAFKA_BROKERS here"),
    **dict.fromkeys(("linger.ms", "queue.buffering.max.ms"), "is KAFKA_LINGER_MS here"),
    **dict.fromkeys(
        ("queue.buffering.max.messages", "queue.buffering.max.kbytes"), "is KAFKA_BUFFER_BYTES here"
    ),
    **dict.fromkeys(
        ("acks", "request.required.acks", "enable.idempotence", "transactional.id"),
        "must stay as it is: an event that a broker has acknowledged must be there, once",
    ),
    **dict.fromkeys(
        ("message.timeout.ms", "delivery.timeout.ms", "retries", "message.send.max.retries"),
        "must stay as it is: events wait for the brokers as long as KAFKA_BUFFER_BYTES lasts",
    ),
    "delivery.report.only.error": "must stay as it is: events are counted once they are acknowledged",
}
"""Options that have another place, or that would break what the sink promises."""


def _read_broker(text: str) -> str:
    found = _BROKER.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not an address such as 127.0.0.1:9092 or kafka.example.com")
    port = int(found[2] or KAFKA_PORT)
    if not 0 < port <= PORT_MAX:
        raise BadValueError(f"{text!r} must have a port from 1 to {PORT_MAX}")
    return f"{found[1]}:{port}"


Brokers = Annotated[
    tuple[str, ...], each_of(_read_broker, "addresses such as 127.0.0.1:9092 or kafka.example.com")
]
"""Addresses of brokers, each with its port."""


def _read_prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError
    return text


TopicPrefix = Annotated[
    str,
    Spelling(
        _read_prefix, "up to 64 of the letters A-Z a-z, digits, _, - and ., the last one not at either end"
    ),
]
"""What the names of topics begin with."""


def is_secret(name: str) -> bool:
    """Whether the value of an option of librdkafka must never be shown."""
    return _SECRET.search(name) is not None


def read_option(text: str) -> tuple[str, str]:
    """Read `name=value`. A value that is secret is masked in every log from here on, even if it is no good.

    Raise BadValueError with words that do not show the value.
    """
    name, sign, value = (part.strip() for part in text.partition("="))
    if is_secret(name.lower()) and value:
        log.register_secret(value)
    if not sign or not value or not _NAME.fullmatch(name):
        raise BadValueError(f"{name if _NAME.fullmatch(name) else 'an item'} is not of the form name=value")
    if name in _OURS:
        raise BadValueError(f"{name} {_OURS[name]}")
    return name, value


def read_options(lines: Iterable[str]) -> dict[str, str]:
    """Return options that stand in lines of their own; empty lines and those that begin with `#` say nothing.

    Raise BadValueError with words that do not show a value.
    """
    found: dict[str, str] = {}
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            name, value = read_option(text)
            if name in found:
                raise BadValueError(f"{name} is there twice")
            found[name] = value
    return found


def _read_public_options(text: str) -> tuple[str, ...]:
    found = read_options(re.split("[;\n]", text))
    for name in found:
        if is_secret(name):
            raise BadValueError(
                f"{name} belongs in the file that KAFKA_OPTIONS_FILE names: nobody may see it"
            )
    if not found:
        raise ValueError
    return tuple(f"{name}={value}" for name, value in found.items())


Options = Annotated[
    tuple[str, ...],
    Spelling(
        _read_public_options,
        "options such as security.protocol=sasl_ssl; sasl.mechanism=PLAIN, separated by semicolons or lines",
        "; ".join,
    ),
]
"""Options of librdkafka, each `name=value`."""


class KafkaSettings(Section, group="Consumers"):
    """The topics of a Kafka cluster."""

    brokers: Brokers = option("KAFKA_BROKERS", ("127.0.0.1:9092",))
    """Brokers that are asked for all others; name several."""
    topic_prefix: TopicPrefix = option("KAFKA_TOPIC_PREFIX", "md")
    """Each cluster has a topic: `md.stocks.frames`, or `md.stocks.records`."""
    shape: Annotated[Literal["frames", "records"], ANY_CASE] = option("KAFKA_SHAPE", "frames")
    """What a message is: many frames as they were received, compressed, in one partition, for any rate; or one record,
    whose key is its symbol, for up to 100,000 a second."""
    partitions: int = option("KAFKA_PARTITIONS", 4, ge=1, le=1000)
    """Partitions of a topic of records that is made. One that exists may have any number."""
    replicas: int | None = option("KAFKA_REPLICAS", None, default_text="the brokers' own default", ge=1, le=9)
    """Brokers that hold each topic that is made: 3 survive the loss of one."""
    buffer_bytes: Size = option("KAFKA_BUFFER_BYTES", 256 * MIB)
    """Bytes that may wait for the brokers, acknowledgements included. Past this limit the newest batch is dropped and
    counted."""
    linger_ms: Annotated[int, MILLIS] = option("KAFKA_LINGER_MS", 20, ge=0, le=1000)
    """How long events wait for others: frames to be one message, records to be sent together."""
    options: Options = option("KAFKA_OPTIONS", ())
    """What librdkafka is told besides, as in `security.protocol=sasl_ssl; sasl.mechanism=SCRAM-SHA-512`: its
    CONFIGURATION.md lists all. Passwords belong in `KAFKA_OPTIONS_FILE`."""
    options_file: values.File | None = option("KAFKA_OPTIONS_FILE", None)
    """File with more of these options, one a line, such as `sasl.password=…`."""

    def topic(self, cluster: str) -> str:
        """Return the name of a cluster's topic."""
        return f"{self.topic_prefix}.{cluster}.{self.shape}"
