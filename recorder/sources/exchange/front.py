"""The reader before aiohttp's: takes off plain frames, many at once, and leaves everything else to aiohttp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from recorder import native

_TEXT: Final = 0x81
_BINARY: Final = 0x82
_FIN: Final = 0x80
_MASKED: Final = 0x80
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
"""Opcodes from here on are of control frames (RFC 6455, 5.5)."""
_REST_BYTES_MAX: Final = 256 * 1024
"""A frame of which more than this has come and which is not whole is aiohttp's: it joins pieces once, at the end."""

Split = Callable[[bytes, int, list[bytes]], tuple[int, int]]
"""What `split` does, in Python or in C."""
Take = Callable[[list[bytes], int, bytes], None]
"""Gets the payloads of plain frames, in order, the bytes that the frames took on the wire, and these bytes themselves.

The last are for whoever sends the same frames on. They are empty where not every frame is known to be text.
"""


class Reader(Protocol):
    """aiohttp's reader of WebSocket frames, as its protocol sees it."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Read on; the first value says whether the connection has failed."""

    def feed_eof(self) -> None:
        """Note that nothing more comes."""


class Front:
    """Stands where aiohttp's reader stood, and has that behind itself.

    A plain frame is text or binary, a message of its own, unmasked, without RSV bits and not too large. While `take` is
    given, plain frames go there. Every other frame goes to aiohttp byte for byte, so that fragments, control frames,
    limits and errors are in one place; so do all frames behind it until aiohttp's messages are received, so that none
    overtakes another.
    """

    def __init__(self, reader: Reader, payload_bytes_max: int, rest_bytes_max: int = _REST_BYTES_MAX) -> None:
        """Larger payloads than `payload_bytes_max` are left to aiohttp."""
        self._reader = reader
        self._payload_bytes_max = payload_bytes_max
        self._rest_bytes_max = rest_bytes_max
        code = native.module()
        self.split: Split = code.split if code is not None else split
        self._index: Callable[[bytes, int], tuple[int, ...]] | None = code.index if code is not None else None
        self._take: Take | None = None
        self._rest = b""
        """The beginning of a plain frame, which nobody else has yet."""
        self._head = b""
        """The beginning of the header of a frame that aiohttp reads; aiohttp has it, too."""
        self._passing_bytes = 0
        """How much of the frame that aiohttp reads is still to come."""
        self._messages_owed = 0
        """Messages that aiohttp has got, or has begun to get, and that nobody has received."""
        self._is_fragmented = False
        """Whether the message that aiohttp reads goes on in another frame."""

    def begin(self, take: Take) -> None:
        """Have plain frames go to `take` from now on."""
        self._take = take

    def end(self) -> None:
        """Leave everything to aiohttp from now on."""
        self._take = None
        rest, self._rest = self._rest, b""
        if rest:
            self._pass(rest)

    def received(self) -> None:
        """Note that a message of aiohttp's was received."""
        self._messages_owed = max(0, self._messages_owed - 1)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Read on, as aiohttp's protocol asks its reader to."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._take is not None and not self._is_behind:
            data = self._take_plain(data, self._take)
        return self._pass(data) if data else (False, b"")

    def feed_eof(self) -> None:
        """Note that nothing more comes."""
        self.end()
        self._reader.feed_eof()

    @property
    def _is_behind(self) -> bool:
        """Whether aiohttp is amid a frame or a message, or has messages that must be received first."""
        # Amid the payload of a frame a message is owed, or there are fragments.
        return bool(self._messages_owed or self._is_fragmented or self._head)

    def _take_plain(self, data: bytes, take: Take) -> bytes:
        """Hand over the plain frames at the front; return what is for aiohttp."""
        payloads: list[bytes] = []
        used, odd_bytes = self.split(data, self._payload_bytes_max, payloads)
        if payloads:
            take(payloads, used, self._wire_of(data, used))
        if used == len(data):
            return b""
        rest = data[used:]
        if odd_bytes or not _may_be_plain(rest) or len(rest) > self._rest_bytes_max:
            return rest
        self._rest = rest
        return b""

    def _wire_of(self, data: bytes, used: int) -> bytes:
        """Return the plain frames at the front as they came, if all are text."""
        if self._index is None or self._index(data, self._payload_bytes_max)[0] < used:
            return b""
        return data if used == len(data) else data[:used]

    def _pass(self, data: bytes) -> tuple[bool, bytes]:
        """Hand bytes to aiohttp, and note which messages it owes for them."""
        known = self._head + data
        self._head = b""
        at = self._passing_bytes
        while at < len(known):
            size = _size_of(known, at)
            if not size:
                self._head = known[at:]
                break
            opcode, is_last = known[at] & _OPCODE, known[at] & _FIN
            if is_last:
                self._messages_owed += 1
                self._is_fragmented = self._is_fragmented and opcode != 0
            elif opcode and opcode < _CONTROL:
                self._is_fragmented = True
            at += size
        self._passing_bytes = max(0, at - len(known))
        return self._reader.feed_data(data)

    def __repr__(self) -> str:
        return f"Front(direct={self._take is not None}, owed={self._messages_owed}, rest={len(self._rest)})"


def split(data: bytes, limit: int, payloads: list[bytes]) -> tuple[int, int]:
    """Append to `payloads` those of the whole plain frames at the front of `data`; what `recorder._native.split` does.

    Return how many bytes these frames take, and the size of the odd frame behind them: 0 where that is not known yet, and
    where a plain frame follows that is not whole. A payload of more than `limit` bytes makes a frame odd.
    """
    append = payloads.append
    end = len(data)
    at = 0
    while at + 2 <= end:
        first, length = data[at], data[at + 1]
        begin = at + 2
        if length == 126:
            begin = at + 4
            length = data[at + 2] << 8 | data[at + 3] if begin <= end else 126
            is_shortest = length >= 126
        elif length == 127:
            begin = at + 10
            length = int.from_bytes(data[at + 2 : begin]) if begin <= end else 65_536
            is_shortest = length >= 65_536
        else:
            is_shortest = length < 126  # above is a masked frame
        if (first != _TEXT and first != _BINARY) or not is_shortest or length > limit:
            return at, _size_of(data, at)
        stop = begin + length
        if stop > end:
            break
        append(data[begin:stop])
        at = stop
    return at, 0


def _size_of(data: bytes, at: int) -> int:
    """Return the size of the frame that begins at `at`, header and all; 0 while its header is not whole (RFC 6455, 5.2)."""
    if len(data) < at + 2:
        return 0
    mask_bytes = 4 if data[at + 1] & _MASKED else 0
    length = data[at + 1] & ~_MASKED
    if length < 126:
        return 2 + mask_bytes + length
    begin = at + (4 if length == 126 else 10)
    if len(data) < begin:
        return 0
    return begin - at + mask_bytes + int.from_bytes(data[at + 2 : begin])


def _may_be_plain(data: bytes) -> bool:
    """Whether the beginning of a frame is that of a plain one, as far as it has come."""
    return data[0] in (_TEXT, _BINARY) and (len(data) < 2 or not data[1] & _MASKED)
