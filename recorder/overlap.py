"""PURE. What a recorder has recorded behind the last position that it noted, and what of it comes again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.polygon.rows import array_of, to_object

HELD_BYTES_MAX: Final = 16 * 1024 * 1024
"""So much is held until all that is recorded has come again. What comes then is passed on without its position."""


class Read(NamedTuple):
    """What is to be passed on of one read, or of several."""

    frames: list[bytes]
    after: str
    """The position behind it; empty where it is not known."""


class Overlap:
    """Events that are in the files of a recorder, though it has not noted the position behind them.

    A recorder that was killed goes on behind the position that it has noted last, so these come again, and are left out:
    each payload as often as it is recorded, byte for byte. What is left is passed on as one read, so that no position
    stands for events before it that were left out behind it.
    """

    def __init__(self, payloads: Iterable[bytes] = ()) -> None:
        self._recorded = Counter(payloads)
        self._decoder = Decoder(EVERY_CLUSTER)
        self.begin()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left out any more."""
        return not (self._due or self._held)

    @property
    def holds(self) -> bool:
        """Whether anything is held that is not recorded."""
        return bool(self._held)

    def begin(self) -> None:
        """Begin anew behind the position, unless something was passed on: what is held comes again."""
        self._due = self._recorded.copy()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._after = ""

    def take(self, frames: Sequence[bytes], after: str) -> Read | None:
        """Take a read, and the position behind it; return what is to be passed on now, None where it is held."""
        for frame in frames:
            self._held += self._left_of(frame) if self._due else [frame]
        self._held_bytes += sum(map(len, frames))
        self._after = after
        if not self._due:
            return self.end()
        if self._held_bytes <= HELD_BYTES_MAX:
            return None
        self._recorded = self._due.copy()
        return Read(self._take_held(), "")

    def end(self) -> Read | None:
        """Leave nothing out any more: what was missed has come, or does not come. Return what was held, if any was."""
        self._recorded.clear()
        self._due.clear()
        read = Read(self._take_held(), self._after)
        return read if read.frames or read.after else None

    def _left_of(self, frame: bytes) -> list[bytes]:
        """Return what is left of a frame: the frame, one that is made anew of some of its events, or nothing."""
        rows = self._decoder.decode([frame])
        left = [fragment for fragment in rows.fragments if not self._leaves_out(_as_recorded(fragment))]
        if len(left) == len(rows.fragments):
            return [frame]
        return [array_of(left)] if left else []

    def _leaves_out(self, payload: bytes) -> bool:
        """Return whether an event is recorded; each time that it is, it counts once."""
        count = self._due.get(payload, 0)
        if count > 1:
            self._due[payload] = count - 1
        elif count:
            del self._due[payload]
        return count > 0

    def _take_held(self) -> list[bytes]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    def __repr__(self) -> str:
        return f"Overlap({self._due.total()} events, {len(self._held)} frames held)"


def _as_recorded(fragment: bytes) -> bytes:
    """Return an event as it stands in a record, which has no line breaks."""
    return to_object(fragment).replace(b"\r", b" ").replace(b"\n", b" ")


@dataclass(frozen=True, slots=True)
class Recorded:
    """How far another recorder's stream, or that of a broker, is recorded."""

    after: str = ""
    """Everything up to this position is; empty where nothing is known."""
    overlap: Overlap = field(default_factory=Overlap)
    """What is recorded behind it."""
    since_ms: int = 0
    """When the last of it came, Unix ms; 0: not known."""
