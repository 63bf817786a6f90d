"""One connected client: what it is sent, how much of it is pending, and when it is cut."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal, Protocol

from recorder import frames
from recorder.log import RateLimited, get_logger
from recorder.polygon.manner import Slow
from recorder.polygon.server import Send, ServerSession
from recorder.servers.frame_guard import FrameGuard
from recorder.servers.stats import ClientStats, Eviction, ServerStats
from recorder.settings import ClientLimits
from recorder.words import printable

CLOSE_GRACE_SECS: Final = 2.0
"""How long a client has to answer our close frame before the connection is cut."""
STALLED_SECS: Final = 7.0
"""A client that has something pending and takes nothing for this time is a slow consumer."""
REQUESTS_BURST_SECS: Final = 20.0
"""Clients subscribe topic by topic when they start: requests of this many seconds may come at once."""
REQUEST_BYTES: Final = 1024
"""Each further KiB of a message counts as a request, so that the time it takes to read it has a limit, too."""
_PENDING_SMALL_BYTES: Final = 64 * 1024
"""With less than this pending, a client that is alive answers a ping in time."""
TOPICS_SHOWN: Final = 8
AGENT_CHARS_MAX: Final = 100
_ERROR_INTERVAL_SECS: Final = 5.0

log = get_logger("polygon_clients")
_failures: Final = RateLimited(_ERROR_INTERVAL_SECS)
"""Warnings of all clients together: a defect may affect each of them in the same pass."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What the handshake says about a client."""

    number: int
    """Counts the connections of a port."""
    address: str
    agent: str
    cluster: str
    """Empty: all of them."""
    window_bits: int
    """Of permessage-deflate; 0 unless that was agreed on."""


class Lenience(Protocol):
    """What is done with a client that leaves too much unread, other than closing it."""

    way: Slow
    left_out: int
    """Events that were left out so far."""

    @property
    def is_behind(self) -> bool:
        """Whether events are left out now, or held back."""

    def takes(self, size: int, events_count: int) -> bool:
        """Return whether the client is sent so many bytes; if not, these events count as left out."""

    def must_hold(self, size: int) -> bool:
        """Return whether events are to be handed to `hold`, where so many bytes are about to be sent."""

    def hold(self, channels: Sequence[str], symbols: Sequence[str], fragments: Sequence[bytes]) -> None:
        """Take events, as columns, of a client that is behind."""

    def look(self) -> None:
        """Go on as usual if the client has room again, or is gone."""

    def recover(self) -> None:
        """Go on as usual in any case: say what was left out, and send what is held back."""


class Held(Protocol):
    """Something that holds back values of the client."""

    reached: tuple[int, int]
    """The position for which what was sent stands while something is held, and the last record then."""

    @property
    def is_holding(self) -> bool:
        """Whether anything is held back."""


class Client:
    """A client of one port. Writing never waits: its transport's buffer is the only queue, and has a limit.

    Past `CLIENT_PENDING_BYTES_MAX`, or when nothing is taken for `STALLED_SECS`, it is closed with 1008 `slow
    consumer`; a client that has chosen to be treated otherwise has a `lenience`, and more time. A client that misses two
    pings is disconnected. Each end is counted by its reason.
    """

    __slots__ = (
        "_abort_handle",
        "_allowance",
        "_allowance_at",
        "_drained",
        "_loop",
        "_progress_at",
        "_stats",
        "_transport",
        "address",
        "address_port",
        "agent",
        "bytes_sent",
        "closing",
        "cluster",
        "descriptor",
        "events_sent",
        "frame_guard",
        "intervals",
        "joined_at",
        "lag_secs",
        "lenience",
        "limits",
        "name",
        "number",
        "ping_at",
        "pong_at",
        "reason",
        "session",
        "token_hash",
        "uncounted_bytes",
        "wants_marks",
        "window_bits",
    )

    def __init__(
        self,
        peer: Peer,
        session: ServerSession,
        transport: asyncio.Transport,
        limits: ClientLimits,
        stats: ServerStats,
        rng: random.Random,
    ) -> None:
        """`rng` spreads the pings."""
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self.number = peer.number
        self.address = peer.address
        self.agent = printable(peer.agent[:AGENT_CHARS_MAX])
        self.cluster = peer.cluster
        self.session = session
        self.name = ""
        """Of the token; empty before it has authenticated."""
        self.token_hash = ""
        """In hexadecimal digits; empty likewise."""
        self.window_bits = peer.window_bits
        self.wants_marks = False
        """Whether it is told a position behind each read."""
        protocol = transport.get_protocol()
        self.frame_guard = protocol if isinstance(protocol, FrameGuard) else None
        self.descriptor: int = transport.get_extra_info("socket").fileno()
        remote = transport.get_extra_info("peername")
        self.address_port: int = remote[1] if remote else 0
        self.joined_at = now
        self.closing = False
        self.reason = "left"
        """Why the connection ended."""
        self.events_sent = 0
        self.bytes_sent = 0
        self.uncounted_bytes = 0
        """Of data frames whose events nobody has counted."""
        self.pong_at = now
        self.ping_at = now + rng.uniform(0.5, 1.0) * limits.ping_interval_secs
        """When the next ping is due; spread, so that clients of one moment are not pinged in one."""
        self.limits = limits
        """May be exchanged."""
        self.lenience: Lenience | None = None
        """None: it is closed when it is slow."""
        self.intervals: tuple[Held, ...] = ()
        """Those at which it gets some of its topics."""
        self._stats = stats
        self._transport = transport
        self._allowance = limits.requests_per_sec_max * REQUESTS_BURST_SECS
        self._allowance_at = now
        self._drained = 0
        self._progress_at = now
        self.lag_secs = 0.0
        """For how long something has been pending, at the last poll."""
        self._abort_handle: asyncio.TimerHandle | None = None

    @property
    def pending_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    @property
    def fullness(self) -> float:
        """What the client has not taken yet, as a share of what it may leave."""
        return self.pending_bytes / self.limits.pending_bytes_max

    @property
    def is_behind(self) -> bool:
        """Whether it is slow, and events are left out or held back for that."""
        return self.lenience is not None and self.lenience.is_behind

    def write(self, data: bytes, events_count: int) -> bool:
        """Hand over whole data frames; the same bytes object serves every client. Return False if they are left out."""
        lenience = self.lenience
        if lenience is not None and not lenience.takes(len(data), events_count):
            return False
        if not self._send(data):
            return False
        self.events_sent += events_count
        if not events_count:
            self.uncounted_bytes += len(data)
        return True

    def say(self, *payloads: bytes) -> None:
        """Send answers, each a frame of its own, in one write."""
        self._send(b"".join(map(frames.frame, payloads)))

    def pong(self, payload: bytes) -> None:
        """Answer a ping."""
        self._send(frames.frame(payload, frames.PONG))

    def _send(self, data: bytes) -> bool:
        """Write, and close a client that leaves too much unread. Return False if nothing was written: the end has come."""
        # A connection that broke in this pass is still a client until its handler has run; uvloop raises on it.
        if self.closing or self._transport.is_closing():
            return False
        self._transport.write(data)
        self.bytes_sent += len(data)
        if self._transport.get_write_buffer_size() > self.limits.pending_bytes_max:
            self.close(1008, "slow consumer", "slow_consumer")
        return True

    def may_request(self, size: int) -> bool:
        """Take a message of `size` bytes from the client's allowance; return False if nothing was left of it."""
        now = self._loop.time()
        rate = self.limits.requests_per_sec_max
        earned = (now - self._allowance_at) * rate
        left = min(self._allowance + earned, rate * REQUESTS_BURST_SECS)
        self._allowance = left - 1 - size // REQUEST_BYTES
        self._allowance_at = now
        return left >= 1

    def close(
        self,
        code: int,
        words: str,
        reason: Eviction | Literal["shutdown"],
        grace_secs: float | None = None,
    ) -> None:
        """Close with a code and words for the client; cut the connection if it has not answered after `grace_secs`.

        It is `CLOSE_GRACE_SECS` unless given. The frame stands behind what is pending, and a client that goes on writing
        when it is cut may lose what it has not read: such a client sees no code.

        `reason` is the name under which the end is counted; an eviction if it is not `shutdown`.
        """
        if self.closing:
            return
        self.closing = True
        self.reason = reason
        if reason != "shutdown":
            self._stats.evictions[reason] += 1
        grace = CLOSE_GRACE_SECS if grace_secs is None else grace_secs
        self._abort_handle = self._loop.call_later(grace, self._transport.abort)
        if self._transport.is_closing():
            return
        try:
            self._transport.write(frames.close_frame(code, words))
        except Exception:  # it ends all the same, and a caller that closes others with it continues
            self._transport.abort()

    def fail(self, error: Exception) -> None:
        """Cut the connection at once, for an error that writing to it raised."""
        if self.closing:
            return
        self.closing = True
        self.reason = "write_failed"
        self._stats.evictions["write_failed"] += 1
        self._transport.abort()
        suppressed = _failures.ready(time.monotonic_ns())
        if suppressed is not None:
            log.error(
                "client_write_failed",
                token=self.name or None,
                address=self.address,
                error="".join(traceback.format_exception(error)),
                times_since_last_error=suppressed + 1,
            )

    def poll(self, now: float) -> float:
        """Handle what is due: auth deadline, ping, slow or dead client. Return how long something has been pending."""
        self.lag_secs = self._poll(now)
        return self.lag_secs

    def _poll(self, now: float) -> float:
        if self.closing:
            return 0.0
        if not self.name and now - self.joined_at >= self.limits.auth_timeout_secs:
            self.perform_timeout()
            return 0.0
        pending = self._transport.get_write_buffer_size()
        drained = self.bytes_sent - pending
        if not pending or drained != self._drained:
            self._drained = drained
            self._progress_at = now
        lag_secs = now - self._progress_at
        # Whoever wants to miss events rather than be closed has the time that the kernel gives a peer (`sockets`).
        patience_secs = STALLED_SECS if self.lenience is None else 2 * self.limits.ping_interval_secs
        if lag_secs >= patience_secs:
            self.close(1008, "slow consumer", "slow_consumer")
        elif now >= self.ping_at:
            interval_secs = self.limits.ping_interval_secs
            if now - self.pong_at >= 2 * interval_secs + 1 and pending < _PENDING_SMALL_BYTES:
                self.close(1008, "no pong", "no_pong")
            else:
                self.ping_at = now + interval_secs
                self._send(frames.frame(b"", frames.PING))
        return lag_secs

    def describe(self, port: str, now: float) -> ClientStats:
        """Return what is shown of the client, at loop time `now`."""
        topics = self.session.topics
        return ClientStats(
            port=port,
            number=self.number,
            worker=0,
            address=self.address,
            address_port=self.address_port,
            cluster=self.cluster,
            token=self.name,
            agent=self.agent,
            topics=tuple(islice(topics, TOPICS_SHOWN)),
            topics_count=len(topics),
            unread_bytes=self.pending_bytes,
            lag_secs=self.lag_secs,
            events=self.events_sent,
            bytes=self.bytes_sent,
            connected_secs=now - self.joined_at,
            slow="disconnect" if self.lenience is None else self.lenience.way,
            left_out=0 if self.lenience is None else self.lenience.left_out,
        )

    def perform_timeout(self) -> None:
        """Close a client that has not authenticated in time, and say so."""
        self.say(*(action.frame for action in self.session.auth_timed_out() if isinstance(action, Send)))
        self.close(1008, "no authentication in time", "auth_timeout")

    def ended(self) -> None:
        """Note that the connection has ended, so that nothing is due any more."""
        self.closing = True
        if self._abort_handle is not None:
            self._abort_handle.cancel()
        self._transport.abort()

    def __repr__(self) -> str:
        return f"Client({self.number}, {self.name or 'not authenticated'}, {self.address}, pending={self.pending_bytes})"
