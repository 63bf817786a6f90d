"""The journal of an archive whose stream comes from elsewhere: which position of that stream is which record.

A line has successive reads of one cluster. Numbers of the same kind are few and near each other, so each is written as
the difference to the one before: a read costs some ten bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from recorder.archive.record import UNREADABLE, Reached
from recorder.polygon.position import Told, parse_told


class JournalLine(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """Reads of one cluster that stand behind one another, each up to a position of one run of the other recorder.

    Without an epoch there are none: behind the record `seq` came something whose position nobody knows.
    """

    run_id: str
    """The run of this recorder."""
    cluster: str
    epoch: str = ""
    """Names the run of the other recorder, or the stream."""
    seq: int = 0
    """The number of the last record before the first read."""
    numbers: list[int] = []
    """Of each position, its number, less the one before; empty where the positions have none."""
    records: list[int] = []
    """The same for the number of the record there, as the other recorder counts."""
    events: list[int] = []
    """How many records each read brought."""
    others: list[int] = []
    """How many records came between a read and the one before it; empty where none ever did."""

    @property
    def is_sound(self) -> bool:
        """Whether it says what a line of a journal says."""
        count = len(self.events)
        lists = (self.numbers, self.records, self.events, self.others)
        return (
            all(number >= 0 for numbers in lists for number in numbers)
            and bool(count) == bool(self.numbers or self.records) == bool(self.epoch)
            and all(len(numbers) in (0, count) for numbers in lists)
        )

    def borders(self) -> Iterator[Reached]:
        """Yield where each read ends, as it was noted."""
        if not self.epoch:
            yield Reached("", 0, self.seq)
        number = record = 0
        seq = self.seq
        for place, events in enumerate(self.events):
            number += self.numbers[place] if self.numbers else 0
            record += self.records[place] if self.records else 0
            seq += events + (self.others[place] if self.others else 0)
            told = Told(self.epoch, number if self.numbers else None, record if self.records else None)
            yield Reached(told.text, events, seq)

    @property
    def last(self) -> Reached:
        """Where the last read ends."""
        if not self.epoch:
            return Reached("", 0, self.seq)
        told = Told(
            self.epoch,
            sum(self.numbers) if self.numbers else None,
            sum(self.records) if self.records else None,
        )
        return Reached(told.text, self.events[-1], self.seq + sum(self.events) + sum(self.others))


decode_line: Final = msgspec.json.Decoder(JournalLine).decode
_encode: Final = msgspec.json.Encoder().encode


class _Border(NamedTuple):
    told: Told
    events: int
    seq: int


class Journal:
    """What is to be noted once the records before it are written."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._waiting: dict[str, list[Reached]] = {}

    def add(self, cluster: str, reached: Iterable[Reached]) -> None:
        """Add borders of a cluster, in order. Of several behind which nothing was recorded, the last one counts."""
        waiting = self._waiting.setdefault(cluster, [])
        for border in reached:
            if waiting and waiting[-1].seq == border.seq and not (waiting[-1].events or border.events):
                waiting.pop()
            waiting.append(border)

    def clear(self) -> None:
        """Forget what waits: the records before it were given up."""
        self._waiting.clear()

    def take(self) -> list[bytes]:
        """Return the lines of what waits, and let nothing wait."""
        waiting, self._waiting = self._waiting, {}
        return [
            _encode(line) + b"\n"
            for cluster, borders in waiting.items()
            for line in self._lines(cluster, borders)
        ]

    def _lines(self, cluster: str, borders: Sequence[Reached]) -> Iterator[JournalLine]:
        alike: list[_Border] = []
        for border in borders:
            told = parse_told(border.after)
            if alike and (told is None or not _follows(told, alike[-1].told)):
                yield self._line(cluster, alike)
                alike = []
            if told is None:
                yield JournalLine(self._run_id, cluster, seq=border.seq)
            else:
                alike.append(_Border(told, border.events, border.seq))
        if alike:
            yield self._line(cluster, alike)

    def _line(self, cluster: str, borders: Sequence[_Border]) -> JournalLine:
        first = borders[0]
        others = [later.seq - later.events - before.seq for before, later in pairwise(borders)]
        return JournalLine(
            self._run_id,
            cluster,
            first.told.epoch,
            first.seq - first.events,
            _differences([border.told.number for border in borders]),
            _differences([border.told.record for border in borders]),
            [border.events for border in borders],
            [0, *others] if any(others) else [],
        )


def _follows(told: Told, before: Told) -> bool:
    """Return whether a position can stand in one line with another one before it."""
    if told.epoch != before.epoch:
        return False
    return all(
        (now is None) == (then is None) and (now is None or then is None or now >= then)
        for now, then in ((told.number, before.number), (told.record, before.record))
    )


def _differences(numbers: Sequence[int | None]) -> list[int]:
    known = [number for number in numbers if number is not None]
    return [known[0], *(later - before for before, later in pairwise(known))] if known else []


def read_line(line: bytes) -> JournalLine | None:
    """Return a line of a journal; None where it is none."""
    try:
        found = decode_line(line)
    except UNREADABLE:
        return None
    return found if found.is_sound else None
