"""What numbers all that a process receives, and keeps it in its hot log."""

from __future__ import annotations

from collections.abc import Callable

from recorder.bus import Batch, Border, SessionChange
from recorder.servers.past.hotlog import HotLog


class Numbering:
    """A consumer of the bus: numbers what is received, and keeps it in the log. It must come before the ports."""

    def __init__(self, log: HotLog, seq: Callable[[], int] = lambda: 0) -> None:
        """`seq` returns the number of the last record that has been made, where there is an archive."""
        self._log = log
        self._seq = seq

    def accept(self, batch: Batch) -> None:
        """Keep a batch; its bytes are there anyway."""
        log = self._log
        log.settled = log.reached
        position = log.position + len(batch.frames)
        batch.marks = log.take(
            batch.cluster, batch.frames, batch.received_ns, position, self._seq(), batch.marks
        )

    def border_passed(self, border: Border) -> None:
        """Note how far the recorder has come that this one follows."""
        self._log.upstream.reach(border.cluster, border.after)

    def session_changed(self, change: SessionChange) -> None:
        """Remember when there was no connection."""
        self._log.session_changed(change)

    def is_awaited(self) -> bool:
        """A log waits for nothing."""
        return False

    def __repr__(self) -> str:
        return f"Numbering({self._log!r})"
