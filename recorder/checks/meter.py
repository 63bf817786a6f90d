"""A sink that only measures: how many records, how large their lines, how well they compress, how old their events are."""

from __future__ import annotations

from statistics import median
from typing import Final

from recorder.archive.codec import encoder
from recorder.bus import Batch, SessionChange

_SAMPLE_BYTES: Final = 4 << 20
"""Lines that are kept to be compressed; more of them would hardly change the ratio."""
_RATIO_BYTES_MIN: Final = 64 << 10
"""Fewer lines compress worse than a file will."""
_AGES_MAX: Final = 10_000


class Meter:
    """Takes records and keeps figures of them."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0
        self._sample = bytearray()
        self._ages_ms: list[int] = []

    def accept(self, batch: Batch) -> None:
        """Measure the records of one batch."""
        rows = batch.recorded
        if rows is None:
            return
        self.records += len(rows)
        self.bytes += len(batch.lines)
        if len(self._sample) < _SAMPLE_BYTES:
            self._sample += batch.lines
        newest_ms = rows.span_ms[1]
        if newest_ms and len(self._ages_ms) < _AGES_MAX:
            self._ages_ms.append(batch.received_ns // 1_000_000 - newest_ms)

    def session_changed(self, change: SessionChange) -> None:
        """Sessions need no measuring."""

    @property
    def age_secs(self) -> float | None:
        """How old the newest event of a batch is when it comes, in the middle; None before any has come."""
        return median(self._ages_ms) / 1000 if self._ages_ms else None

    def kept_share(self, codec: str) -> float | None:
        """Return how much of a byte compression leaves, None where too little has come to know."""
        if codec == "none":
            return 1.0
        if len(self._sample) < _RATIO_BYTES_MIN:
            return None
        coder = encoder(codec, len(self._sample))
        packed = coder.compress(bytes(self._sample)) + coder.flush()
        return len(packed) / len(self._sample)
