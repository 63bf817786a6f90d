"""Outgoing connections of the commands that ask others: a reset leaves no socket that closes a descriptor again."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from front import front, reset
from serving import in_production_loop

from recorder.checks.offset import measure
from recorder.clock import SystemClock
from recorder.errors import RecorderError
from recorder.ops.asking import ask as ask_status
from recorder.ops.asking import asking
from recorder.ops.status_schema import Snapshot
from recorder.sources.exchange.web_socket import http_session, open_web_socket

RESETS = 10


async def ask_as_top(port: int) -> None:
    """Ask as `recorder top` and the live page do."""
    async with asking() as http:
        await ask_status(http, f"https://127.0.0.1:{port}", Snapshot)


async def ask_for_the_time(port: int) -> None:
    """Ask as `recorder check` does."""
    await measure(f"https://127.0.0.1:{port}/", SystemClock())


async def open_socket(port: int) -> None:
    """Connect as a feed, `recorder tail` and `recorder check` do."""
    async with http_session() as http:
        await open_web_socket(http, f"wss://127.0.0.1:{port}/stocks")


@pytest.mark.parametrize("ask", [ask_as_top, ask_for_the_time, open_socket])
@in_production_loop
async def test_a_reset_before_the_handshake(ask: Callable[[int], Awaitable[None]]) -> None:
    """What is collected unclosed is a ResourceWarning, which is an error in tests: its descriptor is another's by then."""
    with front(*[reset] * RESETS) as door:
        for _ in range(RESETS):
            with pytest.raises((aiohttp.ClientError, RecorderError, OSError)):
                await ask(door.port)
        gc.collect()
