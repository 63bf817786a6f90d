"""Many clients in one cheap process: shakes hands by hand, subscribes, then reads and throws away.

    python -m benchmarks.drain PORT PATH CLIENTS TOPICS [TOPICS …]

Client number n sends the n-th TOPICS, beginning again at the end. Prints `ready` once all are subscribed, and at the
end of stdin the bytes that each client got, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import sys

TOKEN = "bench"
BUFFER_BYTES = 1 << 20


def main() -> None:
    """Connect, subscribe, drain until stdin closes."""
    port, path, count, topics = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sockets = [_client(port, path, topics[number % len(topics)]) for number in range(count)]
    received = dict.fromkeys([sock.fileno() for sock in sockets], 0)
    poll = select.epoll()
    for sock in sockets:
        sock.setblocking(False)
        poll.register(sock.fileno(), select.EPOLLIN)
    by_number = {sock.fileno(): sock for sock in sockets}
    poll.register(0, select.EPOLLIN | select.EPOLLHUP)
    print("ready", flush=True)
    buffer = bytearray(BUFFER_BYTES)
    ended = 0
    while True:
        for number, _ in poll.poll():
            if number == 0:
                if not os.read(0, 1):
                    print(json.dumps({"ended": ended, "bytes": list(received.values())}), flush=True)
                    return
                continue
            try:
                size = by_number[number].recv_into(buffer)
            except ConnectionError:
                size = 0
            if not size:
                ended += 1
                poll.unregister(number)
            received[number] += size


def _client(port: int, path: str, topics: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        part = sock.recv(4096)
        if not part:
            raise SystemExit(f"refused: {head!r}")
        head += part
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"refused: {head!r}")
    sock.sendall(_frame({"action": "auth", "params": TOKEN}))
    if topics != "-":
        sock.sendall(_frame({"action": "subscribe", "params": topics}))
    return sock


def _frame(message: dict[str, str]) -> bytes:
    payload = json.dumps(message).encode()
    if len(payload) < 126:
        return bytes((0x81, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    return bytes((0x81, 0x80 | 126)) + len(payload).to_bytes(2, "big") + b"\0\0\0\0" + payload


if __name__ == "__main__":
    main()
