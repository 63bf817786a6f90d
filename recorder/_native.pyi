"""The hot path in C: `native/module.c`, compiled where a compiler is. Only `recorder.native` imports it."""

from collections.abc import Container, Iterable, Sequence
from typing import final

from _typeshed import ReadableBuffer

def split(data: ReadableBuffer, limit: int, payloads: list[bytes], /) -> tuple[int, int]:
    """Append to `payloads` those of the whole plain WebSocket frames at the front of `data`.

    A plain frame is text or binary, a message of its own, unmasked, without RSV bits, at most `limit` bytes long. Return
    how many bytes these frames take, and the size of the odd frame behind them: 0 where what follows is not there whole.
    """

def index(data: ReadableBuffer, limit: int, /) -> tuple[int, int, int, int, int]:
    """Return what stands at the front of `data`, for those who pass frames on as they came.

    The bytes of whole plain text frames, the size of the odd frame behind them (as `split` does; a binary frame is odd
    here), how many frames they are, the payload bytes of the largest, and those of all.
    """

def cut(lines: bytes, /) -> Records | None:
    """Return the records of whole lines that the recorder has written of plain events; None where one line is another.

    Their numbers rise. Other threads go on meanwhile.
    """

def merge(parts: Iterable[Records], /) -> Records:
    """Return the records of all parts in the order of their numbers."""

def tabulate(
    parts: tuple[Records, ...],
    kinds: tuple[str, ...],
    channels: tuple[tuple[str, tuple[tuple[str, int], ...]], ...],
    /,
) -> tuple[list[tuple[int, Buffer | None, *tuple[Buffer, ...]]], list[int]]:
    """Return the columns of a table of all parts, and the places of records with a value that a slower reader has to see.

    A column is the shape of a value (recorder/polygon/typed_columns.py), or a field of the record: `seq`, `ingest_ts`, `ts`,
    `type`, `symbol`, `feed`, `payload`. `channels` say to which column, by its place, the value of a field of the event
    belongs. What is returned of a column is how many nulls it has, and its buffers as Arrow has them: validity, or None
    where nothing is null, then values, or ends and values, or for lists of lists ends, their ends, and values. A record
    that is noted has nulls in place of what was not read. Raise ValueError for what is no column, OverflowError where
    lines have 2 GiB and more. Other threads go on meanwhile.
    """

@final
class Buffer:
    """Memory that is only read."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Scanner:
    """Finds the events of one cluster in plain frames: ASCII JSON as the exchange sends it.

    A frame is plain if it is an array of objects without white space, escapes or deep nesting, each with a known channel,
    a symbol and a time in milliseconds, and no key that counts here twice. Everything else is refused.
    """

    def __new__(cls, channels: tuple[tuple[str, str, bool], ...], symbol_field: str, /) -> Scanner:
        """Each channel is its code, the field of its symbol, and whether the end of a window (`e`) stands in for `t`.

        `symbol_field` is the cluster's, which counts before the channel's own. A channel whose code or field has more than
        four letters has no room: its events are refused. Raise ValueError if `symbol_field` has more.
        """

    def scan(self, frames: Iterable[bytes], /) -> Block | None:
        """Return the events of these frames, None if one of the frames is not plain."""

@final
class Block:
    """Events in the order of arrival. Every attribute is made when it is asked for."""

    def __len__(self) -> int: ...
    @property
    def channels(self) -> list[str]: ...
    @property
    def symbols(self) -> list[str]: ...
    @property
    def times_ms(self) -> list[int]: ...
    @property
    def fragments(self) -> list[bytes]:
        """The exact bytes of each event in the form of `recorder.polygon.rows`."""

    @property
    def counts(self) -> dict[str, int]:
        """The events of each channel that has some."""

    @property
    def span_ms(self) -> tuple[int, int]:
        """The earliest and the latest time; zeros where there are no events."""

    def format(self, ingest_ms: int, first_seq: int, feed: bytes, tail: bytes, /) -> bytes:
        """Return the lines of `recorder.records.Formatter`, numbered from `first_seq`.

        Where events are left out of a block (`pick`), their numbers are left out, too.
        `feed` is the cluster as JSON; `tail` is what stands between the payload's comma and the number.
        """

    def pick(self, channels: Container[str], /) -> Block:
        """Return the block of the events of these channels. Each keeps its place in the block that was scanned."""

    def numbers(self, first: int, /) -> list[int]:
        """Return the number of each event, if that at the first place of the block that was scanned has number `first`."""

    def trades(
        self, channel: str, /
    ) -> tuple[list[str], list[int], list[int], list[int], list[int], list[int], list[str]] | None:
        """Return the trades of a channel as columns, None if integers cannot say one of them exactly.

        Symbols, times, mantissas and scales of the prices, the same of the sizes, and conditions. A scale is how many of
        the mantissa's digits are behind the decimal point. The size is the exact one (`ds`) where it exists, 0 where there
        is none. Conditions are the numbers as text, with commas between them.
        """

@final
class Records:
    """What `recorder.archive.cutting.Records` says. A part keeps the lines that it is of."""

    def __len__(self) -> int: ...
    @property
    def first(self) -> tuple[int, int]: ...
    @property
    def last(self) -> tuple[int, int]: ...
    def part(self, begin: int, end: int, /) -> Records: ...
    def pick(self, places: Sequence[int], /) -> Records: ...
    def between(self, start_ms: int, end_ms: int, /) -> Records: ...
    def place_of(self, seq: int, /) -> int: ...
    def without_hole(self, seq: int, /) -> int: ...
    def names(self) -> list[tuple[str, str]]: ...
    def reads(self) -> list[tuple[int, int, str]]: ...
    def frame(self, begin: int, end: int, /) -> bytes: ...
    def payloads(self, begin: int, end: int, /) -> list[bytes]: ...
    def payload_bytes(self, begin: int, end: int, /) -> int: ...
    def payload_lines(self) -> bytes: ...
    def lines(self) -> bytes: ...
