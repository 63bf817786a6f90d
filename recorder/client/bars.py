"""Bars over a cut: they have no positions, so they are asked for again by time, and those that were seen are left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from recorder.polygon.rows import Rows

_CHANNEL: Final = "MB"
_MARGIN_MS: Final = 5_000
"""How far the bars of one cluster may be behind those of another."""


_BACK_MS: Final = 60_000
"""A bar that is so much older than the newest: another market is played, or the same once more."""


class _Bar(msgspec.Struct, gc=False):
    """What a bar is known by."""

    interval: int
    sym: str
    s: int
    rev: int = 0


_read_bar = msgspec.json.Decoder(_Bar).decode


class BarMemory:
    """The last bars of each length. A server sends those of one length in the order of their times.

    Behind a cut, the bars of the last seconds come again. Each is left out once; one that late trades have amended since
    is another bar, and comes.
    """

    def __init__(self) -> None:
        self._recent: dict[int, dict[int, set[str]]] = {}
        """Length to time to symbols of the bars that came last."""
        self._again: dict[int, set[tuple[int, str]]] = {}
        """Of these, what has not come again since the last cut."""

    def newest_ms(self, topic: str) -> int | None:
        """Return the time of the newest bar of a topic's length, Unix ms; None where none has come."""
        recent = self._recent.get(_length_of(topic))
        return max(recent) if recent else None

    def since_ms(self, topic: str) -> int | None:
        """Return from when on a topic is to be asked for again, Unix ms; None where no bar of its length has come."""
        newest_ms = self.newest_ms(topic)
        return newest_ms - _MARGIN_MS if newest_ms is not None else None

    def cut(self) -> None:
        """Expect again what came last."""
        for length, recent in self._recent.items():
            self._again[length] = {(start, symbol) for start in recent for symbol in recent[start]}

    def new(self, rows: Rows) -> Rows:
        """Return the rows less the bars that came before the cut, and remember the others."""
        if _CHANNEL not in rows.counts:
            return rows
        kept = [
            channel != _CHANNEL or self._is_new(event)
            for channel, event in zip(rows.channels, rows.objects, strict=True)
        ]
        return rows if all(kept) else rows.where(kept)

    def _is_new(self, event: bytes) -> bool:
        try:
            bar = _read_bar(event)
        except msgspec.MsgspecError:
            return True
        again = self._again.get(bar.interval)
        if again and not bar.rev and (bar.s, bar.sym) in again:
            again.remove((bar.s, bar.sym))
            return False
        recent = self._recent.setdefault(bar.interval, {})
        if recent and not bar.rev and bar.s < max(recent) - _BACK_MS:
            recent.clear()
        symbols = recent.get(bar.s)
        if symbols is None:
            symbols = recent[bar.s] = set()
            oldest = max(recent) - _MARGIN_MS
            for start in [start for start in recent if start < oldest]:
                del recent[start]
        symbols.add(bar.sym)
        return True

    def __repr__(self) -> str:
        return f"BarMemory({sorted(self._recent)} ms)"


def is_of_bars(topic: str) -> bool:
    """Return whether a topic is of bars: it begins with their length, where a channel begins with a letter."""
    return topic[0].isdigit()


def by_time(topics: Iterable[str], memory: BarMemory) -> Iterator[tuple[int | None, list[str]]]:
    """Yield topics of bars, those together that are asked for from the same time on."""
    groups: dict[int | None, list[str]] = {}
    for topic in topics:
        groups.setdefault(memory.since_ms(topic), []).append(topic)
    yield from groups.items()


def _length_of(topic: str) -> int:
    """Return the length of bars that a topic names, in ms; 0 where it names none."""
    digits = topic.partition(".")[0].removesuffix("Ms")
    return int(digits) if digits.isdigit() and len(digits) < 10 else 0
