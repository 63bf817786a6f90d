"""A scripted exchange: a real WebSocket server that shakes hands as the vendor does, then does what the test says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web

Script = Callable[[web.WebSocketResponse, web.Request], Awaitable[None]]


def status(status: str, message: str) -> str:
    """Return a frame with one status."""
    return json.dumps([{"ev": "status", "status": status, "message": message}])


async def shake_hands(socket: web.WebSocketResponse, *, acknowledge: bool = True) -> list[str]:
    """Greet, accept any key, acknowledge every topic of the first subscribe, or none; return the topics."""
    await socket.send_str(status("connected", "Connected Successfully"))
    auth = json.loads((await socket.receive()).data)
    assert auth["action"] == "auth"
    await socket.send_str(status("auth_success", "authenticated"))
    request = json.loads((await socket.receive()).data)
    assert request["action"] == "subscribe"
    topics: list[str] = request["params"].split(",")
    for topic in topics if acknowledge else ():
        await socket.send_str(status("success", f"subscribed to: {topic}"))
    return topics


def sending(frames: Sequence[bytes]) -> Script:
    """Return a script that shakes hands, sends `frames`, and stays."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        for frame in frames:
            await socket.send_frame(frame, 1)  # type: ignore[arg-type]
        async for _ in socket:
            pass

    return script


def make_app(script: Script, *, autoping: bool = True) -> web.Application:
    """Return an application that runs the script on every connection, whatever the path."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoping=autoping)
        await socket.prepare(request)
        await script(socket, request)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    return app


@contextmanager
def exchange(script: Script) -> Iterator[int]:
    """Run a scripted exchange on a thread of its own; return its port."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    port = 0
    stopping = asyncio.Event()

    async def main() -> None:
        nonlocal port
        runner = web.AppRunner(make_app(script), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()
