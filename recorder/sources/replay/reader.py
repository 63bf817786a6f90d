"""What a replay plays, read on a thread of its own: frames as one read of the socket brought them, in their order."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import merge
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from recorder.archive.cutting import Records
from recorder.archive.gaps import Gap
from recorder.archive.recorded import last_ingest_ms
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording, read_segment
from recorder.errors import ArchiveError
from recorder.frames import PAYLOAD_BYTES_MAX
from recorder.sources.replay.shift import Place, times_in

_AHEAD: Final = 4
"""Blocks of a quarter of a MiB that are read before they are asked for."""
_FRAME_EVENTS_MAX: Final = 1000

Choice = Callable[[str, str], bool]
"""Whether an event is played, by its type and symbol."""


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
    times: Sequence[Sequence[Place]] = ()
    """Where the times of the events stand in each frame, if that is asked for."""


@dataclass(frozen=True, slots=True)
class Span:
    """What of the archives is played: from a time on, which is included, to one that is not. Unix ms."""

    start_ms: int = 0
    end_ms: int = 1 << 62
    choice: Choice | None = None
    """Which events; None: all."""
    finds_times: bool = False
    """Whether it is to be said where the times of the events stand."""


class ReplayReader:
    """Reads archives in order, a little ahead of who plays them.

    Everything runs on one thread, so memory is bounded by `_AHEAD` blocks, and reading never holds the loop. Within an
    archive the order is that in which the events came; archives are merged by the time at which they came.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        span: Span,
        skipped: Callable[[ArchiveError], None] | None = None,
    ) -> None:
        """`skipped` is told, on the thread, of each damaged file whose rest is left out; None: the first one is the end."""
        self._recordings = recordings
        self._skipped = skipped
        self._span = span
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self._is_closed = False
        self._ahead: deque[Future[list[Read]]] = deque()
        self._reads: Iterator[list[Read]] = iter(())
        self._digest = hashlib.sha256()
        self.seek(span.start_ms)

    @property
    def span_ms(self) -> tuple[int, int | None]:
        """When the first record of the span came, and the last one, Unix ms; None where that cannot be known."""
        span = self._span
        inside = [
            segment
            for recording in self._recordings
            for segment in recording.segments
            if segment.may_have(span.start_ms, span.end_ms)
        ]
        begin_ms = max(span.start_ms, min((segment.first_ingest_ms for segment in inside), default=0))
        ends_ms = [_last_ms(segment) for segment in inside]
        known_ms = [at_ms for at_ms in ends_ms if at_ms]
        if len(known_ms) < len(ends_ms):
            return begin_ms, None
        return begin_ms, min(span.end_ms, max(known_ms, default=begin_ms))

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
        for records in recording.records(
            start_ms=start_ms, end_ms=self._span.end_ms, read=self._read_segment
        ):
            if choice is not None:
                chosen = [place for place, name in enumerate(records.names()) if choice(*name)]
                if not chosen:
                    continue
                records = records.pick(chosen)
            digest.update(records.payload_lines())
            yield list(self._reads_of(records))

    def _read_segment(self, segment: Segment, first_seq: int) -> Iterator[Records]:
        """Yield the records of a segment; of one that is damaged those before the damage, where that is wanted."""
        try:
            yield from read_segment(segment, first_seq)
        except ArchiveError as error:
            if self._skipped is None:
                raise
            self._skipped(error)

    def _reads_of(self, records: Records) -> Iterator[Read]:
        """Yield what came together as one read each, or as several of no more events than clients take in a frame."""
        begin = 0
        for last, at_ms, cluster in records.reads():
            while begin < last:
                end = min(last, begin + _FRAME_EVENTS_MAX)
                frames = _frames_of(records, begin, end)
                times: Sequence[Sequence[Place]] = ()
                if self._span.finds_times:
                    times = _times_in(records.part(begin, end), len(frames))
                yield Read(at_ms, cluster, frames, end - begin, times=times)
                begin = end


def _last_ms(segment: Segment) -> int:
    """Return when the last record of a segment came, Unix ms; 0 where that cannot be known."""
    try:
        return segment.last_ingest_ms or last_ingest_ms(segment.path, segment.opener)
    except ArchiveError:
        return 0  # whoever plays it will see why


def _frames_of(records: Records, begin: int, end: int) -> tuple[bytes, ...]:
    """Return events as one frame, or where that would be too large, as a frame for each."""
    if records.payload_bytes(begin, end) + end - begin < PAYLOAD_BYTES_MAX:
        return (records.frame(begin, end),)
    return tuple(records.frame(place, place + 1) for place in range(begin, end))


def _times_in(records: Records, frames: int) -> list[list[Place]]:
    """Return where the times stand in the frames of these events, of which there are one, or as many as events."""
    found: list[list[Place]] = [[] for _ in range(frames)]
    begin = 1  # behind the bracket
    payloads = records.payloads(0, len(records))
    for number, ((type_, _), payload) in enumerate(zip(records.names(), payloads, strict=True)):
        if frames == 1:
            found[0] += times_in(type_, payload, begin)
            begin += len(payload) + 1
        else:
            found[number] += times_in(type_, payload, begin)
    return found


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
