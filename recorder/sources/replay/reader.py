"""What a replay plays, read on a thread of its own: frames as one read of the socket brought them, in their order."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from recorder.archive.gaps import Gap
from recorder.archive.recording import RecordedEvent, Recording
from recorder.frames import PAYLOAD_BYTES_MAX

_AHEAD: Final = 4
"""Blocks of a quarter of a MiB that are read before they are asked for."""
_FRAME_EVENTS_MAX: Final = 1000

Choice = Callable[[RecordedEvent], bool]


class Digest(Protocol):
    """A checksum in the making."""

    def update(self, data: bytes, /) -> None:
        """Add the next bytes."""


class Read(NamedTuple):
    """The events of one cluster that came at one time, as frames; or a gap that was recorded."""

    at_ms: int
    """When it came, Unix ms."""
    cluster: str
    frames: Sequence[bytes] = ()
    events: int = 0
    gap: Gap | None = None
    """What begins at this time, for as long as it says; then there are no events."""


@dataclass(frozen=True, slots=True)
class Span:
    """What of the archives is played: from a time on, which is included, to one that is not. Unix ms."""

    start_ms: int = 0
    end_ms: int = 1 << 62
    choice: Choice | None = None
    """Which events; None: all."""


class ReplayReader:
    """Reads archives in order, a little ahead of who plays them.

    Everything runs on one thread, so memory is bounded by `_AHEAD` blocks, and reading never holds the loop. Within an
    archive the order is that in which the events came; archives are merged by the time at which they came.
    """

    def __init__(self, recordings: Sequence[Recording], span: Span) -> None:
        self._recordings = recordings
        self._span = span
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self._is_closed = False
        self._ahead: deque[Future[list[Read]]] = deque()
        self._reads: Iterator[list[Read]] = iter(())
        self._digest = hashlib.sha256()
        self.seek(span.start_ms)

    @property
    def sha256(self) -> str:
        """The checksum of all payloads since the last `seek`, each with a line end; whole once the end has come."""
        return self._digest.hexdigest()

    def seek(self, start_ms: int) -> None:
        """Go on from a time, earlier or later."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._digest = hashlib.sha256()
        self._reads = self._read(max(start_ms, self._span.start_ms), self._digest)
        for _ in range(_AHEAD):
            self._ahead.append(self._thread.submit(self._next_block, self._reads))

    async def next_block(self) -> list[Read]:
        """Return what comes next; empty at the end. Raise `ArchiveError` where a file cannot be read or was altered."""
        if self._is_closed:
            # Whoever reads on is about to be cancelled.
            await asyncio.Event().wait()
        future = self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._next_block, self._reads))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread; nothing comes any more."""
        self._is_closed = True
        for future in self._ahead:
            future.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _next_block(reads: Iterator[list[Read]]) -> list[Read]:
        return next(reads, [])

    def _read(self, start_ms: int, digest: Digest) -> Iterator[list[Read]]:
        """Yield what is to be played, many reads at once, none of them empty."""
        gaps = sorted(
            (
                Read(gap.from_ms, gap.cluster, gap=gap)
                for recording in self._recordings
                for gap in recording.gaps
                if start_ms <= gap.from_ms < self._span.end_ms
            ),
            key=_at_ms_of,
        )
        if len(self._recordings) == 1:
            blocks = self._blocks(self._recordings[0], start_ms, digest)
        else:
            streams = [
                (read for block in self._blocks(recording, start_ms, digest) for read in block)
                for recording in self._recordings
            ]
            # Each archive keeps its own order, also where the clock was set back.
            blocks = _in_blocks(merge(*streams, key=_at_ms_of))
        for block in blocks:
            if gaps and gaps[0].at_ms <= block[-1].at_ms:
                count = sum(gap.at_ms <= block[-1].at_ms for gap in gaps)
                block = list(merge(gaps[:count], block, key=_at_ms_of))
                del gaps[:count]
            yield block
        if gaps:
            yield gaps

    def _blocks(self, recording: Recording, start_ms: int, digest: Digest) -> Iterator[list[Read]]:
        choice = self._span.choice
        for events in recording.events(start_ms=start_ms, end_ms=self._span.end_ms):
            chosen = events if choice is None else [event for event in events if choice(event)]
            if chosen:
                yield [
                    read
                    for (cluster, at_ms), group in groupby(chosen, key=_read_of)
                    for read in _frames_of(cluster, at_ms, list(group), digest)
                ]


def _frames_of(cluster: str, at_ms: int, events: list[RecordedEvent], digest: Digest) -> Iterator[Read]:
    """Yield events that came together, as few frames as clients take."""
    for begin in range(0, len(events), _FRAME_EVENTS_MAX):
        payloads = [bytes(event.payload) for event in events[begin : begin + _FRAME_EVENTS_MAX]]
        digest.update(b"\n".join([*payloads, b""]))
        if sum(map(len, payloads)) + len(payloads) < PAYLOAD_BYTES_MAX:
            yield Read(at_ms, cluster, (b"[%b]" % b",".join(payloads),), len(payloads))
        else:
            yield Read(at_ms, cluster, tuple(b"[%b]" % payload for payload in payloads), len(payloads))


def _in_blocks(reads: Iterator[Read]) -> Iterator[list[Read]]:
    block: list[Read] = []
    for read in reads:
        block.append(read)
        if len(block) >= _FRAME_EVENTS_MAX:
            yield block
            block = []
    if block:
        yield block


_at_ms_of: Final = attrgetter("at_ms")
_read_of: Final = attrgetter("feed", "ingest_ts")
