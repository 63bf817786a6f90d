"""`/recorders`: this recorder and those of `PAGE_RECORDERS`, a line each, for the live page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web

from recorder import addresses
from recorder.errors import ConfigError
from recorder.ops.asking import asking
from recorder.ops.lines import ANSWER_SECS, Line, ask_lines, named, own_line
from recorder.ops.observed import Observed
from recorder.ops.snapshot_builder import take_snapshot

FRESH_NS: Final = 1_000_000_000
"""For so long what the others have said is good enough for another page."""


class Neighbours:
    """Asks the other recorders when a page asks, once a second at most however many pages there are.

    They are asked from here and not by the browser: it could not reach one that answers to its own machine alone, and has
    no business with a token. Where nobody looks, nobody is asked.
    """

    def __init__(
        self,
        urls: tuple[str, ...],
        observed: Observed,
        token: Callable[[], str],
        address: Callable[[], str],
    ) -> None:
        """`token` returns the one with which other machines are asked, and may read a file; `address` is our own."""
        self._urls = urls
        self._observed = observed
        self._read_token = token
        self._address = address
        self._asking = asyncio.Lock()
        self._lines: list[Line] = []
        self._asked_ns: int | None = None

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request for all lines; where no others are to be shown, there are none."""
        lines = await self.lines() if self._urls else []
        return web.Response(body=msgspec.json.encode(lines), content_type="application/json")

    async def lines(self) -> list[Line]:
        """Return the lines, of this recorder first."""
        async with self._asking:
            clock = self._observed.clock
            if self._asked_ns is None or clock.monotonic_ns() - self._asked_ns >= FRESH_NS:
                async with asking(ANSWER_SECS) as http:
                    others = await ask_lines(http, self._urls, await self._token())
                # All recorders may have the same list: that one of them is this one shows when it answers.
                self._lines = [line for line in others if line.run_id != self._observed.run_id]
                self._asked_ns = clock.monotonic_ns()
        own = own_line(f"http://{self._address()}", take_snapshot(self._observed))
        own.is_this = True
        return named([own, *self._lines])

    async def _token(self) -> str:
        """Return the token to ask with; empty where there is none, or all of them are of this machine."""
        if all(addresses.is_loopback(addresses.host_in(url.partition("://")[2])) for url in self._urls):
            return ""
        try:
            return await asyncio.to_thread(self._read_token)
        except ConfigError:
            return ""  # they refuse to answer, and the page says so

    def __repr__(self) -> str:
        return f"Neighbours({', '.join(self._urls)})"
