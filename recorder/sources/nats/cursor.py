"""PURE. How far a stream has been read, and the proof that nothing of it is missing."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from recorder.stream_message import HANDED_OVER, Away, Heading

_AFTER: Final = re.compile(r"([^:]{1,64}):([0-9]{1,18}):([0-9]{1,18})")
"""A position: the epoch, the number of the last event, the place of its message in the stream."""
_REWOUND: Final = "~"
"""Stands in an epoch before the place at which the numbers of its stream ran backwards."""

MISSING: Final = "missing"
DELETED: Final = "deleted"
PURGED: Final = "purged"
ROLLED_BACK: Final = "rolled back"
UNREADABLE: Final = "unreadable"
DROPPED: Final = "dropped"
CAUSES: Final = {
    MISSING: "messages are gone before they were read, by age, size, or a hand",
    DELETED: "the stream is another one of the same name",
    PURGED: "all messages of the stream were removed",
    ROLLED_BACK: "the servers have lost what they had acknowledged",
    "emptied": "the stream was emptied while no recorder wrote to it",
    UNREADABLE: "messages are of a format that this version does not read",
    DROPPED: "the recorder that writes the stream had to drop events",
    HANDED_OVER: "no recorder was connected to the exchange, before another one took over",
}
"""Why events are missing in what was read."""


class Hole(NamedTuple):
    """Events that the exchange has sent and the stream does not have, or not for us."""

    cause: str
    """One of `CAUSES`."""
    events: int | None
    """How many; None where nobody knows."""
    from_ns: int
    """When the last frames before it were received, wall clock; 0: not known."""
    to_ns: int
    """When the first frames behind it were received."""

    @property
    def reason(self) -> str:
        """The reason of a gap, as the manifest has it."""
        return f"stream_{self.cause.replace(' ', '_')}"


class Taken(NamedTuple):
    """What is to be done with a message."""

    known: int
    """Of its events, so many of the first were there before: they are left out."""
    hole: Hole | None
    """What is missing before it."""
    missed: tuple[Away, ...] = ()
    """When no recorder was connected to the exchange before it, of which no message before told."""


def epoch_of(created: str) -> str:
    """Return the epoch of a stream's positions; `created` is when it was made, as the servers write it."""
    return created.replace(":", "")


class Cursor:
    """How far one stream has been read, over all connections.

    The events of a stream have numbers, and each message says which its first one is. So whoever has read to some event
    knows what the next message must begin with.
    """

    def __init__(self, after: str = "") -> None:
        """`after` is the position up to which everything is there; empty: there is none."""
        self.epoch = ""
        self.event = 0
        """The number of the last event that was read."""
        self.seq = 0
        """The place of its message in the stream."""
        self.received_ns = 0
        """When its frames were received; 0: not known."""
        self.is_begun = False
        """Whether it is known which event comes next."""
        self.cause = ""
        """What is known to have happened since the last message."""
        self._writer = ""
        self._is_other = False
        """Whether the stream is another one than that of the last message."""
        found = _AFTER.fullmatch(after)
        if found is not None:
            self.epoch, self.event, self.seq = found[1], int(found[2]), int(found[3])
            self.is_begun = True

    @property
    def after(self) -> str:
        """The position up to which everything was read; empty where there is none."""
        return f"{self.epoch}:{self.event}:{self.seq}" if self.is_begun else ""

    @property
    def is_read(self) -> bool:
        """Whether a message was read by this process, so that all that is known is of the stream of these settings."""
        return bool(self._writer)

    def is_of(self, created: str) -> bool:
        """Return whether what was read is of the stream that was made then."""
        return self.epoch.partition(_REWOUND)[0] == epoch_of(created)

    def begin(self, created: str, seq: int = 0, last: Heading | None = None) -> None:
        """Begin with a stream behind one of its messages, if that is known, else with whatever comes first."""
        if self.is_begun and last is None:
            self.cause, self._is_other = DELETED, True
        self.epoch, self.seq = epoch_of(created), seq
        if last is not None:
            self.know(last)
            self.event, self.is_begun = last.next_first - 1, True

    def know(self, last: Heading) -> None:
        """Note what the last message that was read says."""
        self.received_ns, self._writer = last.received_ns, last.writer

    def take(self, seq: int, heading: Heading) -> Taken:
        """Take the next message that can be read."""
        known, hole = self._judge(heading) if self.is_begun else (0, None)
        # A whole message that comes again says nothing new; a gap of a handover says all.
        is_told = known == heading.events or (hole is not None and hole.cause == HANDED_OVER)
        missed = heading.missed if self.is_begun and not is_told else ()
        if hole is not None and hole.cause == ROLLED_BACK and heading.first <= self.event:
            self.epoch = f"{self.epoch.partition(_REWOUND)[0]}{_REWOUND}{seq}"
        last = heading.next_first - 1
        self.event, self.seq, self.is_begun = max(last, self.event) if known else last, seq, True
        self.cause, self._is_other = "", False
        self.know(heading)
        return Taken(known, hole, missed)

    def _judge(self, heading: Heading) -> tuple[int, Hole | None]:
        """Return how many events of a message were there before, and what is missing before it."""
        ahead = heading.first - self.event - 1
        if ahead < 0:
            if heading.writer == self._writer:
                # It knows what it has sent, and sends again what was not acknowledged.
                return min(-ahead, heading.events), None
            return 0, self._hole(DELETED if self._is_other else ROLLED_BACK, None, heading)
        if ahead > 0:
            is_counted = heading.gap != "emptied"
            cause = heading.gap if heading.gap in CAUSES else self.cause or MISSING
            return 0, self._hole(cause, ahead + heading.dropped if is_counted else None, heading)
        if heading.dropped:
            return 0, self._hole(DROPPED, heading.dropped, heading)
        return 0, self._hole(HANDED_OVER, None, heading) if heading.gap == HANDED_OVER else None

    def _hole(self, cause: str, events: int | None, heading: Heading) -> Hole:
        return Hole(cause, events, self.received_ns, heading.received_ns)

    def __repr__(self) -> str:
        return f"Cursor({self.after!r})"
