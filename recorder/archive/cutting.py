"""Cuts recorded lines into records: where each begins and what it is of, without an object for each where nobody needs one.

Native code does that for lines of the usual form, and msgspec for every other: both find the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Final, Protocol

import msgspec

from recorder import native
from recorder.archive.record import UNREADABLE, RecordHeader
from recorder.errors import ArchiveError

_seq_of: Final = attrgetter("seq")
_read_of: Final = attrgetter("ingest_ts", "feed")


class RecordedEvent(msgspec.Struct, gc=False):
    """One record, less what all records of its writer have in common."""

    ingest_ts: int
    """Unix ms: when the bytes were read from the socket."""
    type: str
    symbol: str
    feed: str
    """The cluster."""
    ts: int
    """Unix ms: when it happened; 0 if the event has no time."""
    payload: msgspec.Raw
    """The event, byte for byte."""
    seq: int


class Records(Protocol):
    """Records of one run, in the order of their numbers. A range of them is named as in slices."""

    def __len__(self) -> int: ...

    @property
    def first(self) -> tuple[int, int]:
        """The number of the first one, and when it came, Unix ms. There is one."""

    @property
    def last(self) -> tuple[int, int]:
        """The same of the last one."""

    def part(self, begin: int, end: int, /) -> Records:
        """Return a range of them."""

    def pick(self, places: Sequence[int], /) -> Records:
        """Return those at these places, which rise."""

    def between(self, start_ms: int, end_ms: int, /) -> Records:
        """Return those that came from a time on, before another."""

    def place_of(self, seq: int, /) -> int:
        """Return where the first one stands whose number is not below this; their count where none is."""

    def without_hole(self, seq: int, /) -> int:
        """Return how many have the numbers from this one on, with none left out."""

    def names(self) -> list[tuple[str, str]]:
        """Return the type and the symbol of each."""

    def reads(self) -> list[tuple[int, int, str]]:
        """Return what came together, of one cluster at one time: where it ends, when it came, and the cluster."""

    def frame(self, begin: int, end: int, /) -> bytes:
        """Return the payloads of a range as one JSON array."""

    def payloads(self, begin: int, end: int, /) -> list[bytes]:
        """Return the payloads of a range, byte for byte."""

    def payload_bytes(self, begin: int, end: int, /) -> int:
        """Return how many bytes the payloads of a range have."""

    def payload_lines(self) -> bytes:
        """Return all payloads, each with a line end."""

    def lines(self) -> bytes:
        """Return the lines, each as good as what was recorded."""


class DecodedRecords:
    """Records as msgspec reads them: any that are valid, however they are spelled."""

    def __init__(self, events: list[RecordedEvent]) -> None:
        self.events = events

    def __len__(self) -> int:
        return len(self.events)

    @property
    def first(self) -> tuple[int, int]:
        """See `Records`."""
        return self.events[0].seq, self.events[0].ingest_ts

    @property
    def last(self) -> tuple[int, int]:
        """See `Records`."""
        return self.events[-1].seq, self.events[-1].ingest_ts

    def part(self, begin: int, end: int, /) -> DecodedRecords:
        """See `Records`."""
        return DecodedRecords(self.events[begin:end])

    def pick(self, places: Sequence[int], /) -> DecodedRecords:
        """See `Records`."""
        return DecodedRecords([self.events[place] for place in places])

    def between(self, start_ms: int, end_ms: int, /) -> DecodedRecords:
        """See `Records`."""
        return DecodedRecords([event for event in self.events if start_ms <= event.ingest_ts < end_ms])

    def place_of(self, seq: int, /) -> int:
        """See `Records`."""
        return bisect_left(self.events, seq, key=_seq_of)

    def without_hole(self, seq: int, /) -> int:
        """See `Records`."""
        events = self.events
        if events and events[0].seq == seq and events[-1].seq - seq + 1 == len(events):
            return len(events)
        holes = (place for place, event in enumerate(events) if event.seq != seq + place)
        return next(holes, len(events))

    def names(self) -> list[tuple[str, str]]:
        """See `Records`."""
        return [(event.type, event.symbol) for event in self.events]

    def reads(self) -> list[tuple[int, int, str]]:
        """See `Records`."""
        found: list[tuple[int, int, str]] = []
        end = 0
        for (ingest_ms, feed), group in groupby(self.events, key=_read_of):
            end += len(list(group))
            found.append((end, ingest_ms, feed))
        return found

    def frame(self, begin: int, end: int, /) -> bytes:
        """See `Records`."""
        return b"[%b]" % b",".join(self.payloads(begin, end))

    def payloads(self, begin: int, end: int, /) -> list[bytes]:
        """See `Records`."""
        return [bytes(event.payload) for event in self.events[begin:end]]

    def payload_bytes(self, begin: int, end: int, /) -> int:
        """See `Records`."""
        return sum([len(event.payload) for event in self.events[begin:end]])

    def payload_lines(self) -> bytes:
        """See `Records`."""
        return b"\n".join([*self.payloads(0, len(self)), b""])

    def lines(self) -> bytes:
        """See `Records`."""
        return b"".join([msgspec.json.encode(event) + b"\n" for event in self.events])


def cut(block: bytes, name: str) -> Records:
    """Return the records of whole lines of the file `name`. Raise `ArchiveError` where a line is none, or out of order."""
    module = native.module()
    found: Records | None = module.cut(block) if module is not None else None
    return found if found is not None else decoded(block, name)


def last_seq(block: bytes, name: str) -> int:
    """Return the number of the last record of whole lines of the file `name`. Raise `ArchiveError` where it is none."""
    try:
        return msgspec.json.decode(block[block.rfind(b"\n", 0, -1) + 1 :], type=RecordHeader).seq
    except UNREADABLE as error:
        raise ArchiveError(f"{name}: a line is no record: {error}") from error


def decoded(block: bytes, name: str) -> DecodedRecords:
    """Return the same as `cut`, without native code."""
    try:
        events = _decode_lines(block)
    except UNREADABLE as error:
        raise ArchiveError(f"{name}: a line is no record: {error}") from error
    for before, event in pairwise(events):
        if event.seq <= before.seq:
            raise ArchiveError(f"{name}: seq {event.seq} comes after {before.seq}")
    return DecodedRecords(events)


def events_of(records: Records) -> list[RecordedEvent]:
    """Return an object for each record."""
    return records.events if isinstance(records, DecodedRecords) else _decode_lines(records.lines())


def merged(parts: Sequence[Records]) -> Records:
    """Return the records of several files of one run in the order of their numbers."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, DecodedRecords) for part in parts):
        events = [event for part in parts for event in events_of(part)]
        return DecodedRecords(sorted(events, key=_seq_of))
    found: Records = native.module().merge(parts)
    return found


_decode_lines: Final = msgspec.json.Decoder(RecordedEvent).decode_lines
