"""`--shift now`: the digits of the events' times change, each in its place; every other byte stays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Final

from recorder.polygon.careful import TIME_FIELDS
from recorder.polygon.channels import CHANNELS

Place = tuple[int, int]
"""Where the digits of a time begin, and how many there are."""

_MS: Final = {13: 1, 16: 1_000, 19: 1_000_000}
"""Digits of a time of these centuries, and how many of its unit a millisecond has: ms, µs, ns."""
_NS: Final = 1_000_000


def times_in(channel: str, event: bytes, begin: int = 0) -> Iterator[Place]:
    """Yield where the times of an event stand, counted from `begin` on. Sizes and numbers under the same names are none."""
    for match in _pattern(channel).finditer(event):
        yield begin + match.start(1), match.end(1) - match.start(1)


@cache
def _pattern(channel: str) -> re.Pattern[bytes]:
    """Return what finds the digits of a channel's times. A quote within a string is escaped, so a name is a name."""
    row = CHANNELS.get(channel)
    names = (*row.time_fields, *row.more_times) if row is not None else TIME_FIELDS
    digits = "|".join(rf"\d{{{count}}}" for count in _MS)
    return re.compile(rf'"(?:{"|".join(names)})"\s*:\s*"?({digits})(?![\d.eE])'.encode())


def moved(frame: bytes, places: Sequence[Place], by_ms: int) -> bytes:
    """Return a frame whose times are later by so much, each with as many digits as before."""
    made = bytearray(frame)
    for begin, digits in places:
        end = begin + digits
        made[begin:end] = b"%0*d" % (digits, int(made[begin:end]) + by_ms * _MS[digits])
    return bytes(made)


class Shift:
    """By how much the times of events are moved: at each beginning to now, and never to before what was sent last."""

    def __init__(self, wall_ns: Callable[[], int]) -> None:
        self._wall_ns = wall_ns
        self.by_ms: int | None = None
        """None before the first beginning."""

    def begin(self, data_ns: int, reached_ns: int) -> bool:
        """Let a time of the data be now, where `reached_ns` was played last; return whether the shift has changed."""
        before = self.by_ms
        now_ns = self._wall_ns()
        if before is not None:
            now_ns = max(now_ns, reached_ns + before * _NS)
        self.by_ms = (now_ns - data_ns) // _NS
        return self.by_ms != before

    def __repr__(self) -> str:
        return f"Shift({self.by_ms})"
