"""WebSocket clients made by hand: sockets that may send what no library would, and read only when told."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import KEY
from waiting import DEADLINE_SECS

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First bytes of frames that are whole messages."""


class RawClient:
    """One connection. What is read but not asked for is kept in `data`."""

    def __init__(self, address: str, source: str = "127.0.0.1", receive_bytes: int = 0) -> None:
        """`source` is the address it comes from; `receive_bytes` is the kernel's buffer, 0 as usual."""
        host, _, port = address.rpartition(":")
        self.address = address
        self.data = b""
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(DEADLINE_SECS)
        self.socket.bind((source, 0))
        self.socket.connect((host, int(port)))

    def send(self, data: bytes) -> bool:
        """Send; False where the other side has closed."""
        try:
            self.socket.sendall(data)
        except BlockingIOError:
            return True
        except (ConnectionError, TimeoutError):
            return False
        return True

    def request(self, path: str = "/", headers: str = "", host: str = "") -> bytes:
        """Return the request that asks for a WebSocket."""
        return (
            f"GET {path} HTTP/1.1\r\nHost: {host or self.address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n"
        ).encode()

    def upgrade(self, path: str = "/stocks", headers: str = "", host: str = "") -> int:
        """Shake hands; return the HTTP status of the answer."""
        self.send(self.request(path, headers, host))
        head = self.read_until(b"\r\n\r\n")
        return int(head.split()[1])

    def subscribe(self, topics: str, token: str = KEY) -> None:
        """Shake hands, authenticate, subscribe, and read the acknowledgement of the last topic."""
        assert self.upgrade() == 101
        self.say(action="auth", params=token)
        self.say(action="subscribe", params=topics)
        self.hear(f"subscribed to: {topics.rpartition(',')[2]}")

    def say(self, **request: object) -> bool:
        """Send a request as a client should."""
        return self.send(masked(TEXT, json.dumps(request).encode()))

    def read_until(self, end: bytes) -> bytes:
        """Return what comes up to and with `end`."""
        while end not in self.data:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError(f"closed before {end!r}; got {self.data[-300:]!r}")
            self.data += more
        found, _, self.data = self.data.partition(end)
        return found + end

    def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame. Raise ConnectionError at the end."""
        first, length = self._take(2)
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        return first, self._take(length)

    def hear(self, words: str) -> bytes:
        """Read frames up to the one that has these words; return its payload."""
        while words.encode() not in (payload := self.frame()[1]):
            pass
        return payload

    def closed_with(self) -> int | None:
        """Read frames to the end; return the code of the close frame, None where the connection ends without."""
        try:
            while True:
                first, payload = self.frame()
                if first == CLOSE:
                    return int.from_bytes(payload[:2], "big")
        except ConnectionError:
            return None

    def is_over(self) -> bool:
        """Throw away what has come, without waiting; return whether the other side has closed."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(1 << 20):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        finally:
            self.socket.settimeout(DEADLINE_SECS)
        return True

    def _take(self, count: int) -> bytes:
        while len(self.data) < count:
            more = self.socket.recv(1 << 20)
            if not more:
                raise ConnectionError
            self.data += more
        found, self.data = self.data[:count], self.data[count:]
        return found

    def close(self) -> None:
        """Go away."""
        self.socket.close()


@contextmanager
def raw_client(address: str, source: str = "127.0.0.1", receive_bytes: int = 0) -> Iterator[RawClient]:
    """Yield a connection that is closed at the end."""
    client = RawClient(address, source, receive_bytes)
    try:
        yield client
    finally:
        client.close()


def masked(first: int, payload: bytes) -> bytes:
    """Return a frame as a client must send it, with a mask that changes nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    return head + b"\0\0\0\0" + payload


def rss_bytes(pid: int) -> int:
    """Return the memory that a process has in use."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
