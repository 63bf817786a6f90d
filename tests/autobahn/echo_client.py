"""A WebSocket client that echoes, with the settings of the recorder's own connections (`web_socket.py`)."""

from __future__ import annotations

import sys

from aiohttp import WSMsgType

from recorder import loop
from recorder.sources.exchange.web_socket import http_session, open_web_socket


async def main(url: str, count: int) -> None:
    """Take the cases of a fuzzing server, one connection each; `url` holds `{n}` for the case."""
    async with http_session() as http:
        for number in range(count):
            async with await open_web_socket(http, url.format(n=number)) as socket:
                while True:
                    message = await socket.receive()
                    if message.type is WSMsgType.TEXT:
                        await socket.send_frame(message.data, WSMsgType.TEXT)
                    elif message.type is WSMsgType.BINARY:
                        await socket.send_bytes(message.data)
                    elif message.type is WSMsgType.PING:
                        await socket.pong(bytes(message.data))
                    elif message.type is not WSMsgType.PONG:
                        break


if __name__ == "__main__":
    loop.run(main(sys.argv[1], int(sys.argv[2])))
