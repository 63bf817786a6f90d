"""ZMQ subscribers for tests: they read on a thread of their own, pause when told, and can tell that they are subscribed."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from typing import Any

import zmq
from waiting import eventually
from zmq.utils.monitor import recv_monitor_message

from recorder.settings import ZmqSettings
from recorder.sinks.zmq import Output, ZmqSink

_LOOK_MS = 10
_PROBE = "probe"
_numbers = itertools.count(1)


class Subscriber:
    """A SUB socket whose messages are kept, in order."""

    def __init__(
        self, endpoint: str, *topics: bytes, bind: bool = False, rcvhwm: int = 0, prefix: bytes = b""
    ) -> None:
        """No topics: everything. `prefix` is what the publisher's topics begin with."""
        self.messages: list[tuple[bytes, bytes]] = []
        self.probe = 0
        """The newest probe that has arrived."""
        self.disconnected = threading.Event()
        """The publisher is gone, and all it sent is in `messages`."""
        self._probe_topic = prefix + f"{_PROBE}:".encode()
        self._reading = threading.Event()
        self._reading.set()
        self._closing = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.rcvhwm = rcvhwm
        # Subscriptions travel in order: once a probe has come, all before it are known to the publisher.
        for topic in (*(topics or (b"",)), self._probe_topic):
            self._socket.subscribe(topic)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        if bind:
            self._socket.bind(endpoint)
        else:
            self._socket.connect(endpoint)
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[bytes]:
        """The records so far."""
        return [line for _, line in list(self.messages)]

    def block(self) -> None:
        """Read no more."""
        self._reading.clear()

    def unblock(self) -> None:
        """Read on."""
        self._reading.set()

    def close(self) -> None:
        """Go away."""
        self._closing.set()
        self._reading.set()
        self._thread.join(30)

    def _read(self) -> None:
        while not self._closing.is_set():
            self._reading.wait()
            if self._socket.poll(_LOOK_MS):
                self._take()
                continue
            with suppress(zmq.Again):
                recv_monitor_message(self._monitor, zmq.NOBLOCK)
                while self._socket.poll(0):
                    self._take()
                self.disconnected.set()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0)
        self._context.term()

    def _take(self) -> None:
        topic, line = self._socket.recv_multipart()
        if topic == self._probe_topic:
            self.probe = int(line)
        else:
            self.messages.append((topic, line))


async def reached(sink: ZmqSink, *subscribers: Subscriber) -> None:
    """Wait until each of them has its subscriptions at the publisher, has room, and has taken all that was sent."""
    mark = next(_numbers)

    def arrived() -> bool:
        number = next(_numbers)
        probe = Output("", b"%d\n" % number, [_PROBE], [""], {})
        sink.queue.call(lambda: sink.publisher.write(probe))
        return all(subscriber.probe > mark for subscriber in subscribers)

    await eventually(arrived, "a probe at every subscriber")


def zmq_settings(endpoint: str, **changes: Any) -> ZmqSettings:
    """Return the settings of a publisher that binds."""
    values: dict[str, Any] = {
        "endpoint": endpoint,
        "bind": True,
        "channel_cap": 4096,
        "snd_hwm": None,
        "warn_interval_secs": 5.0,
        "topic_prefix": "",
        "buffer_bytes": 2**26,
    }
    return ZmqSettings(**{**values, **changes})
