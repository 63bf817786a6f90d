"""The vendor's Python client as a program: `official.py PACKAGE HOST:PORT TOKEN MARKET`; talks as programs.py says."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any


def say(**line: Any) -> None:
    """Write one line for the test."""
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


async def obey(client: Any) -> None:
    """Carry out what the test asks for, until it asks for nothing more."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        for action, topics in json.loads(line).items():
            getattr(client, action)(*topics)


async def main(package: str, address: str, token: str, market: str) -> None:
    """Follow the market until the test ends it or the client gives up."""
    client = importlib.import_module(package).WebSocketClient(
        token, feed=address, market=market, secure=False
    )

    async def process(models: list[Any]) -> None:
        for model in models:
            say(model={"class": type(model).__name__, **vars(model)})

    connection = asyncio.create_task(client.connect(process))
    commands = asyncio.create_task(obey(client))
    await asyncio.wait({connection, commands}, return_when=asyncio.FIRST_COMPLETED)
    if connection.done():
        error = connection.exception()
        say(failed=f"{type(error).__name__}: {error}" if error else "gave up for good")
    for task in (connection, commands):
        task.cancel()
    await asyncio.gather(connection, commands, return_exceptions=True)


asyncio.run(main(*sys.argv[1:]))
