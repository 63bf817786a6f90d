"""`recorder tail`: a client for people; follows topics of a recorder, or of the exchange, and prints their events."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
from rich.console import Console
from rich.text import Text

from recorder import log, loop
from recorder.client.follower import Follower, follow
from recorder.client.parts import LastValues, Part, Position
from recorder.errors import EXIT_OK, KeyRefused, RecorderError, Untrusted
from recorder.polygon import control
from recorder.polygon.channels import AGGREGATE_CHANNELS, QUOTE_CHANNELS, TRADE_CHANNELS
from recorder.polygon.manner import SNAPSHOT, SNAPSHOT_COMPLETE
from recorder.polygon.rows import Rows, Status
from recorder.sources.exchange.resumption import PositionFile
from recorder.words import printable

_SAID: Final = {
    control.SUCCESS,
    control.ERROR,
    control.RESUME,
    control.RESUME_WAITS,
    SNAPSHOT,
    SNAPSHOT_COMPLETE,
    *(control.OF_REPLAYS - {control.GAP}),
}
"""Statuses whose words are shown; of a gap, those of `Lost` are."""


@dataclass(frozen=True, slots=True)
class TailOptions:
    """What the command takes."""

    url: str
    topics: tuple[str, ...]
    token: str
    raw: bool
    """JSON instead of a table."""
    events_max: int | None
    """End after this many events."""
    since_ms: int | None
    """Unix ms; asks a recorder for the bars since then."""
    ca_file: str | None
    """Certificates (PEM) to trust instead of those of the machine."""
    amend: bool
    """Asks a recorder for the bars that late trades change, again."""
    after: str | None = None
    """A position of a recorder, behind which to go on; what the file has counts first."""
    resume_file: Path | None = None
    """Where the last position is kept."""
    snapshot: bool = False
    """Asks a recorder for the last values first."""
    interval_ms: int | None = None
    """Asks it for the newest quote and aggregate of each symbol, at most so often."""
    slow: str | None = None
    """Asks it to leave events out, or not, while their reader is slow."""


class Output(Protocol):
    """Where events are shown."""

    def show(self, events: Rows, count: int) -> None:
        """Show the first `count` of these events, one at least. Raise OSError where that is not possible."""


class RawLines:
    """One JSON object a line, byte for byte as received, but that no line break can be within it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def show(self, events: Rows, count: int) -> None:
        """Write whole lines, and wait for the reader: what it does not take, the server holds."""
        raws = events.objects[:count]
        if events.has_line_breaks:
            raws = [raw.replace(b"\r", b" ").replace(b"\n", b" ") for raw in raws]
        lines = memoryview(b"".join([b"%b\n" % raw for raw in raws]))
        while lines:
            lines = lines[os.write(self._fd, lines) :]


class Row(NamedTuple):
    """One event as the table shows it. Numbers keep the digits that they came with."""

    time: str
    """UTC."""
    channel: str
    symbol: str
    price: str
    size: str
    more: str


class _Shape(NamedTuple):
    """The fields of a channel that stand in the table's columns; several in one are those of bid and ask."""

    style: str
    price: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


_TRADE: Final = _Shape("green", ("p",), ("s",), ("x", "c"))
_QUOTE: Final = _Shape("cyan", ("bp", "ap"), ("bs", "as"), ("c",))
_WINDOW: Final = _Shape("yellow", ("c",), ("v",), ("interval", "o", "h", "l", "vw", "n", "rev"))
_SHAPES: Final = {
    **dict.fromkeys(TRADE_CHANNELS, _TRADE),
    **dict.fromkeys(QUOTE_CHANNELS, _QUOTE),
    **dict.fromkeys([*AGGREGATE_CHANNELS, "MB"], _WINDOW),
    "C": _Shape("cyan", ("b", "a"), (), ("x",)),
    "V": _Shape("green", ("val",)),
    "FMV": _Shape("green", ("fmv",)),
    "LULD": _Shape("magenta", ("l", "h"), (), ("i",)),
}
_EXACT: Final = {"s": "ds"}
"""Fields whose decimals stand, as a string, in another one."""
_NAMES: Final = frozenset({"ev", "sym", "pair"})
_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def row_of(channel: str, symbol: str, time_ms: int, event: bytes) -> Row:
    """Return the event as columns of the table; `time_ms` is Unix ms, 0 where the event has no time."""
    try:
        fields = {name: _plain(bytes(raw)) for name, raw in _decode_fields(event).items()}
    except msgspec.MsgspecError:
        fields = {}
    if not symbol and channel == "C":  # where the address names no cluster, `p` may as well be a price
        symbol = fields.get("p", "")
    time = ""
    if time_ms:
        time = datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    shape = _SHAPES.get(channel)
    more = shape.more if shape else [name for name in fields if name not in _NAMES]
    return Row(
        time,
        printable(channel),
        printable(symbol),
        _join(fields, shape.price if shape else ()),
        _join(fields, shape.size if shape else ()),
        " ".join([f"{printable(name)}={fields[name]}" for name in more if name in fields]),
    )


def _join(fields: dict[str, str], names: tuple[str, ...]) -> str:
    """Return the values of one column; a missing side of a quote is a dash."""
    values = [fields.get(_EXACT.get(name, name)) or fields.get(name, "") for name in names]
    return " / ".join([value or "-" for value in values]) if any(values) else ""


def _plain(raw: bytes) -> str:
    """Return a value as it stands in JSON, a string without its quotes. Escapes stay as they are."""
    text = raw.decode("utf-8", "replace")
    return printable(text[1:-1] if text.startswith('"') else text)


class Table:
    """Columns for a terminal, which widen with what comes; a line that is too long for it is cut."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._symbol_chars, self._price_chars, self._size_chars = 8, 17, 9
        head = self._line(Row("time (UTC)", "type", "symbol", "price", "size", ""), "")
        head.stylize("bold")
        self._print([head])

    def show(self, events: Rows, count: int) -> None:
        """Print a line for each."""
        rows = [
            row_of(channel, symbol, time_ms, raw)
            for channel, symbol, time_ms, raw in zip(
                events.channels[:count],
                events.symbols[:count],
                events.times_ms[:count],
                events.objects[:count],
                strict=True,
            )
        ]
        self._symbol_chars = max(self._symbol_chars, *(len(row.symbol) for row in rows))
        self._price_chars = max(self._price_chars, *(len(row.price) for row in rows))
        self._size_chars = max(self._size_chars, *(len(row.size) for row in rows))
        self._print([self._line(row, _style(row.channel)) for row in rows])

    def _line(self, row: Row, style: str) -> Text:
        line = Text(f"{row.time:12}  ")
        line.append(f"{row.channel:5} ", style)
        line.append(f"{row.symbol:{self._symbol_chars}}", "bold")
        line.append(f"  {row.price:>{self._price_chars}}  {row.size:>{self._size_chars}}  ")
        line.append(row.more, "dim")
        return line

    def _print(self, lines: list[Text]) -> None:
        self._console.print(Text("\n").join(lines), no_wrap=True, overflow="ellipsis")


def _style(channel: str) -> str:
    shape = _SHAPES.get(channel)
    return shape.style if shape else "magenta"


class _Enough(Exception):
    """As many events were shown as were asked for, or their reader is gone."""


class Printer:
    """Shows events, and says besides what becomes of them.

    It waits for the terminal, or for the reader of the pipe. What that takes away from the connection, the server sees
    as a slow client.
    """

    def __init__(
        self,
        output: Output,
        say: Callable[[str], None],
        events_max: int | None = None,
        file: PositionFile | None = None,
    ) -> None:
        """`file` is where positions are kept."""
        self._output = output
        self._say = say
        self._left = events_max
        self._file = file

    def take(self, part: Part) -> None:
        """Show a part of what comes. Raise _Enough at the end, RecorderError where nothing can be written."""
        match part:
            case Rows():
                self._show(part)
            case LastValues(rows):
                self._show(rows)
            case Position():
                if self._file is not None:
                    self._file.write(part.after)
            case Status(status, message):
                if status in _SAID:
                    self._say(message)
            case _:
                self._say(str(part))

    def _show(self, events: Rows) -> None:
        for reject in events.rejects:
            self._say(f"unreadable: {reject.reason}")
        count = len(events) if self._left is None else min(len(events), self._left)
        try:
            if count:
                self._output.show(events, count)
        except BrokenPipeError:
            raise _Enough from None
        except OSError as error:
            raise RecorderError(f"stdout cannot be written: {error.strerror}") from error
        if self._left is not None:
            self._left -= count
            if self._left == 0:
                raise _Enough

    def __repr__(self) -> str:
        return f"Printer(left={self._left})"


def run_tail(options: TailOptions, stdout_fd: int) -> int:
    """Print until the number of events is reached, the reader is gone, or a signal comes. Return the exit status.

    A connection that ends is made again. Raise KeyRefused where the server refuses the token, TopicsRefused where it
    refuses every topic, and RecorderError where stdout cannot be written, or TLS fails for good.
    """
    log.register_secret(options.token)
    return loop.run(_tail(options, stdout_fd))


async def _tail(options: TailOptions, stdout_fd: int) -> int:
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, style="dim")
    output: Output = RawLines(stdout_fd) if options.raw else Table(Console(highlight=False, markup=False))
    file = PositionFile(options.resume_file) if options.resume_file is not None else None
    after = (file.read() if file is not None else "") or options.after
    follower = follow(
        options.url,
        options.topics,
        token=options.token,
        after=after,
        since_ms=None if after else options.since_ms,
        amend=options.amend,
        snapshot=options.snapshot,
        interval_ms=options.interval_ms,
        slow=options.slow,
        ca_file=options.ca_file,
    )
    printer = Printer(output, lambda words: notes.print(log.mask(printable(words))), options.events_max, file)
    printing = asyncio.create_task(_print(follower, printer))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, printing.cancel)
    try:
        await printing
    except (asyncio.CancelledError, _Enough):
        return EXIT_OK
    except KeyRefused as error:
        raise KeyRefused(f"{error}. Give another with --token or POLYGON_API_KEY.") from error
    except Untrusted as error:
        raise Untrusted(
            f"{error}. If you trust it, name it or the CA that signed it with --cafile FILE."
        ) from error
    return EXIT_OK


async def _print(follower: Follower, printer: Printer) -> None:
    async with aclosing(follower.parts()) as parts:
        async for part in parts:
            printer.take(part)
