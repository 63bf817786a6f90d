"""The protocol by hand, with `websockets`: `by_hand.py HOST:PORT TOKEN MARKET`; talks as programs.py says."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


def say(**line: Any) -> None:
    """Write one line for the test."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Follower:
    """Holds topics, and asks for them again after each reconnect."""

    def __init__(self) -> None:
        self.topics: dict[str, None] = {}
        self.connection: ClientConnection | None = None
        """Once it has authenticated."""

    async def obey(self) -> None:
        """Carry out what the test asks for, until it asks for nothing more."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        async for line in reader:
            for action, topics in json.loads(line).items():
                for topic in topics:
                    if action == "subscribe":
                        self.topics[topic] = None
                    else:
                        self.topics.pop(topic, None)
                await self.ask(action, topics)

    async def ask(self, action: str, topics: list[str]) -> None:
        """Send a request, if there is a connection that may."""
        if self.connection is not None and topics:
            await self.connection.send(json.dumps({"action": action, "params": ",".join(topics)}))

    async def follow(self, url: str, token: str) -> None:
        """Connect, and reconnect whenever the connection ends, unless the token is refused."""
        async for connection in connect(url):
            try:
                await connection.send(json.dumps({"action": "auth", "params": token}))
                async for text in connection:
                    say(frame=text)
                    status = json.loads(text)[0].get("status")
                    if status == "auth_success":
                        self.connection = connection
                        await self.ask("subscribe", list(self.topics))
                    elif status == "auth_failed":
                        await connection.wait_closed()
            except ConnectionClosed:
                pass
            self.connection = None
            say(closed=connection.close_code, reason=connection.close_reason)
            if connection.close_code == 1008:
                say(failed=str(connection.close_reason))
                return


async def main(address: str, token: str, market: str) -> None:
    """Follow the market until the test ends it or the token is refused."""
    follower = Follower()
    tasks = {
        asyncio.create_task(follower.obey()),
        asyncio.create_task(follower.follow(f"ws://{address}/{market}", token)),
    }
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


asyncio.run(main(*sys.argv[1:]))
