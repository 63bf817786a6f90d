"""One client's socket: how aiohttp's side of it is set, how its close is answered, when the kernel gives it up."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from aiohttp import web

from recorder.log import get_logger

_TCP_USER_TIMEOUT: Final = 18
"""From linux/tcp.h; milliseconds after which unacknowledged data ends a connection."""

log = get_logger("polygon_clients")


def make_web_socket(message_bytes_max: int, *, compression: bool) -> web.WebSocketResponse[bool]:
    """Return aiohttp's side of one client. It leaves pings and closing to us."""
    return web.WebSocketResponse(
        autoping=False,
        autoclose=False,
        max_msg_size=message_bytes_max,
        compress=compression,
        timeout=1.0,
    )


def answer_to_close(code: int) -> int:
    """Return the code that answers a client's. 1006 must never be sent (RFC 6455, 7.4.1), which aiohttp overlooks."""
    if code == 1006:
        return 1002
    return code if code == 1001 else 1000


def set_user_timeout(transport: asyncio.BaseTransport, ping_interval_secs: float) -> None:
    """Let the kernel end a connection whose other side acknowledges nothing."""
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "AF_INET") and sock.family in (socket.AF_INET, socket.AF_INET6):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(2000 * ping_interval_secs))
        except OSError:
            log.debug("tcp_user_timeout_unavailable")
