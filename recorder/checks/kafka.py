"""Check of the Kafka brokers: whether they take the credentials, how many there are, and what each topic is like."""

from __future__ import annotations

from typing import Final

from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene, in_thread
from recorder.errors import ConfigError, RecorderError
from recorder.settings import Settings

ASK_SECS: Final = 5.0
_SEE_BROKERS: Final = (
    "see whether the brokers of KAFKA_BROKERS run, and whether a firewall is between; docs/kafka.md"
)


async def check_kafka(scene: Scene) -> list[Finding]:
    """Connect as the sink does, and look at brokers and topics; nothing is made or changed."""
    settings = scene.settings
    if "kafka" not in settings.sinks:
        return [skipped("kafka", "SINK does not name kafka")]
    if scene.offline:
        return [skipped("kafka", "--offline: the brokers were not asked")]
    try:
        from recorder.sinks.kafka import producer  # noqa: F401
    except ModuleNotFoundError:
        return [skipped("kafka", "confluent-kafka is not installed")]
    try:
        return await in_thread(lambda: _ask(settings))
    except ConfigError as error:
        return [failure("kafka", str(error), "do what the line says; the recorder would end with status 78")]
    except RecorderError as error:
        return [failure("kafka", str(error), _SEE_BROKERS)]


def _ask(settings: Settings) -> list[Finding]:
    from recorder.sinks.kafka.producer import Producer

    producer = Producer(settings.kafka)
    try:
        topics = [settings.kafka.topic(cluster) for cluster in settings.clusters]
        found = producer.shapes_of(topics, ASK_SECS)
        brokers = "1 broker" if producer.brokers == 1 else f"{producer.brokers} brokers"
        words = ok("kafka", f"{', '.join(settings.kafka.brokers)}: {brokers}")
        return [words, *(_about_topic(topic, found.get(topic)) for topic in topics)]
    finally:
        producer.close()


def _about_topic(topic: str, shape: tuple[int, int] | None) -> Finding:
    if shape is None:
        return ok("kafka", f"topic {topic} does not exist; the recorder makes it")
    partitions, replicas = shape
    text = f"topic {topic} has {partitions} partition{'s' * (partitions > 1)}, {replicas} replica{'s' * (replicas > 1)}"
    if replicas == 1:
        return warning(
            "kafka",
            f"{text}: while its broker is away nothing can be written, and if that is lost, so is the topic",
            "make the topic with 3 replicas, and with min.insync.replicas=2",
        )
    return ok("kafka", text)
