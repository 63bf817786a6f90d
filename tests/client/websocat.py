"""Stands in for `websocat URL` where it is not installed: lines of input become messages, messages lines of output."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.client import ClientConnection, connect


async def send_lines(socket: ClientConnection) -> None:
    """Send each line as a message, to the end of the input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in reader:
        await socket.send(line.decode().rstrip("\n"))


async def main(url: str) -> None:
    """Talk until the input ends."""
    async with connect(url) as socket:
        sender = asyncio.create_task(send_lines(socket))
        receiver = asyncio.create_task(write_lines(socket))
        await asyncio.wait({sender, receiver}, return_when=asyncio.FIRST_COMPLETED)
        sender.cancel()
        receiver.cancel()


async def write_lines(socket: ClientConnection) -> None:
    """Write each message as a line."""
    async for message in socket:
        sys.stdout.write(f"{message!s}\n")
        sys.stdout.flush()


asyncio.run(main(sys.argv[1]))
