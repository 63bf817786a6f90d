"""Data frames in a row, made once and written to every subscriber as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recorder.frames import header


class Frames(NamedTuple):
    """Data frames in a row, ready to be written; the same object serves every subscriber of the same topics."""

    data: bytes
    payload_sizes: Sequence[int]
    """Bytes of each frame without its header."""
    events: Sequence[int]
    """Events in each frame."""

    @property
    def events_count(self) -> int:
        """Events, all frames together."""
        return sum(self.events)

    def payloads(self) -> Iterator[bytes]:
        """Yield each frame without its header."""
        begin = 0
        for size in self.payload_sizes:
            begin += len(header(size))
            yield self.data[begin : begin + size]
            begin += size


def frames_of(events: Sequence[bytes], frame_events: int) -> Frames:
    """Pack events into frames of at most `frame_events`."""
    payloads = []
    counts = []
    for begin in range(0, len(events), frame_events):
        group = events[begin : begin + frame_events]
        payloads.append(b"[" + b",".join(group) + b"]")
        counts.append(len(group))
    data = b"".join([part for payload in payloads for part in (header(len(payload)), payload)])
    return Frames(data, [len(payload) for payload in payloads], counts)
