"""The positions of another recorder, as its client keeps them: what comes again behind a cut is passed on once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from recorder.bus import Batch, Consumer, SessionChange, SessionClosed
from recorder.errors import RecorderError
from recorder.polygon.careful import is_status_only, statuses_in
from recorder.polygon.control import BARS, POSITION, RESUME, RESUME_COMPLETE
from recorder.polygon.events import Decoder
from recorder.polygon.manner import SNAPSHOT, SNAPSHOT_COMPLETE
from recorder.polygon.rows import Status, array_of


class PositionFile:
    """Where a program keeps its position for its next run: a line of text."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f"{path.name}.new")

    def read(self) -> str:
        """Return the position; empty where there is no file yet. Raise RecorderError for a file that cannot be read."""
        try:
            return self._path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise RecorderError(f"{self._path} cannot be read as a position: {error}") from error

    def write(self, position: str) -> None:
        """Replace the position by another, whole at any moment. Raise RecorderError where that is not possible."""
        try:
            self._beside.write_text(f"{position}\n", encoding="utf-8")
            self._beside.replace(self._path)
        except OSError as error:
            raise RecorderError(f"{self._path} cannot be written: {error.strerror}") from error


class Resumption:
    """A consumer that stands before another, and passes each event on once.

    A position stands for all that came before it, and one comes a second at most. So behind a cut the other recorder sends
    again what came since. It is known by its bytes, each as often as it came, until the past is over: only then can
    an event that has the same bytes be another one. The values of a snapshot are no part of the stream: they are passed on
    as they come.
    """

    def __init__(
        self,
        cluster: str,
        consumer: Consumer,
        after: str = "",
        keep: Callable[[str], None] = lambda after: None,
    ) -> None:
        """`cluster` is that of the batches. `keep` is called with each position, once all before it has been passed on."""
        self.after = after
        """The last position; empty before the first."""
        self._decoder = Decoder(cluster)
        self._consumer = consumer
        self._keep = keep
        self._since: Counter[bytes] = Counter()
        """What came in this session behind the last position."""
        self._again: Counter[bytes] = Counter()
        """What came in sessions before behind it, and has not come again."""
        self.requests_count = 1
        """In how many requests a session asks for the past; each has a past of its own."""
        self._pasts_left = 0
        """How many of them have not come to their end."""
        self._is_in_snapshot = False
        self._is_asked = False
        """Whether the other recorder has said in this session what becomes of the past."""
        self._has_positions = False
        """Whether it has named a position in this session. A server that names none sends nothing again."""

    def accept(self, batch: Batch) -> None:
        """Pass on what is new of a batch."""
        if not batch.statuses:
            self._pass_on(batch, batch.frames)
            return
        frames: list[bytes] = []
        for frame in batch.frames:
            if not is_status_only(frame):
                frames.append(frame)
                continue
            self._pass_on(batch, frames)
            frames = []
            self._consumer.accept(self._made_of(batch, [frame]))
            for status in statuses_in(frame):
                self._learn(status)
        self._pass_on(batch, frames)

    def session_changed(self, change: SessionChange) -> None:
        """A session that ends leaves open what of it will come again."""
        if isinstance(change, SessionClosed):
            self._is_asked = self._has_positions = self._is_in_snapshot = False
        self._consumer.session_changed(change)

    def _learn(self, status: Status) -> None:
        if status.message.startswith(BARS):
            return  # those that come again are known by their times
        if status.status in (RESUME, POSITION):
            self._has_positions = True
        if status.status in (SNAPSHOT, SNAPSHOT_COMPLETE):
            self._is_in_snapshot = status.status == SNAPSHOT
        elif status.status == RESUME and not self._is_asked:
            self._is_asked = True
            self._pasts_left = self.requests_count
            self._again += self._since
            self._since.clear()
        elif status.status == RESUME_COMPLETE:
            self._pasts_left -= 1
            if self._pasts_left <= 0:
                self._again.clear()
        elif status.status == POSITION:
            self._since.clear()
            self.after = status.message
            self._keep(self.after)

    def _pass_on(self, batch: Batch, frames: Sequence[bytes]) -> None:
        if not frames:
            return
        part = batch if frames is batch.frames else self._made_of(batch, frames)
        if self._is_in_snapshot:
            self._consumer.accept(part)
            return
        events = part.rows.objects
        if self._has_positions:
            self._since.update(events)
        if self._again and events:
            fragments = [
                fragment
                for fragment, event in zip(part.rows.fragments, events, strict=True)
                if not self._has_come(event)
            ]
            if not fragments:
                return
            part = self._made_of(batch, [array_of(fragments)])
        self._consumer.accept(part)

    def _has_come(self, event: bytes) -> bool:
        """Return whether an event came before the cut; each time that it came counts once."""
        if not self._again[event]:
            del self._again[event]
            return False
        self._again[event] -= 1
        return True

    def _made_of(self, batch: Batch, frames: Sequence[bytes]) -> Batch:
        return Batch(batch.cluster, batch.received_ns, frames, self._decoder, read_ns=batch.read_ns)

    def __repr__(self) -> str:
        return f"Resumption({self.after!r}, {self._since.total()} events behind it)"
