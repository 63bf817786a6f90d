"""Frames made by hand."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.frames import Frame
from websockets.streams import StreamReader

from recorder import frames


def read(data: bytes) -> tuple[int, bool, bytes]:
    """Read one whole frame as a client does; return its opcode, whether it is deflated, and its payload."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    extension = Noting()
    parsing = Frame.parse(reader.read_exact, mask=False, extensions=[extension])
    try:
        while True:
            next(parsing)
    except StopIteration as end:
        found: Frame = end.value
    assert reader.buffer == b""
    assert found.fin
    return int(found.opcode), extension.is_deflated, bytes(found.data)


class Noting(Extension):
    """An extension that notes the bit that says that a payload is deflated, and leaves the payload as it is."""

    name = "noting"
    is_deflated = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        self.is_deflated = frame.rsv1
        return replace(frame, rsv1=False)


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, frames.PAYLOAD_BYTES_MAX])
def test_every_length_is_read_back(length: int) -> None:
    """The three forms of a length meet without a gap; the payload is untouched."""
    payload = b"x" * length
    assert read(frames.frame(payload)) == (frames.TEXT, False, payload)
    assert frames.header(length) + payload == frames.frame(payload)


@pytest.mark.parametrize("opcode", [frames.TEXT, frames.CLOSE, frames.PING, frames.PONG])
def test_every_opcode_is_read_back(opcode: int) -> None:
    """Control frames are made the same way."""
    assert read(frames.frame(b"abc", opcode)) == (opcode, False, b"abc")


def test_close_frames() -> None:
    """A code and a reason, cut to what a control frame has room for."""
    assert read(frames.close_frame(1008, "slow consumer")) == (8, False, b"\x03\xf0slow consumer")
    assert len(read(frames.close_frame(1012, "x" * 500))[2]) == 125


@given(st.binary(max_size=3000), st.integers(9, 15))
def test_deflated_messages_stand_alone(payload: bytes, window_bits: int) -> None:
    """A fresh inflater of the agreed window reads each of them, and so does one that has read others before."""
    for inflate in (zlib.decompressobj(wbits=-window_bits), zlib.decompressobj(wbits=-15)):
        for message in (payload, payload[::-1]):
            opcode, is_deflated, data = read(frames.compressed_frame(message, window_bits))
            assert (opcode, is_deflated) == (frames.TEXT, True)
            assert inflate.decompress(data + b"\x00\x00\xff\xff") == message
