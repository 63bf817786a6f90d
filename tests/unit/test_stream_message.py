"""The messages of a stream: what is written is read, and nothing is guessed."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from recorder.stream_message import (
    BODY_BYTES_MAX,
    FORMAT,
    Away,
    Heading,
    UnknownMessage,
    decode_frames,
    encode_frames,
    heading_of,
    word_of,
)

HEADING = Heading(first=7, events=3, received_ns=1_795_237_802_335_000_000, writer="host:run")


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_frames_survive(frames: list[bytes]) -> None:
    """Any bytes, any number of them."""
    assert decode_frames(encode_frames(frames)) == frames


@given(st.integers(1), st.integers(0), st.integers(0), st.integers(0), st.sampled_from(["", "purged"]))
def test_headings_survive(first: int, events: int, received_ns: int, dropped: int, gap: str) -> None:
    """What is not worth a word has no header."""
    heading = Heading(first, events, received_ns, "host:run", dropped, gap)
    headers = heading.headers()
    assert heading_of(headers) == heading
    assert ("Dropped" in headers, "Gap" in headers) == (bool(dropped), bool(gap))
    assert heading.next_first == first + events


@given(st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 10**13), st.text()), max_size=8))
def test_absences_survive(absences: list[tuple[int, int, str]]) -> None:
    """Whatever the reason is called, it is one word of a header; without an absence there is no header."""
    missed = tuple(Away(from_ms, to_ms, word_of(reason)) for from_ms, to_ms, reason in absences)
    heading = HEADING._replace(missed=missed, covers=(17, 10**13))
    headers = heading.headers()
    assert heading_of(headers) == heading
    assert ("Missed" in headers) == bool(missed)
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert not {"Missed", "Covers"} & {*HEADING.headers()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Format": "frames-zstd-9"}, "its header Format is 'frames-zstd-9', and this version reads"),
        ({"Format": ""}, "it has no header Format"),
        ({"First": "one"}, "its headers cannot be read"),
        ({"Missed": "17-18"}, "its headers cannot be read: Missed is '17-18'"),
        ({"Missed": ", ".join(["1-2 a"] * 9)}, "its headers cannot be read: Missed is"),
        ({"Covers": "17"}, "its headers cannot be read: Covers is '17'"),
        ({"Writer": None}, "its headers cannot be read: 'Writer'"),
    ],
)
def test_headers_of_others_are_named(change: dict[str, str | None], words: str) -> None:
    """A later format, another program, a slip: each with its words."""
    headers = {name: value for name, value in {**HEADING.headers(), **change}.items() if value is not None}
    with pytest.raises(UnknownMessage, match=words):
        heading_of(headers)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zstd",
        encode_frames([b"[1]"])[:-3],
        zstandard.compress(struct.pack("!2I", 1, 5) + b"[1]"),
        zstandard.compress(struct.pack("!I", 4_000_000_000)),
        zstandard.compress(bytes(BODY_BYTES_MAX + 1)),
    ],
    ids=["nothing", "another format", "cut", "a wrong size", "too many", "a bomb"],
)
def test_damaged_content_is_refused(content: bytes) -> None:
    """No frame is made up, and no memory is filled."""
    with pytest.raises(UnknownMessage):
        decode_frames(content)


def test_the_format_has_a_name() -> None:
    """Readers go by it."""
    assert HEADING.headers()["Format"] == FORMAT == "frames-zstd-1"
