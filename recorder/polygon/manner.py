"""PURE. How a client wants its topics besides plainly: a snapshot first, at intervals, and what is done when it is slow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from recorder.words import shortened

Slow = Literal["disconnect", "drop", "conflate"]
"""What is done with a client that leaves too much unread."""
SLOW_WAYS: Final[tuple[Slow, ...]] = get_args(Slow)
INTERVAL_MS_MIN: Final = 10
INTERVAL_MS_MAX: Final = 60_000

SNAPSHOT: Final = "snapshot"
"""Begins the last values of what a client subscribes to, with `available_since`, the Unix ms from which on they are kept."""
SNAPSHOT_COMPLETE: Final = "snapshot_complete"
"""Ends them, with their number (`count`)."""
DROPPED: Final = "dropped"
"""Events were left out because the client was slow: `count`, `dropped`, `conflated`, `from`, `to` (Unix ms), `after`."""
CONFLATED: Final = "conflated"
"""The same, where newer events of the same symbols may have taken their place."""
OF_MANNERS: Final = frozenset({SNAPSHOT, SNAPSHOT_COMPLETE, DROPPED, CONFLATED})
"""Statuses that a recorder sends to those alone that have asked for what they are about."""


class Manner(NamedTuple):
    """How the topics of a request are wanted."""

    snapshot: bool = False
    """Whether the last values come first."""
    interval_ms: int = 0
    """Time between two values of a symbol, at least; 0: each event comes at once."""
    slow: Slow | None = None
    """What is done when the client is slow; None: as it was."""

    @property
    def words(self) -> list[str]:
        """The names of what is asked for."""
        return [word for word, value in zip(self._fields, self, strict=True) if value]


PLAIN: Final = Manner()


def checked_manner(*, snapshot: bool, interval_ms: int | None, slow: str | None) -> Manner:
    """Return the manner that a program of our own asks for. Raise ValueError where there is none such."""
    manner, problems = parse_manner({"snapshot": snapshot, "interval_ms": interval_ms, "slow": slow})
    if problems:
        raise ValueError(problems[0].partition("; ")[0])  # what a server does about it comes behind
    return manner


def parse_manner(message: Mapping[str, Any]) -> tuple[Manner, tuple[str, ...]]:
    """Return how the topics of a request are wanted, and what is wrong with that, in words; what is right counts."""
    snapshot, interval_ms, slow = (message.get(word) for word in Manner._fields)
    wrong: list[str] = []
    if snapshot is not None and type(snapshot) is not bool:
        wrong.append("snapshot must be true or false; no snapshot is sent")
        snapshot = None
    if interval_ms is not None and not (
        type(interval_ms) is int and INTERVAL_MS_MIN <= interval_ms <= INTERVAL_MS_MAX
    ):
        bounds = f"{INTERVAL_MS_MIN} to {INTERVAL_MS_MAX}"
        wrong.append(f"interval_ms must be an integer, {bounds} (milliseconds); each event comes at once")
        interval_ms = None
    if slow is not None and slow not in SLOW_WAYS:
        known = f"{', '.join(SLOW_WAYS[:-1])} or {SLOW_WAYS[-1]}"
        # What is no string may be nested so deep that it cannot be shown.
        given = f", not {shortened(slow, 40)!r}" if isinstance(slow, str) else ""
        wrong.append(f"slow must be {known}{given}; it stays as it was")
        slow = None
    return Manner(snapshot or False, interval_ms or 0, slow), tuple(wrong)
