"""PURE. When a recorder had no connection to the exchange, and nobody else has shown to have had one.

Each recorder knows its own times alone. What it writes into the stream says since when it has been connected, and up to
when all that it received is there. So a recorder that was away takes out of its own times what another one has covered,
and what another one has told of already. What is left stands in the next message that it appends.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from recorder.bus import SessionChange, SessionOpened
from recorder.stream_message import AWAY_MAX, Away, Heading, word_of

NOT_RUNNING: Final = "not_running"
"""Why there is a gap between the last message of the stream and the first session of a run."""
_SPANS_MAX: Final = 64


class Span(NamedTuple):
    """A time of which nothing more is to be told. Unix ms."""

    from_ms: int
    to_ms: int


class Absences:
    """Of one cluster, over all sessions of a run."""

    def __init__(self, patience_ns: int) -> None:
        """A message that would tell of an absence waits for `patience_ns`, in which another recorder may show more."""
        self.patience_ns = patience_ns
        self.due: list[Away] = []
        """What is over and has not been told, oldest first."""
        self._lasting: tuple[int, str] | None = None
        """Since when and why there is no session now."""
        self._stream_ms: int | None = None
        """Up to when the stream was written before this run; 0 if it had no message, None while nobody knows."""
        self._first_ms = 0
        """When the first session of this run began; 0 before."""
        self._since_ms = 0
        """Since when everything that the exchange sends has come here."""
        self._taken_ms = 0
        """When the last frames were received that were taken."""
        self._spans: dict[tuple[str, int], Span] = {}
        """By writer and beginning."""

    def begin(self, last: Heading | None) -> None:
        """Note what the newest message says of a stream that is looked at for the first time."""
        if self._stream_ms is None:
            self._stream_ms = _known_until_ms(last) if last is not None else 0
            if self._first_ms:
                self._add_start()

    def session_changed(self, change: SessionChange) -> None:
        """Note that the exchange sends data from now on, or no longer."""
        at_ms = change.at_ns // 1_000_000
        if not isinstance(change, SessionOpened):
            if self._first_ms and self._lasting is None:
                self._lasting = change.last_received_ns // 1_000_000 or at_ms, change.reason
            return
        is_first, lasting = not self._first_ms, self._lasting
        self._lasting = None
        if is_first:
            self._first_ms = at_ms
            self._add_start()
        elif lasting is not None and change.resumed is None:
            self._add(Away(lasting[0], at_ms, word_of(lasting[1])))
        for missed in change.missed:
            self._add(Away(missed.from_ms, missed.to_ms, word_of(missed.reason)))
        if is_first or change.resumed is None or change.missed:
            self._since_ms = at_ms

    def take(self, received_ns: int, *, lost: bool) -> None:
        """Note that frames have been taken; `lost`: others were lost just before them."""
        self._taken_ms = received_ns // 1_000_000
        if lost:
            self.lose()

    def lose(self) -> None:
        """Note that something was lost of what has been taken."""
        self._since_ms = max(self._since_ms, self._taken_ms + 1)

    def lies_between(self, before_ns: int, after_ns: int) -> bool:
        """Return whether an absence that is to be told of ended between two reads."""
        return any(before_ns // 1_000_000 < away.to_ms <= after_ns // 1_000_000 for away in self.due)

    def before(self, received_ns: int) -> tuple[Away, ...]:
        """Return what a message has to tell of, whose frames were received then."""
        return tuple(away for away in self.due if away.to_ms <= received_ns // 1_000_000)

    def covers(self, waits_ns: int) -> Span:
        """Return the time of which everything is in the stream, with what is sent now.

        `waits_ns` is when the first frames were received that wait; 0: none do.
        """
        to_ms = waits_ns // 1_000_000 if waits_ns else self._taken_ms
        return Span(self._since_ms, to_ms) if 0 < self._since_ms < to_ms else Span(0, 0)

    def told(self, missed: tuple[Away, ...]) -> None:
        """Note what stands in the stream."""
        for away in missed:
            self._take_out(Span(away.from_ms, away.to_ms))

    def read(self, heading: Heading, *, is_ours: bool) -> None:
        """Take what a message of the stream says."""
        self.told(heading.missed)
        if is_ours:
            return
        spans = [Span(away.from_ms, away.to_ms) for away in heading.missed]
        if heading.covers[1]:
            spans.append(Span(*heading.covers))
        for span in spans:
            self._spans.pop((heading.writer, span.from_ms), None)
            self._spans[heading.writer, span.from_ms] = span
            self._take_out(span)
        while len(self._spans) > _SPANS_MAX:
            del self._spans[next(iter(self._spans))]

    def _add_start(self) -> None:
        if self._stream_ms and self._stream_ms < self._first_ms:
            self._add(Away(self._stream_ms, self._first_ms, NOT_RUNNING))

    def _add(self, away: Away) -> None:
        """Have the next message tell of an absence; of too many, the oldest become one."""
        self.due.append(away._replace(to_ms=max(away.to_ms, away.from_ms + 1)))
        for span in self._spans.values():
            self._take_out(span)
        self.due.sort()
        while len(self.due) > AWAY_MAX:
            one, two = self.due[:2]
            self.due[:2] = [Away(one.from_ms, max(one.to_ms, two.to_ms), two.reason)]

    def _take_out(self, span: Span) -> None:
        left = []
        for away in self.due:
            if span.to_ms <= away.from_ms or away.to_ms <= span.from_ms:
                left.append(away)
                continue
            if away.from_ms < span.from_ms:
                left.append(away._replace(to_ms=span.from_ms))
            if span.to_ms < away.to_ms:
                left.append(away._replace(from_ms=span.to_ms))
        self.due = left

    def __repr__(self) -> str:
        return f"Absences({self.due}, since={self._since_ms}, lasting={self._lasting})"


def _known_until_ms(last: Heading) -> int:
    """Return up to when nothing is missing behind a message that no later one tells of."""
    received_ms = last.received_ns // 1_000_000
    from_ms, to_ms = last.covers
    return max(received_ms, to_ms) if from_ms <= received_ms else received_ms
