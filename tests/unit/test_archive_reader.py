"""Reading back: what is not exactly one whole file is an error, never a shorter answer."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from recorder.archive.codec import decode, encoder
from recorder.archive.reader import NO_LINE_BYTES_MAX, lines, open_lines
from recorder.errors import ArchiveError

CONTENT = b"".join(b'{"seq":%d,"text":"some text"}\n' % number for number in range(5000))


def compressed(codec: str, content: bytes = CONTENT) -> bytes:
    encode = encoder(codec, len(content))
    return encode.compress(content) + encode.flush()


def write(tmp_path: Path, codec: str, data: bytes) -> Path:
    path = tmp_path / f"file.ndjson{'.gz' if codec == 'gzip' else '.zst'}"
    path.write_bytes(data)
    return path


@given(content=st.binary(max_size=3000), codec=st.sampled_from(["gzip", "zstd"]), step=st.integers(1, 500))
def test_decoding_gives_what_was_encoded(content: bytes, codec: str, step: int) -> None:
    """Any content survives, however its blocks are cut."""
    data = compressed(codec, content)
    blocks = [data[begin : begin + step] for begin in range(0, len(data), step)]
    assert b"".join(decode(codec, blocks, "file")) == content


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_the_lines_however_the_blocks_are_cut(blocks: list[bytes]) -> None:
    """Only a line feed ends a line."""
    content = b"".join(blocks)
    expected = [line + b"\n" for line in content.split(b"\n")]
    expected[-1] = expected[-1][:-1]
    assert list(lines(blocks, "file")) == [line for line in expected if line]


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_other_programs_read_what_we_compress(codec: str) -> None:
    """One frame with the content's size and checksum, readable by the usual tools."""
    data = compressed(codec)
    if codec == "gzip":
        assert gzip.decompress(data) == CONTENT
    else:
        parameters = zstandard.get_frame_parameters(data)
        assert parameters.content_size == len(CONTENT)
        assert parameters.has_checksum
        assert zstandard.decompress(data) == CONTENT


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_truncated_file_raises_at_every_length(tmp_path: Path, codec: str) -> None:
    """Cut anywhere, the file gives an error at the end of what can be read."""
    data = compressed(codec)
    for size in [*range(40), *range(40, len(data), 97), len(data) - 1]:
        with pytest.raises(ArchiveError):
            list(open_lines(write(tmp_path, codec, data[:size])))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("behind", [b"\0", b"x", b"frame", b"\n" * 70_000])
def test_anything_behind_the_frame_raises(tmp_path: Path, codec: str, behind: bytes) -> None:
    """A byte, another frame, or a block of bytes behind the end is an error."""
    data = compressed(codec)
    tail = data if behind == b"frame" else behind
    with pytest.raises(ArchiveError, match="behind the end"):
        list(open_lines(write(tmp_path, codec, data + tail)))


def test_a_skippable_frame_raises(tmp_path: Path) -> None:
    """Frames of metadata are not ours: before the content or behind it, they are an error."""
    skippable = (0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"meta"
    data = compressed("zstd")
    for mixed in (skippable + data, data + skippable, skippable):
        with pytest.raises(ArchiveError):
            list(open_lines(write(tmp_path, "zstd", mixed)))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_flipped_bit_raises_or_changes_nothing(tmp_path: Path, codec: str) -> None:
    """A bit flip anywhere is found, or is one that no reader uses, and changes no line."""
    data = compressed(codec)
    for place in [*range(20), *range(20, len(data), 211), len(data) - 1]:
        broken = bytearray(data)
        broken[place] ^= 0x10
        try:
            found = b"".join(open_lines(write(tmp_path, codec, bytes(broken))))
        except ArchiveError:
            continue
        assert found == CONTENT


def test_a_torn_last_line_raises_behind_the_whole_ones(tmp_path: Path) -> None:
    """Whole lines are given before the error."""
    path = tmp_path / "file.ndjson"
    path.write_bytes(b'{"seq":1}\n{"seq":2')
    found = []
    with pytest.raises(ArchiveError, match="torn after 8 bytes"):
        found.extend(open_lines(path))
    reading = open_lines(path)
    assert next(reading) == b'{"seq":1}\n'


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """It is an error of the archive, with the file's name."""
    with pytest.raises(ArchiveError, match=r"cannot read .*missing\.ndjson"):
        next(open_lines(tmp_path / "missing.ndjson"))


def test_a_line_that_is_none_of_ours_is_not_read_for_ever() -> None:
    """Zero bytes without a line end are given up after a bounded length; a long line of ours is yielded whole."""
    zeros = (bytes(1 << 18) for _ in itertools.count())
    with pytest.raises(ArchiveError, match="file: a line is longer than"):
        list(lines(zeros, "file"))
    ours = b'{"kind":"' + b"x" * (2 * NO_LINE_BYTES_MAX) + b'"}\n'
    blocks = [ours[begin : begin + 1000] for begin in range(0, len(ours), 1000)]
    assert list(lines([*blocks, b"{}"], "file")) == [ours, b"{}"]


def test_multi_member_gzip_raises(tmp_path: Path) -> None:
    """Two members that a shell has joined are not one sealed file."""
    encode = isal_zlib.compressobj(level=2, wbits=31)
    member = encode.compress(b"{}\n") + encode.flush()
    with pytest.raises(ArchiveError, match="behind the end"):
        list(open_lines(write(tmp_path, "gzip", member + member)))
