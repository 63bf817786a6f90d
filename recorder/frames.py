"""WebSocket frames of a server, made by hand (RFC 6455, 5.2): unmasked, hence the same bytes for every client."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_FIN: Final = 0x80
_COMPRESSED: Final = 0x40
"""RSV1: the payload is deflated (RFC 7692, 6)."""
_DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"

TIME_PING: Final = b"time "
"""How the payload of a ping begins that asks how far time has come. Another recorder answers such a ping when its
own exchange has answered one; every other server answers it as any ping."""

PAYLOAD_BYTES_MAX: Final = 999_999
"""The strictest official client of the vendor refuses larger frames."""


def header(length: int, opcode: int = TEXT) -> bytes:
    """Return the header of a frame that carries a whole message of `length` bytes."""
    if length < 126:
        return bytes((_FIN | opcode, length))
    if length < 65_536:
        return struct.pack("!BBH", _FIN | opcode, 126, length)
    return struct.pack("!BBQ", _FIN | opcode, 127, length)


def size_of(payload: bytes) -> int:
    """Return how many bytes the frame takes that carries this message."""
    length = len(payload)
    return length + (2 if length < 126 else 4 if length < 65_536 else 10)


def pieces(payloads: Sequence[bytes], bytes_max: int) -> Iterator[tuple[Sequence[bytes], int]]:
    """Yield messages in order, in pieces of at most so many bytes, or of one message; each with its bytes."""
    size = sum(map(len, payloads))
    if size <= bytes_max:
        yield payloads, size
        return
    ends = list(accumulate(map(len, payloads)))
    begin = before = 0
    while begin < len(ends):
        end = max(begin + 1, bisect_right(ends, before + bytes_max, begin))
        yield payloads[begin:end], ends[end - 1] - before
        begin, before = end, ends[end - 1]


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Return a whole message as one frame."""
    return header(len(payload), opcode) + payload


def close_frame(code: int, reason: str) -> bytes:
    """Return a close frame. Any code is possible, including codes that must not be sent."""
    return frame(struct.pack("!H", code) + reason.encode()[:123], CLOSE)


def compressed_frame(payload: bytes, window_bits: int) -> bytes:
    """Return a message deflated on its own (RFC 7692, 7.2.1), so that all clients can share it."""
    deflate = zlib.compressobj(level=1, wbits=-window_bits)
    data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return header(len(data := data.removesuffix(_DEFLATE_TAIL)), TEXT | _COMPRESSED) + data
