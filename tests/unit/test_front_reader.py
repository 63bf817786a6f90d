"""The front reader: whatever an exchange sends, the same messages in the same order as aiohttp's reader alone reads."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from aiohttp import WSMsgType
from aiohttp._websocket.reader import WebSocketDataQueue, WebSocketReader
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder import frames, native
from recorder.sources.exchange.front import Front, split

MESSAGE_BYTES_MAX = 400
REST_BYTES_MAX = 60
"""More of a frame that is not whole is aiohttp's."""

Split = Callable[[bytes, int, list[bytes]], tuple[int, int]]
Message = tuple[Any, ...]


class Protocol:
    """As much of aiohttp's protocol as its queue of messages knows: reading is paused and resumed."""

    _reading_paused = False

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False


class Wire:
    """aiohttp's reader and queue, with or without a front, and what came out of them, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, split: Split | None) -> None:
        self._loop = loop
        self._queue = WebSocketDataQueue(Protocol(), 2**16, loop=loop)  # type: ignore[arg-type]
        reader = WebSocketReader(self._queue, MESSAGE_BYTES_MAX, False, decode_text=False)
        self.front: Front | None = None
        self._reader: Any = reader
        if split is not None:
            self._reader = self.front = Front(reader, MESSAGE_BYTES_MAX - 1, REST_BYTES_MAX)
            self.front.split = split
        self.got: list[Message] = []
        self.taken = 0
        """How many of them came past aiohttp."""
        self.wires: list[bytes] = []
        """They as they came, a piece each time; empty where that is not known."""
        self.failed = False

    def begin(self) -> None:
        """Let plain frames go past aiohttp."""
        if self.front is not None:
            self.front.begin(self._take)

    def feed(self, data: bytes) -> None:
        """Let bytes arrive, unless an error was found before."""
        if not self.failed:
            self.failed, _ = self._reader.feed_data(data)

    def receive(self) -> None:
        """Let the task that receives messages have its turn."""
        while self._queue._buffer:
            message = self._loop.run_until_complete(self._queue.read())
            if self.front is not None:
                self.front.received()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self.got.append(("data", message.data))
            else:
                self.got.append(tuple(message))

    def end(self) -> tuple[list[Message], str]:
        """Let the connection end; return all messages, and the error that was found."""
        if not self.failed:
            self._reader.feed_eof()
        error = self._queue.exception()
        self.receive()
        # aiohttp's words about a bad close frame tell whether the data frame before it was a whole message.
        return self.got, re.sub("Invalid close frame: (True|False)", "Invalid close frame:", repr(error))

    def _take(self, payloads: list[bytes], size_bytes: int, wire: bytes) -> None:
        assert size_bytes > sum(map(len, payloads))
        assert wire in (b"", b"".join(map(frames.frame, payloads)))
        self.wires.append(wire)
        self.taken += len(payloads)
        self.got += [("data", payload) for payload in payloads]


def part(payload: bytes, opcode: int) -> bytes:
    """Return a frame that another one continues."""
    whole = frames.frame(payload, opcode)
    return bytes((whole[0] & 0x7F,)) + whole[1:]


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message of several frames, with whatever between them that may stand there."""
    pieces = draw(st.lists(st.binary(max_size=40), min_size=2, max_size=4))
    between = st.lists(control, max_size=1).map(b"".join)
    sent = part(pieces[0], draw(st.sampled_from([frames.TEXT, 2])))
    for piece in pieces[1:-1]:
        sent += draw(between) + part(piece, 0)
    return sent + draw(between) + frames.frame(pieces[-1], 0)


payloads = st.binary(max_size=130) | st.sampled_from([125, 126, 200, MESSAGE_BYTES_MAX - 1]).map(bytes)
plain = st.builds(frames.frame, payloads, st.sampled_from([frames.TEXT, 2]))
control = st.builds(frames.frame, st.binary(max_size=125), st.sampled_from([frames.PING, frames.PONG]))
masked = payloads.map(lambda data: b"\x81" + struct.pack("!BH", 254, len(data)) + b"\0\0\0\0" + data)
longwinded = payloads.map(lambda data: b"\x82\x7f" + struct.pack("!Q", len(data)) + data)
wrong = st.sampled_from(
    [
        frames.frame(bytes(MESSAGE_BYTES_MAX)),
        frames.frame(bytes(MESSAGE_BYTES_MAX * 200)),
        b"\x81\x7f" + b"\xff" * 8,
        frames.frame(b"abc", 0),
        frames.frame(b"abc", 3),
        frames.frame(b"abc", 0xB),
        b"\xc1\x03abc",
        b"\xa2\x03abc",
        b"\x91\x03abc",
        b"\x09\x03abc",
        b"\x89\x7e\x00\x7eab",
        part(b"abc", 1) + frames.frame(b"def", 1),
        part(b"", 1) + frames.frame(b"def", 1) + frames.frame(b"ghi", 0),
        frames.close_frame(1000, "bye"),
        frames.close_frame(1005, "never sent"),
        frames.frame(b"x", frames.CLOSE),
        b"\x81",
        b"\x08\x01",
    ]
)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for coroutines that need not wait."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def splits() -> Sequence[Any]:
    """The splitting of frames in Python, and the one in C where it was built."""
    code = native.module()
    return [split] if code is None else [split, code.split]


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[bytes, bool]]:
    """Frames as they arrive: in pieces, several at once, and after each whether messages are received then."""
    found = []
    pending = b""
    sent = draw(st.lists(plain | plain | plain | control | fragmented() | masked | longwinded, max_size=12))
    sent += draw(st.lists(wrong | plain, max_size=3))
    received = st.sampled_from([True, True, True, False])
    for frame in sent:
        at = 0
        for cut in draw(st.lists(st.integers(0, 12), max_size=2)):
            pending += frame[at : at + cut]
            at += cut
            if draw(st.booleans()):
                found.append((pending, draw(received)))
                pending = b""
        pending += frame[at:]
        if draw(st.booleans()):
            found.append((pending, draw(received)))
            pending = b""
    return [*found, (pending, True)]


@settings(max_examples=300)
@given(arrivals(), st.sampled_from([0, 0, 0, 1, 2]))
def test_the_same_messages_as_without(arriving: list[tuple[bytes, bool]], begin_at: int) -> None:
    """Any frames, cut anywhere, received at any moment, the front begun at any moment: the same messages and error."""
    loop = asyncio.new_event_loop()
    try:
        alone = Wire(loop, None)
        alone.feed(b"".join(data for data, _ in arriving))
        expected = alone.end()
        for way in splits():
            wire = Wire(loop, way)
            for number, (data, is_received) in enumerate(arriving):
                if number == begin_at:
                    wire.begin()
                if data:
                    wire.feed(data)
                if is_received:
                    wire.receive()
            assert wire.end() == expected
    finally:
        loop.close()


@pytest.mark.parametrize("way", splits())
def test_plain_frames_go_past_aiohttp(loop: asyncio.AbstractEventLoop, way: Split) -> None:
    """All of them do while there is nothing else; behind an odd one they wait until that has been received."""
    wire = Wire(loop, way)
    wire.feed(frames.frame(b"greeting"))
    wire.begin()
    wire.feed(frames.frame(b"behind the greeting"))
    assert wire.taken == 0
    wire.receive()
    wire.feed(frames.frame(b"one") + frames.frame(b"two")[:2])
    wire.feed(frames.frame(b"two")[2:])
    assert wire.taken == 2
    wire.feed(frames.frame(b"three") + frames.frame(b"!", frames.PONG) + frames.frame(b"four"))
    wire.feed(frames.frame(b"five"))
    assert wire.taken == 3
    wire.receive()
    wire.feed(frames.frame(b"six"))
    assert wire.taken == 4
    assert [message[1] for message in wire.got] == [
        b"greeting",
        b"behind the greeting",
        b"one",
        b"two",
        b"three",
        b"!",
        b"four",
        b"five",
        b"six",
    ]


@pytest.mark.skipif(not native.in_use(), reason="the native code tells whether all frames are text")
def test_frames_of_text_are_handed_over_as_they_came(loop: asyncio.AbstractEventLoop) -> None:
    """So that they can be sent on; with a binary frame among them, which goes on as text, they are not."""
    wire = Wire(loop, native.module().split)
    wire.begin()
    text, binary = frames.frame(b"text"), frames.frame(b"binary", 2)
    wire.feed(text)
    wire.feed(text + text + text[:3])
    wire.feed(text[3:] + binary)
    wire.feed(binary)
    wire.feed(text + frames.frame(b"!", frames.PING))
    assert wire.wires == [text, text + text, b"", b"", text]


@pytest.mark.parametrize("between", [b"", frames.frame(b"beat", frames.PING)], ids=["alone", "with a ping"])
def test_no_plain_frame_goes_past_a_message_of_several(
    loop: asyncio.AbstractEventLoop, between: bytes
) -> None:
    """Amid its frames there may be no other message: aiohttp finds the error, though all before has been received."""
    wire = Wire(loop, split)
    wire.begin()
    wire.feed(part(b"abc", frames.TEXT))
    wire.feed(between)
    wire.receive()
    wire.feed(frames.frame(b"def"))
    assert wire.taken == 0
    assert wire.failed


@pytest.mark.parametrize("way", splits())
def test_a_large_frame_in_pieces_is_joined_once(loop: asyncio.AbstractEventLoop, way: Split) -> None:
    """What has come of it goes to aiohttp once it is much, and the frames behind it stay in order."""
    wire = Wire(loop, way)
    wire.begin()
    large = frames.frame(bytes(300))
    for at in range(0, len(large), 50):
        wire.feed(large[at : at + 50])
    wire.feed(frames.frame(b"behind"))
    assert wire.taken == 0
    wire.receive()
    assert wire.got == [("data", bytes(300)), ("data", b"behind")]
    wire.feed(large)
    assert wire.taken == 1


def test_an_ended_front_leaves_all_to_aiohttp(loop: asyncio.AbstractEventLoop) -> None:
    """Also the beginning of a frame that it has kept."""
    wire = Wire(loop, split)
    wire.begin()
    frame = frames.frame(b"late")
    wire.feed(frame[:3])
    assert wire.front is not None
    wire.front.end()
    wire.feed(frame[3:])
    assert wire.end() == ([("data", b"late")], "None")
    assert wire.taken == 0


@given(
    st.lists(plain | longwinded | masked | wrong, max_size=6).map(b"".join) | st.binary(max_size=40),
    st.integers(0, 500),
)
def test_both_ways_to_split_are_equal(data: bytes, limit: int) -> None:
    """Python and C take the same frames, and see the same size of the odd one behind them."""
    results = []
    for way in splits():
        found: list[bytes] = []
        used, odd = way(data, limit, found)
        assert used <= len(data)
        results.append((used, min(odd, 2**63 - 1), found))
    assert results == [results[0]] * len(results)
