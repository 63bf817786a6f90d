"""Frames to rows: for each JSON object of a frame its channel, symbol, time and exact bytes.

Where each channel keeps symbol and time is a row of `channels`. Field names mean different things on different clusters:
`p` is a price on most, the currency pair on forex.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from recorder import native
from recorder.polygon.careful import (
    MS_END,
    MS_MIN,
    NO_CHANNEL,
    decode_loose,
    read_carefully,
    status_of,
    symbol_of,
    time_ms_of,
)
from recorder.polygon.channels import AGGREGATE_CHANNELS, CHANNELS, WINDOW
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.rows import Reject, Rows, ScannedRows, fragment_of, to_object

EVERY_CLUSTER: Final = "all"
"""Stands for the cluster of a connection that carries the events of any."""


class _Window(msgspec.Struct):
    """The end of an aggregate's window, where it is an integer as it should be."""

    e: int = 0


class Decoder:
    """Turns the frames of one cluster into rows. It never raises, whatever the frames hold."""

    def __init__(self, cluster: str) -> None:
        """`cluster` is one of `clusters.CLUSTERS`, or `EVERY_CLUSTER`; any other raises KeyError."""
        self.cluster = cluster
        # The busiest channel is read fast; channels that keep their symbol elsewhere take the careful way.
        self._symbol_field = "sym" if cluster == EVERY_CLUSTER else CLUSTERS[cluster].main.symbol_field
        code = native.module()
        self._scanner = code.Scanner(_SCANNED, self._symbol_field) if code is not None else None
        self._headers = _header_decoder(self._symbol_field, _KnownChannel)
        self._headers_of_any = _header_decoder(self._symbol_field, str)

    def decode(self, frames: Sequence[bytes]) -> Rows:
        """Return the events, statuses and rejects of `frames`, each kind in the order of arrival."""
        # Native code takes plain frames only: all of them, or none.
        block = self._scanner.scan(frames) if self._scanner is not None else None
        return self.decode_any(frames) if block is None else ScannedRows(self.cluster, block)

    def decode_any(self, frames: Sequence[bytes]) -> Rows:
        """Do the same in Python, which knows every kind of frame; what native code says is held to it."""
        rows = Rows(self.cluster)
        fragments = rows.fragments
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
                # More braces than objects: one of them is nested or stands in a string, so the cut was wrong.
                if not is_plain or len(cut) != len(found):
                    cut = _cut(frame)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                # The headers so far belong to the fragments so far, which the careful way now appends to.
                self._add(headers, rows)
                headers = []
                read_carefully(frame, self._symbol_field, rows)
                continue
            headers += found
            fragments += cut
        self._add(headers, rows)
        rows.count()
        if "status" in rows.counts or "" in rows.counts:
            _set_apart(rows)
            rows.count()
        rows.has_line_breaks = not is_plain
        return rows

    def _add(self, headers: list[Any], rows: Rows) -> None:
        """Append to the other columns what these headers say; their fragments are the last of `rows`."""
        if not headers:
            return
        symbols = [header.symbol for header in headers]
        times_ms = [header.ts_ms for header in headers]
        distinct = set(times_ms)
        if not all(symbols) or min(distinct) < MS_MIN or max(distinct) >= MS_END:
            self._complete(headers, rows.fragments[len(rows.symbols) :], symbols, times_ms)
            distinct = set(times_ms)
        rows.channels += [header.channel for header in headers]
        rows.symbols += symbols
        rows.times_ms += times_ms
        rows.distinct_times_ms |= distinct

    def _complete(
        self, headers: list[Any], fragments: list[bytes], symbols: list[str], times_ms: list[int]
    ) -> None:
        """Fill in symbols and times from wherever these channels keep them."""
        for place, header in enumerate(headers):
            if header.symbol and MS_MIN <= header.ts_ms < MS_END:
                continue
            event = to_object(fragments[place])
            if header.symbol and not header.ts_ms and header.channel in AGGREGATE_CHANNELS:
                try:
                    end_ms = _decode_window(event).e
                except msgspec.MsgspecError:
                    end_ms = 0
                if MS_MIN <= end_ms < MS_END:
                    times_ms[place] = end_ms
                    continue
            loose = decode_loose(event)
            symbols[place] = symbol_of(header.channel, loose, self._symbol_field)
            times_ms[place] = time_ms_of(header.channel, loose)


_SCANNED: Final = tuple(
    (channel.code, channel.symbol_field, channel.time_fields == WINDOW)
    for channel in CHANNELS.values()
    if channel.time_fields in (("t",), WINDOW)
)
"""The channels of plain frames: code, where it keeps its symbol, whether the end of a window may be its time."""
_KnownChannel: Final[Any] = Literal[tuple(sorted({*CHANNELS, "status"}))]
"""The name of a known channel is one shared object: nothing is allocated for it, and its hash is there already."""


def _header_decoder(symbol_field: str, channel_type: Any) -> Callable[[bytes], list[Any]]:
    header = msgspec.defstruct(
        "ClusterHeader",
        [("channel", channel_type), ("symbol", str, ""), ("ts_ms", int, 0)],
        rename={"channel": "ev", "symbol": symbol_field, "ts_ms": "t"},
        gc=False,
    )
    decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list[header]).decode  # type: ignore[valid-type]
    return decode


_decode_window: Callable[[bytes], _Window] = msgspec.json.Decoder(_Window).decode
_decode_raws: Callable[[bytes], list[Raw]] = msgspec.json.Decoder(list[Raw]).decode


def _is_plain(data: bytes) -> bool:
    """Whether frames are ASCII without white space, as the exchange's are.

    Where an array of objects then has as many opening braces as objects, each of these opens an object, and none is
    part of a string or of something nested. Before each but the first is `},`, the end of the object before.
    """
    return (
        data.isascii() and b" " not in data and b"\n" not in data and b"\r" not in data and b"\t" not in data
    )


def _cut(frame: bytes) -> list[bytes]:
    """Cut a frame that is known to be an array of objects into the fragments of these."""
    # msgspec does not look inside the strings of what it skips.
    frame.decode()
    return [fragment_of(bytes(raw)) for raw in _decode_raws(frame)]


def _set_apart(rows: Rows) -> None:
    """Move statuses, and elements whose `ev` is empty, out of the columns."""
    found = list(zip(rows.headers(), rows.fragments, strict=True))
    rows.channels, rows.symbols, rows.times_ms, rows.fragments = [], [], [], []
    rows.distinct_times_ms.clear()
    for header, fragment in found:
        if header.channel == "status":
            rows.statuses.append(status_of(to_object(fragment)))
        elif not header.channel:
            rows.rejects.append(Reject(NO_CHANNEL, to_object(fragment)))
        else:
            rows.add(header, fragment)
