"""From events to the bytes that clients get."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.frames import PAYLOAD_BYTES_MAX, frame
from recorder.polygon.rows import array_of
from recorder.servers import delivery
from recorder.servers.delivery import arrays, deliver, joined
from recorder.servers.stats import ServerStats

FRAGMENTS = st.binary(min_size=1, max_size=40).filter(lambda fragment: b"},{" not in fragment)


class Taker:
    """What delivery knows of a client."""

    def __init__(self, window_bits: int = 0) -> None:
        self.window_bits = window_bits
        self.writes: list[tuple[bytes, int]] = []

    def write(self, data: bytes, events_count: int) -> bool:
        self.writes.append((data, events_count))
        return True


@given(st.lists(FRAGMENTS, min_size=1, max_size=40), st.integers(45, 400))
def test_arrays_keep_every_event(fragments: list[bytes], payload_bytes_max: int) -> None:
    """In order, byte for byte, no array larger than it may be, and none cut earlier than it must."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery.frames, "PAYLOAD_BYTES_MAX", payload_bytes_max)
        parts = list(arrays([fragment + b"}," for fragment in fragments]))
    assert all(part[:2] == b"[{" and part[-2:] == b"}]" for part in parts)
    assert b"},{".join(part[2:-2] for part in parts) == b"},{".join(fragments)
    assert max(map(len, parts)) <= payload_bytes_max
    for part, following in pairwise(parts):
        first = following[2:-2].split(b"},{")[0]
        assert len(part) + 3 + len(first) > payload_bytes_max


@given(st.lists(st.lists(FRAGMENTS, max_size=5), max_size=8), st.integers(45, 400))
def test_frames_are_joined_as_if_they_were_cut(frames_of: list[list[bytes]], payload_bytes_max: int) -> None:
    """Plain frames become the very bytes that their events would; where these need several arrays, nothing does."""
    cut = [[fragment + b"}," for fragment in frame] for frame in frames_of]
    everything = [fragment for frame in cut for fragment in frame]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery.frames, "PAYLOAD_BYTES_MAX", payload_bytes_max)
        found = joined([array_of(fragments) for fragments in cut])
        expected = arrays(everything) if everything else []
    assert found == (expected if len(expected) == 1 and len(expected[0]) <= payload_bytes_max else [])


def test_an_event_too_large_for_any_frame_is_not_left_out() -> None:
    """It has a frame of its own; its neighbours share theirs."""
    large = b'"x":"%b"' % (b"x" * PAYLOAD_BYTES_MAX)
    parts = list(arrays([b'"a":1},', large + b"},", b'"b":2},']))
    assert parts == [b'[{"a":1}]', b"[{%b}]" % large, b'[{"b":2}]']


def test_clients_share_the_same_bytes() -> None:
    """One frame is made for all, and deflated once for all that agreed on the same window; each has one write."""
    plain, deflating, small = [Taker(), Taker()], [Taker(15), Taker(15)], [Taker(9)]
    stats = ServerStats("filtered")
    fragments = [b'"ev":"T"},', b'"ev":"Q"},']
    deliver([*plain, *deflating, *small], fragments, stats)  # type: ignore[list-item]
    for alike in (plain, deflating):
        [[(first, *_)], [(second, *_)]] = [taker.writes for taker in alike]
        assert first is second
    assert plain[0].writes == [(frame(b'[{"ev":"T"},{"ev":"Q"}]'), 2)]
    assert len({taker.writes[0][0] for taker in (plain[0], deflating[0], small[0])}) >= 2
    assert (stats.events_delivered, stats.frames_delivered) == (10, 5)
    assert stats.bytes_delivered == sum(len(taker.writes[0][0]) for taker in (*plain, *deflating, *small))


def test_several_frames_of_a_pass_are_one_write() -> None:
    """What does not fit into one frame still costs one system call a client."""
    taker = Taker()
    fragments = [b'"n":%d,"x":"%b"},' % (number, b"x" * 400_000) for number in range(4)]
    stats = ServerStats("filtered")
    deliver([taker], fragments, stats)  # type: ignore[list-item]
    [(data, events_count)] = taker.writes
    assert (stats.frames_delivered, events_count) == (2, 4)
    parts = list(arrays(fragments))
    assert data == b"".join(map(frame, parts))
    assert [found["n"] for part in parts for found in json.loads(part)] == [0, 1, 2, 3]
