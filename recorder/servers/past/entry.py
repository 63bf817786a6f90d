"""PURE. What the hot log keeps of a read, and where a reader of it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from recorder.archive.wanted import Asked, Place


class Origin(NamedTuple):
    """What positions are of: the run that has the connection to the exchange, and its archive."""

    epoch: str
    """Names the run; the archive knows it by this, too."""
    manifest: Path | None = None
    """That of the archive; None where there is none."""
    seq: Callable[[], int] = lambda: 0
    """Returns the number of the last record that has been made."""
    follows: bool = False
    """Whether another recorder, or a stream of a broker, has positions of its own, which count here, too."""


class Entry(NamedTuple):
    """One read of a cluster's socket, or a piece of one."""

    position: int
    """That of its last frame."""
    cluster: str
    frames: Sequence[bytes]
    received_ns: int
    received_ms: int
    """The same, but never earlier than that of an entry before: wall clocks are set back."""
    size: int
    begin_seq: int
    """The number of the last record before it; of a piece, before its read."""
    seq: int
    """That of its last record; of a piece, before its read, but for the last one."""
    after: str = ""
    """The position of its last frame, as the recorder told it that this one follows; empty where none did."""
    rank: int = 0
    """That of `after`."""
    reach: int = 0
    """The highest rank up to this entry, whatever its cluster."""
    begins_batch: bool = True
    ends_read: bool = True


class Start(NamedTuple):
    """Where a reader begins, and whether that is what was asked for."""

    number: int
    """Of the first entry that it reads."""
    position: int
    """The one behind which that is."""
    recovered: bool
    """Whether everything that was asked for follows."""
    reason: str
    """Why not; empty if it does."""
    seq: int = 0
    """The number of the last record before it, where there is an archive."""
    older: Place | Asked | int | None = None
    """What to ask the archive for instead: what came behind a place or position, or from a time on, Unix ms.

    None: it is of no use.
    """
    rank: int = 0
    """What came up to there by the numbers of the recorder that this one follows is left out; 0: nothing is."""


def told_place(place: Place) -> str:
    """Return a place in the archive as clients are told."""
    return f"{place.run_id}::{place.seq}"
