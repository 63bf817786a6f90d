"""The cutter in C: it takes lines that the recorder writes of plain events, reads them as msgspec does, and no others."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared_file

from fuzz.claims import columns_of, cutting
from recorder.archive.cutting import DecodedRecords, RecordedEvent, Records, cut, decoded, events_of, merged
from recorder.errors import ArchiveError
from recorder.polygon.events import Decoder
from recorder.records import Formatter

native: Any = pytest.importorskip("recorder._native", reason="native code was not built")

MS = 1_790_000_000_000
PLAIN = [b'{"ev":"T","sym":"A","p":1.50,"t":1}', b'{"ev":"Q","sym":"BRK.A","t":1790000000000,"c":[1,2]}']
ODD = [
    b'{"ev":"T","sym":"\xc3\xa9","t":1}',
    b'{"ev":"N\\u0045W","x":"\\"","sym":"A"}',
    b'{"ev":"T", "sym":"A"}',
]


def lines_of(
    events: Sequence[bytes], *, first_seq: int = 1, ms: int = MS, feed: str = "stocks", host: str = "host"
) -> bytes:
    """Return the lines that the recorder writes of these events."""
    rows = Decoder(feed).decode([b"[%b]" % b",".join(events)])
    rows.seqs = range(first_seq, first_seq + len(rows))
    return Formatter(feed, host, "1.0.0").format(ms, rows)


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Lines of several reads, of plain events mostly, with any bytes of them changed."""
    seqs = count(draw(st.integers(0, 2**53)), draw(st.sampled_from([1, 1, 1, 2, 0, -1])))
    data = b"".join(
        lines_of(
            [draw(st.sampled_from(PLAIN * 5 + ODD))],
            first_seq=max(0, next(seqs)),
            ms=MS + draw(st.integers(-1, 1)),
            feed=draw(st.sampled_from(["stocks", "stocks", "crypto"])),
            host=draw(st.sampled_from(["host", "host", "another", "\u00e9"])),
        )
        for _ in range(draw(st.integers(0, 6)))
    )
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 9)))
        part = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"}", b"0", b",", b"\n", b"-", b" "])
        )
        data = data[:begin] + part + data[end:]
    return data


@given(blocks())
def test_whatever_is_taken_is_read_as_msgspec_does(data: bytes) -> None:
    """Also lines that are torn, foreign, out of order, or not ours."""
    cutting(data)


@pytest.mark.parametrize(
    "name", ["data/ticks_stocks_20131007.ndjson.gz", "data/ticks_forex_20140501.ndjson.gz"]
)
def test_lines_of_real_ticks_are_taken(name: str) -> None:
    """So that the fast way is really used."""
    feed = name.partition("_")[2].partition("_")[0]
    with gzip.open(shared_file(name)) as lines:
        ticks = [line.strip().partition(b'"m":')[2][:-1] for line in lines]
    block = lines_of(ticks, feed=feed)
    found = native.cut(block)
    assert found is not None
    assert found.payloads(0, len(ticks)) == ticks
    assert found.lines() == block
    cutting(block)


def both(data: bytes) -> tuple[Records, Records]:
    """Return the records of plain lines as both ways have them."""
    fast = cut(data, "file")
    assert not isinstance(fast, DecodedRecords)
    return fast, decoded(data, "file")


def test_parts_and_choices_are_the_same_both_ways() -> None:
    """Parts of parts, ranges by number and by time, and the bounds of each."""
    data = b"".join(lines_of(PLAIN, first_seq=seq, ms=MS + seq) for seq in (3, 5, 8))
    whole, wanted = both(data)
    for begin in range(7):
        for end in range(begin, 7):
            for one, other in [(whole.part(begin, end), wanted.part(begin, end))]:
                assert columns_of(one) == columns_of(other)
                assert columns_of(one.part(0, len(one) // 2)) == columns_of(other.part(0, len(other) // 2))
            assert whole.frame(begin, end) == wanted.frame(begin, end)
            assert whole.payloads(begin, end) == wanted.payloads(begin, end)
            assert whole.payload_bytes(begin, end) == wanted.payload_bytes(begin, end)
    for seq in range(12):
        assert whole.place_of(seq) == wanted.place_of(seq)
        assert whole.without_hole(seq) == wanted.without_hole(seq)
    for start_ms in range(MS, MS + 10):
        assert columns_of(whole.between(start_ms, MS + 6)) == columns_of(wanted.between(start_ms, MS + 6))
    assert columns_of(whole.pick([0, 4])) == columns_of(wanted.pick([0, 4]))
    for range_ in [(-1, 2), (2, 1), (0, 7)]:
        with pytest.raises(IndexError, match="there are 6 records"):
            whole.part(*range_)
    with pytest.raises(IndexError, match="none at 6"):
        whole.pick([6])
    with pytest.raises(TypeError, match="lines are bytes"):
        native.cut(bytearray(data))
    with pytest.raises(TypeError, match="parts are Records"):
        native.merge([wanted])


def test_files_are_merged_by_number_both_ways() -> None:
    """Also where only one of them has a line that is odd; what was merged outlives its parts."""
    odd_ones, even_ones = (
        b"".join(lines_of(PLAIN[:1], first_seq=seq) for seq in range(first, 20, 2)) for first in (1, 2)
    )
    wanted = decoded(b"".join(lines_of(PLAIN[:1], first_seq=seq) for seq in range(1, 20)), "file")
    mixed = [cut(odd_ones, "file"), decoded(even_ones, "file")]
    for parts in ([cut(odd_ones, "file"), cut(even_ones, "file")], mixed, mixed[::-1]):
        found = merged(parts)
        parts.clear()
        assert columns_of(found) == columns_of(wanted)
        assert columns_of(found.part(3, 9)) == columns_of(wanted.part(3, 9))


def test_numbers_that_do_not_rise_are_an_error() -> None:
    """Whoever reads by number must not pass over one."""
    for second in (1, 2):
        data = lines_of(PLAIN[:1], first_seq=2) + lines_of(PLAIN[:1], first_seq=second)
        with pytest.raises(ArchiveError, match=f"file: seq {second} comes after 2"):
            cut(data, "file")


def test_an_object_can_be_had_of_each() -> None:
    """For those who look at every field."""
    [event] = events_of(cut(lines_of(PLAIN[1:], first_seq=7), "file"))
    assert isinstance(event, RecordedEvent)
    assert (event.seq, event.type, event.symbol, event.feed) == (7, "Q", "BRK.A", "stocks")
    assert (event.ts, event.ingest_ts, bytes(event.payload)) == (MS, MS, PLAIN[1])
