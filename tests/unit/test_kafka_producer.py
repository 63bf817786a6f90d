"""What the brokers say against a topic, and how it is said: which of it ends the start, and which is waited for."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from recorder.errors import ConfigError
from recorder.sinks.kafka.producer import KafkaAway, TopicUnfit, _unfit, words_of


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
    ],
)
def test_what_may_pass_is_waited_for(code: int) -> None:
    """Brokers that start, or that are slow, do not end the recorder."""
    error = _unfit("md.stocks.frames", KafkaError(code))
    assert isinstance(error, KafkaAway)
    assert not isinstance(error, ConfigError)


@pytest.mark.parametrize(
    "code",
    [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.TOPIC_EXCEPTION, KafkaError.POLICY_VIOLATION],
)
def test_what_somebody_must_change_ends_the_start(code: int) -> None:
    """Trying again cannot help, and the topic is named."""
    error = _unfit("md.stocks.frames", KafkaError(code))
    assert isinstance(error, TopicUnfit)
    assert str(error).startswith("topic md.stocks.frames: ")


def test_words_are_without_the_states_of_librdkafka() -> None:
    """What failed and why stays."""
    said = "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)"
    error = KafkaError(KafkaError._TRANSPORT, said)
    assert words_of(error) == "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused"
