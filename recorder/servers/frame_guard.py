"""The guard between a client's connection and aiohttp: rules for its frames, and for how many may be pending."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from recorder.descriptors import fd_budget
from recorder.inbound import Inbound, refusal
from recorder.log import RateLimited, get_logger
from recorder.servers.stats import Eviction, Refusal

FRAGMENTS_MAX: Final = 64
"""Frames that one message may come in."""
PENDING_PER_ADDRESS_MAX: Final = 1000
"""Connections of one address that have not authenticated; behind a proxy all clients have one address."""
_NO_FILES: Final = refusal("this recorder may open no more files; come back later")
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
        """Bytes of the present payload that are still to come."""
        self._fragments = 0

    def broken_by(self, data: bytes) -> tuple[int, str, Eviction] | None:
        """Check what was read. Return the rule that it breaks as close code, words and name; None if it breaks none."""
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


class PendingConnections:
    """Counts, by address, the connections that have not authenticated, and keeps to the budget of open files."""

    def __init__(self, refused: Counter[Refusal]) -> None:
        """`refused` counts, under `address` and `files`, the connections that are turned away."""
        self._refused = refused
        self._pending: Counter[str] = Counter()
        self._warnings = RateLimited(_WARN_SECS)

    def enter(self, address: str) -> bool:
        """Count a connection; False, and it is not counted, if too many of its address are pending."""
        if self._pending[address] >= PENDING_PER_ADDRESS_MAX:
            self._refused["address"] += 1
            return False
        self._pending[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection no more: it has authenticated, or is gone."""
        self._pending[address] -= 1
        if not self._pending[address]:
            del self._pending[address]

    def refuse_for_files(self, descriptor: int) -> bytes | None:
        """Return None if the number of a connection leaves enough open files to the others, else how to refuse it."""
        budget = fd_budget()
        if descriptor < budget.clients_end:
            return None
        self._refused["files"] += 1
        suppressed = self._warnings.ready(int(asyncio.get_running_loop().time() * 1e9))
        if suppressed is not None:
            log.warning(
                "open_files_exhausted",
                open_files=f"{descriptor} and more",
                times_since_last_warning=suppressed + 1,
                advice="raise the limit (ulimit -n, LimitNOFILE), or lower CLIENTS_MAX",
            )
        return _NO_FILES if descriptor < budget.refusals_end else b""

    def __repr__(self) -> str:
        return f"PendingConnections({self._pending.total()})"


class FrameGuard(Inbound):
    """One client's protocol: passes everything on to aiohttp's, once it has looked at it.

    aiohttp takes unmasked frames, and any number of empty fragments; the rules of `FrameRules` begin to count behind
    the handshake. A client that breaks one is refused, and nothing more of it is read.
    """

    def __init__(self, inner: asyncio.Protocol, pending: PendingConnections) -> None:
        super().__init__(inner, self._refuse_connection)
        self._pending = pending
        self._address: str | None = None
        """Under which it is counted as pending; None once it is not."""
        self._rules: FrameRules | None = None
        self._refuse: Refuse | None = None
        self._tail = b""
        """The last bytes of the handshake."""
        self._is_shut = False

    def _refuse_connection(self, transport: asyncio.Transport) -> bytes | None:
        answer = self._pending.refuse_for_files(transport.get_extra_info("socket").fileno())
        if answer is not None:
            return answer
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._pending.enter(address):
            return b""
        self._address = address
        return None

    def opened(self, refuse: Refuse) -> None:
        """Note that the handshake is done: what comes now is frames."""
        self._rules = FrameRules()
        self._refuse = refuse
        if self._tail != _END_OF_HEADERS:
            self._shut(1002, "frames came before the handshake was answered", "protocol_error")

    def authenticated(self) -> None:
        """Note that the client is known, and no longer pending."""
        if self._address is not None:
            self._pending.leave(self._address)
            self._address = None

    def data_received(self, data: bytes) -> None:
        """Check what was read, and pass it on."""
        if self._is_shut:
            return
        if self._rules is None:
            self._tail = (self._tail + data[-4:])[-4:]
        else:
            broken = self._rules.broken_by(data)
            if broken is not None:
                self._shut(*broken)
                return
        super().data_received(data)

    def _shut(self, code: int, words: str, reason: Eviction) -> None:
        self._is_shut = True
        if self._refuse is not None:
            self._refuse(code, words, reason)

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on; the connection is pending no longer."""
        super().connection_lost(error)
        self.authenticated()
