"""What stands between a connection and aiohttp: the rules for clients' frames, and for how many may wait at the door."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Final, cast

from recorder.descriptors import reserved
from recorder.log import RateLimited, get_logger
from recorder.servers.stats import Eviction, Refusal

FRAGMENTS_MAX: Final = 64
"""Frames that one message may come in."""
WAITING_PER_ADDRESS_MAX: Final = 1000
"""Connections of one address that have not authenticated; behind a proxy all clients have one address."""

REFUSAL_SECS: Final = 1.0
"""How long a connection that is refused for want of files may take to ask, and so to be told."""
_NO_FILES: Final = b"this recorder may open no more files; come back later\n"
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Retry-After: 10\r\nConnection: close\r\n\r\n%b" % (len(_NO_FILES), _NO_FILES)
)
_WARN_SECS: Final = 10.0

_MASKED: Final = 0x80
_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_CONTROL: Final = 0x08
_LONGER: Final = {126: 2, 127: 8}
"""Bytes of the length that follow these lengths (RFC 6455, 5.2)."""
_MASK_BYTES: Final = 4
_END_OF_HEADERS: Final = b"\r\n\r\n"

log = get_logger("polygon_clients")

Refuse = Callable[[int, str, Eviction], None]
"""Takes a close code, words for the client, and the name under which its end is counted."""


class FrameRules:
    """PURE. Follows the frames of one client by their headers, whatever the reads cut them into."""

    __slots__ = ("_fragments", "_header", "_header_bytes", "_payload_bytes")

    def __init__(self) -> None:
        self._header = b""
        self._header_bytes = 2
        self._payload_bytes = 0
        """Of the present payload, what is still to come."""
        self._fragments = 0

    def broken_by(self, data: bytes) -> tuple[int, str, Eviction] | None:
        """Take what was read; give the rule that it breaks as close code, words and name."""
        place = 0
        while place < len(data):
            if self._payload_bytes:
                step = min(self._payload_bytes, len(data) - place)
                self._payload_bytes -= step
                place += step
                continue
            missing = self._header_bytes - len(self._header)
            self._header += data[place : place + missing]
            place += missing
            if len(self._header) < self._header_bytes:
                break
            begin, flags = self._header[0], self._header[1]
            if self._header_bytes == 2:
                if not flags & _MASKED:
                    return 1002, "frames of clients must be masked", "protocol_error"
                self._header_bytes = 2 + _LONGER.get(flags & 0x7F, 0) + _MASK_BYTES
                continue
            longer = self._header[2:-_MASK_BYTES]
            self._payload_bytes = int.from_bytes(longer, "big") if longer else flags & 0x7F
            self._header = b""
            self._header_bytes = 2
            if not begin & _OPCODE & _CONTROL:
                self._fragments = 0 if begin & _FIN else self._fragments + 1
                if self._fragments >= FRAGMENTS_MAX:
                    return 1008, "a message in too many fragments", "too_many_fragments"
        return None


class Room(Enum):
    """What room among the open files a new connection finds."""

    ENOUGH = "it may stay"
    TO_REFUSE = "it may be told why it cannot stay"
    NONE = "it is cut"


class Door:
    """Counts, by address, the connections that have not authenticated, and keeps room among the open files."""

    def __init__(self, refused: Counter[Refusal]) -> None:
        """`refused` counts, under `address` and `files`, who is turned away."""
        self._refused = refused
        self._waiting: Counter[str] = Counter()
        self._warnings = RateLimited(_WARN_SECS)

    def enter(self, address: str) -> bool:
        """Let a connection in, unless too many of its address wait."""
        if self._waiting[address] >= WAITING_PER_ADDRESS_MAX:
            self._refused["address"] += 1
            return False
        self._waiting[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A connection waits no longer: it has authenticated, or is gone."""
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]

    def look_at(self, descriptor: int) -> Room:
        """Say whether the number of a connection leaves enough files to the archive and the exchange."""
        first, last = reserved()
        if descriptor < first:
            return Room.ENOUGH
        self._refused["files"] += 1
        suppressed = self._warnings.ready(int(asyncio.get_running_loop().time() * 1e9))
        if suppressed is not None:
            log.warning(
                "clients are refused: too many open files",
                open_files=f"{descriptor} and more",
                times_since_last_warning=suppressed + 1,
                advice="raise the limit (ulimit -n, LimitNOFILE), or lower CLIENTS_MAX",
            )
        return Room.TO_REFUSE if descriptor < last else Room.NONE

    def __repr__(self) -> str:
        return f"Door({self._waiting.total()} waiting)"


class Gate(asyncio.Protocol):
    """One connection's protocol: passes everything on to aiohttp's, once it has looked at it.

    aiohttp takes unmasked frames, and any number of empty fragments; the rules of `FrameRules` begin to count behind
    the handshake. A client that breaks one is refused, and nothing more of it is read.
    """

    def __init__(self, inner: asyncio.Protocol, door: Door) -> None:
        self._inner = inner
        self._door = door
        self._address: str | None = None
        """Under which it is counted at the door; None once it does not wait."""
        self._rules: FrameRules | None = None
        self._refuse: Refuse | None = None
        self._tail = b""
        """The last bytes of the handshake."""
        self._is_shut = False
        self._told: asyncio.Transport | None = None
        """Set while the connection is to be told that there is no room for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or cut it."""
        room = self._door.look_at(transport.get_extra_info("socket").fileno())
        if room is not Room.ENOUGH:
            self._is_shut = True
            if room is Room.TO_REFUSE:
                self._told = cast("asyncio.Transport", transport)
                asyncio.get_running_loop().call_later(REFUSAL_SECS, self._told.abort)
            else:
                cast("asyncio.Transport", transport).abort()
            return
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if self._door.enter(address):
            self._address = address
            self._inner.connection_made(transport)
        else:
            self._is_shut = True
            transport.close()

    def opened(self, refuse: Refuse) -> None:
        """The handshake is done: what comes now is frames."""
        self._rules = FrameRules()
        self._refuse = refuse
        if self._tail != _END_OF_HEADERS:
            self._shut(1002, "frames came before the handshake was answered", "protocol_error")

    def authenticated(self) -> None:
        """The client is known, and no longer waits."""
        if self._address is not None:
            self._door.leave(self._address)
            self._address = None

    def data_received(self, data: bytes) -> None:
        """Look at what was read, and pass it on."""
        if self._is_shut:
            if self._told is not None and not self._told.is_closing():
                self._told.write(_REFUSAL)
                self._told.close()
            return
        if self._rules is None:
            self._tail = (self._tail + data[-4:])[-4:]
        else:
            broken = self._rules.broken_by(data)
            if broken is not None:
                self._shut(*broken)
                return
        self._inner.data_received(data)

    def _shut(self, code: int, words: str, reason: Eviction) -> None:
        self._is_shut = True
        if self._refuse is not None:
            self._refuse(code, words, reason)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on; nothing waits any more."""
        if self._address is not None or self._rules is not None:
            self._inner.connection_lost(error)
        self.authenticated()
