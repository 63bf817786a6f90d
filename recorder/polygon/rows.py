"""The rows of a batch: the events that one read brought, as columns, with the exact bytes of each.

A fragment is what a frame falls into when it is cut at each opening brace: an object without its first brace, and
with the comma behind it. Decoding makes fragments by one `split`, and joining fragments makes an array again, so the
bytes of an event are never encoded again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from recorder.native import Block

_UNNUMBERED: Final = range(0)


class Status(NamedTuple):
    """One element with `ev` `status`: an answer of the exchange, never an event."""

    status: str
    message: str


class Reject(NamedTuple):
    """Bytes that are no event, and why."""

    reason: str
    raw: bytes


class Header(NamedTuple):
    """What an event is about. `ts_ms` is Unix milliseconds, 0 where the event names no time."""

    channel: str
    symbol: str
    ts_ms: int


class Rows:
    """Events of one batch in the order of arrival, as columns of equal length.

    `channels[i]`, `symbols[i]`, `times_ms[i]` (Unix milliseconds, 0 where the event names no time) and `fragments[i]`
    belong together, and so do `positions[i]` and `seqs[i]` once they are numbered. `counts` has the events of each
    channel, `distinct_times_ms` each time once: a batch has few of both, so that consumers work on them rather than
    on each event. A consumer that needs no more than `counts`, `span_ms` and the length asks for no column:
    `ScannedRows` makes one only when somebody asks.
    """

    __slots__ = (
        "channels",
        "cluster",
        "counts",
        "distinct_times_ms",
        "fragments",
        "has_line_breaks",
        "positions",
        "rejects",
        "seqs",
        "statuses",
        "symbols",
        "times_ms",
    )

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.channels: list[str] = []
        self.symbols: list[str] = []
        self.times_ms: list[int] = []
        self.fragments: list[bytes] = []
        self.positions: Sequence[int] = _UNNUMBERED
        """The number of each event in the run, counted before anything is left out."""
        self.seqs: Sequence[int] = _UNNUMBERED
        """The number of each record in the run, counted after include patterns and sampling."""
        self.counts: dict[str, int] = {}
        self.distinct_times_ms: set[int] = set()
        self.has_line_breaks = False
        """Whether line breaks may stand between the tokens of some event: legal in JSON, fatal in NDJSON."""
        self.rejects: list[Reject] = []
        self.statuses: list[Status] = []

    @classmethod
    def of(cls, cluster: str, events: Iterable[tuple[Header, bytes]]) -> Rows:
        """Return the rows of some events, each with its exact bytes."""
        rows = cls(cluster)
        for header, event in events:
            rows.add(header, fragment_of(event))
        rows.count()
        return rows

    def where(self, kept: Sequence[bool]) -> Rows:
        """Return the rows that are kept, under the numbers that they have."""
        rows = Rows(self.cluster)
        rows.channels = list(compress(self.channels, kept))
        rows.symbols = list(compress(self.symbols, kept))
        rows.times_ms = list(compress(self.times_ms, kept))
        rows.fragments = list(compress(self.fragments, kept))
        rows.positions = list(compress(self.positions, kept))
        rows.seqs = list(compress(self.seqs, kept))
        rows.has_line_breaks = self.has_line_breaks
        rows.distinct_times_ms = set(rows.times_ms)
        rows.count()
        return rows

    def of_channels(self, channels: Set[str]) -> Rows:
        """Return the rows of some channels, under the numbers that they have."""
        return self.where([channel in channels for channel in self.channels])

    def add(self, header: Header, fragment: bytes) -> None:
        """Append one event; `count` is due afterwards."""
        self.distinct_times_ms.add(header.ts_ms)
        self.channels.append(header.channel)
        self.symbols.append(header.symbol)
        self.times_ms.append(header.ts_ms)
        self.fragments.append(fragment)

    def count(self) -> None:
        """Count the events of each channel."""
        # A batch has few channels, so counting each channel is cheaper than a look-up for every event.
        channels = self.channels
        self.counts = {channel: channels.count(channel) for channel in set(channels)}

    @property
    def span_ms(self) -> tuple[int, int]:
        """The oldest and the newest time of the events that name one; 0 where none does."""
        times_ms = self.distinct_times_ms
        return min(filter(None, times_ms), default=0), max(times_ms, default=0)

    def headers(self) -> Iterator[Header]:
        """Yield what each event is about, for callers that do not work on whole columns."""
        return map(Header, self.channels, self.symbols, self.times_ms)

    @property
    def objects(self) -> list[bytes]:
        """Each event's exact bytes."""
        return list(map(to_object, self.fragments))

    def __len__(self) -> int:
        return len(self.fragments)

    def __repr__(self) -> str:
        return (
            f"Rows({self.cluster}, {len(self)}, rejects={len(self.rejects)}, statuses={len(self.statuses)})"
        )


class ScannedRows(Rows):
    """The rows of a block that native code has scanned. Each column is made when somebody first asks for it."""

    __slots__ = ("block",)

    def __init__(self, cluster: str, block: Block) -> None:
        self.cluster = cluster
        self.block = block
        self.counts = block.counts
        self.positions = self.seqs = _UNNUMBERED
        self.has_line_breaks = False
        self.rejects = []
        self.statuses = []

    def __getattr__(self, column: str) -> Any:
        """Make a column and keep it: Python asks here only for a slot that is still empty."""
        if column == "distinct_times_ms":
            made: Any = set(self.times_ms)
        else:
            made = getattr(self.block, column)
        setattr(self, column, made)
        return made

    @property
    def span_ms(self) -> tuple[int, int]:
        return self.block.span_ms

    def of_channels(self, channels: Set[str]) -> Rows:
        if not isinstance(self.seqs, range):
            return super().of_channels(channels)  # chosen from once: the numbers have holes
        rows = ScannedRows(self.cluster, self.block.pick(channels))
        if self.seqs:
            rows.seqs = rows.block.numbers(self.seqs[0])
            rows.positions = rows.block.numbers(self.positions[0])
        return rows

    def __len__(self) -> int:
        return len(self.block)


def fragment_of(event: bytes) -> bytes:
    """Return the fragment of a JSON object: its bytes without the opening brace, and a comma."""
    return event[1:] + b","


def to_object(fragment: bytes) -> bytes:
    """Return the JSON object that a fragment is of."""
    return b"{" + fragment[:-1]


def array_of(fragments: Sequence[bytes]) -> bytes:
    """Return a JSON array of the objects that these fragments are of."""
    return b"[{%b]" % b"{".join(fragments)[:-1] if fragments else b"[]"
