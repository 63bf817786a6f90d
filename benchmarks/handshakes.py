"""Connected sockets, ready for data: all that is said before the data begins, in the dialect of each program."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.harness import TOKEN, Broken
from benchmarks.units import NATS_SID

_TIMEOUT_SECS: Final = 30.0
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""
_TEXT, _BINARY = 1, 2


class Wire:
    """A socket while it is spoken with by hand."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_TIMEOUT_SECS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._held = b""

    def read_until(self, end: bytes) -> bytes:
        """Return what comes, up to and with `end`."""
        while end not in self._held:
            self._read()
        found, _, self._held = self._held.partition(end)
        return found + end

    def read_message(self) -> bytes:
        """Return the payload of a WebSocket frame, unmasked."""
        first = self._exactly(2)
        size = first[1] & 127
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8))
        mask = self._exactly(4) if first[1] & 128 else bytes(4)
        return bytes(byte ^ mask[place & 3] for place, byte in enumerate(self._exactly(size)))

    def say(self, message: bytes, opcode: int = _TEXT, *, masked: bool = True) -> None:
        """Send a WebSocket frame of less than 64 KiB."""
        mask = 128 if masked else 0
        size = len(message)
        front = bytes([128 | opcode, mask | size]) if size < 126 else bytes([128 | opcode, mask | 126])
        long_size = b"" if size < 126 else size.to_bytes(2)
        self.socket.sendall(front + long_size + (bytes(4) if masked else b"") + message)

    def ready(self) -> socket.socket:
        """Return the socket, of which nothing was read that belongs to the data."""
        if self._held:
            raise Broken(f"data before it was asked for: {self._held[:80]!r}")
        self.socket.setblocking(True)
        return self.socket

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            self._read()
        found, self._held = self._held[:size], self._held[size:]
        return found

    def _read(self) -> None:
        part = self.socket.recv(65_536)
        if not part:
            raise Broken(f"connection refused or closed: {self._held[:200]!r}")
        self._held += part


def listening() -> socket.socket:
    """Return a listening socket on a port of its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.settimeout(_TIMEOUT_SECS)
    return listener


def port_of(listener: socket.socket) -> int:
    """Return the port of a listening socket."""
    port: int = listener.getsockname()[1]
    return port


def free_port() -> int:
    """Return a port that nobody listens on."""
    with listening() as listener:
        return port_of(listener)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with listening() as listener:
        near = _dialled(port_of(listener))
        far, _ = listener.accept()
    return near.ready(), Wire(far).ready()


def followed(listener: socket.socket) -> socket.socket:
    """Wait for a follower, and be the exchange that it expects: greeting, any key, any topic."""
    connection, _ = listener.accept()
    wire = Wire(connection)
    head = wire.read_until(b"\r\n\r\n").decode()
    key = re.search(r"(?im)^sec-websocket-key:\s*(\S+)", head)
    if key is None:
        raise Broken(f"no WebSocket request: {head[:200]!r}")
    accepted = base64.b64encode(hashlib.sha1((key[1] + _GUID).encode()).digest())  # noqa: S324  (RFC 6455, 4.2.2)
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accepted
    )
    wire.say(_status("connected", "Connected Successfully"), masked=False)
    wire.read_message()
    wire.say(_status("auth_success", "authenticated"), masked=False)
    for topic in json.loads(wire.read_message())["params"].split(","):
        wire.say(_status("success", f"subscribed to: {topic}"), masked=False)
    return wire.ready()


def _status(status: str, message: str) -> bytes:
    return json.dumps([{"ev": "status", "status": status, "message": message}]).encode()


def subscribed(port: int, topics: Sequence[str]) -> socket.socket:
    """Return a client of the recorder that has these topics."""
    wire = _upgraded(port, "/stocks")
    wire.read_message()
    wire.say(json.dumps({"action": "auth", "params": TOKEN}).encode())
    if b"auth_success" not in (answer := wire.read_message()):
        raise Broken(f"not authenticated: {answer!r}")
    wire.say(json.dumps({"action": "subscribe", "params": ",".join(topics)}).encode())
    for _ in topics:
        if b"subscribed to" not in (answer := wire.read_message()):
            raise Broken(f"not subscribed: {answer!r}")
    return wire.ready()


def connected(port: int, path: str) -> socket.socket:
    """Return a WebSocket client of a program that wants no words."""
    return _upgraded(port, path).ready()


def nats_publisher(port: int) -> socket.socket:
    """Return a publisher of a NATS server."""
    wire = _dialled(port)
    wire.read_until(b"\r\n")
    wire.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
    wire.read_until(b"PONG\r\n")
    return wire.ready()


def nats_subscriber(port: int, subjects: Sequence[str]) -> Wire:
    """Return a subscriber of a NATS server, over WebSocket. The server's first ping is still to come."""
    wire = _upgraded(port, "/")
    wire.read_message()
    words = [f"SUB {subject} {NATS_SID % number}\r\n" for number, subject in enumerate(subjects)]
    wire.say(f'CONNECT {{"verbose":false,"pedantic":false}}\r\n{"".join(words)}PING\r\n'.encode(), _BINARY)
    if (answer := wire.read_message()) != b"PONG\r\n":
        raise Broken(f"not subscribed: {answer!r}")
    return wire


def _dialled(port: int) -> Wire:
    deadline = time.monotonic() + _TIMEOUT_SECS
    while True:
        try:
            return Wire(socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECS))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise Broken(f"nobody listens on port {port}") from None
            time.sleep(0.02)  # it is starting


def _upgraded(port: int, path: str) -> Wire:
    wire = _dialled(port)
    wire.socket.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = wire.read_until(b"\r\n\r\n")
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise Broken(f"refused: {head[:200]!r}")
    return wire
