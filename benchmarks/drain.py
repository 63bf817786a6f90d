"""Many clients in one cheap process: shakes hands by hand, subscribes, then reads and throws away.

    python -m benchmarks.drain [--past] PORT PATH CLIENTS TOPICS [TOPICS …]

Client number n sends the n-th TOPICS, beginning again at the end; with `--past` it asks for all that was ever recorded
of them. Prints `ready` once all have asked, and for each
line of stdin, and once more at its end, JSON: the bytes that each client got, how many connections have ended, and how
many bytes an event has, headers included, as seen in the first megabyte of data.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys

from commands import KEY

BUFFER_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 20
DISCARD = socket.MSG_TRUNC
"""tcp(7): what has arrived is thrown away by the kernel, and never copied. So the clients are not the limit."""


class Drain:
    """Connected clients, and what they got."""

    def __init__(self, port: int, path: str, count: int, topics: list[str], **wishes: object) -> None:
        """`wishes` are what the subscribe request has besides."""
        self._clients = [
            connected(port, path, topics[number % len(topics)], **wishes) for number in range(count)
        ]
        self._received = dict.fromkeys([client.fileno() for client in self._clients], 0)
        self._ended = 0
        self._sample = bytearray()

    def run(self) -> None:
        """Read until stdin ends."""
        poll = select.epoll()
        by_number = {client.fileno(): client for client in self._clients}
        for client in self._clients:
            client.setblocking(False)
            poll.register(client.fileno(), select.EPOLLIN)
        poll.register(0, select.EPOLLIN | select.EPOLLHUP)
        print("ready", flush=True)
        buffer = bytearray(BUFFER_BYTES)
        while True:
            for number, _ in poll.poll():
                if number == 0:
                    more = os.read(0, 64)
                    print(json.dumps(self.counts), flush=True)
                    if not more:
                        return
                    continue
                sampling = len(self._sample) < SAMPLE_BYTES
                try:
                    size = by_number[number].recv_into(buffer, 0, 0 if sampling else DISCARD)
                except ConnectionError:
                    size = 0
                if not size:
                    self._ended += 1
                    poll.unregister(number)
                self._received[number] += size
                if sampling:
                    self._sample += buffer[:size]

    @property
    def counts(self) -> dict[str, object]:
        events = self._sample.count(b'"ev":') - self._sample.count(b'"ev":"status"')
        return {
            "ended": self._ended,
            "bytes": list(self._received.values()),
            "bytes_per_event": len(self._sample) / events if events else 0.0,
        }


def connected(port: int, path: str, topics: str, **wishes: object) -> socket.socket:
    """Return a client that has asked for its topics, separated by commas; `-` asks for none."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(4096)
        if not part:
            raise SystemExit(f"refused: {head!r}")
        head += part
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"refused: {head!r}")
    client.sendall(_frame({"action": "auth", "params": KEY}))
    if topics != "-":
        client.sendall(_frame({"action": "subscribe", "params": topics, **wishes}))
    return client


def _frame(message: dict[str, object]) -> bytes:
    payload = json.dumps(message).encode()
    if len(payload) < 126:
        return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    return bytes((0x81, 0x80 | 126)) + len(payload).to_bytes(2, "big") + b"\0\0\0\0" + payload


def main() -> None:
    """Connect, subscribe, read."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wishes: dict[str, object] = {"since": 0, "partial": True} if "--past" in sys.argv else {}
    port, path, count, *topics = [argument for argument in sys.argv[1:] if argument != "--past"]
    Drain(int(port), path, int(count), topics, **wishes).run()


if __name__ == "__main__":
    main()
