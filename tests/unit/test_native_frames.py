"""WebSocket frames in C: what is plain is taken off the front of the bytes, what is odd is left with its size."""

from __future__ import annotations

import gc
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import frames

native: Any = pytest.importorskip("recorder._native", reason="native code was not built")

LIMIT = 1000


def split(data: bytes, limit: int = LIMIT) -> tuple[list[bytes], int, int]:
    """Return the payloads, how many bytes they took, and the size of the odd frame behind them."""
    payloads: list[bytes] = []
    used, odd = native.split(data, limit, payloads)
    return payloads, used, odd


def long_frame(first: int, size: int, payload: bytes = b"") -> bytes:
    """Return a frame that gives its size in eight bytes."""
    return struct.pack("!BBQ", first, 127, size) + payload


plain = st.builds(frames.frame, st.binary(max_size=300), st.sampled_from([frames.TEXT, 0x2]))
ODD: dict[str, tuple[bytes, int]] = {
    "ping": (frames.frame(b"beat", frames.PING), 6),
    "close": (frames.close_frame(1000, "bye"), 7),
    "masked": (b"\x81\x83MASKabc", 9),
    "begin of a fragmented message": (b"\x01\x03abc", 5),
    "its continuation": (b"\x80\x03abc", 5),
    "compressed": (b"\xc1\x03abc", 5),
    "reserved opcode": (b"\x83\x03abc", 5),
    "over the limit": (frames.frame(bytes(LIMIT + 1)), LIMIT + 5),
    "length of two bytes for one": (b"\x81\x7e\x00\x7d" + bytes(125), 129),
    "length of eight bytes for two": (long_frame(0x81, 0xFFFF), 0xFFFF + 10),
    "the largest length": (long_frame(0x81, 2**64 - 1), 2**63 - 1),
    "a masked one of that size": (b"\x81\xff" + b"\xff" * 8, 2**63 - 1),
}


@given(st.lists(plain, max_size=5), st.lists(st.integers(0, 400), max_size=3))
def test_plain_frames_are_taken_however_the_bytes_arrive(sent: list[bytes], cuts: list[int]) -> None:
    """A read that ends inside a frame leaves that frame for the next one."""
    whole = b"".join(sent)
    payloads: list[bytes] = []
    pending = b""
    begin = 0
    for end in [*sorted(cuts), len(whole)]:
        pending += whole[begin:end]
        begin = max(begin, min(end, len(whole)))
        used, odd = native.split(pending, LIMIT, payloads)
        assert odd == 0
        pending = pending[used:]
    assert pending == b""
    assert b"".join(frames.frame(payload) for payload in payloads) == b"".join(
        b"\x81" + one[1:] for one in sent
    )


@pytest.mark.parametrize(("size", "header_size"), [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)])
def test_each_form_of_length(size: int, header_size: int) -> None:
    """One, two and eight bytes of length, at their borders."""
    data = frames.frame(bytes(size))
    assert split(data, limit=65_536) == ([bytes(size)], header_size + size, 0)
    assert native.index(data, 65_536) == (header_size + size, 0, 1, size, size)
    for cut in {0, 1, header_size - 1, len(data) - 1} - {len(data)}:
        assert split(data[:cut], limit=65_536) == ([], 0, 0)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_frame_is_left_with_its_size(name: str) -> None:
    """What stands before it is taken; how much of it has arrived does not matter once its header has."""
    odd, size = ODD[name]
    before = frames.frame(b"one")
    for arrived in (odd, odd[: min(len(odd), 10)]):
        assert split(before + arrived) == ([b"one"], len(before), size)
        assert native.index(before + arrived, LIMIT) == (len(before), size, 1, 3, 3)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535])
def test_a_length_in_more_bytes_than_it_needs_is_odd(size: int) -> None:
    """Below the limit, too, up to the last length that fits two bytes."""
    assert split(long_frame(0x81, size, bytes(size)), limit=65_536) == ([], 0, 10 + size)


def test_frames_that_are_passed_on_are_text() -> None:
    """A binary frame is odd for `index` alone; its sums are those of the frames before it."""
    text, binary = frames.frame(b"12345"), frames.frame(b"123", 0x2)
    assert native.index(text + frames.frame(b"1") + binary, LIMIT) == (len(text) + 3, len(binary), 2, 5, 6)
    assert split(text + binary) == ([b"12345", b"123"], len(text + binary), 0)


@given(st.binary(max_size=60) | st.lists(plain | st.binary(max_size=20), max_size=4).map(b"".join))
def test_any_bytes(data: bytes) -> None:
    """What is used are whole frames; both functions agree on text; any kind of buffer reads the same."""
    payloads, used, odd = split(data)
    assert used == sum(len(frames.frame(payload)) for payload in payloads) <= len(data)
    assert odd >= 0
    for buffer in (bytearray(data), memoryview(data)):
        again: list[bytes] = []
        assert native.split(buffer, LIMIT, again) == (used, odd)
        assert again == payloads
    indexed, _, count, largest, total = native.index(data, LIMIT)
    taken: list[bytes] = []
    assert native.split(data[:indexed], LIMIT, taken) == (indexed, 0)
    assert (count, largest, total) == (len(taken), max(map(len, taken), default=0), sum(map(len, taken)))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: native.split(b"", -1, []), OverflowError),
        (lambda: native.split(b"", 1 << 64, []), OverflowError),
        (lambda: native.split(b"", 1, ()), TypeError),
        (lambda: native.split("", 1, []), TypeError),
        (lambda: native.split(b"", 1), TypeError),
        (lambda: native.index(b"", "1"), TypeError),
        (lambda: native.index(b""), TypeError),
    ],
)
def test_wrong_arguments_raise(call: Callable[[], object], error: type[Exception]) -> None:
    """They never pass as something else."""
    with pytest.raises(error):
        call()


def test_a_buffer_is_released() -> None:
    """Otherwise a bytearray could not grow again; after an error, too."""
    data = bytearray(frames.frame(b"one"))
    native.split(data, LIMIT, [])
    native.index(data, LIMIT)
    with pytest.raises(TypeError):
        native.split(data, LIMIT, None)
    with pytest.raises(TypeError):
        native.index(data, None)
    data += b"more"


def test_nothing_is_kept() -> None:
    """Many calls leave no object behind."""
    data = frames.frame(b"one") * 10 + b"\x89\x00"

    def calls() -> None:
        for _ in range(100):
            split(data)
            native.index(data, LIMIT)

    calls()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(20):
        calls()
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
