"""A peer as somebody might have built it: follows an exchange, writes a line for each event, serves what came."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, TextIO

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

subscribers: dict[ServerConnection, set[str]] = {}


def status(word: str, message: str) -> str:
    return json.dumps([{"ev": "status", "status": word, "message": message}])


async def hold(client: ServerConnection) -> None:
    await client.send(status("connected", "Connected Successfully"))
    async for text in client:
        request = json.loads(text)
        if request["action"] == "auth":
            await client.send(status("auth_success", "authenticated"))
            continue
        topics = request["params"].split(",")
        for topic in topics:
            await client.send(status("success", f"subscribed to: {topic}"))
        subscribers[client] = set(topics)


def events_of(frame: str) -> list[str]:
    """Return the exact text of each event; those of the simulated market nest no objects."""
    return [f"{{{part}}}" for part in frame[2:-2].split("},{")]


async def deliver(events: list[str]) -> None:
    headers: list[dict[str, Any]] = list(map(json.loads, events))
    names = [f"{header['ev']}.{header['sym']}" for header in headers]
    for client, topics in list(subscribers.items()):
        wanted = [event for event, name in zip(events, names, strict=True) if "*" in topics or name in topics]
        if wanted:
            await client.send(f"[{','.join(wanted)}]")


async def main(url: str, port: int, file: TextIO, lose_one_in: int) -> None:
    async with (
        serve(hold, "127.0.0.1", port, compression=None, ping_interval=None),
        connect(url, compression=None, ping_interval=None, max_size=None) as exchange,
    ):
        await exchange.recv()
        await exchange.send(json.dumps({"action": "auth", "params": "any"}))
        await exchange.recv()
        await exchange.send(json.dumps({"action": "subscribe", "params": "T.*,Q.*"}))
        count = 0
        async for frame in exchange:
            if '"status"' in str(frame):
                continue
            events = events_of(str(frame))
            for event in events:
                count += 1
                if not lose_one_in or count % lose_one_in:
                    file.write(f"{event}\n")
            file.flush()
            if subscribers:
                await deliver(events)


with open(sys.argv[3], "w") as file:
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), file, int(sys.argv[4])))
