"""Times in which the recorder itself had no connection."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from recorder.bus import SessionChange, SessionOpened

GAPS_MAX: Final = 256
"""Gaps that are remembered; of more, everything before the oldest is forgotten."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which the recorder itself had no connection, so that nobody can have what came then."""

    cluster: str
    from_ms: int
    """Unix ms."""
    to_ms: int | None
    """None while it lasts."""
    reason: str
    position: int
    """Everything up to there came before it was over."""

    def shown(self) -> dict[str, object]:
        """Return it as clients are told of it."""
        return {"cluster": self.cluster, "from": self.from_ms, "to": self.to_ms, "reason": self.reason}


class Outages:
    """Those that are remembered, and those that last."""

    def __init__(self) -> None:
        self._over: deque[Outage] = deque()
        self._open: dict[str, Outage] = {}
        """Those that last, by cluster."""
        self._in_doubt: dict[str, Outage] = {}
        """Those that last and may turn out to be none, since another recorder may send what came meanwhile."""

    def __len__(self) -> int:
        return len(self._over)

    @property
    def oldest(self) -> Outage | None:
        """The first of those that are over."""
        return self._over[0] if self._over else None

    def forget_oldest(self) -> None:
        """Forget the first of those that are over."""
        self._over.popleft()

    def session_changed(self, change: SessionChange, position: int) -> None:
        """Note that a session began or ended, at a position."""
        at_ms = change.at_ns // 1_000_000
        if isinstance(change, SessionOpened):
            outage = self._open.pop(change.cluster, None) or self._in_doubt.pop(change.cluster, None)
            if outage is not None and change.resumed is None:
                self._close(outage, at_ms, position)
            self._over += [Outage(change.cluster, *missed, position) for missed in change.missed]
        elif change.cluster not in self._open and change.cluster not in self._in_doubt:
            lasting = self._in_doubt if change.after else self._open
            from_ms = change.last_received_ns // 1_000_000 or at_ms
            lasting[change.cluster] = Outage(change.cluster, from_ms, None, change.reason, position)

    def behind(self, position: int, cluster: str) -> list[Outage]:
        """Return those behind a position in a cluster (`""`: in all), oldest first."""
        every = [*(one for one in self._over if one.position >= position), *self._open.values()]
        return [one for one in every if cluster in ("", one.cluster)]

    def _close(self, outage: Outage, at_ms: int, position: int) -> None:
        """Keep an outage that is over; with the one before, where the session between them has brought nothing."""
        from_ms = outage.from_ms
        for before in reversed(self._over):
            if before.cluster == outage.cluster:
                if before.to_ms is not None and from_ms <= before.to_ms:
                    from_ms = before.from_ms
                    self._over.remove(before)
                break
        self._over.append(Outage(outage.cluster, from_ms, at_ms, outage.reason, position))

    def __repr__(self) -> str:
        return f"Outages({len(self._over)} over, {len(self._open)} last)"
