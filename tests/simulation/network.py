"""A network in memory, with the faults of a real one: refused, silent, slow, cut in the middle of a frame."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

Address = tuple[str, int]
Factory = Callable[[], asyncio.Protocol]

LATENCY_SECS = 0.0005
_TCP_INFO = 11
_LAST_DATA_RECV_OFFSET = 52
"""Of `tcpi_last_data_recv`, in ms, in what Linux answers."""
WINDOW_BYTES = 64 * 1024
"""What a connection carries to a side that does not read."""


class Network:
    """Listeners and the connections to them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._listeners: dict[Address, Factory] = {}
        self.refused: set[Address] = set()
        """Addresses where nobody seems to listen."""
        self.silent: set[Address] = set()
        """Addresses that do not answer at all."""
        self.keeps_account = False
        """Whether a socket can be asked when its last byte arrived, as Linux can."""
        self.pipes: list[Pipe] = []
        self._ports = 40_000

    def listen(self, address: Address, factory: Factory) -> Listener:
        """Listen; port 0 is any that is free."""
        host, port = address
        if not port:
            self._ports += 1
            address = host, self._ports
        assert address not in self._listeners, f"{address} is in use"
        self._listeners[address] = factory
        return Listener(self, address)

    def forget(self, address: Address) -> None:
        self._listeners.pop(address, None)

    async def dial(self, address: Address) -> None:
        """Do what it takes to connect. Raise `OSError`."""
        await asyncio.sleep(LATENCY_SECS)
        if address in self.silent:
            await self.loop.create_future()
        if address in self.refused or address not in self._listeners:
            raise ConnectionRefusedError(111, "Connection refused")

    def connect(self, address: Address, factory: Factory) -> tuple[asyncio.Transport, asyncio.Protocol]:
        listener = self._listeners.get(address)
        if listener is None or address in self.refused:
            raise ConnectionResetError(104, "Connection reset by peer")
        self._ports += 1
        names = (("127.0.0.1", self._ports), address)
        near, far = factory(), listener()
        pipe = Pipe(self, near, far, names)
        self.pipes = [kept for kept in self.pipes if not kept.is_closed]
        self.pipes.append(pipe)
        far.connection_made(pipe.far)
        near.connection_made(pipe.near)
        return pipe.near, near

    def cut_all(self) -> None:
        """End every connection, as the kernel does for a process that dies."""
        for pipe in self.pipes:
            pipe.reset()
        self.pipes = []


class Listener:
    """What `create_server` gives."""

    def __init__(self, network: Network, address: Address) -> None:
        self._network = network
        self._address = address

    @property
    def sockets(self) -> list[Listener]:
        return [self]

    def getsockname(self) -> Address:
        return self._address

    def close(self) -> None:
        self._network.forget(self._address)

    async def wait_closed(self) -> None:
        """It is at once."""


class Pipe:
    """One connection: two ends, each with what is on its way to it."""

    def __init__(
        self,
        network: Network,
        near: asyncio.Protocol,
        far: asyncio.Protocol,
        names: tuple[Address, Address],
    ) -> None:
        self.network = network
        self.near = End(network.loop, near, self, names)
        self.far = End(network.loop, far, self, names[::-1])
        self.near.peer, self.far.peer = self.far, self.near
        self.is_dead = False
        """Half-open: nothing arrives any more, and nobody is told."""

    @property
    def is_closed(self) -> bool:
        return self.near.lost and self.far.lost

    def reset(self) -> None:
        """End both sides with an error; what is on its way is gone."""
        for end in (self.near, self.far):
            end.lose(ConnectionResetError(104, "Connection reset by peer"))


class Socket:
    """What a transport shows of its socket: a descriptor that is far from any limit, and the kernel's account if any."""

    family = socket.AF_UNIX

    def __init__(self, end: End) -> None:
        self._end = end

    def fileno(self) -> int:
        return 10

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        if not self._end.pipe.network.keeps_account or (level, option) != (socket.IPPROTO_TCP, _TCP_INFO):
            raise OSError(92, "Protocol not available")
        return bytes(_LAST_DATA_RECV_OFFSET) + struct.pack("@I", int(self._end.silent_secs * 1000))

    def setsockopt(self, *args: Any) -> None:
        """Nothing to set."""


class End(asyncio.Transport):
    """One side of a connection, with the interface of a socket's transport."""

    peer: End

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        pipe: Pipe,
        names: tuple[Address, Address],
    ) -> None:
        super().__init__({"sockname": names[0], "peername": names[1], "socket": Socket(self)})
        self._loop = loop
        self._protocol = protocol
        self.pipe = pipe
        self._inbox: deque[bytes] = deque()
        """On its way to this side; `b""` ends it."""
        self._inbox_bytes = 0
        self._reading = True
        self._scheduled = False
        self._closing = False
        self._paused_writing = False
        self.lost = False
        self.delivered_bytes = 0
        """Given to this side's protocol."""
        self._arrived_at = loop.time()

    @property
    def silent_secs(self) -> float:
        """How long ago the last byte arrived, read or not."""
        return self._loop.time() - self._arrived_at

    # What the other side's protocol is given.

    def _arrive(self) -> None:
        self._scheduled = False
        while self._inbox and self._reading and not self.lost and not self.pipe.is_dead:
            data = self._inbox.popleft()
            self._inbox_bytes -= len(data)
            if data:
                self.delivered_bytes += len(data)
                self._protocol.data_received(data)
            else:
                keep = self._protocol.eof_received()
                if not keep:
                    self.lose(None)
        self.peer.look_at_buffer()

    def deliver(self, data: bytes) -> None:
        """Put bytes on their way to this side."""
        if self.lost:
            return
        self._arrived_at = self._loop.time()
        self._inbox.append(data)
        self._inbox_bytes += len(data)
        self._schedule()

    def _schedule(self) -> None:
        if self._inbox and self._reading and not self._scheduled:
            self._scheduled = True
            self._loop.call_later(LATENCY_SECS, self._arrive)

    def lose(self, error: Exception | None) -> None:
        """The connection is over for this side."""
        if not self.lost:
            self.lost = self._closing = True
            self._inbox.clear()
            self._loop.call_soon(self._protocol.connection_lost, error)

    def look_at_buffer(self) -> None:
        """Pause or resume the writing protocol by what the other side has not taken."""
        pending = self.get_write_buffer_size()
        if self.lost:
            return
        if self._closing and not pending:
            self.lose(None)
        elif pending > WINDOW_BYTES and not self._paused_writing:
            self._paused_writing = True
            self._protocol.pause_writing()
        elif pending <= WINDOW_BYTES // 4 and self._paused_writing:
            self._paused_writing = False
            self._protocol.resume_writing()

    # asyncio.Transport

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        self.peer.deliver(bytes(data))
        self.look_at_buffer()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        blocked = self.pipe.is_dead or not self.peer._reading
        return max(0, self.peer._inbox_bytes - WINDOW_BYTES) if blocked else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return WINDOW_BYTES // 4, WINDOW_BYTES

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits of the network are its own."""

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Send what was written, then the end."""
        if self._closing:
            return
        self._closing = True
        self.peer.deliver(b"")
        if not self.get_write_buffer_size():
            self._loop.call_later(LATENCY_SECS, self.lose, None)

    def abort(self) -> None:
        if not self.lost:
            self.lose(None)
            if not self.pipe.is_dead:
                self.peer.lose(ConnectionResetError(104, "Connection reset by peer"))

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._schedule()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol
