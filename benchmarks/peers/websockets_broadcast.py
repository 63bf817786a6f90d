"""The `websockets` library as its docs recommend: follow PORT, `broadcast` every frame to all clients.

    python -m benchmarks.peers.websockets_broadcast PORT

On uvloop, without compression, keepalive or limits, which would cost it time. Prints `ready`; for each line of stdin
tells the port that it listens on, and how many are connected.
"""

from __future__ import annotations

import json
import sys
import threading

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, broadcast, serve

from recorder import loop

clients: set[ServerConnection] = set()


async def hold(connection: ServerConnection) -> None:
    """Keep a client until it leaves."""
    clients.add(connection)
    try:
        await connection.wait_closed()
    finally:
        clients.discard(connection)


def answer(port: int) -> None:
    """Answer until stdin ends."""
    for _ in sys.stdin:
        print(json.dumps({"port": port, "clients": len(clients)}), flush=True)


async def main() -> None:
    """Serve what comes from the exchange."""
    async with (
        serve(hold, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024) as server,
        connect(
            f"ws://127.0.0.1:{sys.argv[1]}/stocks", compression=None, ping_interval=None, max_size=None
        ) as exchange,
    ):
        await exchange.recv()
        await exchange.send(json.dumps({"action": "auth", "params": "bench"}))
        await exchange.recv()
        await exchange.send(json.dumps({"action": "subscribe", "params": "T.*,Q.*"}))
        acknowledged = [await exchange.recv() for _ in range(2)]
        assert all("subscribed" in str(each) for each in acknowledged)
        port = server.sockets[0].getsockname()[1]
        threading.Thread(target=answer, args=(port,), daemon=True).start()
        print("ready", flush=True)
        async for frame in exchange:
            broadcast(clients, frame)


if __name__ == "__main__":
    loop.run(main())
