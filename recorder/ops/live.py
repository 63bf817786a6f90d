"""`/events`: a snapshot a second to every follower, made once for all of them."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import hdrs, web

from recorder.ops.observed import Observed
from recorder.ops.snapshot_builder import take_snapshot

INTERVAL_SECS: Final = 1.0
FOLLOWERS_MAX: Final = 32
"""Pages that may be open at once."""
READ_SECS: Final = 10.0
"""A follower that does not take what it was sent within this time is cut."""
RETRY_MS: Final = 2000
"""When a browser connects again."""


class Live:
    """Looks at the rates each second and, while there are followers, takes one snapshot and encodes it once.

    Each follower waits for the newest snapshot, so one that is slow misses some and holds up nobody; it never has more
    than one before it. Only the present can be resumed: a browser that comes back with `Last-Event-ID` gets the
    history, and a snapshot unless it has that one. A snapshot a second is the heartbeat.
    """

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._clock = observed.clock
        self.followers = 0
        self._watchers = 0
        """Followers that want to see symbols, as `events?symbols` asks for."""
        self.snapshots_taken = 0
        self._id = ""
        self._event = b""
        self._taken_ns = 0
        """Monotonic time of the newest snapshot; 0: none yet."""
        self._news = asyncio.Event()
        """Set when there is something new; another takes its place at once."""
        self._writing: dict[asyncio.Transport, None] = {}
        """Connections whose followers have not taken yet what they were sent."""
        self._closed = False

    async def run(self) -> None:
        """Work until cancelled."""
        interval_ns = int(INTERVAL_SECS * 1e9)
        due_ns = self._clock.monotonic_ns()
        while True:
            # A loop that was held up skips what it missed.
            due_ns = max(due_ns + interval_ns, self._clock.monotonic_ns())
            await self._clock.sleep((due_ns - self._clock.monotonic_ns()) / 1e9)
            self.beat()

    def beat(self) -> None:
        """Do the work of each second."""
        self._observed.rates.look()
        if self._watchers:
            self._observed.symbols.watch()
        self._observed.symbols.look()
        if self.followers:
            self._take()

    def open(self) -> None:
        """Accept followers, from now on or again."""
        self._closed = False

    def close(self) -> None:
        """End every follower's stream now, and take no more."""
        self._closed = True
        self._tell()
        for transport in list(self._writing):
            transport.abort()

    async def follow(self, request: web.Request) -> web.StreamResponse:
        """Answer a request with snapshots until the follower or the recorder ends."""
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            return web.Response(status=403, text="pages of other sites may not follow this recorder\n")
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )
        if request.method == hdrs.METH_HEAD:
            return response
        if self._closed or self.followers >= FOLLOWERS_MAX:
            words = (
                "stopping" if self._closed else f"{FOLLOWERS_MAX} others follow already; ask /status instead"
            )
            return web.Response(status=503, text=f"{words}\n", headers={hdrs.RETRY_AFTER: "5"})
        watches = "symbols" in request.query
        self.followers += 1
        self._watchers += watches
        if watches:
            self._observed.symbols.watch()
        try:
            await self._send_all(request, response)
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                # Closing would wait for the follower to read; only this frees the socket now.
                request.transport.abort()
        finally:
            self.followers -= 1
            self._watchers -= watches
        return response

    async def _send_all(self, request: web.Request, response: web.StreamResponse) -> None:
        transport = request.transport
        if transport is None:
            return
        # With no buffer in between, sent means handed to the kernel.
        transport.set_write_buffer_limits(0)
        await response.prepare(request)
        if self._clock.monotonic_ns() - self._taken_ns >= INTERVAL_SECS * 1e9 or not self._taken_ns:
            self._take()
        history = msgspec.json.encode(self._observed.rates.history())
        seen = request.headers.get("Last-Event-ID", "")
        data = b"retry: %d\nevent: history\ndata: %b\n\n" % (RETRY_MS, history)
        if seen != self._id:
            seen = self._id
            data += self._event
        while True:
            self._writing[transport] = None
            try:
                async with asyncio.timeout(READ_SECS):
                    await response.write(data)
                    await request.writer.drain()
            finally:
                del self._writing[transport]
            while seen == self._id and not self._closed:
                await self._news.wait()
            if self._closed:
                break
            seen, data = self._id, self._event

    def _take(self) -> None:
        self.snapshots_taken += 1
        self._taken_ns = self._clock.monotonic_ns()
        self._id = f"{self._observed.run_id}:{self.snapshots_taken}"
        content = msgspec.json.encode(take_snapshot(self._observed))
        self._event = b"id: %b\nevent: snapshot\ndata: %b\n\n" % (self._id.encode(), content)
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def __repr__(self) -> str:
        return f"Live(followers={self.followers}, snapshots_taken={self.snapshots_taken})"
