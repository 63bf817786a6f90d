"""PURE. The times in which several archives of one feed all have nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

from recorder.archive.gaps import Gap


class Silent(NamedTuple):
    """A time without data, Unix ms, and why there is none."""

    from_ms: int
    to_ms: int
    reason: str


def silent_in_all(archives: Sequence[Iterable[Gap]]) -> list[Silent]:
    """Return when each of the archives has a gap of one cluster, in order. Where their reasons differ, both are named."""
    return reduce(_in_both, map(_in_order, archives))


def _in_order(gaps: Iterable[Gap]) -> list[Silent]:
    """Return gaps without what overlaps."""
    found: list[Silent] = []
    done_ms = 0
    for gap in sorted(gaps, key=lambda gap: gap.from_ms):
        if gap.to_ms > max(gap.from_ms, done_ms):
            found.append(Silent(max(gap.from_ms, done_ms), gap.to_ms, gap.reason))
            done_ms = gap.to_ms
    return found


def _in_both(one: list[Silent], other: list[Silent]) -> list[Silent]:
    found: list[Silent] = []
    place = 0
    for gap in one:
        while place < len(other) and other[place].to_ms <= gap.from_ms:
            place += 1
        at = place
        while at < len(other) and other[at].from_ms < gap.to_ms:
            there = other[at]
            reason = gap.reason if gap.reason == there.reason else f"{gap.reason}, {there.reason}"
            found.append(Silent(max(gap.from_ms, there.from_ms), min(gap.to_ms, there.to_ms), reason))
            at += 1
    return found
