"""What a replay says to its clients besides the events."""

from __future__ import annotations

from typing import Any, Protocol

from recorder.archive.gaps import Gap
from recorder.polygon import control
from recorder.polygon.rows import Status
from recorder.words import moment_text


class Audience(Protocol):
    """Those that a replay is for, on all ports."""

    @property
    def subscribed(self) -> int:
        """How many clients have subscribed to something."""

    async def look(self) -> None:
        """Find out how the clients stand once they have what was passed on until now."""

    @property
    def fullest(self) -> float:
        """How much the slowest client had not taken at the last look, as a share of what it may leave."""

    def say(self, payload: bytes) -> None:
        """Send every client that has subscribed a status."""

    async def finish(self, words: str) -> None:
        """Let every client take what is pending, and close it with 1000."""


class Announcements:
    """Statuses to all who have subscribed, in order with the events."""

    def __init__(self, audience: Audience | None) -> None:
        """None: nobody listens."""
        self._audience = audience

    def gap(self, gap: Gap) -> None:
        """Say that nothing was recorded from here on for a while."""
        secs = (gap.to_ms - gap.from_ms) / 1000
        words = f"nothing was recorded of {gap.cluster} for {secs:,.3f} s from {moment_text(gap.from_ms)}: {gap.reason}"
        facts = {"cluster": gap.cluster, "from": gap.from_ms, "to": gap.to_ms, "reason": gap.reason}
        self._say(control.GAP, words, **facts)

    def sought(self, at_ms: int) -> None:
        """Say that it goes on at another time."""
        self._say(control.REPLAY_SEEK, f"the replay goes on from {moment_text(at_ms)}", at=at_ms)

    def skipped(self, to_ms: int) -> None:
        """Say that silence is left out."""
        self._say(control.REPLAY_SKIPPED, f"silence until {moment_text(to_ms)} is skipped", to=to_ms)

    def shifted(self, by_ms: int) -> None:
        """Say by how much the times of what follows are moved."""
        words = f"the times of the events are shifted by {by_ms:,} ms; that is not when they happened"
        self._say(control.SHIFTED, words, by_ms=by_ms)

    def completed(self, events: int, sha256: str) -> None:
        """Say that all was played."""
        words = f"{events:,} events were replayed; all of their payloads, a line each: sha256 {sha256}"
        self._say(control.REPLAY_COMPLETE, words, events=events, sha256=sha256)

    def _say(self, status: str, words: str, **facts: Any) -> None:
        if self._audience is not None:
            self._audience.say(control.encode_status(Status(status, words), **facts))

    def __repr__(self) -> str:
        return f"Announcements({self._audience!r})"
