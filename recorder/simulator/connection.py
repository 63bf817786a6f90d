"""One subscriber of the simulated exchange: its session, its socket, and what goes wrong on it."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import WSMsgType, web

from recorder.clock import Clock
from recorder.frames import PONG, close_frame, frame
from recorder.polygon.careful import split_elements
from recorder.polygon.control import (
    AUTH_FAILED,
    MAX_CONNECTIONS,
    NOT_AUTHORIZED,
    SLOW_CONSUMER,
    acknowledgement,
)
from recorder.polygon.manner import Manner
from recorder.polygon.rows import Status
from recorder.polygon.server import Action, Close, Send, ServerSession, Subscribe, Verdict
from recorder.simulator.faults import (
    DataFault,
    F,
    Fault,
    MaxConnections,
    NoAcks,
    NoGreeting,
    NotAuthorized,
    RefusedKey,
    SlowAcks,
    of_kind,
)
from recorder.simulator.frame_log import FrameLog
from recorder.simulator.framing import Frames
from recorder.simulator.market import Market
from recorder.simulator.settings import SimulatorSettings

_MESSAGE_BYTES_MAX: Final = 1024 * 1024
_CLOSING_SECS: Final = 5.0
"""How long a client may take to read what is pending and to answer a close frame."""


@dataclass(slots=True)
class SimulatorStats:
    """The counters of the exchange, over its whole life."""

    connections: int = 0
    connections_open: int = 0
    keys_refused: int = 0
    frames_sent: int = 0
    events_sent: int = 0
    bytes_sent: int = 0
    """Payload and headers of data frames."""
    slow_consumers: int = 0
    max_connections: int = 0
    faults_struck: int = 0


class Exchange(Protocol):
    """What a connection needs to know of the exchange that it is part of."""

    settings: SimulatorSettings
    clock: Clock
    stats: SimulatorStats
    faults: Sequence[Fault]
    log: FrameLog | None

    def cluster_progress(self, cluster: str) -> tuple[int, float]:
        """Return the events sent on a cluster, and the seconds since the exchange began to listen."""

    def admit(self, connection: Connection) -> None:
        """Note that a key was accepted; this may end an older connection."""


@dataclass(slots=True)
class _Armed:
    """A fault of the data that waits for its moment on one connection."""

    fault: DataFault
    events_left: int
    due_ns: int


class Connection:
    """Serves one client until either side ends it. A subscriber of its cluster's market, and a victim of faults.

    Data is written as it is delivered. A client whose pending bytes pass the limit is told `slow_consumer` and cut.
    """

    repeats_are_acknowledged = False
    """As the vendor: silence for a topic that is held already."""
    everything = ""
    topics_max = 1_000_000

    def __init__(self, number: int, market: Market[object], venue: str, exchange: Exchange) -> None:
        self.number = number
        self.market = market
        self.events_sent = 0
        self.session = ServerSession(self)
        self._venue = venue
        self._exchange = exchange
        self._transport: asyncio.Transport | None = None
        self._armed: list[_Armed] | None = None
        """None before the first subscription."""
        self._drops_on_close = False
        self._ended = False
        self._stalled_until_ns: float = 0
        self._answers_pings = True
        self._timers: list[asyncio.TimerHandle] = []

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Speak with the client until the connection ends."""
        ws = web.WebSocketResponse(
            autoping=False, autoclose=False, compress=False, max_msg_size=_MESSAGE_BYTES_MAX
        )
        await ws.prepare(request)
        transport = request.transport
        if transport is None:
            return ws
        self._transport = transport
        try:
            if self._strikes(NoGreeting) is None:
                self._perform(self.session.greet())
            self._later(
                self._exchange.settings.auth_timeout_secs,
                lambda: self._perform(self.session.auth_timed_out()),
            )
            while True:
                message = await ws.receive()
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    self._receive(message.data)
                elif message.type is WSMsgType.PING:
                    if self._answers_pings:
                        await self.market.caught_up()
                        self._write(frame(message.data, PONG))
                elif message.type is WSMsgType.CLOSE:
                    self.close(message.data or 1000, "")
                    break
                elif message.type is not WSMsgType.PONG:
                    break
        finally:
            self._end()
            for timer in self._timers:
                timer.cancel()
            transport.close()
            if transport.get_write_buffer_size():
                # Closing waits for what is pending, for ever if the client does not read.
                asyncio.get_running_loop().call_later(_CLOSING_SECS, transport.abort)
        return ws

    def refuse_key(self, token: str) -> Status | None:
        """Refuse a key that is not known, or that a fault picks out."""
        keys = self._exchange.settings.keys
        refused = self._strikes(RefusedKey)
        if refused is not None:
            self._drops_on_close = refused.drops
            refusal: Status | None = refused.refusal
        elif (token not in keys) if keys is not None else not token:
            refusal = AUTH_FAILED
        elif self._strikes(MaxConnections, lambda fault: fault.answers_key):
            self._exchange.stats.max_connections += 1
            return MAX_CONNECTIONS
        else:
            return None
        self._exchange.stats.keys_refused += 1
        return refusal

    def check(self, topic: str) -> Verdict:
        """Acknowledge what can be subscribed to, be the symbol known or not; be silent about all else."""
        channel, _, symbol = topic.partition(".")
        if channel not in self.market.channels or not symbol or ("*" in symbol and symbol != "*"):
            return Verdict(held=False, answer=None)
        if self._strikes(NotAuthorized, lambda fault: fault.concerns(topic)):
            return Verdict(held=False, answer=NOT_AUTHORIZED)
        return Verdict(held=True, answer=acknowledgement("subscribed", topic))

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        """As the vendor: what it does not know, it does not see."""
        return []

    def amend_refusal(self, topic: str) -> str:
        """Say nothing: the vendor has no such option."""
        return ""

    def _receive(self, data: str | bytes) -> None:
        was_authenticated = self.session.authenticated
        actions = self.session.receive(data)
        if self.session.authenticated and not was_authenticated:
            self._exchange.admit(self)
        if any(isinstance(action, Subscribe) for action in actions):
            if self._strikes(NoAcks):
                actions = [action for action in actions if not isinstance(action, Send)]
            slow = self._strikes(SlowAcks)
            if slow is not None:
                self._later(slow.delay_secs, lambda: self._perform(actions))
                return
        self._perform(actions)

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self._write(frame(action.frame))
            elif isinstance(action, Close):
                if self._drops_on_close:
                    self.drop()
                else:
                    self.close(action.code, action.reason)
            elif not self._ended:
                if self._armed is None:
                    self._armed = self._arm()
                self.market.place(self, self.session.topics, self._venue)

    @property
    def pending_bytes(self) -> int:
        """What was written and has not left yet. A client that gets nothing does not hold up the others."""
        if self._transport is None or self._ended or self._stalled:
            return 0
        return self._transport.get_write_buffer_size()

    def deliver(self, frames: Frames) -> None:
        """Send data frames, or let a fault strike instead."""
        if self._ended or self._stalled:
            return
        if self._armed:
            for payload, count in zip(frames.payloads(), frames.events, strict=True):
                self._deliver_armed(payload, count)
        else:
            self._write(frames.data)
            self._count(len(frames.events), frames.events_count, len(frames.data))
            if self._exchange.log is not None:
                self._exchange.log.frames(self.market.cluster, self.number, frames)
        if self.pending_bytes > self._exchange.settings.pending_bytes_max:
            self._exchange.stats.slow_consumers += 1
            self.dismiss(SLOW_CONSUMER)

    def _deliver_armed(self, payload: bytes, count: int) -> None:
        """Send one frame up to where a fault strikes, let it strike, and send the rest."""
        struck: set[DataFault] = set()
        while not (self._ended or self._stalled):
            armed = [
                arm for arm in self._armed or () if arm.fault.times_left != 0 and arm.fault not in struck
            ]
            now_ns = self._exchange.clock.monotonic_ns()
            due = next((arm for arm in armed if arm.events_left <= 0 and now_ns >= arm.due_ns), None)
            if due is not None:
                struck.add(due.fault)
                if self._strike(due, payload, count):
                    return
                continue
            head = min((arm.events_left for arm in armed if arm.events_left > 0), default=count)
            if head >= count:
                self._send(payload, payload, count)
                return
            elements = list(split_elements(payload))
            first = b"[" + b",".join(elements[:head]) + b"]"
            self._send(first, first, head)
            payload = b"[" + b",".join(elements[head:]) + b"]"
            count -= head

    def _strike(self, armed: _Armed, payload: bytes, count: int) -> bool:
        """Let a fault strike; return whether the frame is dealt with."""
        fault = armed.fault
        fault.count()
        armed.events_left = fault.after_events
        armed.due_ns = self._due_ns(fault)
        self._exchange.stats.faults_struck += 1
        sent = fault.strike(self, payload)
        if self._exchange.log is not None:
            self._exchange.log.fault(self.market.cluster, self.number, fault.name)
        if sent is None:
            return True
        if sent is not payload:
            self._send(sent, payload, count)
            return True
        return False

    def _send(self, sent: bytes, good: bytes, count: int) -> None:
        """Send one data frame whose good events are those of `good`."""
        data = frame(sent)
        self._write(data)
        self._count(1, count, len(data))
        for armed in self._armed or ():
            armed.events_left -= count
        if self._exchange.log is not None:
            self._exchange.log.payload(self.market.cluster, self.number, good)

    def _count(self, frames: int, events: int, size: int) -> None:
        stats = self._exchange.stats
        stats.frames_sent += frames
        stats.events_sent += events
        stats.bytes_sent += size
        self.events_sent += events

    def send_broken(self, payload: bytes) -> None:
        """Send a frame that no event comes from."""
        self._write(frame(payload))
        if self._exchange.log is not None:
            self._exchange.log.fault(self.market.cluster, self.number, "broken", payload)

    def stall(self, secs: float, *, pings: bool) -> None:
        """Send no data for this time, for good if 0; with pongs or without."""
        self._answers_pings = pings
        self._stalled_until_ns = self._exchange.clock.monotonic_ns() + secs * 1e9 if secs else float("inf")

    def drop(self) -> None:
        """End without a close frame, after what is pending."""
        self._end()
        if self._transport is not None:
            self._transport.close()
            self._later(_CLOSING_SECS, self._transport.abort)

    def reset(self) -> None:
        """End with RST."""
        self._end()
        if self._transport is not None:
            # Lingering for no time at all makes close() a reset.
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._transport.abort()

    def cut(self, payload: bytes) -> None:
        """Send the first half of a frame, then end."""
        data = frame(payload)
        self._write(data[: len(data) // 2])
        self.drop()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame; the client has a moment to read what is pending, and to answer."""
        if not self._ended and self._transport is not None:
            self._write(close_frame(code, reason))
            self._end()
            self._later(_CLOSING_SECS, self._transport.abort)

    def dismiss(self, status: Status) -> None:
        """Send the client a status, then close."""
        if status is MAX_CONNECTIONS:
            self._exchange.stats.max_connections += 1
        self._perform(self.session.dismiss(status))

    def abort(self) -> None:
        """End at once: the exchange itself ends."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    @property
    def _stalled(self) -> bool:
        if not self._stalled_until_ns:
            return False
        if self._exchange.clock.monotonic_ns() < self._stalled_until_ns:
            return True
        self._stalled_until_ns = 0
        self._answers_pings = True
        return False

    def _strikes(self, kind: type[F], concerns: Callable[[F], bool] = lambda _: True) -> F | None:
        """Return the fault of this kind that strikes this connection now, and count it; None if none does."""
        progress = self._exchange.cluster_progress(self.market.cluster)
        for fault in of_kind(self._exchange.faults, kind):
            if concerns(fault) and fault.is_due(*progress):
                fault.count()
                self._exchange.stats.faults_struck += 1
                return fault
        return None

    def _arm(self) -> list[_Armed]:
        return [
            _Armed(fault, fault.after_events, self._due_ns(fault))
            for fault in of_kind(self._exchange.faults, DataFault)
            if fault.times_left != 0 and not (isinstance(fault, MaxConnections) and fault.answers_key)
        ]

    def _due_ns(self, fault: DataFault) -> int:
        return self._exchange.clock.monotonic_ns() + int(fault.after_secs * 1e9)

    def _later(self, secs: float, call: Callable[[], None]) -> None:
        self._timers.append(asyncio.get_running_loop().call_later(secs, call))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._ended and not self._transport.is_closing():
            self._transport.write(data)

    def _end(self) -> None:
        """Leave everything that the connection took part in."""
        if not self._ended:
            self._ended = True
            self.session.closed = True
            self.market.place(self, (), self._venue)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "stalled" if self._stalled else "open"
        return f"Connection({self.number}, {self.market.cluster}, {state}, {self.session!r})"
