"""`--shift now`: which digits are times, and by how much they move."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.sources.replay.shift import Shift, moved, times_in

NS = 1_000_000


@pytest.mark.parametrize(
    ("channel", "event", "times"),
    [
        (
            "T",
            b'{"ev":"T","s":1790000000000,"t":1790000000001,"pt":1790000000002}',
            [b"1790000000001", b"1790000000002"],
        ),
        ("T", b'{"ev":"T", "trft" : 1790000000001000000, "q":1790000000000}', [b"1790000000001000000"]),
        (
            "A",
            b'{"ev":"A","s":1790000000000,"e":1790000001000,"v":1790000000000}',
            [b"1790000000000", b"1790000001000"],
        ),
        (
            "XT",
            b'{"ev":"XT","t":1790000000000,"r":1790000000009,"s":0.1}',
            [b"1790000000000", b"1790000000009"],
        ),
        ("LULD", b'{"ev":"LULD","T":"A","t":1790000000000000000}', [b"1790000000000000000"]),
        ("T", b'{"ev":"T","t":"1790000000001"}', [b"1790000000001"]),
        ("T", b'{"ev":"T","t":1790000000001.5}', []),
        ("T", b'{"ev":"T","t":1.790000000001e12}', []),
        ("T", b'{"ev":"T","t":1546}', []),
        ("T", b'{"ev":"T","i":"\\"t\\":1790000000001"}', []),
        ("NEW", b'{"ev":"NEW","t":1790000000001,"x":1790000000001}', [b"1790000000001"]),
    ],
)
def test_times_are_known_by_channel_and_digits(channel: str, event: bytes, times: list[bytes]) -> None:
    """Sizes and numbers under the same names are no times, and what stands within a string is none either."""
    found = [event[begin : begin + digits] for begin, digits in times_in(channel, event)]
    assert found == times


@given(
    st.lists(
        st.tuples(st.sampled_from(["t", "pt", "trft", "q", "s"]), st.integers(0, 2 * 10**18)), max_size=6
    ),
    st.integers(0, 10**11),
)
def test_only_digits_of_times_change(fields: list[tuple[str, int]], by_ms: int) -> None:
    """As many bytes as before, all that is no digit in its place, and every time later by the same span."""
    event = b'{"ev":"T",%b}' % b",".join(b'"%b":%d' % (name.encode(), value) for name, value in fields)
    places = list(times_in("T", event))
    later = moved(event, places, by_ms)
    assert len(later) == len(event)
    assert re.sub(rb"\d", b"", later) == re.sub(rb"\d", b"", event)
    units = {13: 1, 16: 1_000, 19: 1_000_000}
    spans = [
        (int(later[begin : begin + digits]) - int(event[begin : begin + digits])) / units[digits]
        for begin, digits in places
    ]
    assert spans == [by_ms] * len(places)


def test_times_never_go_back() -> None:
    """Each beginning is now, unless what was sent last is later: a replay that is faster than time runs ahead of it."""
    now_ns = [2_000 * NS]
    shift = Shift(lambda: now_ns[0])
    assert shift.by_ms is None
    assert shift.begin(500 * NS, 0)
    assert shift.by_ms == 1_500
    now_ns[0] += 100 * NS  # played for as long, then paused for a while
    assert not shift.begin(600 * NS, 600 * NS)
    now_ns[0] += 250 * NS
    assert shift.begin(600 * NS, 600 * NS)
    assert shift.by_ms == 1_750
    assert shift.begin(500 * NS, 900 * NS)  # at ten times the speed it has come to 2,650, and begins again
    assert 500 + (shift.by_ms or 0) == 900 + 1_750
