"""PURE. Notices that the wall clock is set back: readers who choose by time must know how far times are out of order."""

from __future__ import annotations

from typing import Any, Final

CLOCK_RACE_MS: Final = 5_000
"""Records of several clusters may stand in a file so much out of the order of their times. More is a clock set back."""


class SetBacks:
    """Watches the times of what is written, in the order in which it is."""

    def __init__(self) -> None:
        self._latest_ms = 0
        self._known_ms = 0
        """By how much times went back, as far as it is on record."""

    def notice(self, at_ms: int) -> dict[str, Any] | None:
        """Take the next time, Unix ms; return what the manifest's line `clock_set_back` has, if there is to be one."""
        if at_ms >= self._latest_ms:
            self._latest_ms = at_ms
            return None
        back_ms = self._latest_ms - at_ms
        if back_ms <= self._known_ms + CLOCK_RACE_MS:
            return None
        self._known_ms = back_ms
        return {"from": self._latest_ms, "to": at_ms}
