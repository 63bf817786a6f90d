"""A WebSocket server that echoes, made of the recorder's own parts: its frame guard, and aiohttp as the servers set it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

from aiohttp import WSMsgType, web

from recorder import frames, loop
from recorder.servers.frame_guard import FrameGuard, PendingConnections
from recorder.servers.sockets import answer_to_close, make_web_socket


async def echo(request: web.Request) -> web.StreamResponse:
    """Send back every message as it came, and answer pings as the recorder does."""
    ws = make_web_socket(32 * 2**20, compression=False)
    await ws.prepare(request)
    transport = request.transport
    if transport is None:
        return ws
    guard = transport.get_protocol()
    if not isinstance(guard, FrameGuard):
        raise AssertionError("every connection has its frame guard")

    def refuse(code: int, words: str, reason: str) -> None:
        transport.write(frames.close_frame(code, words))
        transport.close()

    guard.opened(refuse)
    while True:
        message = await ws.receive()
        if message.type is WSMsgType.TEXT:
            transport.write(frames.frame(message.data.encode()))
        elif message.type is WSMsgType.BINARY:
            transport.write(frames.frame(message.data, 0x2))
        elif message.type is WSMsgType.PING:
            transport.write(frames.frame(bytes(message.data), frames.PONG))
        elif message.type is WSMsgType.CLOSE:
            await ws.close(code=answer_to_close(int(message.data or 1000)))
            return ws
        elif message.type is not WSMsgType.PONG:
            return ws


async def main() -> None:
    """Serve until the end of stdin; print the port."""
    app = web.Application()
    app.router.add_get("/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    make_protocol = runner.server
    if make_protocol is None:
        raise AssertionError("a runner that is set up has a server")
    pending = PendingConnections(Counter())
    server = await asyncio.get_running_loop().create_server(
        lambda: FrameGuard(make_protocol(), pending), "127.0.0.1", 0
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    await runner.cleanup()


if __name__ == "__main__":
    loop.run(main())
