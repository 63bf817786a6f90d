"""`recorder tail`: a client for people; follows topics of a recorder, or of the exchange, and prints their events."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.text import Text

from recorder import log, loop
from recorder.bus import Batch, Bus, SessionChange
from recorder.clock import SystemClock
from recorder.errors import EXIT_OK, KeyRefused, RecorderError, TlsFailed, Unacknowledged, Untrusted
from recorder.polygon import control
from recorder.polygon.channels import AGGREGATE_CHANNELS, QUOTE_CHANNELS, TRADE_CHANNELS
from recorder.polygon.clusters import is_cluster_path
from recorder.polygon.events import EVERY_CLUSTER
from recorder.polygon.rows import Rows
from recorder.settings import UpstreamSettings
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed
from recorder.sources.exchange.resumption import PositionFile, Resumption
from recorder.sources.stats import FeedStats
from recorder.words import printable

_BACKOFF_INITIAL_SECS: Final = 0.5
_BACKOFF_MAX_SECS: Final = 10.0
_READ_TIMEOUT_SECS: Final = 60.0
_HEARTBEAT_SECS: Final = 20.0
_FRAMES_MAX: Final = 1024
"""Frames of one read that are printed in one go."""
_SAID: Final = control.OF_REPLAYS | {control.RESUME, control.RESUME_WAITS}
"""Statuses that are for whoever looks on."""


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
    """A position of a recorder, behind which to go on, also when the connection ends; empty: from now on. None: each
    connection begins when it begins."""
    resume_file: Path | None = None
    """Where the last position is kept."""


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


class Printer:
    """A consumer that shows every event, and says what the server acknowledges; ends at a number of events.

    Unlike other consumers it waits, for the terminal or the reader of the pipe; what that takes away from the
    connection, the server sees as a slow client. An output that is gone ends it, and so does a server that refuses
    every topic.
    """

    def __init__(
        self,
        topics: Sequence[str],
        output: Output,
        say: Callable[[str], None],
        events_max: int | None,
        ended: Callable[[], None],
    ) -> None:
        self._topics = frozenset(topics)
        self._output = output
        self._say = say
        self._left = events_max
        self._ended = ended
        self.failure: OSError | RecorderError | None = None
        """Why nothing can be shown any more."""
        self.refusals: dict[str, str] = {}
        """What the server said against each topic that it refused."""
        self._refusals_unnamed = 0
        """`not authorized`, which does not say which topic it means."""

    def accept(self, batch: Batch) -> None:
        """Show a batch."""
        if self.is_over:
            return
        for status in batch.statuses:
            if status.status == control.SUCCESS:
                self._say(status.message)
            elif status.status == control.ERROR:
                self._refused(status.message)
            elif status.status in _SAID:
                self._say(status.message)
        events = batch.rows
        for reject in events.rejects:
            self._say(f"unreadable: {reject.reason}")
        count = len(events) if self._left is None else min(len(events), self._left)
        try:
            if count:
                self._output.show(events, count)
        except OSError as error:
            self.fail(error)
            return
        if self._left is not None:
            self._left -= count
            if self._left == 0:
                self._ended()
        if any(status.status == control.REPLAY_COMPLETE for status in batch.statuses):
            self._ended()

    @property
    def is_over(self) -> bool:
        """Whether nothing is shown any more."""
        return self._left == 0 or self.failure is not None

    def fail(self, error: OSError | RecorderError) -> None:
        """End for an error."""
        self.failure = error
        self._ended()

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused every topic, so that nothing will ever come."""
        return len(self.refusals) + self._refusals_unnamed >= len(self._topics)

    def _refused(self, message: str) -> None:
        """Note an error that may be a refusal; the feed itself writes it to the log."""
        if message == control.NOT_AUTHORIZED.message:
            self._refusals_unnamed += 1
        else:
            self.refusals |= {topic: message for topic in self._topics if message.startswith(f"{topic}: ")}
        if self.is_refused:
            self._ended()

    def session_changed(self, change: SessionChange) -> None:
        """The feed says in its log what becomes of the connection."""

    def __repr__(self) -> str:
        return f"Printer(left={self._left}, failure={self.failure!r})"


def run_tail(options: TailOptions, stdout_fd: int) -> int:
    """Print until the number of events is reached, the reader is gone, or a signal comes. Return the exit status.

    A connection that ends is made again. Raise KeyRefused where the server refuses the token, and RecorderError where
    it refuses every topic, stdout cannot be written, or TLS fails for good. A pipe whose reader is gone is a good end.
    """
    log.configure({"": "warning"}, "console")
    log.register_secret(options.token)
    return loop.run(_tail(options, stdout_fd))


async def _tail(options: TailOptions, stdout_fd: int) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, style="dim")
    output: Output = RawLines(stdout_fd) if options.raw else Table(Console(highlight=False, markup=False))
    printer = Printer(
        options.topics,
        output,
        lambda words: notes.print(printable(words)),
        options.events_max,
        stopping.set,
    )
    bus = Bus()
    settings = _upstream(options)
    resumption = _resumption(options, settings.cluster, printer)
    bus.attach(resumption or printer)
    context = FeedContext(settings, bus, FeedStats(settings.cluster, (), ()), SystemClock())
    feed = Feed(
        context,
        since_ms=options.since_ms,
        final=(TlsFailed, Unacknowledged),
        resumption=resumption,
    )
    following = asyncio.create_task(feed.run())
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({following, told}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        following.cancel()
        told.cancel()
        [ended, _] = await asyncio.gather(following, told, return_exceptions=True)
    if isinstance(ended, KeyRefused):
        raise KeyRefused(
            # The feed's own words are advice for an operator; the cause has those of the server.
            f"{options.url} refused the token: {ended.__cause__}. Give another with --token or POLYGON_API_KEY."
        ) from ended
    if isinstance(ended, Untrusted):
        raise Untrusted(
            f"{ended}. If you trust it, name it or the CA that signed it with --cafile FILE."
        ) from ended
    if isinstance(ended, Unacknowledged):
        raise Unacknowledged(
            f"{options.url} ignores what was asked for: {ended}. A topic is a channel and a symbol, such as T.AAPL or T.*"
        ) from ended
    if isinstance(ended, Exception):
        raise ended
    if isinstance(printer.failure, RecorderError):
        raise printer.failure
    if printer.failure is not None and not isinstance(printer.failure, BrokenPipeError):
        raise RecorderError(f"stdout cannot be written: {printer.failure.strerror}") from printer.failure
    if printer.is_refused:
        refusals = "; ".join(sorted(printer.refusals.values())) or "the plan of this key allows none of them"
        raise RecorderError(f"{options.url} refuses every topic: {printable(refusals)}")
    return EXIT_OK


def _resumption(options: TailOptions, cluster: str, printer: Printer) -> Resumption | None:
    """Return what keeps the position; None where none is wanted. Raise RecorderError for a file that cannot be read."""
    file = PositionFile(options.resume_file) if options.resume_file is not None else None
    if file is None and options.after is None:
        return None

    def keep(position: str) -> None:
        if file is None or printer.is_over:  # what it stands for is not shown any more
            return
        try:
            file.write(position)
        except RecorderError as error:
            printer.fail(error)

    after = file.read() if file is not None else ""
    return Resumption(cluster, printer, after or options.after or "", keep)


def _upstream(options: TailOptions) -> UpstreamSettings:
    path = urlsplit(options.url).path.strip("/")
    return UpstreamSettings(
        cluster=path.partition("/")[0] if is_cluster_path(path) else EVERY_CLUSTER,
        url=options.url,
        api_key=options.token,
        topics=options.topics,
        backoff_initial_secs=_BACKOFF_INITIAL_SECS,
        backoff_max_secs=_BACKOFF_MAX_SECS,
        read_timeout_secs=_READ_TIMEOUT_SECS,
        heartbeat_interval_secs=_HEARTBEAT_SECS,
        channel_cap=_FRAMES_MAX,
        amend=options.amend,
        ca_file=options.ca_file,
    )
