"""Clients of the recorder's servers: good ones, which check what they get, and bad ones, which only take."""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass, field

from recorder import frames
from recorder.polygon.topics import parse_pattern
from simulation.exchange import Tape, read_frame
from simulation.loop import VirtualLoop
from simulation.network import Address
from simulation.process import FILTERED, FIREHOSE, NUMBER, Life

HEAD = (
    b"GET /%b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ODD_REQUESTS = ("", "{", "[]", '{"action":"dance"}', '{"action":"subscribe"}', '{"action":"auth","params":7}')


@dataclass
class Visit:
    """One connection of one client, and what it was sent."""

    port: str
    cluster: str
    topics: tuple[str, ...]
    life: Life
    numbers: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    subscribed: bool = False
    """Whether every topic is acknowledged."""
    began_at: float = 0.0
    """When, in virtual time, they were."""
    over: bool = False


class ClientSide(asyncio.Protocol):
    """One connection, from the client's end."""

    def __init__(self, visit: Visit, rng: random.Random, *, reads: bool) -> None:
        self.visit = visit
        self._rng = rng
        self._reads = reads
        self._buffer = b""
        self._upgraded = False
        self._acknowledged = 0
        self._transport: asyncio.Transport
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(HEAD % self.visit.cluster.encode())

    def connection_lost(self, error: Exception | None) -> None:
        self.visit.over = True
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self._transport.abort()
                return
            self._upgraded, self._buffer = True, rest
            if not self._greeted():
                self._ask({"action": "auth", "params": "good"})
        while True:
            message, self._buffer = read_frame(self._buffer)
            if message is None:
                return
            self._take(*message)

    def ask_odd(self) -> None:
        """Say something that is no request."""
        self._send(self._rng.choice(ODD_REQUESTS).encode())

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def leave(self) -> None:
        self._transport.abort()

    def _greeted(self) -> bool:
        return self.visit.port == "filtered" or bool(self.visit.cluster)

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == frames.PING:
            self._send(payload, frames.PONG)
        elif opcode == frames.CLOSE:
            self._send(payload, frames.CLOSE)
            self._transport.close()
        elif opcode == frames.TEXT:
            if b'"ev":"status"' in payload[:20]:
                self._take_status(json.loads(payload)[0])
            elif not payload.startswith(b'{"status":'):  # an answer in the firehose's dialect
                self.visit.payloads.append(payload)
                self.visit.numbers += map(int, NUMBER.findall(payload))

    def _take_status(self, status: dict[str, str]) -> None:
        if status["status"] == "connected":
            self._ask({"action": "auth", "params": "good"})
        elif status["status"] == "auth_success":
            self._ask({"action": "subscribe", "params": ",".join(self.visit.topics)})
            if not self._reads:
                self.stop_reading()
        elif status["message"].startswith("subscribed to"):
            self._acknowledged += 1
            self.visit.subscribed = self._acknowledged == len(self.visit.topics)
            self.visit.began_at = asyncio.get_running_loop().time()

    def _ask(self, request: dict[str, str]) -> None:
        self._send(json.dumps(request).encode())

    def _send(self, payload: bytes, opcode: int = frames.TEXT) -> None:
        mask = os.urandom(4)  # without effect on what happens
        length = len(payload)
        size = bytes((0x80 | length,)) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        if not self._transport.is_closing():
            self._transport.write(bytes((0x80 | opcode,)) + size + mask + masked)


class Audience:
    """Some clients that come and go for as long as the simulation lasts."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, clusters: tuple[str, ...]) -> None:
        self._loop = loop
        self._rng = rng
        self._clusters = clusters
        self.visits: list[Visit] = []
        self.sides: list[ClientSide] = []
        self.steady = False
        """Whether nobody misbehaves or leaves any more."""

    async def run(self, client: int, life: object) -> None:
        """Come, stay for a while, go, come again."""
        rng = random.Random(self._rng.random())
        while True:
            await asyncio.sleep(rng.uniform(0.1, 5))
            now = life()  # type: ignore[operator]
            if now is None:
                continue
            visit, address = self._plan(rng, now)
            try:
                await self._loop.network.dial(address)
                side = ClientSide(visit, rng, reads=self.steady or rng.random() < 0.8)
                self._loop.network.connect(address, lambda side=side: side)  # type: ignore[misc]
            except OSError:
                continue
            self.visits.append(visit)
            self.sides.append(side)
            await self._stay(side, rng)
            self.sides.remove(side)

    async def _stay(self, side: ClientSide, rng: random.Random) -> None:
        while not side.gone.done():
            await asyncio.wait([side.gone], timeout=rng.expovariate(1 / 60))
            if self.steady:
                await side.gone
            elif rng.random() < 0.3:
                side.ask_odd()
            elif rng.random() < 0.3:
                side.leave()

    def _plan(self, rng: random.Random, life: Life) -> tuple[Visit, Address]:
        port = rng.choice(("firehose", "filtered"))
        cluster = rng.choice(self._clusters)
        if port == "firehose":
            return Visit(port, cluster, ("*",), life), FIREHOSE
        topics = rng.choice((("T.*",), ("T.S1", "Q.S2"), ("*",), ("Q.S3", "T.*", "A.S1")))
        return Visit(port, cluster, topics, life), FILTERED


def check_visit(visit: Visit, tape: Tape) -> str:
    """Say what is wrong with what a client got: nothing missing, doubled or out of order, and every byte as sent."""
    got = visit.numbers
    if not got:
        return ""
    if visit.port == "firehose":
        sent = visit.life.frames[visit.cluster]
        first = next(place for place, frame in enumerate(sent) if b'"q":%d}' % got[0] in frame)
        begin = visit.payloads.index(next(p for p in visit.payloads if NUMBER.search(p)))
        expected = sent[first : first + len(visit.payloads) - begin]
        return (
            "" if visit.payloads[begin:] == expected else f"firehose client: frames differ from {got[0]} on"
        )
    wanted = [parse_pattern(topic) for topic in visit.topics]
    numbers = [
        number
        for _, cluster, number in visit.life.received
        if cluster == visit.cluster and any(pattern.matches(*tape.topics[number]) for pattern in wanted)
    ]
    first = numbers.index(got[0])
    if got != numbers[first : first + len(got)]:
        return f"filtered client of {visit.topics}: events differ from {got[0]} on"
    return ""
