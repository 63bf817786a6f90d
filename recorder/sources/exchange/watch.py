"""The watch over one connection: pings, the time for acknowledgements, silence of the wire, silence of the market."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from recorder.bus import TopicsAnswered
from recorder.errors import DataTimeout, ReadTimeout
from recorder.log import get_logger
from recorder.polygon.channels import BUSY_CHANNELS
from recorder.polygon.client import ClientSession, Step, listed
from recorder.polygon.topics import WILDCARD
from recorder.sources.bus_session import BusSession
from recorder.sources.exchange.answers import Answers
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.reading import Reading
from recorder.sources.exchange.silence import silent_secs
from recorder.sources.exchange.stops import StopDetector
from recorder.sources.exchange.web_socket import WebSocket

STEP_TIMEOUT_SECS: Final = 10.0
"""For the greeting, for the answer to the key, and for the acknowledgements."""
_LOOK_SECS: Final = 1.0
_HELD_UP_NS_MIN: Final = 1_000_000_000

log = get_logger("polygon_upstream")


class Watch:
    """Looks at one connection about once a second, and ends it by raising when it is of no use any more."""

    def __init__(
        self, context: FeedContext, session: ClientSession, bus_session: BusSession, data_timeout_secs: float
    ) -> None:
        """`data_timeout_secs` (0: none) is how long silence may last where none is to be expected."""
        self._settings = context.settings
        self._session = session
        self._bus_session = bus_session
        self._stats = context.stats
        self._clock = context.clock
        self._hours = context.hours
        self._data_timeout_secs = data_timeout_secs
        self._bus = context.bus
        self._answers = Answers(session, context.refused)
        self.stops = StopDetector()

    async def run(
        self,
        socket: WebSocket,
        reading: Reading,
        ended: asyncio.Future[None],
        go_on: Callable[[], None],
    ) -> None:
        """Watch until `ended`, and raise what it raises.

        `go_on` is called where the time for acknowledgements is over and the session goes on without some of them.

        :raises ReadTimeout: the connection is dead.
        :raises DataTimeout: the market is open and brings nothing.
        :raises UpstreamError: no topic was acknowledged in time.
        """
        settings = self._settings
        self._look_at_answers(self._clock.monotonic_ns())  # from here on, what was asked for is waited for
        subscribed_by_ns = self._clock.monotonic_ns() + int(STEP_TIMEOUT_SECS * 1e9)
        heartbeat_ns = int(settings.heartbeat_interval_secs * 1e9)
        next_ping_ns = self._clock.monotonic_ns() + heartbeat_ns
        timeout_ns = int(settings.read_timeout_secs * 1e9)
        look_secs = min(_LOOK_SECS, settings.read_timeout_secs / 4, settings.heartbeat_interval_secs or 60)
        while True:
            self.stops.sleep(self._clock.monotonic_ns(), look_secs)
            await asyncio.wait([ended], timeout=look_secs)
            if ended.done():
                await ended
            now_ns = self._clock.monotonic_ns()
            late_ns = self.stops.late_ns(now_ns)
            if self._session.step is Step.SUBSCRIBING and now_ns >= subscribed_by_ns:
                self._look_at_answers(now_ns)
                self._end_subscribing(go_on)
            if now_ns >= next_ping_ns and heartbeat_ns:
                next_ping_ns = now_ns + heartbeat_ns
                self._stats.heartbeats_sent += 1
                await socket.ping()
            if late_ns > max(_HELD_UP_NS_MIN, timeout_ns // 4):
                # This process was stopped or starved, not the exchange: the reader gets its turn before the verdict.
                continue
            self._look_at_answers(now_ns)
            paused_until_ns = reading.paused_until_ns
            if now_ns - max(self._bus_session.last_read_ns, paused_until_ns) >= timeout_ns:
                self._end_silence(socket)
            self._check_data(now_ns, paused_until_ns)

    def _end_silence(self, socket: WebSocket) -> None:
        """Raise ReadTimeout, unless bytes arrive that are no whole message yet, or none are to be expected."""
        timeout_secs = self._settings.read_timeout_secs
        # Only the kernel sees the bytes of a frame that takes minutes to arrive.
        silent = silent_secs(socket.get_extra_info("socket"))
        is_silent = silent is None or silent >= timeout_secs
        # A peer that answers no pings is not worse for it while its market is closed.
        if is_silent and self._hours.wants_bytes(self._clock.wall_ns()):
            self._stats.read_timeouts += 1
            raise ReadTimeout(f"no byte received for {timeout_secs:g} s")

    def _check_data(self, now_ns: int, paused_until_ns: int) -> None:
        """Note that a market is open and brings nothing, and end the session with the exchange for it.

        Another recorder is silent because its exchange is, so that a new connection to it would help nobody.
        """
        stats, limit_secs = self._stats, self._data_timeout_secs
        if not (limit_secs and self._bus_session.opened_at_ns):
            return
        quiet_secs = (now_ns - max(self._bus_session.last_data_ns, paused_until_ns)) / 1e9
        silent = min(quiet_secs, self._hours.open_secs(self._clock.wall_ns()))
        stats.stale_secs = silent if silent >= limit_secs and self._is_busy() else 0.0
        if stats.stale_secs and not self._settings.firehose:
            stats.data_timeouts += 1
            raise DataTimeout(f"no data for {limit_secs:g} s, though the market is open")

    def _is_busy(self) -> bool:
        """Whether something must come every minute: of quiet topics, only pongs can be expected."""
        topics = (topic.partition(".") for topic in self._session.topics)
        return any(
            channel == WILDCARD or (symbol == WILDCARD and channel in BUSY_CHANNELS)
            for channel, _, symbol in topics
        )

    def _look_at_answers(self, now_ns: int) -> None:
        """Have the bus told of topics that the exchange refuses, or does not answer for."""
        session, cluster = self._session, self._settings.cluster
        acknowledges = session.acknowledged > 0 or not self._bus_session.data_received
        for topics, refusal in self._answers.look(now_ns, STEP_TIMEOUT_SECS, acknowledges=acknowledges):
            if refusal:
                log.warning(
                    "topics_unacknowledged",
                    cluster=cluster,
                    topics=listed(list(topics)),
                    not_authorized=session.not_authorized,
                    reason=refusal,
                )
            self._bus.answer(TopicsAnswered(cluster, topics, refusal))

    def _end_subscribing(self, go_on: Callable[[], None]) -> None:
        """Go on with the topics that were acknowledged, or with the data that flows without that."""
        session = self._session
        session.step_timed_out(self._bus_session.data_received)
        if session.unacknowledged and not session.acknowledged:
            log.warning(
                "topics_unacknowledged",
                cluster=self._settings.cluster,
                topics=listed(session.unacknowledged),
                not_authorized=session.not_authorized,
                reason="the exchange acknowledges nothing, and sends data all the same",
            )
        go_on()
