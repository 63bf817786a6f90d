"""WebSocket frames of a server, made by hand (RFC 6455, 5.2): unmasked, hence the same bytes for every client."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

TEXT: Final = 0x1
CLOSE: Final = 0x8
PONG: Final = 0xA
_FIN: Final = 0x80


def header(length: int, opcode: int = TEXT) -> bytes:
    """Give what precedes a payload of `length` bytes that is a whole message."""
    if length < 126:
        return bytes((_FIN | opcode, length))
    if length < 65_536:
        return struct.pack("!BBH", _FIN | opcode, 126, length)
    return struct.pack("!BBQ", _FIN | opcode, 127, length)


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """Give a whole message."""
    return header(len(payload), opcode) + payload


def close_frame(code: int, reason: str) -> bytes:
    """Give the frame that closes; any code is possible, also those that must not be sent."""
    return frame(struct.pack("!H", code) + reason.encode(), CLOSE)


class Frames(NamedTuple):
    """Data frames in a row, ready to be written; the same object serves every subscriber of the same topics."""

    data: bytes
    payload_sizes: Sequence[int]
    """Bytes of each frame without its header."""
    events: Sequence[int]
    """Events in each frame."""

    @property
    def events_count(self) -> int:
        """Events, all frames together."""
        return sum(self.events)

    def payloads(self) -> Iterator[bytes]:
        """Yield each frame without its header."""
        begin = 0
        for size in self.payload_sizes:
            begin += len(header(size))
            yield self.data[begin : begin + size]
            begin += size


def frames_of(events: Sequence[bytes], frame_events: int) -> Frames:
    """Pack events into frames of at most `frame_events`."""
    payloads = []
    counts = []
    for begin in range(0, len(events), frame_events):
        group = events[begin : begin + frame_events]
        payloads.append(b"[" + b",".join(group) + b"]")
        counts.append(len(group))
    data = b"".join([part for payload in payloads for part in (header(len(payload)), payload)])
    return Frames(data, [len(payload) for payload in payloads], counts)
