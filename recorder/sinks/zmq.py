"""A ZMQ publisher as a sink: each record is a message of two frames, its topic and its line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from recorder.bus import Batch
from recorder.clock import Clock
from recorder.errors import ConfigError
from recorder.ledger import Ledger
from recorder.log import RateLimited, get_logger
from recorder.polygon.rows import Rows
from recorder.settings import ZmqSettings
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, ThreadSink

SND_HWM_DEFAULT: Final = 100_000
"""Records that may wait for one subscriber where `ZMQ_SND_HWM` is not set. libzmq's own 1,000 are over in a
millisecond of a burst, and cost subscribers that are quick enough."""
ALONE_SECS: Final = 10.0
"""Records that go to nobody for this time are worth a warning."""
_ALONE_WARN_SECS: Final = 60.0
_KEEPALIVE_IDLE_SECS: Final = 60
"""A peer whose machine is gone is noticed also while nothing is sent."""
_TOPICS_MAX: Final = 500_000
"""Topics kept encoded, as the archive keeps the beginnings of its lines."""
_LOOK_SECS: Final = 0.1

_MORE: Final = int(zmq.NOBLOCK | zmq.SNDMORE)
_LAST: Final = int(zmq.NOBLOCK)
_HANDSHAKE_FAILED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

log = get_logger("polygon_clients")


@dataclass(slots=True)
class Output:
    """The records of one batch: all lines, and the channel and symbol of each."""

    cluster: str
    data: bytes
    channels: list[str]
    symbols: list[str]
    counts: dict[str, int]

    @property
    def size(self) -> int:
        """The bytes of the lines."""
        return len(self.data)


class ZmqPublisher:
    """Owns the PUB socket, on the sink's thread. Never waits for a subscriber.

    A PUB socket leaves out whoever's queue is full and tells nobody. Therefore ZMQ is asked first to give a record
    to all who want it (`XPUB_NODROP`). If it refuses, the record goes to the others and counts as dropped.
    """

    failure = ""
    """Nothing outside keeps a publisher from publishing."""

    def __init__(self, settings: ZmqSettings, drops: Drops, clock: Clock) -> None:
        self._settings = settings
        self._stats = drops.stats
        self._drops = drops
        self._clock = clock
        self._snd_hwm = settings.snd_hwm or SND_HWM_DEFAULT
        self._prefix = settings.topic_prefix.encode()
        self._topics: dict[str, dict[str, bytes]] = {}
        self._topics_count = 0
        self._strangers = 0
        """Connections that failed to shake hands, and whose end is still to be told."""
        self._alone_since_ns = 0
        self._sent_alone = False
        """Whether records have gone to nobody since the last warning about it."""
        self._slow_warning = RateLimited(settings.warn_interval_secs)
        self._alone_warning = RateLimited(max(_ALONE_WARN_SECS, settings.warn_interval_secs))
        self.bytes_done = 0
        self.endpoint = settings.endpoint

    def open(self) -> None:
        """Bind or connect. Raise ConfigError where the endpoint cannot be used."""
        settings = self._settings
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._socket = self._context.socket(zmq.PUB)
        socket.linger = 0
        socket.sndhwm = self._snd_hwm
        socket.ipv6 = "[" in settings.endpoint
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, _KEEPALIVE_IDLE_SECS)
        # Without it a peer that we connect to and that is gone keeps its queue, and the end waits for it in vain.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        # The convenience layer over the same call doubles its cost.
        self._send = super(zmq.Socket, socket).send
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED
        )
        try:
            if settings.bind:
                socket.bind(settings.endpoint)
                self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            else:
                socket.connect(settings.endpoint)
        except zmq.ZMQError as error:
            self._close_sockets(0)
            verb = "bind" if settings.bind else "connect to"
            advice = "; stop the program that has it, or choose another" if settings.bind else ""
            raise ConfigError(
                f"ZMQ_ENDPOINT: cannot {verb} {settings.endpoint}: {zmq.strerror(error.errno or 0)}{advice}"
            ) from error
        self._stats.peers = 0
        self._alone_since_ns = self._clock.monotonic_ns()

    def write(self, item: Output) -> None:
        """Publish the records of one batch, in order."""
        send, more, last = self._send, _MORE, _LAST
        refused: dict[str, int] = {}
        messages = zip(
            item.channels,
            self._encoded(item.channels, item.symbols),
            item.data[:-1].split(b"\n"),
            strict=True,
        )
        while True:
            try:
                for channel, topic, line in messages:  # noqa: B007  (the handler wants the channel)
                    send(topic, more)
                    send(line, last)
                break
            except zmq.Again:  # only ever the first frame: room is counted in whole messages
                self._send_to_the_others(topic, line)
                refused[channel] = refused.get(channel, 0) + 1
        stats = self._stats
        for channel, count in item.counts.items():
            stats.recorded[item.cluster, channel] += count - refused.get(channel, 0)
        stats.bytes_written += len(item.data)
        self.bytes_done += len(item.data)
        self._sent_alone = not stats.peers
        if refused:
            self._drops.add(item.cluster, refused, "the queue of a subscriber is full")
            self._warn_slow()

    def tick(self) -> float:
        """Count the peers that came and went."""
        stats = self._stats
        peers = stats.peers or 0
        while True:
            try:
                event: Any = recv_monitor_message(self._monitor, zmq.NOBLOCK)
            except zmq.Again:
                break
            kind = event["event"]
            if kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                peers += 1
            elif kind & _HANDSHAKE_FAILED:
                self._strangers += 1
            elif self._strangers:
                self._strangers -= 1
            else:
                peers -= 1
        if peers or stats.peers:
            self._alone_since_ns = self._clock.monotonic_ns()
        stats.peers = peers
        if self._sent_alone and not peers:
            self._warn_alone()
        return _LOOK_SECS

    def close(self, deadline_ns: int) -> None:
        """Send what is still queued for subscribers, until then; close."""
        now_ns = self._clock.monotonic_ns()
        self._close_sockets(max(0, deadline_ns - now_ns) // 1_000_000)
        if now_ns < deadline_ns <= self._clock.monotonic_ns() + 1_000_000:
            log.error(
                "zmq_records_unread",
                endpoint=self.endpoint,
            )

    def _close_sockets(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)
        self._context.term()
        self._stats.peers = 0

    def _encoded(self, channels: list[str], symbols: list[str]) -> list[bytes]:
        topics = self._topics
        try:
            return [topics[channel][symbol] for channel, symbol in zip(channels, symbols, strict=True)]
        except KeyError:
            return [self._topic(*name) for name in zip(channels, symbols, strict=True)]

    def _topic(self, channel: str, symbol: str) -> bytes:
        if self._topics_count >= _TOPICS_MAX:
            self._topics.clear()
            self._topics_count = 0
        by_symbol = self._topics.setdefault(channel, {})
        found = by_symbol.get(symbol)
        if found is None:
            found = by_symbol[symbol] = self._prefix + f"{channel}:{symbol}".encode()
            self._topics_count += 1
        return found

    def _send_to_the_others(self, topic: bytes, line: bytes) -> None:
        """Send past the subscribers whose queue is full; ZMQ leaves them out until half of it is taken."""
        self._socket.setsockopt(zmq.XPUB_NODROP, 0)
        self._send(topic, _MORE)
        self._send(line, _LAST)
        self._socket.setsockopt(zmq.XPUB_NODROP, 1)

    def _warn_slow(self) -> None:
        suppressed = self._slow_warning.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            log.error(
                "zmq_subscriber_slow",
                snd_hwm=self._snd_hwm,
                peers=self._stats.peers,
                dropped_total=self._drops.total,
                batches_since_last_warning=suppressed + 1,
            )

    def _warn_alone(self) -> None:
        now_ns = self._clock.monotonic_ns()
        alone_secs = (now_ns - self._alone_since_ns) / 1e9
        if alone_secs >= ALONE_SECS and self._alone_warning.ready(now_ns) is not None:
            self._sent_alone = False
            log.warning(
                "zmq_subscriber_absent",
                message="records are published to nobody: no subscriber has connected"
                if self._settings.bind
                else "records are published to nobody: ZMQ_BIND=false connects, so the subscriber must bind",
                endpoint=self.endpoint,
                alone_secs=round(alone_secs),
            )

    def __repr__(self) -> str:
        return f"ZmqPublisher({self.endpoint}, peers={self._stats.peers})"


class ZmqSink(ThreadSink[Output]):
    """Publishes records to ZMQ subscribers. Whoever is not connected, or has not subscribed, misses them.

    Past `NDJSON_BUFFER_BYTES`, which counts here too, the newest batch is dropped; a record that does not fit into
    the queue of a subscriber is dropped for that subscriber. Both are counted. `open` raises ConfigError where the
    endpoint cannot be used.
    """

    full = "records are dropped: more is waiting to be published than NDJSON_BUFFER_BYTES allows"
    full_reason = "too much waits to be published"
    late_reason = "not published before the shutdown's deadline"

    def __init__(self, settings: ZmqSettings, ledger: Ledger, clock: Clock) -> None:
        drops = Drops(ledger.sink("zmq"), clock, log, settings.warn_interval_secs)
        self.publisher = ZmqPublisher(settings, drops, clock)
        limits = QueueLimits(settings.channel_cap, settings.buffer_bytes)
        super().__init__("zmq", self.publisher, drops, limits)

    def item_of(self, batch: Batch, rows: Rows) -> Output | None:
        """Return the lines of a batch, and what each is about."""
        if not rows:
            return None
        return Output(rows.cluster, batch.lines, rows.channels, rows.symbols, rows.counts)

    def is_awaited(self) -> bool:
        """Whether a peer is connected: records go to it at once."""
        return bool(self.stats.peers)
