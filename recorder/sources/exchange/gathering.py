"""PURE. What was read of a connection, and is passed on in one pass."""

from __future__ import annotations

from typing import NamedTuple

from recorder.bus import Mark


class Gathered(NamedTuple):
    """The frames of one pass."""

    frames: list[bytes]
    wire: list[bytes]
    """The same as they came, a piece for each read; none where that is not known of each."""
    size_bytes: int
    marks: list[Mark]
    """Borders among the frames, where another recorder tells them."""


class Gathering:
    """What waits for the next pass."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.size_bytes = 0
        self._wire: list[bytes] = []
        self._marks: list[Mark] = []

    def add(self, frames: list[bytes], size_bytes: int, wire: bytes, after: str = "") -> None:
        """Add what was read.

        `wire` is the frames as they came, empty where that is not known; `after` the position behind them, if there is one.
        """
        if frames:
            self.frames += frames
            self.size_bytes += size_bytes
            self._wire.append(wire)
        if after:
            self._marks.append(Mark(len(self.frames), after))

    def take(self) -> Gathered:
        """Return what waits, and let nothing wait."""
        wire = self._wire if all(self._wire) else []
        gathered = Gathered(self.frames, wire, self.size_bytes, self._marks)
        self.frames, self.size_bytes, self._wire, self._marks = [], 0, [], []
        return gathered

    def __repr__(self) -> str:
        return f"Gathering({len(self.frames)} frames, {self.size_bytes} bytes)"
