"""Which of two recorders with one key is connected to the exchange: one whose other has given no sign of life."""

from __future__ import annotations

from typing import Final

from recorder.bus import SessionChange, SessionOpened
from recorder.sinks.nats.appender import Appender
from recorder.sources.turn import Turn

_SIGNS_OF_TAKEOVER: Final = 4
"""How many signs of life are due in the time for a takeover."""


class Claim:
    """One cluster's claim to the connection.

    A recorder that leads and has data says so again and again. One that has heard nothing of the other for the time of a
    takeover may connect; the exchange ends the other's connection then, if it still has one. Whoever loses the connection
    listens for as long before it connects again.
    """

    def __init__(self, appender: Appender, turn: Turn, takeover_ns: int) -> None:
        self._appender = appender
        self._turn = turn
        self._takeover_ns = takeover_ns
        self._is_in_session = False
        self._heard_ns = 0
        """When the other one gave a sign of life, or the connection was lost, or listening began. Monotonic clock."""
        self._sign_ns = 0

    def listen(self, now_ns: int) -> None:
        """Begin to listen: nothing was heard before."""
        self._heard_ns = now_ns

    def session_changed(self, change: SessionChange, now_ns: int) -> None:
        """Note that the exchange sends data, or no longer does."""
        self._is_in_session = isinstance(change, SessionOpened)
        if not self._is_in_session:
            self._heard_ns = now_ns
            self._turn.end()

    def hear(self, writer: str, now_ns: int) -> None:
        """Take a sign of life."""
        if writer != self._appender.writer:
            self._heard_ns = now_ns
            if not self._is_in_session:
                self._turn.end()
                self._appender.follow()

    def look(self, now_ns: int) -> bool:
        """Let the feed connect, or hang up, where that is due; return whether a sign of life is."""
        appender = self._appender
        if self._turn.is_given:
            if self._is_in_session and not appender.leads:
                self._turn.end()
        elif not appender.is_behind:
            heard_ns = max(self._heard_ns, appender.heard_ns)
            if now_ns - heard_ns >= self._takeover_ns:
                appender.claim()
                self._turn.give()
        if not self._is_in_session or not appender.leads or now_ns < self._sign_ns:
            return False
        self._sign_ns = now_ns + self._takeover_ns // _SIGNS_OF_TAKEOVER
        return True
