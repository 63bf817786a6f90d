"""PURE. What one recording of a feed lacks that another one has: how much of each type, and when."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from recorder.archive.cutting import RecordedEvent

_SPAN_APART_MS: Final = 1000
"""What an archive lacks within so much time is one span."""
SPANS_MAX: Final = 1000
"""So many spans are kept."""


@dataclass(slots=True)
class Span:
    """A time in which an archive lacks records that the other one has, Unix ms."""

    cluster: str
    from_ms: int
    to_ms: int
    records: int


@dataclass(slots=True)
class Lacked:
    """What one archive lacked."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Records by cluster and type."""
    spans: list[Span] = field(default_factory=list)
    """The first ones; the records of later ones are in the counts alone."""
    spans_left_out: int = 0
    _open: dict[str, Span] = field(default_factory=dict)

    def add(self, event: RecordedEvent) -> None:
        """Count a record."""
        self.counts[event.feed][event.type] += 1
        span, at_ms = self._open.get(event.feed), event.ingest_ts
        if span is None or not span.from_ms - _SPAN_APART_MS <= at_ms <= span.to_ms + _SPAN_APART_MS:
            span = self._open[event.feed] = Span(event.feed, at_ms, at_ms, 0)
            if len(self.spans) < SPANS_MAX:
                self.spans.append(span)
            else:
                self.spans_left_out += 1
        span.from_ms, span.to_ms = min(span.from_ms, at_ms), max(span.to_ms, at_ms)
        span.records += 1
