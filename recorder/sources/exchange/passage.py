"""PURE. How far time has come at the exchange: asked for by pings, proven by pongs, in the end assumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from recorder.frames import TIME_PING

PING_INTERVAL_NS: Final = 100_000_000
"""The least time between two pings that ask for the time, however many wait for it."""
REPEAT_NS: Final = 1_000_000_000
"""A ping that is not answered is repeated after this: a peer need answer only the last of several (RFC 6455, 5.5.3)."""
_SENT_MAX: Final = 64
"""Unanswered pings that are remembered."""
_STEP_NS_MAX: Final = REPEAT_NS
"""What the wait between two looks counts for at most: the rest of it, this process was held up."""


class Passage:
    """The passage of time of one cluster, over all its connections.

    An exchange answers a ping behind everything that it sent before, so a pong proves that whatever was sent until the
    ping left has been read: time may pass up to the ping. One question is enough to be told, and while nobody asks, no
    ping is sent. Where no answer comes for `silence_max_ms`, the question itself counts as answered.

    The owner calls `look` after each question, and again at `look_ns`. Times are nanoseconds of a monotonic clock.
    """

    def __init__(self, announce: Callable[[int], None], silence_max_ms: int) -> None:
        """`announce` is called with the time until which everything has been read."""
        self._announce = announce
        self._silence_ns_max = silence_max_ms * 1_000_000
        self._number = 0
        self._sent: deque[tuple[bytes, int]] = deque(maxlen=_SENT_MAX)
        """Pings without an answer, and when they were sent."""
        self._sent_ns = -PING_INTERVAL_NS
        self._asked_ns: int | None = None
        """The first question that has no answer."""
        self._asked_last_ns = 0
        self._looked_ns = 0
        self._waited_ns = 0
        self._connected = False

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._asked_ns is not None

    @property
    def look_ns(self) -> int:
        """When to look next, while somebody waits; earlier, if a connection opens."""
        look_ns = self._looked_ns + REPEAT_NS
        return min(look_ns, self._ping_ns) if self._connected else look_ns

    @property
    def _ping_ns(self) -> int:
        """When the next ping may be sent."""
        return self._sent_ns + (REPEAT_NS if self._sent else PING_INTERVAL_NS)

    def ask(self, now_ns: int) -> None:
        """Ask how far time has come: somebody waits for it to pass `now_ns`."""
        if self._asked_ns is None:
            self._asked_ns = self._looked_ns = now_ns
            self._waited_ns = 0
        self._asked_last_ns = now_ns

    def look(self, now_ns: int, *, connected: bool, listening: bool = True) -> bytes | None:
        """Do what is due; return the payload of a ping to send now, if one is.

        While nobody is `listening` to the connection, its silence means nothing.
        """
        if self._asked_ns is None:
            return None
        if listening:
            self._waited_ns += min(now_ns - self._looked_ns, _STEP_NS_MAX)
        self._looked_ns = now_ns
        self._connected = connected
        if self._waited_ns >= self._silence_ns_max:
            self.advance(self._asked_ns)
        if not self.is_asked or not connected or now_ns < self._ping_ns:
            return None
        self._number += 1
        payload = TIME_PING + str(self._number).encode()
        self._sent.append((payload, now_ns))
        self._sent_ns = now_ns
        return payload

    def answered(self, payload: bytes) -> None:
        """Take a pong. One that answers no ping of this connection says nothing."""
        for place, (sent, sent_ns) in enumerate(self._sent):
            if sent == payload:
                for _ in range(place + 1):  # what was asked before is answered, too
                    self._sent.popleft()
                self.advance(sent_ns)
                return

    def connection_lost(self) -> None:
        """Forget the pings of the connection: nobody will answer them."""
        self._sent.clear()
        self._sent_ns = -PING_INTERVAL_NS
        self._connected = False

    def advance(self, until_ns: int) -> None:
        """Announce that everything that was sent until then has been passed on."""
        if self._asked_ns is not None and until_ns >= self._asked_ns:
            # Which of the later questions came first is forgotten: the last of them has waited for no time yet.
            self._asked_ns = self._asked_last_ns if until_ns < self._asked_last_ns else None
            self._waited_ns = 0
        self._announce(until_ns)

    def __repr__(self) -> str:
        return f"Passage({self._number} pings, {len(self._sent)} unanswered)"
