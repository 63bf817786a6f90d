"""Frames to events: for each JSON object its channel, symbol, time and exact bytes; odd ones cost time, never neighbours.

Where each channel keeps symbol and time is a row of `channels`. Field names mean different things on different clusters:
`p` is a price on most, the currency pair on forex.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Raw

from recorder.polygon.channels import AGGREGATE_CHANNELS, CHANNELS
from recorder.polygon.clusters import CLUSTERS

_MS_MIN: Final = 100_000_000_000
_MS_END: Final = 100_000_000_000_000

EVERY_CLUSTER: Final = "all"
"""Stands for the cluster of a connection that carries the events of any."""

_SYMBOL_FIELDS: Final = ("sym", "pair", "T")
"""Where a channel that has no row may keep its symbol."""
_TIME_FIELDS: Final = ("t", "e", "s")
"""Where it may keep its time."""


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


class _Window(msgspec.Struct):
    """The end of an aggregate's window, where it is an integer as it should be."""

    e: int = 0


class Events:
    """The events of one batch in the order of arrival, as columns of equal length.

    `channels[i]`, `symbols[i]`, `times_ms[i]` (Unix milliseconds, 0 where the event names no time) and `bodies[i]`
    belong together. A body is what `body_of` makes of the event's exact bytes, and `whole` gives these back: the form
    that a frame falls into when it is cut at each opening brace. `counts` has the events of each channel,
    `distinct_times_ms` the times, each once: those of a batch are few.
    """

    __slots__ = (
        "bodies",
        "channels",
        "counts",
        "distinct_times_ms",
        "has_line_breaks",
        "rejects",
        "statuses",
        "symbols",
        "times_ms",
    )

    def __init__(self) -> None:
        self.channels: list[str] = []
        self.symbols: list[str] = []
        self.times_ms: list[int] = []
        self.bodies: list[bytes] = []
        self.counts: dict[str, int] = {}
        self.distinct_times_ms: set[int] = set()
        self.has_line_breaks = False
        """Whether line breaks may stand between the tokens of some event: legal in JSON, fatal in NDJSON."""
        self.rejects: list[Reject] = []
        self.statuses: list[Status] = []

    def headers(self) -> Iterator[Header]:
        """Yield what each event is about; for who does not work on whole columns."""
        return map(Header, self.channels, self.symbols, self.times_ms)

    @property
    def raws(self) -> list[bytes]:
        """Each event's exact bytes."""
        return list(map(whole, self.bodies))

    def add(self, header: Header, body: bytes) -> None:
        """Append one event."""
        self.distinct_times_ms.add(header.ts_ms)
        self.channels.append(header.channel)
        self.symbols.append(header.symbol)
        self.times_ms.append(header.ts_ms)
        self.bodies.append(body)

    def __len__(self) -> int:
        return len(self.bodies)

    def __repr__(self) -> str:
        return f"Events({len(self)}, rejects={len(self.rejects)}, statuses={len(self.statuses)})"


def to_ms(time: float) -> int:
    """Convert a vendor time to milliseconds, its unit told by its magnitude; what is not positive becomes 0.

    Below 1e11 it is seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds.
    """
    if not 0 < time < float("inf"):
        return 0
    if time < _MS_MIN:
        return int(time * 1000)
    if time < _MS_END:
        return int(time)
    return int(time) // 1000 if time < 100_000_000_000_000_000 else int(time) // 1_000_000


class Decoder:
    """Turns the frames of one cluster into events. It never raises, whatever the frames hold."""

    def __init__(self, cluster: str) -> None:
        """`cluster` is one of `clusters.CLUSTERS`, or `EVERY_CLUSTER`; any other raises KeyError."""
        self.cluster = cluster
        # The busiest channel is read fast; channels that keep their symbol elsewhere take the careful way.
        self._symbol_field = "sym" if cluster == EVERY_CLUSTER else CLUSTERS[cluster].main.symbol_field
        self._headers = _header_decoder(self._symbol_field, _KnownChannel)
        self._headers_of_any = _header_decoder(self._symbol_field, str)

    def decode(self, frames: Sequence[bytes]) -> Events:
        """Give the events, statuses and rejects of `frames`, each kind in the order of arrival."""
        events = Events()
        bodies = events.bodies
        headers: list[Any] = []
        decode_headers = self._headers
        is_plain = _is_plain(b"".join(frames))
        for frame in frames:
            try:
                try:
                    found = decode_headers(frame)
                except msgspec.ValidationError:
                    found = self._headers_of_any(frame)
                if is_plain:
                    cut = frame[2:-1].split(b"{")
                    cut[-1] += b","
                if not is_plain or len(cut) != len(found):
                    cut = _cut(frame)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._add(headers, events)
                headers = []
                self._decode_carefully(frame, events)
                continue
            headers += found
            bodies += cut
        self._add(headers, events)
        kinds = set(events.channels)
        if "status" in kinds or "" in kinds:
            _set_apart(events)
            kinds = set(events.channels)
        # A batch has few channels, so counting each is cheaper than looking up every event.
        events.counts = {kind: events.channels.count(kind) for kind in kinds}
        events.has_line_breaks = not is_plain
        return events

    def _add(self, headers: list[Any], events: Events) -> None:
        """Append what these headers say, whose bodies are the last of `events`, to the other columns."""
        if not headers:
            return
        symbols = [header.symbol for header in headers]
        times_ms = [header.ts_ms for header in headers]
        distinct = set(times_ms)
        if not all(symbols) or min(distinct) < _MS_MIN or max(distinct) >= _MS_END:
            self._complete(headers, events.bodies[len(events.symbols) :], symbols, times_ms)
            distinct = set(times_ms)
        events.channels += [header.channel for header in headers]
        events.symbols += symbols
        events.times_ms += times_ms
        events.distinct_times_ms |= distinct

    def _complete(
        self, headers: list[Any], bodies: list[bytes], symbols: list[str], times_ms: list[int]
    ) -> None:
        """Fill in symbols and times from wherever these channels keep them."""
        for place, header in enumerate(headers):
            if header.symbol and _MS_MIN <= header.ts_ms < _MS_END:
                continue
            raw = whole(bodies[place])
            if header.symbol and not header.ts_ms and header.channel in AGGREGATE_CHANNELS:
                try:
                    end_ms = _decode_window(raw).e
                except msgspec.MsgspecError:
                    end_ms = 0
                if _MS_MIN <= end_ms < _MS_END:
                    times_ms[place] = end_ms
                    continue
            loose = _decode_loose(raw)
            symbols[place] = self._symbol(header.channel, loose)
            times_ms[place] = _time_ms(header.channel, loose)

    def _symbol(self, channel: str, loose: Any) -> str:
        row = CHANNELS.get(channel)
        own = () if row is None else (row.symbol_field,)
        # The cluster's field counts first, as it does on the fast way.
        texts = (_text(getattr(loose, field)) for field in (self._symbol_field, *own, *_SYMBOL_FIELDS))
        return next(filter(None, texts), "")

    def _decode_carefully(self, frame: bytes, events: Events) -> None:
        """Read a frame that the fast way refused, element by element."""
        if not frame.strip(_WHITESPACE).startswith(b"["):
            events.rejects.append(Reject("the frame is not a JSON array", frame))
            return
        elements = list(split_elements(frame))
        if b"" in elements:
            # A comma or bracket too many: nothing of the frame shall be missing from the reject.
            events.rejects.append(Reject("the frame is not JSON", frame))
        for element in filter(None, elements):
            problem = self._decode_element(element, events)
            if problem:
                self._salvage(element, problem, events)

    def _decode_element(self, element: bytes, events: Events) -> str:
        """Add one element to `events`, or say why it is no event."""
        try:
            element.decode()
            _decode_raw(element)
            if not element.startswith(b"{"):
                return "the element is not a JSON object"
            loose = _decode_loose(element)
        except UnicodeDecodeError:
            return "the element is not UTF-8"
        except (msgspec.MsgspecError, RecursionError) as error:
            return f"the element is not JSON: {error}"
        channel = _text(loose.ev)
        if not channel:
            return _NO_CHANNEL
        events.add(Header(channel, self._symbol(channel, loose), _time_ms(channel, loose)), body_of(element))
        return ""

    def _salvage(self, element: bytes, problem: str, events: Events) -> None:
        """Keep an element that is no event; good ones that its missing quote or bracket had swallowed are read.

        The rest is cut at each comma before an object.
        """
        bad_from = 0
        begin = 0
        for end, following in [
            *((cut.start(), cut.end()) for cut in _NEXT_OBJECT.finditer(element)),
            (len(element), 0),
        ]:
            part = element[begin:end].rstrip(_WHITESPACE)
            if len(part) < len(element) and not self._decode_element(part, events):
                if bad_from < begin:
                    events.rejects.append(Reject(problem, element[bad_from:begin].rstrip(b", \t\r\n")))
                bad_from = following or end
            begin = following
        if bad_from < len(element):
            events.rejects.append(Reject(problem, element[bad_from:]))


_KnownChannel: Final[Any] = Literal[tuple(sorted({*CHANNELS, "status"}))]
"""A known channel's name is not made anew for each event: nothing to allocate, its hash is there already."""


def _header_decoder(symbol_field: str, channel_type: Any) -> Callable[[bytes], list[Any]]:
    header = msgspec.defstruct(
        "ClusterHeader",
        [("channel", channel_type), ("symbol", str, ""), ("ts_ms", int, 0)],
        rename={"channel": "ev", "symbol": symbol_field, "ts_ms": "t"},
        gc=False,
    )
    decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[header]).decode  # type: ignore[valid-type]
    return decode


_NO_CHANNEL: Final = "the element names no channel (`ev`)"
_WHITESPACE: Final = b" \t\r\n"
_decode_window: Callable[[bytes], _Window] = msgspec.json.Decoder(_Window).decode
_decode_raws: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode
_decode_raw: Callable[[bytes], Raw] = msgspec.json.Decoder(Raw).decode
_loose_fields: Final = dict.fromkeys(
    (
        *("ev", "status", "message"),
        *_SYMBOL_FIELDS,
        *_TIME_FIELDS,
        *(field for channel in CHANNELS.values() for field in (channel.symbol_field, *channel.time_fields)),
    )
)
_decode_loose: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(
    msgspec.defstruct("LooseHeader", [(field, Raw, Raw()) for field in _loose_fields])
).decode
"""Reads every field that any channel keeps symbol or time in, undecoded, so that no odd value costs the event."""
_decode_any: Callable[[bytes | Raw], Any] = msgspec.json.Decoder().decode


def _is_plain(data: bytes) -> bool:
    """Tell whether frames are ASCII without white space, as the exchange's are.

    Where an array of objects then has as many opening braces as objects, each of these opens an object, and none is
    part of a string or of something nested; and before each but the first is `},`, the end of the object before.
    """
    return (
        data.isascii() and b" " not in data and b"\n" not in data and b"\r" not in data and b"\t" not in data
    )


def _cut(frame: bytes) -> list[bytes]:
    """Cut a frame that is known to be an array of objects into the bodies of these."""
    # msgspec does not look inside the strings of what it skips.
    frame.decode()
    return [body_of(bytes(raw)) for raw in _decode_raws(frame)]


def body_of(raw: bytes) -> bytes:
    """Give what stands in an array behind an object's opening brace: the rest of its bytes, and a comma."""
    return raw[1:] + b","


def whole(body: bytes) -> bytes:
    """Give the object that a body is of."""
    return b"{" + body[:-1]


def array_of(bodies: Sequence[bytes]) -> bytes:
    """Give an array of the objects that these bodies are of."""
    return b"[{%b]" % b"{".join(bodies)[:-1] if bodies else b"[]"


def _set_apart(events: Events) -> None:
    """Move statuses, and elements whose `ev` is empty, out of the columns."""
    rows = list(zip(events.headers(), events.bodies, strict=True))
    events.channels, events.symbols, events.times_ms, events.bodies = [], [], [], []
    events.distinct_times_ms.clear()
    for header, body in rows:
        if header.channel == "status":
            events.statuses.append(_status(whole(body)))
        elif not header.channel:
            events.rejects.append(Reject(_NO_CHANNEL, whole(body)))
        else:
            events.add(header, body)


def _status(raw: bytes) -> Status:
    loose = _decode_loose(raw)
    return Status(_text(loose.status), _text(loose.message))


def statuses_in(frame: bytes) -> list[Status]:
    """Give the statuses of one frame without decoding its events; cheap for a frame that has none."""
    if b"status" not in frame:
        return []
    found = []
    for element in split_elements(frame):
        try:
            loose = _decode_loose(element)
        except (msgspec.MsgspecError, RecursionError):
            continue
        if _text(loose.ev) == "status":
            found.append(Status(_text(loose.status), _text(loose.message)))
    return found


def is_status_only(frame: bytes) -> bool:
    """Tell whether a frame holds statuses and nothing else."""
    statuses = statuses_in(frame)
    return bool(statuses) and len(statuses) == sum(1 for _ in split_elements(frame))


def _text(raw: Raw) -> str:
    """Give the string that `raw` is, `""` for anything else."""
    encoded = bytes(raw)
    if not encoded.startswith(b'"'):
        return ""
    try:
        text = _decode_any(encoded)
    except msgspec.MsgspecError:
        return ""
    return text if isinstance(text, str) else ""


def _time_ms(channel: str, loose: Any) -> int:
    row = CHANNELS.get(channel)
    for field in row.time_fields if row is not None else _TIME_FIELDS:
        raw = getattr(loose, field)
        # Some numbers arrive as strings; what is no number at all is no time.
        text = _text(raw) or bytes(raw)
        try:
            number = int(text) if len(text) < 32 else 0
        except ValueError:
            try:
                number = to_ms(float(text)) if len(text) < 64 else 0
            except ValueError:
                number = 0
        if number > 0:
            return to_ms(number)
    return 0


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)
_NEXT_OBJECT: Final = re.compile(rb",\s*(?=\{)")


def split_elements(frame: bytes) -> Iterator[bytes]:
    """Yield the elements of a JSON array by its brackets, commas and strings alone, so that bad ones do not matter.

    An element keeps its bytes, less the whitespace around it. A closing bracket closes what was left open inside its
    pair; where the array is never closed, the rest of the frame is one element.
    """
    body = frame.strip(_WHITESPACE)
    if not body.startswith(b"["):
        yield frame
        return
    opened = b""
    begin = 1
    for token in _TOKEN.finditer(body):
        mark = token.group()
        if mark in _CLOSES:
            opened += mark
        elif mark in _OPENED_BY:
            place = opened.rfind(_OPENED_BY[mark])
            if place == 0:
                last = body[begin : token.start()].strip(_WHITESPACE)
                if last or begin > 1:
                    yield last
                after = body[token.end() :].strip(_WHITESPACE)
                if after:
                    yield after
                return
            if place > 0:
                opened = opened[:place]
        elif mark == b"," and len(opened) == 1:
            yield body[begin : token.start()].strip(_WHITESPACE)
            begin = token.end()
    yield body[begin:].strip(_WHITESPACE)


_CLOSES: Final = {b"[": b"]", b"{": b"}"}
_OPENED_BY: Final = {b"]": b"[", b"}": b"{"}
