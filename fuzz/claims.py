"""What must hold for any bytes whatever; each claim raises AssertionError where it does not."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from recorder.archive.cutting import Records, cut, decoded, events_of
from recorder.archive.reader import open_lines
from recorder.archive.verify import verify
from recorder.bars.trades import UNREADABLE_NUMBER, read_numbers
from recorder.errors import ArchiveError
from recorder.polygon import control
from recorder.polygon.channels import CHANNELS
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.control import acknowledgement
from recorder.polygon.events import Decoder
from recorder.polygon.manner import Manner
from recorder.polygon.rows import Status
from recorder.polygon.server import Close, Send, ServerSession, Subscribe, Unsubscribe, Verdict
from recorder.records import Formatter

TOPICS_MAX: Final = 8


@cache
def decoder_of(cluster: str) -> Decoder:
    """Return the decoder; `decode_any` is its way in Python."""
    return Decoder(cluster)


def decoding(data: bytes) -> None:
    """Any frame is read without raising; where it is JSON, exactly as an element by element reading says.

    The first byte chooses the cluster, 0xFF cuts the rest into frames, since one batch may hold several.
    """
    if not data:
        return
    decoder = decoder_of(list(CLUSTERS)[data[0] % len(CLUSTERS)])
    frames = data[1:].split(b"\xff\x00\xff")
    events = decoder.decode(frames)
    columns = (events.channels, events.symbols, events.times_ms, events.fragments)
    assert len({len(column) for column in columns}) == 1, "columns of one length"
    assert sum(events.counts.values()) == len(events)
    assert all(type(ms) is int and ms >= 0 for ms in events.times_ms)
    assert all(events.channels)
    alone = [decoder.decode([frame]) for frame in frames]
    assert events.objects == [raw for one in alone for raw in one.objects], (
        "a frame is read the same beside others"
    )
    assert list(events.headers()) == [header for one in alone for header in one.headers()]
    for frame, one in zip(frames, alone, strict=True):
        expected = _reference(frame)
        if expected is not None:
            objects = [json.loads(raw) for raw in one.objects]
            assert objects == expected, (frame, objects, expected)


def scanner_rows() -> tuple[tuple[str, str, bool], ...]:
    """Return every channel that the scanner in C can read; one with another field of its time is for Python."""
    return tuple(
        (row.code, row.symbol_field, "s" in row.time_fields)
        for row in CHANNELS.values()
        if row.time_fields in (("t",), ("t", "e", "s"))
    )


@cache
def scanner_of(cluster: str) -> Any:
    """Return the scanner in C for a cluster."""
    module = importlib.import_module("recorder._native")
    return module.Scanner(scanner_rows(), CLUSTERS[cluster].main.symbol_field)


def scanning(data: bytes) -> None:
    """Frames that the scanner in C takes are read by Python without a reject, to the same columns and lines.

    The first byte chooses the cluster, and with it where the numbers of the lines begin.
    """
    if not data:
        return
    cluster = list(CLUSTERS)[data[0] % len(CLUSTERS)]
    frames = data[1:].split(b"\xff\x00\xff")
    block = scanner_of(cluster).scan(frames)
    if block is None:
        return
    rows = decoder_of(cluster).decode_any(frames)
    assert not rows.rejects
    assert not rows.statuses
    assert len(block) == len(rows)
    assert block.channels == rows.channels
    assert block.symbols == rows.symbols
    assert block.times_ms == rows.times_ms
    assert block.fragments == rows.fragments
    assert block.counts == rows.counts
    assert block.span_ms == (min(rows.times_ms), max(rows.times_ms))
    first = 10 ** (data[0] % 5) - 1
    rows.seqs = range(first, first + len(rows))
    formatter = Formatter(cluster, "host", "1.0")
    assert block.format(1, first, formatter._feed, formatter._tail) == formatter.format(1, rows)
    columns = block.trades("T")
    if columns is not None:
        _, _, prices, price_scales, sizes, size_scales, conditions = columns
        read = read_numbers(
            [fragment for fragment, code in zip(rows.fragments, rows.channels, strict=True) if code == "T"]
        )
        found = zip(
            zip(prices, price_scales, strict=True),
            zip(sizes, size_scales, strict=True),
            [tuple(map(int, filter(None, text.split(",")))) for text in conditions],
            strict=True,
        )
        for (price, size, codes), known in zip(found, zip(*read, strict=True), strict=True):
            assert price == known[0] or known[0] == UNREADABLE_NUMBER
            assert size == known[1] or known[1] == UNREADABLE_NUMBER
            assert codes == (known[2] or ())


def _reference(frame: bytes) -> list[Any] | None:
    """Return the events of a frame that is wholly JSON, by the standard library; None where it is not, or is unusual."""
    try:
        text = frame.decode()
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or _depth(found) > 100:
        return None
    if any(ord(letter) < 0x20 and letter not in "\t\r\n" for letter in text) or "\\u" in text.lower():
        return None  # surrogates are read differently by every library
    elements = [element for element in found if isinstance(element, dict)]
    return [element for element in elements if _is_event(element)]


def _is_event(element: dict[str, Any]) -> bool:
    channel = element.get("ev")
    return isinstance(channel, str) and bool(channel) and channel != "status"


def _refuse(name: str) -> None:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key that comes twice: which one counts is nobody's promise."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            part
            for one in level
            for part in (one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
        ]
    return depth


class _Policy:
    """Takes every topic that has a dot."""

    topics_max = TOPICS_MAX

    def __init__(self, everything: str, repeats_are_acknowledged: bool) -> None:
        self.everything = everything
        self.repeats_are_acknowledged = repeats_are_acknowledged

    def refuse_key(self, token: str) -> Status | None:
        return None if token == "k" else control.AUTH_FAILED  # noqa: S105

    def check(self, topic: str) -> Verdict:
        held = "." in topic
        return Verdict(held, acknowledgement("subscribed", topic) if held else Status("error", topic))

    def amend_refusal(self, topic: str) -> str:
        return ""

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        return []


def requesting(data: bytes) -> None:
    """Any messages of a client are answered without raising; limits hold, and actions tell what is held."""
    if not data:
        return
    session = ServerSession(_Policy("*" if data[0] & 1 else "", bool(data[0] & 2)))
    held: set[str] = set()
    closed = False
    messages = data[1:].split(b"\xff")
    for place, message in enumerate(messages):
        # What arrives as text has been decoded by then.
        given: bytes | str = message if place % 2 else message.decode(errors="replace")
        was_authenticated = session.authenticated
        actions = session.receive(given)
        assert not (closed and actions), "after a close nothing is answered"
        for action in actions:
            if isinstance(action, Send):
                json.loads(action.frame)
            elif isinstance(action, Close):
                assert len(action.reason.encode()) <= 123
                closed = True
            elif isinstance(action, Subscribe):
                assert was_authenticated
                assert not held & set(action.topics), "gained twice"
                held |= set(action.topics)
            elif isinstance(action, Unsubscribe):
                assert held >= set(action.topics), "lost without being held"
                held -= set(action.topics)
        assert held == set(session.topics)
        assert len(held) <= TOPICS_MAX + 1, "one more where everything is a topic of its own"


def cutting(data: bytes) -> None:
    """Any bytes are cut into records without an error that is not ours; what native code takes, msgspec reads the same."""
    found = importlib.import_module("recorder._native").cut(data)
    try:
        wanted = decoded(data, "a.ndjson")
    except ArchiveError:
        assert found is None, data
        return
    if found is not None:
        assert columns_of(found) == columns_of(wanted), data


def tabulating(data: bytes) -> None:
    """Of any records the table that native code makes is that of records that are decoded."""
    from recorder.library.arrow import table  # it needs pyarrow, which the other claims do without

    types = [*CHANNELS]
    try:
        wanted = table([("run", decoded(data, "a.ndjson"))], types)
    except ArchiveError:
        return
    made = table([("run", cut(data, "a.ndjson"))], types)
    made.validate(full=True)
    assert repr(made.to_pylist()) == repr(wanted.to_pylist()), data


def columns_of(records: Records) -> list[Any]:
    """Return everything that records say of themselves."""
    count = len(records)
    return [
        count,
        count and records.first,
        count and records.last,
        records.names(),
        records.reads(),
        records.payloads(0, count),
        records.payload_lines(),
        records.payload_bytes(0, count),
        records.frame(0, count),
        events_of(records),
    ]


_FILES: Final = (
    "a.ndjson",
    "a.manifest.ndjson",
    "a.20261121T050000000Z.ndjson.gz",
    "a.20261121T060000000Z.ndjson.zst",
)


def reading(data: bytes) -> None:
    """Any files in an archive's folder are read and verified without an error that is not ours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in zip(_FILES, data.split(b"\xff\xff\xff\xff"), strict=False):
            (folder / file).write_bytes(content)
        for path in folder.iterdir():
            try:
                for line in open_lines(path):
                    assert line.endswith(b"\n")
            except ArchiveError:
                continue
        try:
            verify([folder])
        except ArchiveError:
            return


def seeds_of(claim: str) -> Iterator[bytes]:
    """Yield shapes to begin with, made here."""
    event = b'{"ev":"T","sym":"AAPL","p":1.5,"s":1e2,"t":1790000000000,"x":[1,{"y":"},{"}]}'
    status = b'{"ev":"status","status":"success","message":"subscribed to: T.*"}'
    if claim == "scanning":
        for number, cluster in enumerate(CLUSTERS.values()):
            events = [
                b'{"ev":"%b","%b":"A","t":%d,"e":1790000000001,"p":1.5,"s":1e2,"ds":"1","c":[1,2]}'
                % (code.encode(), CHANNELS[code].symbol_field.encode(), 1_790_000_000_000)
                for code in cluster.channels
            ]
            yield bytes((number,)) + b"\xff\x00\xff".join(b"[" + each + b"," + each + b"]" for each in events)
            yield bytes((number,)) + b"[" + b",".join(events) + b"]"
    elif claim == "decoding":
        for cluster in range(len(CLUSTERS)):
            yield bytes((cluster,)) + b"[" + event + b"," + status + b"]"
            yield (
                bytes((cluster,))
                + b'[{"ev":"XT","pair":"X-Y","t":"1790000000000"} , {"ev":"A","sym":"\xc3\xa9","e":1}]'
            )
            yield bytes((cluster,)) + b"[" + event + b",NaN," + event + b"]\xff\x00\xff[" + event + b"]"
    elif claim == "cutting":
        events = event + b',{"ev":"Q","sym":"","t":1,"s":[-0.5e+7,null,true,false]}'
        for tail in (b"", b',{"ev":"NEW","sym":"\xc3\xa9"}', b', {"ev":"T","sym":"\\u0041"}'):
            rows = decoder_of("stocks").decode([b"[" + events + tail + b"]"])
            rows.seqs = range(9, 9 + len(rows))
            yield Formatter("stocks", "host", "1.0.0").format(1_790_000_000_000, rows)
    elif claim == "tabulating":
        line = (
            b'{"ingest_ts":1,"type":"%b","symbol":"A","topic":"A","feed":"stocks","ts":1,"payload":{"ev":"%b",%b},'
            b'"hostname":"h","app_version":"1","schema_version":1,"seq":%d}\n'
        )
        for fields in (
            b'"p":152.90,"s":-1.25e+1,"i":"1","c":[12,37],"x":4,"t":1790000000000,"q":3.0,"trft":1734103628,"o":true',
            b'"p":"1.5","s":1.0834500000000001,"i":7,"c":"9","x":9223372036854775808,"t":-1,"pt":"1764086430905642800"',
            b'"p":1e400,"c":[1,[2]],"x":null,"t":1e12,"o":false,"otc":true,"bids":[[1.5,2],[]],"v":0.0,"z":-0.0',
            b'"b":[[33712.7,0.18635],["1",2]],"a":[],"p":{"p":1},"c":[],"bids":[[1,2.5],[3,1e-5]],"i":"","x":"4"',
        ):
            yield b"".join(
                line % (code, code, fields, seq) for seq, code in enumerate((b"T", b"XL2", b"A", b"T"), 1)
            )
    elif claim == "requesting":
        auth, subscribe = b'{"action":"auth","params":"k"}', b'{"action":"subscribe","params":"T.A,Q.*"}'
        for first in range(4):
            yield b"%c%b\xff%b\xff%b" % (first, auth, subscribe, subscribe.replace(b"sub", b"unsub"))
            yield (
                b'%c{"action":"auth","token":"k"}\xff{"action":"subscribe"}\xff{"action":"unsubscribe"}'
                % first
            )
            yield b'%c%b\xff{"action":"subscribe","bars":["100Ms.A"],"since":1}' % (first, auth)
    else:
        line = (
            b'{"ingest_ts":1,"type":"T","symbol":"A","topic":"T:A","feed":"stocks","ts":1,"payload":{"ev":"T"},'
            b'"hostname":"h","app_version":"1","schema_version":1,"seq":%d}\n'
        )
        run = b'{"kind":"run_started","run_id":"r","started_at":"2026-11-21T05:00:00.000Z"}\n'
        yield line % 1 + line % 2 + b"\xff\xff\xff\xff" + run
        yield line % 1 + b"half" + b"\xff\xff\xff\xff" + run + b'{"kind":"drop","run_id":"r","first_seq":2}\n'


CLAIMS: Final[dict[str, Callable[[bytes], None]]] = {
    "decoding": decoding,
    "scanning": scanning,
    "cutting": cutting,
    "tabulating": tabulating,
    "requesting": requesting,
    "reading": reading,
}
