"""Times in which the recorder itself had no connection."""

from __future__ import annotations

from dataclasses import dataclass


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
