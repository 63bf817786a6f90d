"""Inbound connections: each is let in, or told why it cannot stay, or cut, before anything else learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

REFUSAL_SECS: Final = 1.0
"""How long a connection that cannot stay has to send its request and be told why."""

Decide = Callable[[asyncio.Transport], bytes | None]
"""Returns None to let a connection in, the answer to its first request to refuse it, `b""` to cut it at once."""


def refusal(words: str, retry_secs: int = 10) -> bytes:
    """Return the HTTP answer 503 with these words."""
    body = f"{words}\n".encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: {retry_secs}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class Inbound(asyncio.Protocol):
    """One connection's protocol: passes everything on to `inner`, which knows only of connections that were let in.

    A connection that is refused holds its descriptor for `REFUSAL_SECS` at most.
    """

    def __init__(self, inner: asyncio.Protocol, decide: Decide) -> None:
        self._inner = inner
        self._decide = decide
        self._is_in = False
        self._refused: tuple[asyncio.Transport, bytes] | None = None
        """A connection that cannot stay, and the answer that says why."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept or refuse the connection."""
        made = cast("asyncio.Transport", transport)  # uvloop's own are no subclass
        answer = self._decide(made)
        if answer is None:
            self._is_in = True
            self._inner.connection_made(made)
        elif answer:
            self._refused = made, answer
            asyncio.get_running_loop().call_later(REFUSAL_SECS, made.abort)
        else:
            made.abort()

    def data_received(self, data: bytes) -> None:
        """Pass it on, or answer it with the refusal."""
        if self._is_in:
            self._inner.data_received(data)
        elif self._refused is not None:
            transport, answer = self._refused
            if not transport.is_closing():
                transport.write(answer)
                transport.close()

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received() if self._is_in else None

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._is_in:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._is_in:
            self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on."""
        if self._is_in:
            self._inner.connection_lost(error)
