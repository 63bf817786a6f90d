"""Sends parcels of messages, keeps each until all of it is acknowledged, and says why that is not so."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from recorder.backoff import Backoff
from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.log import get_logger
from recorder.settings.kafka import KafkaSettings
from recorder.sinks.kafka.producer import LOOK_SECS, REFUSALS, KafkaAway, Producer, is_final, words_of
from recorder.sinks.kafka.shapes import Draft, Parcel
from recorder.sinks.sink import Drops
from recorder.sinks.target import Item

BYTES_UNDER_WAY_MAX: Final = 32 * 2**20
"""Content that librdkafka has and that is not acknowledged; past it nothing more is taken from the queue."""
ACK_SECS_MAX: Final = 5.0
"""Where nothing is acknowledged for longer, nothing more is taken."""
OPEN_SECS: Final = 5.0
"""The start of the recorder waits no longer for the brokers."""
FULL: Final = "more is under way than the brokers acknowledge"
_RETRY_FIRST_SECS: Final = 0.2
_RETRY_SECS_MAX: Final = 2.0
_TICK_SECS: Final = 0.1
_BUSY_TICK_SECS: Final = 0.01
"""While messages are under way, so that they are counted soon after they are acknowledged."""
_CLOSE_SECS: Final = 0.2
"""Kept of the time for closing, to take back what is not acknowledged."""

log = get_logger("polygon_clients")


class Shape(Protocol):
    """What messages are made of items."""

    @property
    def partition(self) -> int:
        """The partition of each message; -1: librdkafka chooses it by the key."""

    def take(self, item: Any, now_ns: int) -> Iterator[Parcel]:
        """Take an item; yield what is complete by that."""

    def due(self, now_ns: int) -> Iterator[Parcel]:
        """Yield what has lingered long enough."""

    def due_secs(self, now_ns: int) -> float | None:
        """Return the time until more has; None if nothing is kept."""

    def rest(self) -> Iterator[Parcel]:
        """Yield all that is kept."""


class _Sent:
    """A parcel that was sent. It is done once each of its messages is acknowledged, or lost for good."""

    __slots__ = ("again", "bytes", "left", "lost", "number", "parcel")

    def __init__(self, number: int, parcel: Parcel) -> None:
        self.number = number
        """Parcels are sent again in this order."""
        self.parcel = parcel
        self.again = list(parcel.drafts)
        """Messages that are to be sent, for the first time or again."""
        self.left = 0
        """Messages that librdkafka has."""
        self.bytes = 0
        """Content that librdkafka has, or had when the last of it was sent."""
        self.lost: Counter[str] = Counter()
        """Events of messages that can never be sent."""


class _Message:
    """A message that librdkafka has, as the callable that it reports to."""

    __slots__ = ("_draft", "_publisher", "_sent")

    def __init__(self, publisher: KafkaPublisher, sent: _Sent, draft: Draft) -> None:
        self._publisher = publisher
        self._sent = sent
        self._draft = draft

    def __call__(self, error: Any, _: object) -> None:
        self._publisher.report(self._sent, self._draft, error)


class KafkaPublisher:
    """Target of the sink: takes what is in the queue, and has each event in its topic, acknowledged by all replicas in sync.

    librdkafka sends again what was not acknowledged, and the brokers leave out what they have already. While nothing is
    acknowledged, `failure` says why, and nothing more is taken. At the deadline of `close` the rest counts as dropped,
    though it may be in the topic.
    """

    def __init__(
        self, settings: KafkaSettings, clusters: Sequence[str], shape: Shape, drops: Drops, clock: Clock
    ) -> None:
        self._settings = settings
        self._topics = {cluster: settings.topic(cluster) for cluster in clusters}
        self._shape = shape
        self._drops = drops
        self._stats = drops.stats
        self._clock = clock
        self._producer: Producer | None = None
        self._has_topics = False
        """Whether each topic was seen to be what it must be, since `open`."""
        self._sent: dict[int, _Sent] = {}
        """What was sent and is not done, by number."""
        self._number = 0
        self._bytes_under_way = 0
        self._is_replaced = False
        """Whether the producer is another one since something was last acknowledged."""
        self._is_acknowledged = False
        """Whether something was, since that was last asked."""
        self._failed_again = ""
        """Why a message failed that is to be sent again."""
        self._progress_ns = 0
        """When something was last acknowledged, or sent while nothing was under way."""
        self._backoff = Backoff(_RETRY_FIRST_SECS, _RETRY_SECS_MAX, random.uniform)
        self._retry_ns = 0
        self._said: bool | None = None
        """Whether the failure that the log has told of is one for an operator; None: it has told of none."""
        self.bytes_done = 0

    @property
    def failure(self) -> str:
        """Why nothing is taken now; empty while it is."""
        return self._stats.failure or (FULL if self._bytes_under_way >= BYTES_UNDER_WAY_MAX else "")

    def open(self) -> None:
        """Connect, and see to the topics. Brokers that are away do not keep the recorder from working: `failure` says so.

        :raises ConfigError: the options, the credentials or a topic cannot be used; somebody must change something.
        """
        producer = Producer(self._settings)
        self._producer, self._has_topics, self._said = producer, False, None
        self._backoff.reset()
        try:
            self._see_to_topics(OPEN_SECS)
        except ConfigError:
            self._producer = None
            producer.close()
            raise
        except RecorderError as error:
            self._fail(error)
        else:
            self._prove()

    def write(self, item: Item) -> None:
        """Take one item, and send what is complete by that."""
        self._send(self._shape.take(item, self._clock.monotonic_ns()))

    def tick(self) -> float:
        """Hear of messages and brokers; send what has lingered; where something failed, try again when it is time."""
        producer = self._producer
        assert producer is not None
        producer.poll(_BUSY_TICK_SECS if self._bytes_under_way >= BYTES_UNDER_WAY_MAX else 0)
        now_ns = self._clock.monotonic_ns()
        self._judge(now_ns)
        if self._stats.failure:
            if now_ns >= self._retry_ns:
                self._try()
            return _TICK_SECS
        self._send(self._shape.due(now_ns))
        due_secs = self._shape.due_secs(now_ns)
        tick_secs = _BUSY_TICK_SECS if self._sent else _TICK_SECS
        return tick_secs if due_secs is None else min(tick_secs, due_secs)

    def close(self, deadline_ns: int) -> None:
        """Send what is left, and wait for the acknowledgements until then; drop the rest, counted."""
        producer = self._producer
        if producer is None:
            return
        self._send(self._shape.rest())
        until_ns = deadline_ns - int(_CLOSE_SECS * 1e9)
        while self._sent and not producer.broken and (left_ns := until_ns - self._clock.monotonic_ns()) > 0:
            producer.flush(min(_TICK_SECS, left_ns / 1e9))
        producer.purge()
        lost = 0
        for sent in self._sent.values():
            lost += self._give_up(sent)
        self._sent.clear()
        self._bytes_under_way = 0
        if lost:
            log.error("kafka_unacknowledged", events=lost, failure=self._stats.failure)
        self._producer = None
        producer.close()

    def report(self, sent: _Sent, draft: Draft, error: Any) -> None:
        """Take what librdkafka says of a message: `error` is None once it is acknowledged."""
        sent.left -= 1
        if error is None:
            self._is_acknowledged = True
        else:
            self._put_back(sent, draft, error)
        if not sent.left:
            self._settle(sent)

    def _put_back(self, sent: _Sent, draft: Draft, error: Any) -> None:
        """Let a message that failed be sent again, or lose it."""
        if is_final(error):
            sent.lost.update(draft.counts)
            self._drops.add(sent.parcel.cluster, draft.counts, "larger than a message of the brokers may be")
            self._drops.warn(
                "events are dropped: they are larger than message.max.bytes or the topic allows",
                bytes=len(draft.value),
            )
        else:
            sent.again.append(draft)
            self._failed_again = words_of(error)

    def _settle(self, sent: _Sent) -> None:
        """Account for a parcel of which librdkafka has nothing any more."""
        self._bytes_under_way -= sent.bytes
        sent.bytes = 0
        if sent.again:
            return
        del self._sent[sent.number]
        self._account(sent, sent.lost)

    def _account(self, sent: _Sent, missing: Mapping[str, int]) -> None:
        """Count the events of a parcel as recorded, but for those that are missing."""
        parcel = sent.parcel
        recorded = Counter(parcel.counts)
        recorded.subtract(missing)
        self._stats.note_recorded(parcel.cluster, +recorded)
        self.bytes_done += parcel.size

    def _give_up(self, sent: _Sent) -> int:
        """Account for a parcel that is not acknowledged at the end; return how many of its events were not."""
        missing: Counter[str] = Counter()
        for draft in sent.again:
            missing.update(draft.counts)
        if sent.left:  # librdkafka has not said which ones it still has
            missing = Counter(sent.parcel.counts)
            missing.subtract(sent.lost)
        self._drops.add(sent.parcel.cluster, missing, "not acknowledged before the shutdown's deadline")
        self._stats.given_up += missing.total()
        self._account(sent, missing + sent.lost)
        return missing.total()

    def _send(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            self._number += 1
            sent = self._sent[self._number] = _Sent(self._number, parcel)
            self._push(sent)

    def _push(self, sent: _Sent) -> None:
        """Hand all messages of a parcel to librdkafka that it does not have."""
        producer = self._producer
        assert producer is not None
        if not self._bytes_under_way:
            self._progress_ns = self._clock.monotonic_ns()
        topic, partition = self._topics[sent.parcel.cluster], self._shape.partition
        drafts, sent.again = sent.again, []
        for draft in drafts:
            try:
                producer.produce(topic, partition, draft, _Message(self, sent, draft))
            except REFUSALS as error:
                self._put_back(sent, draft, error)
            else:
                sent.left += 1
                sent.bytes += len(draft.value)
        self._bytes_under_way += sent.bytes
        self._stats.bytes_written += sent.bytes
        if not sent.left:
            self._settle(sent)

    def _judge(self, now_ns: int) -> None:
        """See whether messages are acknowledged, and what became of the brokers where there was trouble."""
        producer = self._producer
        assert producer is not None
        if self._is_acknowledged:
            self._is_acknowledged = False
            self._progress_ns = now_ns
            if not self._failed_again and (self._stats.failure or self._said is not None):
                self._prove()
        if self._stats.failure:
            return
        if producer.broken or self._failed_again:
            self._fail(producer.broken or KafkaAway(self._failed_again))
        elif self._bytes_under_way and now_ns - self._progress_ns > ACK_SECS_MAX * 1e9:
            words = f"nothing was acknowledged for {ACK_SECS_MAX:g} s"
            self._fail(KafkaAway(f"{words}: {producer.trouble}" if producer.trouble else words))
        elif producer.trouble:
            try:
                producer.look(next(iter(self._topics.values())))
            except RecorderError as error:
                self._fail(error)

    def _try(self) -> None:
        """See whether the brokers are there again, and send again what failed."""
        producer = self._producer
        assert producer is not None
        try:
            if producer.broken:
                self._replace(producer)
            elif self._has_topics:
                producer.look(next(iter(self._topics.values())))
            else:
                self._see_to_topics(LOOK_SECS)
        except RecorderError as error:
            self._fail(error)
            return
        self._retry_ns = self._clock.monotonic_ns() + int(_RETRY_SECS_MAX * 1e9)
        self._failed_again = ""
        for number in sorted(number for number, sent in self._sent.items() if sent.again):
            self._push(self._sent[number])
        if not self._sent:
            self._prove()

    def _replace(self, producer: Producer) -> None:
        """Put another producer in the place of one that is broken. Nobody knows what had arrived of what was under way."""
        successor = Producer(self._settings)
        if self._sent and not self._is_replaced:
            log.warning("kafka_producer_replaced", failure=str(producer.broken), parcels=len(self._sent))
        self._is_replaced = True
        producer.purge()
        producer.close()
        self._producer = successor
        self._see_to_topics(LOOK_SECS)

    def _see_to_topics(self, secs: float) -> None:
        producer = self._producer
        assert producer is not None
        producer.ensure(
            [*self._topics.values()], lambda topic: log.info("kafka_topic_made", topic=topic), secs
        )
        self._has_topics = True

    def _prove(self) -> None:
        """The brokers take messages: forget what failed."""
        assert self._producer is not None
        self._stats.failure = ""
        self._said = None
        self._is_replaced = False
        self._backoff.reset()
        log.info("kafka_connected", brokers=self._producer.brokers)

    def _fail(self, error: RecorderError) -> None:
        """Take nothing until messages are acknowledged again."""
        self._stats.failure = str(error)
        self._stats.write_errors += 1
        self._retry_ns = self._clock.monotonic_ns() + int(self._backoff.next_secs() * 1e9)
        is_for_operator = isinstance(error, ConfigError)
        if is_for_operator is not self._said:
            self._said = is_for_operator
            log.error("kafka_interrupted", failure=str(error), under_way_bytes=self._bytes_under_way)

    def __repr__(self) -> str:
        return f"KafkaPublisher({len(self._sent)} under way, failure={self.failure!r})"
