"""PURE. How far time has come at the exchange: asked for by pings, proven by pongs, in the end assumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from recorder.frames import TIME_PING

PING_INTERVAL_SECS: Final = 0.1
"""The least time between two pings that ask for the time, however many wait for it."""
REPEAT_SECS: Final = 1.0
"""A ping that is not answered is repeated after this: a peer need answer only the last of several (RFC 6455, 5.5.3)."""
_SENT_MAX: Final = 64
"""Unanswered pings that are remembered."""
_STEP_SECS_MAX: Final = 1.0
"""What a wait between two questions counts for at most: the rest of it, this process may have been held up."""


class Passage:
    """The passage of time of one cluster, over all its connections.

    An exchange answers a ping behind everything that it sent before, so a pong proves that whatever was sent until the
    ping left has been read: time may pass up to the ping. Whoever waits for time calls `ask`, again and again.
    Nobody's asking costs no ping. Where no answer comes for `silence_max_ms`, the question itself counts as answered.

    Times are nanoseconds of a monotonic clock.
    """

    def __init__(self, announce: Callable[[int], None], silence_max_ms: int) -> None:
        """`announce` is called with the time until which everything has been read."""
        self._announce = announce
        self._silence_ns_max = silence_max_ms * 1_000_000
        self._number = 0
        self._sent: deque[tuple[bytes, int]] = deque(maxlen=_SENT_MAX)
        """Pings without an answer, and when they were sent."""
        self._sent_ns = 0
        self._asked_ns: int | None = None
        """The first question that has no answer."""
        self._looked_ns = 0
        self._waited_ns = 0

    def ask(self, now_ns: int, *, connected: bool) -> bytes | None:
        """Ask how far time has come; return the payload of the ping to send for that now, if one is due."""
        if self._asked_ns is None:
            self._asked_ns = now_ns
            self._waited_ns = 0
        else:
            self._waited_ns += min(now_ns - self._looked_ns, int(_STEP_SECS_MAX * 1e9))
        self._looked_ns = now_ns
        if self._waited_ns >= self._silence_ns_max:
            self.advance(self._asked_ns)
        if not connected:
            return None
        wait_secs = REPEAT_SECS if self._sent else PING_INTERVAL_SECS
        if self._sent_ns and now_ns - self._sent_ns < wait_secs * 1e9:
            return None
        self._number += 1
        payload = TIME_PING + str(self._number).encode()
        self._sent.append((payload, now_ns))
        self._sent_ns = now_ns
        return payload

    def answered(self, payload: bytes) -> int | None:
        """Return the time that a pong proves; None if it answers no ping of this connection."""
        for place, (sent, sent_ns) in enumerate(self._sent):
            if sent == payload:
                for _ in range(place + 1):  # what was asked before is answered, too
                    self._sent.popleft()
                return sent_ns
        return None

    def connection_lost(self) -> None:
        """Forget the pings of the connection: nobody will answer them."""
        self._sent.clear()

    def advance(self, until_ns: int) -> None:
        """Announce that everything that was sent until then has been passed on."""
        if self._asked_ns is not None and until_ns >= self._asked_ns:
            self._asked_ns = None
        self._announce(until_ns)

    def __repr__(self) -> str:
        return f"Passage({self._number} pings, {len(self._sent)} unanswered)"
