"""How long a socket has been silent, by the kernel's account of the last received byte, whether or not it was read."""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

_TCP_INFO = 11
_LAST_DATA_RECV = struct.Struct("@I")
_LAST_DATA_RECV_OFFSET = 52
"""`tcpi_last_data_recv` in `struct tcp_info` (linux/tcp.h): eight bytes, then eleven 32-bit fields before it."""


def silent_secs(sock: Any) -> float | None:
    """Return the seconds since the last byte arrived on a TCP socket; None where the kernel does not say.

    A frame that takes minutes to arrive is not silence, though no message is complete: only the kernel sees that.
    """
    if sock is None or not sys.platform.startswith("linux"):
        return None
    try:
        filled = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _LAST_DATA_RECV_OFFSET + _LAST_DATA_RECV.size)
        milliseconds: int = _LAST_DATA_RECV.unpack_from(filled, _LAST_DATA_RECV_OFFSET)[0]
    except (OSError, struct.error):
        return None
    return milliseconds / 1000
