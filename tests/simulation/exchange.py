"""An exchange that speaks to one connection at a time by hand, numbers every event, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from dataclasses import dataclass, field

from recorder import frames
from simulation.loop import VirtualClock, VirtualLoop
from simulation.network import End

_WEBSOCKET_KEY = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
GARBAGE = (b"", b"not json", b"[", b'{"ev":"T"', b"\xff\xfe\x00", b"[[[[", b'[{"sym":"A"},')
ODD_ELEMENTS = (b"17", b"null", b'"text"', b'{"sym":"A"}', b"[]", b'{"ev":7}', b"{}")
CLOSE_CODES = (1000, 1001, 1006, 1008, 1011, 1012, 3000)


@dataclass
class Mood:
    """How an exchange behaves at present."""

    greets: bool = True
    step_secs: float = 0.0
    """Greeting, answers and acknowledgements come so late at most."""
    refuses: str = ""
    """`max_connections` or `auth_failed`: said instead of accepting the key."""
    forgets_acks: float = 0.0
    """How probably a topic is not acknowledged."""
    odd: float = 0.0
    """How probably a frame has something unreadable beside its events, or is unreadable itself."""
    burst: int = 1
    """So many times as many events."""
    answers_pings: bool = True


@dataclass
class Sent:
    """One connection, as the exchange knows it."""

    offsets: list[tuple[int, list[int]]] = field(default_factory=list)
    """After this many bytes, the other side has these events whole."""
    published: list[int] = field(default_factory=list)
    """What came out of it on the recorder's bus."""
    ours: bool = False
    """Whether the exchange, or the network, ended it: then all that was delivered must have been published."""
    end: End | None = None

    def delivered(self) -> list[int]:
        assert self.end is not None
        got = self.end.delivered_bytes
        return [number for offset, numbers in self.offsets if offset <= got for number in numbers]


class Tape:
    """Every event that was ever sent, on all clusters, by its number, and the connection that it was sent on."""

    def __init__(self) -> None:
        self.events: dict[int, bytes] = {}
        self.topics: dict[int, tuple[str, str]] = {}
        self.connection_of: dict[int, Sent] = {}


class Exchange:
    """One cluster's endpoint."""

    def __init__(
        self, cluster: str, port: int, tape: Tape, loop: VirtualLoop, clock: VirtualClock, rng: random.Random
    ) -> None:
        self.cluster = cluster
        self.address = ("127.0.0.1", port)
        self.loop = loop
        self.clock = clock
        self.rng = rng
        self.mood = Mood()
        self.interval_secs = rng.uniform(0.2, 3.0)
        self.tape = tape
        self.connections: list[Sent] = []
        self.live: list[ExchangeSide] = []
        loop.network.listen(self.address, lambda: ExchangeSide(self))

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.address[1]}/{self.cluster}"

    def make_frame(self, sent: Sent) -> tuple[bytes, list[int]]:
        """Return a frame, with what is odd at present, and the numbers of the good events in it."""
        rng, mood = self.rng, self.mood
        elements, numbers = [], []
        for _ in range(rng.randint(1, 6) * mood.burst):
            number = len(self.tape.events) + 1
            channel = rng.choice(("T", "T", "Q", "A"))
            event = self._event(channel, number)
            self.tape.events[number] = event
            self.tape.topics[number] = channel, f"S{number % 7}"
            self.tape.connection_of[number] = sent
            elements.append(event)
            numbers.append(number)
        if rng.random() < mood.odd:
            elements.insert(rng.randint(0, len(elements)), rng.choice(ODD_ELEMENTS))
        return b"[" + b",".join(elements) + b"]", numbers

    def _event(self, channel: str, number: int) -> bytes:
        rng = self.rng
        fields = b'{"ev":"%b","sym":"S%d","p":%d.%02d0,"x":"%b","t":%d,"q":%d}'
        text = rng.choice((b"", b"pad" * rng.randint(1, 60), "Zürich".encode()))
        ms = self.clock.wall_ns() // 1_000_000 - rng.randint(0, 50)
        return fields % (
            channel.encode(),
            number % 7,
            rng.randint(1, 400),
            rng.randint(0, 99),
            text,
            ms,
            number,
        )


class ExchangeSide(asyncio.Protocol):
    """One connection, from the exchange's end."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.sent = Sent()
        self._buffer = b""
        self._upgraded = False
        self._written = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: End
        self._is_silent = False
        """Whether nothing more may be sent: behind a close frame, or half a frame."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self._end = transport
        self.sent.end = transport.peer
        self.exchange.live.append(self)
        self.exchange.connections.append(self.sent)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.exchange.live:
            self.exchange.live.remove(self)
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self._buffer = rest
            self._upgrade(head)
        while (message := self._next_message()) is not None:
            opcode, payload = message
            if opcode == frames.PING and self.exchange.mood.answers_pings:
                self._write(frames.frame(payload, frames.PONG))
            elif opcode == frames.CLOSE:
                self._write(frames.frame(payload, frames.CLOSE))
                self._end.close()
            elif opcode == frames.TEXT:
                self._do(self._answer(json.loads(payload)))

    # What the world has it do.

    def say(self, status: str, message: str = "") -> None:
        body = json.dumps([{"ev": "status", "status": status, "message": message}]).encode()
        self._write(frames.frame(body))

    def cut(self) -> None:
        """Reset in the middle of a frame."""
        payload, numbers = self.exchange.make_frame(self.sent)
        frame = frames.frame(payload)
        del numbers  # never whole
        self._write(frame[: self.exchange.rng.randint(0, len(frame) - 1)])
        self._is_silent = self.sent.ours = True
        self.exchange.loop.call_later(0.01, self._end.abort)

    def close(self, code: int, *, ours: bool = True) -> None:
        """Close; not `ours` where the recorder has a reason to end it first."""
        self._write(frames.close_frame(code, "bye"))
        self._is_silent = True
        self.sent.ours = self.sent.ours or ours
        self.exchange.loop.call_later(0.01, self._end.close)

    def finish(self) -> None:
        """End the connection without a word."""
        self.sent.ours = True
        self._end.close()

    def hang(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        self._end.pipe.is_dead = True

    # The protocol.

    def _write(self, data: bytes) -> None:
        if not self._end.is_closing() and not self._is_silent:
            self._written += len(data)
            self._end.write(data)

    def _upgrade(self, head: bytes) -> None:
        self._upgraded = True
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        raw = {line.split(b": ", 1)[0].lower(): line.split(b": ", 1)[1] for line in head.split(b"\r\n")[1:]}
        assert headers[b"upgrade"] == b"websocket"
        key = hashlib.sha1(raw[b"sec-websocket-key"] + _WEBSOCKET_KEY, usedforsecurity=False).digest()
        self._write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(key) + b"\r\n\r\n"
        )
        if self.exchange.mood.greets:
            self._do(self._greet())

    def _next_message(self) -> tuple[int, bytes] | None:
        message, self._buffer = read_frame(self._buffer)
        return message

    def _do(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pause(self) -> None:
        secs = self.exchange.mood.step_secs
        if secs:
            await asyncio.sleep(self.exchange.rng.uniform(0, secs))

    async def _greet(self) -> None:
        await self._pause()
        self.say("connected", "Connected Successfully")

    async def _answer(self, request: dict[str, str]) -> None:
        await self._pause()
        mood, rng = self.exchange.mood, self.exchange.rng
        if request["action"] == "auth":
            if mood.refuses:
                self.say(mood.refuses, "no")
                self.close(1008, ours=False)
            else:
                self.say("auth_success", "authenticated")
        elif request["action"] == "subscribe":
            for topic in request["params"].split(","):
                await self._pause()
                if rng.random() >= mood.forgets_acks:
                    self.say("success", f"subscribed to: {topic}")
            await self._stream()

    async def _stream(self) -> None:
        exchange = self.exchange
        rng = exchange.rng
        while True:
            await asyncio.sleep(rng.expovariate(1 / exchange.interval_secs))
            if rng.random() < exchange.mood.odd / 3:
                self._write(frames.frame(rng.choice(GARBAGE)))
            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                payload, numbers = exchange.make_frame(self.sent)
                if self._end.is_closing() or self._is_silent:
                    return
                self._write(frames.frame(payload))
                self.sent.offsets.append((self._written, numbers))


def read_frame(buffer: bytes) -> tuple[tuple[int, bytes] | None, bytes]:
    """Return the first whole frame of a buffer as opcode and payload, None if none is whole, and what is left."""
    if len(buffer) < 2:
        return None, buffer
    length, at = buffer[1] & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        length, at = int.from_bytes(buffer[2 : 2 + size], "big"), 2 + size
    mask = b""
    if buffer[1] & 0x80:
        mask, at = buffer[at : at + 4], at + 4
    if len(buffer) < at + length:
        return None, buffer
    payload = buffer[at : at + length]
    if mask:
        key = (mask * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
    return (buffer[0] & 0x0F, payload), buffer[at + length :]
