"""What a replay reads is what was recorded: the same events in the same order, whatever their bytes are."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from archives import Archive, archive_settings
from fakes import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.archive.recording import open_recordings
from recorder.polygon.careful import split_elements
from recorder.polygon.events import Decoder
from recorder.records import Formatter
from recorder.sources.replay.reader import Read, ReplayReader, Span

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """Return an event as some server may word it: odd fields, escapes or none, spaces or none."""
    fields: dict[str, Any] = {
        "ev": draw(st.sampled_from(["T", "Q", "A", "NEW"])),
        "sym": "A",
        "t": 1_790_000_000_000,
    }
    fields |= draw(st.dictionaries(TEXT.filter(lambda name: name not in fields), VALUE, max_size=4))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :  ")]))
    return json.dumps(fields, separators=separators, ensure_ascii=draw(st.booleans())).encode()


READS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(events(), min_size=1, max_size=4)), min_size=1, max_size=6
)
"""How many ms after the one before each read came, and what it brought."""


def recorded(folder: Path, reads: Sequence[tuple[int, list[bytes]]]) -> Archive:
    """Make an archive of these reads."""
    archive = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1, max_bytes=4096)).open()
    decoder, formatter, seq = Decoder("stocks"), Formatter("stocks", "host", "0.1.0"), 0
    for wait_ms, payloads in reads:
        archive.clock.advance(wait_ms / 1000)
        rows = decoder.decode([b"[%b]" % b",".join(payloads)])
        rows.seqs = list(range(seq + 1, seq + len(rows) + 1))
        seq += len(rows)
        ms = archive.clock.wall_ns() // 1_000_000
        data = formatter.format(ms, rows)
        lines = Lines("stocks", archive.names.active("stocks", "T"), data, summarise(data))
        archive.writer.write(RecordBatch("stocks", archive.clock.wall_ns(), [lines], b"", 0))
        archive.writer.flush()
        archive.lines.append(data)
    archive.close()
    return archive


def read(folder: Path, **span: Any) -> tuple[list[Read], str]:
    """Return all that a replay reads of an archive, and its checksum."""

    async def all_of_it() -> tuple[list[Read], str]:
        reader = ReplayReader(open_recordings(folder), Span(**span))
        found: list[Read] = []
        try:
            while block := await reader.next_block():
                found += block
            return found, reader.sha256
        finally:
            reader.close()

    return asyncio.run(all_of_it())


def events_of(reads: Sequence[Read]) -> list[bytes]:
    return [event for one in reads for frame in one.frames for event in split_elements(frame)]


@settings(max_examples=25)
@given(READS)
def test_what_is_read_is_what_was_recorded(reads: list[tuple[int, list[bytes]]]) -> None:
    """Byte for byte and in order; the checksum is of these bytes; no read mixes two times."""
    with tempfile.TemporaryDirectory() as folder:
        archive = recorded(Path(folder) / "a", reads)
        found, sha256 = read(archive.folder)
        lines = b"".join(archive.lines).splitlines()
    payloads = [line.partition(b',"payload":')[2].rpartition(b',"hostname":')[0] for line in lines]
    assert events_of(found) == payloads
    assert sha256 == hashlib.sha256(b"".join(payload + b"\n" for payload in payloads)).hexdigest()
    times = [json.loads(line)["ingest_ts"] for line in lines]
    assert [one.at_ms for one in found for _ in range(one.events)] == times
    assert payloads == [payload for _, some in reads for payload in some]


@settings(max_examples=25)
@given(READS)
def test_times_are_found_in_every_frame(reads: list[tuple[int, list[bytes]]]) -> None:
    """Each place that is named has the digits of a time; each event of a known channel has its own."""
    with tempfile.TemporaryDirectory() as folder:
        found, _ = read(recorded(Path(folder) / "a", reads).folder, finds_times=True)
    for one in found:
        assert len(one.times) == len(one.frames)
        for frame, places in zip(one.frames, one.times, strict=True):
            own = [place for place in places if frame[place[0] :].startswith(b"1790000000000")]
            assert len(own) >= one.events
            assert all(frame[begin : begin + digits].isdigit() for begin, digits in places)


def test_the_span_is_known_before_anything_is_played(tmp_path: Path) -> None:
    """From the first record to the last, also where a recorder was killed, as far as the manifest or the file says it."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1), clock=FakeClock()).open()
    begin_ms = archive.clock.wall_ns() // 1_000_000
    for _ in range(4):
        archive.write("TQ")
        archive.clock.advance(1)
    archive.kill()

    def span_ms(**span: int) -> tuple[int, int | None]:
        reader = ReplayReader(open_recordings(tmp_path), Span(**span))
        try:
            return reader.span_ms
        finally:
            reader.close()

    assert span_ms() == (begin_ms, begin_ms + 3_000)
    assert span_ms(start_ms=begin_ms + 500, end_ms=begin_ms + 2_000) == (begin_ms + 500, begin_ms + 2_000)
    archive.restart().close()
    assert span_ms() == (begin_ms, begin_ms + 3_000)
