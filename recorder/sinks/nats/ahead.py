"""PURE. What others have appended to a stream and the own connection to the exchange has not brought yet.

Two recorders of one feed receive the same events, each at its own time and in its own frames. An event is its exact
bytes. Each one that another recorder has appended covers one equal event of ours, so that the stream has an event as
often as the recorder that received it most often, and payloads that repeat stay as many as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows

KEPT_SECS: Final = 120
"""An event of another recorder covers ours for at least that long, and for twice as long at most."""
EVENTS_MAX: Final = 1_000_000
"""Past it the older half of what is kept goes sooner: about 100 bytes of memory for each event, in two halves."""


class Ahead:
    """A multiset of events, known by 64-bit hashes of their bytes; what is old goes, a half at a time."""

    def __init__(self, cluster: str) -> None:
        self._decoder = Decoder(cluster)
        self._old: Counter[int] = Counter()
        self._young: Counter[int] = Counter()
        self._young_since_ns = 0
        self._young_added = 0

    def add(self, frames: Sequence[bytes], now_ns: int) -> None:
        """Take events that another recorder has appended."""
        rows = self._decoder.decode(frames)
        self.expire(now_ns)
        if self._young_added + len(rows) > EVENTS_MAX:
            self._turn(now_ns)
        if not self._young_added:
            self._young_since_ns = now_ns
        self._young.update(map(hash, rows.fragments))
        self._young_added += len(rows)

    def expire(self, now_ns: int) -> None:
        """Forget what nothing of ours will match any more."""
        while (self._young_added or self._old) and now_ns - self._young_since_ns >= KEPT_SECS * 1_000_000_000:
            self._turn(now_ns)

    def _turn(self, now_ns: int) -> None:
        self._old, self._young = self._young, Counter()
        self._young_since_ns, self._young_added = now_ns, 0

    def covered(self, frames: Sequence[bytes]) -> tuple[Rows, list[bool]]:
        """Return the events of frames, and which of them the stream has already; each covers one, and is then used up."""
        rows = self._decoder.decode(frames)
        return rows, [self._take(key) for key in map(hash, rows.fragments)]

    def _take(self, key: int) -> bool:
        for kept in (self._old, self._young):
            count = kept.get(key)
            if count is not None:
                if count == 1:
                    del kept[key]
                else:
                    kept[key] = count - 1
                return True
        return False

    def __bool__(self) -> bool:
        return bool(self._old) or bool(self._young)

    def __len__(self) -> int:
        return self._old.total() + self._young.total()

    def __repr__(self) -> str:
        return f"Ahead({len(self._old)} old, {len(self._young)} young)"
