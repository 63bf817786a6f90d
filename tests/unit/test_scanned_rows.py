"""Rows of native code: the same rows and lines as Python's, and no column that nobody asks for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import native
from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.checks.meter import Meter
from recorder.ledger import Ledger
from recorder.polygon.channels import CHANNELS
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows, ScannedRows
from recorder.polygon.topics import parse_pattern
from recorder.records import Formatter
from recorder.sinks.stage import Stage

if native.absent():
    pytest.skip("native code was not built", allow_module_level=True)

MS = 1_790_000_000_000
COLUMNS = ("channels", "symbols", "times_ms", "fragments", "distinct_times_ms")
FRAMES = [
    b'[{"ev":"T","sym":"A","p":1.50,"t":%d},{"ev":"Q","sym":"B","t":%d}]' % (MS + 7, MS),
    b'[{"ev":"AM","sym":"A","o":1,"s":%d,"e":%d}]' % (MS - 60_000, MS + 3),
]
ODD = b'[{"ev":"T","sym":"A", "t":%d}]' % MS


@pytest.fixture(autouse=True)
def _native() -> Iterator[None]:
    """Use native code here, whatever the other tests use."""
    before = native.module()
    native.choose(native.YES)
    yield
    native._Choice.module = before


def made(rows: Rows) -> list[str]:
    """Return the columns that somebody has asked for."""
    return [column for column in COLUMNS if _is_made(rows, column)]


def _is_made(rows: Rows, column: str) -> bool:
    try:
        getattr(Rows, column).__get__(rows)
    except AttributeError:
        return False
    return True


def numbered(rows: Rows, first: int) -> Rows:
    """Return rows that the stage has numbered."""
    rows.seqs = rows.positions = range(first, first + len(rows))
    return rows


def assert_same(one: Rows, other: Rows) -> None:
    """Both say the same of every event, and make the same lines."""
    assert len(one) == len(other)
    assert list(one.headers()) == list(other.headers())
    assert one.objects == other.objects
    assert one.counts == other.counts
    assert one.span_ms == other.span_ms
    assert one.distinct_times_ms == other.distinct_times_ms
    assert (one.rejects, one.statuses, one.has_line_breaks) == ([], [], False)
    for first in (1, 998):
        lines = [Formatter("50%", 'h"', "1").format(5, numbered(rows, first)) for rows in (one, other)]
        assert lines[0] == lines[1]


def test_plain_frames_are_scanned_and_others_are_read_by_python() -> None:
    """One odd frame leaves its whole read to Python, which comes to the same."""
    decoder = Decoder("stocks")
    scanned = decoder.decode(FRAMES)
    assert isinstance(scanned, ScannedRows)
    assert_same(scanned, decoder.decode_any(FRAMES))
    mixed = decoder.decode([*FRAMES, ODD])
    assert not isinstance(mixed, ScannedRows)
    assert list(mixed.headers())[:3] == list(scanned.headers())
    assert len(mixed) == 4


def test_without_native_code_python_reads_everything() -> None:
    """The choice counts where a decoder is made."""
    native.choose(native.NO)
    assert not isinstance(Decoder("stocks").decode(FRAMES), ScannedRows)


@st.composite
def plain_frames(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """Draw a cluster, and frames as the exchange writes them."""
    cluster = draw(st.sampled_from(list(CLUSTERS)))
    channels = [CHANNELS[code] for code in CLUSTERS[cluster].channels]
    frames = []
    for _ in range(draw(st.integers(1, 3))):
        events = []
        for channel in draw(st.lists(st.sampled_from(channels), min_size=1, max_size=5)):
            event: dict[str, object] = {"ev": channel.code}
            event[channel.symbol_field] = draw(st.sampled_from(["A", "BRK.B", "X:BTC-USD", "EUR/USD"]))
            event[draw(st.sampled_from(channel.time_fields))] = MS + draw(st.integers(0, 3))
            event["x"] = draw(st.sampled_from([1.5, [1, 2], {"y": "},{"}, None, "a b"]))
            events.append(event)
        frames.append(json.dumps(events, separators=(",", ":")).encode())
    return cluster, frames


@given(plain_frames())
def test_scanned_rows_are_those_of_python(found: tuple[str, list[bytes]]) -> None:
    """Of every channel of every cluster."""
    cluster, frames = found
    decoder = Decoder(cluster)
    rows = decoder.decode(frames)
    assert isinstance(rows, ScannedRows), frames
    assert_same(rows, decoder.decode_any(frames))


@given(plain_frames(), st.data())
def test_a_choice_of_scanned_rows_is_that_of_python(
    found: tuple[str, list[bytes]], data: st.DataObject
) -> None:
    """With the numbers that they have."""
    cluster, frames = found
    decoder = Decoder(cluster)
    both = [numbered(decoder.decode(frames), 7), numbered(decoder.decode_any(frames), 7)]
    size = len(both[0])
    kept: Sequence[bool] = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    one, other = (rows.where(kept) for rows in both)
    assert one.seqs == other.seqs
    assert one.positions == other.positions
    assert list(one.headers()) == list(other.headers())
    assert Formatter(cluster, "h", "1").format(5, one) == Formatter(cluster, "h", "1").format(5, other)


@given(plain_frames(), st.data(), st.integers(1, 2000))
def test_the_rows_of_some_channels_are_those_of_python(
    found: tuple[str, list[bytes]], data: st.DataObject, first: int
) -> None:
    """With their numbers, which have holes now: in columns, in lines, and chosen from once more."""
    cluster, frames = found
    decoder = Decoder(cluster)
    codes = st.sets(st.sampled_from(["none", *CLUSTERS[cluster].channels]))
    wanted, narrower = data.draw(codes), data.draw(codes)
    one, other = decoder.decode(frames), decoder.decode_any(frames)
    assert list(one.of_channels(wanted).seqs) == list(other.of_channels(wanted).seqs) == []
    one, other = numbered(one, first), numbered(other, first)
    for channels, is_scanned in ((wanted, True), (narrower, False)):
        one, other = one.of_channels(channels), other.of_channels(channels)
        assert isinstance(one, ScannedRows) is is_scanned
        assert Formatter(cluster, "h", "1").format(5, one) == Formatter(cluster, "h", "1").format(5, other)
        assert list(one.seqs) == list(other.seqs)
        assert list(one.positions) == list(other.positions)
        assert list(one.headers()) == list(other.headers())
        assert (one.objects, one.counts, one.span_ms) == (other.objects, other.counts, other.span_ms)


def test_numbers_that_are_too_large_and_what_holds_no_channels() -> None:
    """Are errors, and nothing is made."""
    rows = Decoder("stocks").decode(FRAMES)
    assert isinstance(rows, ScannedRows)
    part = rows.block.pick({"T", "AM"})
    assert part.numbers(2**64 - 3) == [2**64 - 3, 2**64 - 1]
    assert part.format(1, 2**64 - 4, b"1", b"").count(b"\n") == 2
    for refused in (lambda: part.numbers(2**64 - 2), lambda: part.format(1, 2**64 - 3, b"1", b"")):
        with pytest.raises(OverflowError):
            refused()
    with pytest.raises(TypeError):
        rows.block.pick(5)  # type: ignore[arg-type]
    assert part.pick({"AM"}).numbers(1) == [3]
    assert len(part.pick({"Q"})) == 0
    assert part.pick({"Q"}).numbers(1) == []


def test_a_column_is_made_once() -> None:
    """Whoever asks later gets the same."""
    rows = Decoder("stocks").decode(FRAMES)
    assert made(rows) == []
    assert rows.symbols is rows.symbols
    assert made(rows) == ["symbols"]
    with pytest.raises(AttributeError):
        rows.other  # noqa: B018


class Lines:
    """A sink that needs the lines, counts and numbers of each batch, as the archive does."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def accept(self, batch: Batch) -> None:
        rows = batch.recorded
        assert rows is not None
        assert rows.counts
        assert rows.seqs[-1]
        assert rows.span_ms[1] == batch.newest_event_ms
        self.lines.append(batch.lines)

    def session_changed(self, change: object) -> None:
        """Sessions have no lines."""


def published(selection: Selection) -> tuple[Rows, bytes]:
    """Publish one batch to a sink and a meter; return its rows and lines."""
    bus, sink, meter = Bus(), Lines(), Meter()
    bus.stage = Stage(selection, Ledger(), "h", "0")
    bus.attach(sink)
    bus.attach(meter)
    batch = Batch("stocks", MS * 1_000_000, FRAMES, Decoder("stocks"), read_ns=0)
    bus.publish(batch)
    assert batch.statuses == []
    assert batch.events_known == 3
    return batch.rows, sink.lines[0]


def test_recording_asks_for_no_column() -> None:
    """From the stage to the lines nothing is made for one event; a selection needs channels and symbols."""
    rows, lines = published(Selection([], 1))
    assert made(rows) == []
    assert lines.count(b"\n") == 3
    rows, lines = published(Selection([parse_pattern("T:*"), parse_pattern("AM:*")], 1))
    assert set(made(rows)) >= {"channels", "symbols"}
    assert [json.loads(line)["type"] for line in lines.splitlines()] == ["T", "AM"]
