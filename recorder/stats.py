"""What the parts count: plain integers, read at scrape time by who knows Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

RECENT_MAX: Final = 20
"""Gaps, drops and segments that are remembered for who looks; the manifest has all of them."""

T = TypeVar("T")


def with_newest(recent: tuple[T, ...], entry: T) -> tuple[T, ...]:
    """Give the last `RECENT_MAX` entries. A new tuple each time: other threads may be reading the old one."""
    return (*recent[-(RECENT_MAX - 1) :], entry)


class Histogram:
    """Counts of observations by upper bound, as Prometheus understands them; the last count is `+Inf`."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def cumulative(self) -> Iterable[tuple[str, int]]:
        """Yield `(upper bound, observations up to it)`, rising, the last bound being `+Inf`."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, sum={self.sum:.6f})"
