"""PURE. The positions of the recorder that a feed follows: which frames are whole reads there, and up to where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from recorder.bus import Missed
from recorder.frames import size_of
from recorder.overlap import Overlap, Recorded
from recorder.polygon.control import MARK_BEGIN, POSITION, RESUME, RESUME_COMPLETE
from recorder.polygon.position import parse_position

HELD_BYTES_MAX: Final = 1024 * 1024
"""Of a read that is larger, what has come is passed on without its position. Recorders read less than that at once."""


class Resumed(NamedTuple):
    """How a session is joined to the one before."""

    frames: int | None = None
    missed: tuple[Missed, ...] = ()
    """Both as for `SessionOpened`."""


class Part(NamedTuple):
    """Frames that are passed on."""

    frames: list[bytes]
    wire: bytes
    """The same as they came; empty where that is not known."""
    after: str
    """The position behind them; empty where they have none."""


class Outage(msgspec.Struct, frozen=True):
    """A time in which the other recorder had no connection to the exchange, Unix ms."""

    reason: str = ""
    cluster: str = ""
    from_ms: int = msgspec.field(default=0, name="from")
    to_ms: int | None = msgspec.field(default=None, name="to")
    """None while it lasts."""


class _Said(msgspec.Struct):
    """A status of the other recorder."""

    ev: str = ""
    status: str = ""
    after: str = ""
    each: bool = False
    recovered: bool = False
    partial: bool = False
    reason: str = ""
    gaps: list[Outage] = []


_decode: Final = msgspec.json.Decoder(list[_Said]).decode


class Marks:
    """Takes the positions off what is read of another recorder, over all connections of a feed.

    The other recorder says its position behind each of its own reads. Frames are held until it has come, which it does in
    the same write, so that a pass of ours is whole reads of theirs. After a cut the feed goes on behind the last position
    that it has passed on. What was held then comes again; where it does not, it is passed on all the same.

    Where this recorder was killed, more is recorded than the position says that it goes on behind: that `overlap` is left
    out when it comes again.

    Where the other recorder tells no positions, everything is passed on as it comes.
    """

    def __init__(self, after: str = "") -> None:
        self.after = after
        """The last position behind which everything has been passed on; empty where there is none."""
        self.count = 0
        """Frames that came since the last session of what was missed."""
        self.recovered = False
        """Whether the other recorder has said on this connection that nothing is missing."""
        self.reason = ""
        """Why something is, in its words."""
        self.outages: list[Outage] = []
        """Those that it had itself since the last position."""
        self._is_catching_up = False
        self._is_complete = False
        """Whether what was missed has come, but for the position behind it."""
        self._asked = ""
        """The position behind which it was asked for on this connection."""
        self._is_told = False
        """Whether it tells its position behind each read on this connection."""
        self._held: list[bytes] = []
        """The beginning of a read whose end has not come."""
        self._held_bytes = 0
        self._held_wire = b""
        self._left: list[bytes] = []
        """What was held when the connection before this one ended."""
        self._overlap = Overlap()
        self._may_overlap = False
        """Whether what comes may be recorded."""

    def go_on(self, recorded: Recorded) -> None:
        """Go on behind what a run before this one has recorded."""
        self.after, self._overlap = recorded.after, recorded.overlap

    @property
    def settled(self) -> str:
        """The position behind which nothing has been passed on, or recorded; empty where there is none."""
        return self.after if self._overlap.is_over else ""

    @property
    def is_catching_up(self) -> bool:
        """Whether what was missed may still come."""
        return self._is_catching_up

    @property
    def is_another_run(self) -> bool:
        """Whether the stream goes on in another run than the one that this connection has asked for."""
        return bool(self._asked) and _run_of(self._asked) != _run_of(self.after)

    def begin(self) -> None:
        """Begin with a new connection, on which the other recorder is asked for what is behind `after`."""
        self.recovered, self.reason, self.outages = False, "", []
        self._left = self._left or self._held
        self._drop_held()
        self._overlap.begin()
        self._asked = self.after
        self._is_catching_up = self._may_overlap = bool(self.after)
        self._is_complete = self._is_told = False

    def opened(self) -> None:
        """Count anew: a session has begun."""
        self.count = 0

    def take(self, frames: list[bytes], wire: bytes) -> Iterator[Part]:
        """Yield what is to be passed on, now that these frames were read. To be exhausted."""
        if self._left and not self._is_catching_up:
            yield from self._left_over()  # nobody was asked for it again
        begin = at = 0
        for place in [place for place, frame in enumerate(frames) if frame.startswith(MARK_BEGIN)]:
            said = _said(frames[place])
            if said is None:
                continue
            read = frames[begin:place]
            size = sum(map(size_of, read)) if wire else 0
            end = at + size + size_of(frames[place])
            if said.status == POSITION and said.each:
                self._is_told = True
                if self._is_complete:
                    self._is_catching_up = self._may_overlap = False
                yield from self._whole(read, wire[at : at + size], said.after)
            elif not (read or self._held) or (said.status == RESUME and said.each):
                # Nobody waits for this: it is said to this recorder alone.
                yield from self._answered(said, [*read, frames[place]])
            else:
                continue
            begin, at = place + 1, end
        rest = frames[begin:] if begin else frames
        if rest:
            yield from self._begun(rest, wire[at:])

    def _whole(self, read: list[bytes], wire: bytes, after: str) -> Iterator[Part]:
        """A read is whole."""
        known = bool(wire or not read) and bool(self._held_wire or not self._held)
        part = Part(self._held + read, self._held_wire + wire if known else b"", after)
        self._drop_held()
        if self._is_behind(after):
            yield Part([], b"", self.settled)  # it lags behind the one that was followed before
            return
        if self._is_catching_up:
            self.count += len(part.frames)
        if not self._overlap.is_over:
            left = self._overlap.take(part.frames, after)
            if left is None and not self._may_overlap and self._overlap.holds:
                left = self._overlap.end()  # from one that lags, all would come again
            if left is None:
                yield Part([], b"", "")  # the session may be due all the same
                return
            part = Part(left.frames, b"", left.after)
        self.after = part.after
        yield part

    def _without_overlap(self) -> Iterator[Part]:
        """Nothing that is recorded comes again from here on."""
        self._may_overlap = False
        left = self._overlap.end() if not self._overlap.is_over else None
        if left is not None:
            self.after = left.after
            yield Part(left.frames, b"", left.after)

    def _begun(self, rest: list[bytes], wire: bytes) -> Iterator[Part]:
        """A read goes on, whose end has not come."""
        is_known = bool(wire) and bool(self._held_wire or not self._held)
        self._held_wire = self._held_wire + wire if is_known else b""
        self._held = self._held + rest
        self._held_bytes += sum(map(len, rest))
        if not self._is_told or self._held_bytes > HELD_BYTES_MAX:
            yield from self._loose()

    def _answered(self, said: _Said, statuses: list[bytes]) -> Iterator[Part]:
        """The other recorder has said something."""
        if said.status == RESUME:
            self._is_told = said.each
            self.recovered, self.reason, self.outages = said.recovered, said.reason, said.gaps
            if said.recovered:
                self._left = []  # it comes again
            else:
                self._is_catching_up = False
                yield from self._left_over()
                if not said.partial:
                    yield from self._without_overlap()
        elif said.status == RESUME_COMPLETE:
            self._is_complete = True
            if not self._is_told:
                self._is_catching_up = False  # else the position follows
                yield from self._without_overlap()
        yield Part(statuses, b"", "")

    def _loose(self) -> Iterator[Part]:
        """Pass on what is held, though nobody knows its position: from here on nobody can go on behind one."""
        yield from self._left_over()
        yield from self._without_overlap()
        part = Part(self._held, self._held_wire, "")
        self._drop_held()
        self.after = ""
        self._is_catching_up = self._is_catching_up and self._is_told
        yield part

    def _left_over(self) -> Iterator[Part]:
        """Pass on what was held at the last cut, and does not come again."""
        left, self._left = self._left, []
        if left:
            self.after = ""
            yield Part(left, b"", "")

    def _drop_held(self) -> None:
        self._held, self._held_bytes, self._held_wire = [], 0, b""

    def _is_behind(self, after: str) -> bool:
        """Return whether everything up to a position has been passed on before."""
        there, here = parse_position(after), parse_position(self.after)
        if there is None or here is None:
            return False
        return there.epoch == here.epoch and there.number <= here.number

    def __repr__(self) -> str:
        return f"Marks({self.after!r}, {len(self._held)} frames held)"


def _run_of(after: str) -> str:
    return after.partition(":")[0]


def _said(frame: bytes) -> _Said | None:
    """Return the one status that a frame is; None where it is something else."""
    try:
        said = _decode(frame)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return said[0] if len(said) == 1 and said[0].ev == "status" else None
