"""Frames read element by element, where the fast way of `events` refuses them: bad elements never cost their neighbours.

A frame may hold bytes that are not UTF-8, a quote or a bracket too few, or elements that are not objects. What can be
read is an event all the same. Everything else is kept as a reject, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from recorder.polygon.channels import CHANNELS
from recorder.polygon.rows import Header, Reject, Rows, Status, fragment_of

MS_MIN: Final = 100_000_000_000
MS_END: Final = 100_000_000_000_000
"""Numbers from `MS_MIN` to below `MS_END` are times in milliseconds."""

NO_CHANNEL: Final = "the element names no channel (`ev`)"
_WHITESPACE: Final = b" \t\r\n"
_U_AT: Final = b"status".index(b"u")


SYMBOL_FIELDS: Final = ("sym", "pair", "T")
"""Where a channel that has no row may keep its symbol."""
TIME_FIELDS: Final = ("t", "e", "s")
"""Where it may keep its time."""
_FIELDS: Final = dict.fromkeys(
    (
        *("ev", "status", "message"),
        *SYMBOL_FIELDS,
        *TIME_FIELDS,
        *(field for channel in CHANNELS.values() for field in (channel.symbol_field, *channel.time_fields)),
    )
)
decode_loose: Callable[[bytes | Raw], Any] = msgspec.json.Decoder(
    msgspec.defstruct("LooseHeader", [(field, Raw, Raw()) for field in _FIELDS])
).decode
"""Reads every field that any channel keeps symbol or time in, undecoded, so that no odd value costs the event."""
_decode_raw: Callable[[bytes], Raw] = msgspec.json.Decoder(Raw).decode
_decode_any: Callable[[bytes | Raw], Any] = msgspec.json.Decoder().decode


def to_ms(time: float) -> int:
    """Convert a vendor time to milliseconds, its unit known by its magnitude; what is not positive becomes 0.

    Below 1e11 it is seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds.
    """
    if not 0 < time < float("inf"):
        return 0
    if time < MS_MIN:
        return int(time * 1000)
    if time < MS_END:
        return int(time)
    return int(time) // 1000 if time < 100_000_000_000_000_000 else int(time) // 1_000_000


def symbol_of(channel: str, loose: Any, cluster_field: str) -> str:
    """Return the symbol, from the field of the cluster, of the channel, or else from wherever any channel keeps it."""
    row = CHANNELS.get(channel)
    own = () if row is None else (row.symbol_field,)
    # The cluster's field counts first, as it does on the fast way.
    texts = (_text(getattr(loose, field)) for field in (cluster_field, *own, *SYMBOL_FIELDS))
    return next(filter(None, texts), "")


def time_ms_of(channel: str, loose: Any) -> int:
    """Return the time of an event as Unix milliseconds; 0 where it has none."""
    row = CHANNELS.get(channel)
    for field in row.time_fields if row is not None else TIME_FIELDS:
        raw = getattr(loose, field)
        # Some numbers arrive as strings, and what is not a number at all is not a time either. The lengths bound
        # what `int` and `float` are asked to read: digits beyond them could keep the loop busy.
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


def status_of(event: bytes) -> Status:
    """Return the status that an element with `ev` `status` holds."""
    loose = decode_loose(event)
    return Status(_text(loose.status), _text(loose.message))


def names_status(data: bytes) -> bool:
    """Whether the word `status` stands anywhere in `data`.

    One byte is found a hundred times as fast as a word, and `u` is what events of the exchange hardly ever hold.
    """
    at = data.find(b"u", _U_AT)
    while at >= 0:
        if data.startswith(b"status", at - _U_AT):
            return True
        at = data.find(b"u", at + 1)
    return False


def statuses_in(frame: bytes) -> list[Status]:
    """Return the statuses of one frame without decoding its events; cheap for a frame that has none."""
    if not names_status(frame):
        return []
    found = []
    for element in split_elements(frame):
        try:
            loose = decode_loose(element)
        except (msgspec.MsgspecError, RecursionError):
            continue
        if _text(loose.ev) == "status":
            found.append(Status(_text(loose.status), _text(loose.message)))
    return found


def is_status_only(frame: bytes) -> bool:
    """Whether a frame holds statuses and nothing else."""
    statuses = statuses_in(frame)
    return bool(statuses) and len(statuses) == sum(1 for _ in split_elements(frame))


def read_carefully(frame: bytes, symbol_field: str, rows: Rows) -> None:
    """Add to `rows` what can be read of a frame, and its rejects."""
    if not frame.strip(_WHITESPACE).startswith(b"["):
        rows.rejects.append(Reject("the frame is not a JSON array", frame))
        return
    elements = list(split_elements(frame))
    if b"" in elements:
        # A comma or bracket too many. The whole frame is kept as the reject, since no element shows the fault.
        rows.rejects.append(Reject("the frame is not JSON", frame))
    for element in filter(None, elements):
        problem = _read_element(element, symbol_field, rows)
        if problem:
            _salvage(element, problem, symbol_field, rows)


def _read_element(element: bytes, symbol_field: str, rows: Rows) -> str:
    """Add one element to `rows`, or return why it is not an event."""
    try:
        element.decode()
        _decode_raw(element)
        if not element.startswith(b"{"):
            return "the element is not a JSON object"
        loose = decode_loose(element)
    except UnicodeDecodeError:
        return "the element is not UTF-8"
    except (msgspec.MsgspecError, RecursionError) as error:
        return f"the element is not JSON: {error}"
    channel = _text(loose.ev)
    if not channel:
        return NO_CHANNEL
    header = Header(channel, symbol_of(channel, loose, symbol_field), time_ms_of(channel, loose))
    rows.add(header, fragment_of(element))
    return ""


def _salvage(element: bytes, problem: str, symbol_field: str, rows: Rows) -> None:
    """Keep an element that is not an event as a reject, and read the good ones that it has swallowed.

    A missing quote or bracket makes one element of several, so the element is cut at each comma before an object.
    """
    bad_from = 0
    begin = 0
    for end, following in [
        *((cut.start(), cut.end()) for cut in _NEXT_OBJECT.finditer(element)),
        (len(element), 0),
    ]:
        part = element[begin:end].rstrip(_WHITESPACE)
        if len(part) < len(element) and not _read_element(part, symbol_field, rows):
            if bad_from < begin:
                rows.rejects.append(Reject(problem, element[bad_from:begin].rstrip(b", \t\r\n")))
            bad_from = following or end
        begin = following
    if bad_from < len(element):
        rows.rejects.append(Reject(problem, element[bad_from:]))


def _text(raw: Raw) -> str:
    """Return the string that `raw` is, and `""` for anything else."""
    encoded = bytes(raw)
    if not encoded.startswith(b'"'):
        return ""
    try:
        text = _decode_any(encoded)
    except msgspec.MsgspecError:
        return ""
    return text if isinstance(text, str) else ""


_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"|["\[\]{},]', re.DOTALL)
_NEXT_OBJECT: Final = re.compile(rb",\s*(?=\{)")
_CLOSES: Final = {b"[": b"]", b"{": b"}"}
_OPENED_BY: Final = {b"]": b"[", b"}": b"{"}


def split_elements(frame: bytes) -> Iterator[bytes]:
    """Yield the elements of a JSON array, found by its brackets, commas and strings alone.

    Bad elements therefore do not matter. An element keeps its bytes, less the whitespace around it. A closing bracket
    closes what was left open inside its pair. Where the array is never closed, the rest of the frame is one element.
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
