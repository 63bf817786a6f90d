"""What is sent to ClickHouse: an archive read on while it is written, and the inserts that are made of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from archives import START_NS, Archive, archive_settings
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded_events import event, record

import recorder
from recorder.archive.cutting import cut
from recorder.archive.place import HERE
from recorder.archive.recording import Recording
from recorder.cli.clickhouse import command
from recorder.clickhouse import schema
from recorder.clickhouse.batches import Batch, Batches, Stream
from recorder.clickhouse.reading import Block, Reader
from recorder.errors import ConfigError
from recorder.polygon.channels import CHANNELS

DAY_MS = 86_400_000

Seen = dict[tuple[str, int], tuple[str, bytes]]
"""By run and number: the type and the event."""


class Follower:
    """A reader that remembers what it has read."""

    def __init__(self, manifest: Path) -> None:
        self.reader = Reader(manifest, HERE, lambda view, segment: False, follows=True, skips_damaged=False)
        self.seen: Seen = {}

    def read(self) -> None:
        """Read what has come. What comes once more is what it was."""
        for block in self.reader.blocks():
            payloads = block.records.payloads(0, len(block.records))
            headers = [msgspec.json.decode(line) for line in block.records.lines().splitlines()]
            for header, payload in zip(headers, payloads, strict=True):
                key = (block.run_id, header["seq"])
                assert self.seen.setdefault(key, (header["type"], payload)) == (header["type"], payload)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.text("TQZ", min_size=1, max_size=6)),
        st.sampled_from(
            [("rotate", ""), ("close", ""), ("kill", ""), ("read", ""), ("read", ""), ("reopen", "")]
        ),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(ACTS, st.booleans())
@example([("write", "TTQ"), ("read", ""), ("kill", ""), ("write", "Q"), ("read", "")], False)
@example([("read", ""), ("write", "T"), ("read", ""), ("rotate", ""), ("write", "T"), ("close", "")], True)
def test_a_reader_beside_a_recorder_has_each_record_under_its_run(
    acts: list[tuple[str, str]], split: bool
) -> None:
    """Whatever the recorder does in between; what was not sealed when it was read is no other than what is sealed then."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"split_per_type": split, "flush_every": 1, "compression": "zstd"}
        archive = Archive(archive_settings(Path(folder) / "polygon.ndjson", **changes)).open()
        follower = Follower(archive.names.manifest)
        number = 0
        for act, codes in acts:
            archive.clock.advance(1)
            match act:
                case "write":
                    events = [event(code, number + place) for place, code in enumerate(codes)]
                    number += len(events)
                    record(archive, events)
                    archive.writer.flush()
                case "rotate":
                    archive.writer.rotate("signal")
                case "reopen":
                    archive.writer.reopen()
                case "close":
                    archive.close()
                    archive.restart()
                case "kill":
                    archive.kill()
                    archive.restart()
                case _:
                    follower.read()
                    assert len(follower.seen) == number
        archive.close()
        follower.read()
        follower.reader.close()
        found = recorder.open_archive(folder).records()
        assert follower.seen == {(one.run_id, one.seq): (one.type, one.payload) for one in found}


def lines(rows: list[tuple[int, str, str]]) -> bytes:
    """Return recorded lines: when each came, its cluster and its type."""
    return b"".join(
        b'{"ingest_ts":%d,"type":"%b","symbol":"S","feed":"%b","ts":0,"payload":{"n":%d},"hostname":"h","schema_version":1,'
        b'"seq":%d,"source":"polygon.io"}\n' % (ms, code.encode(), feed.encode(), seq, seq)
        for seq, (ms, feed, code) in enumerate(rows, start=1)
    )


ROWS = st.lists(
    st.tuples(
        st.integers(0, 5).map(lambda halves: START_NS // 1_000_000 + halves * DAY_MS // 2),
        st.sampled_from(["stocks", "crypto"]),
        st.sampled_from(["T", "Q", "XT", "ZZ"]),
    ),
    min_size=1,
    max_size=60,
)


@given(ROWS, st.integers(1, 20), st.integers(0, 30), st.integers(1, 10))
def test_an_insert_is_of_one_stream_and_one_day_and_none_is_missing(
    rows: list[tuple[int, str, str]], rows_max: int, has: int, blocks: int
) -> None:
    """Also where the clock goes back over midnight, and where a part comes twice."""
    data = lines(rows).splitlines(keepends=True)
    step = max(1, len(data) // blocks)
    batches = Batches(lambda stream: has, rows_max)
    for begin in range(0, len(data), step):
        block = b"".join(data[max(0, begin - 2) : begin + step])  # the last two come once more
        batches.add(Block("run", cut(block, "file")))
    batches.finish()
    made: list[Batch] = []
    while (batch := batches.next()) is not None:
        made.append(batch)
    found: dict[Stream, list[int]] = {}
    for batch in made:
        assert 0 < batch.rows <= rows_max
        seqs = [
            msgspec.json.decode(line)["seq"] for part in batch.parts for line in part.lines().splitlines()
        ]
        assert batch.last_seq == seqs[-1]
        days = {rows[seq - 1][0] // DAY_MS for seq in seqs}
        assert len(days) == 1
        found.setdefault(batch.stream, []).extend(seqs)
        for cut_at in (seqs[0] - 1, seqs[len(seqs) // 2], seqs[-1]):
            rest = batch.behind(cut_at)
            assert (rest.rows if rest else 0) == sum(seq > cut_at for seq in seqs)
        assert batch.first(2).rows == min(2, batch.rows)
    wanted: dict[Stream, list[int]] = {}
    for seq, (_, feed, code) in enumerate(rows, start=1):
        if seq > has:
            wanted.setdefault(Stream(schema.table_of(code), "run", feed), []).append(seq)
    assert found == wanted


def test_what_is_sent_already_is_not_read_again(tmp_path: Path) -> None:
    """The manifest says what is in a segment, and the tables say what they have."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson")).open()
    for number in range(3):
        record(archive, [event("T", number)])
        archive.writer.rotate("signal")
    archive.close()
    asked: list[int] = []

    def is_sent(view: Recording, segment: object) -> bool:
        asked.append(len(view.segments))
        return len(asked) < 3

    reader = Reader(archive.names.manifest, HERE, is_sent, follows=False, skips_damaged=False)
    assert [block.records.first[0] for block in reader.blocks()] == [3]
    assert list(reader.blocks()) == []
    assert asked == [3, 3, 3]


def test_a_table_that_differs_in_what_makes_no_difference_is_suitable() -> None:
    """Another engine with tokens, plain strings, columns of somebody else; and a wrong type is not."""
    columns = {column.name: schema.type_of(column) for column in schema.columns("trades")}
    plain = {name: kind.replace("LowCardinality(String)", "String") for name, kind in columns.items()}
    own = plain | {"comment": "String"}
    assert (
        list(schema.unsuitable("trades", "ReplicatedMergeTree", "ReplicatedMergeTree ORDER BY seq", own))
        == []
    )
    [slip] = schema.unsuitable("trades", "SharedMergeTree", "", own | {"price": "Decimal(18, 6)"})
    assert "price is Decimal(18, 6), and must be Nullable(Float64)" in slip
    [engine] = schema.unsuitable("trades", "ReplacingMergeTree", "ReplacingMergeTree ORDER BY seq", own)
    assert "must be one of" in engine


def test_every_channel_has_a_table_and_every_column_one_type() -> None:
    """A new row in the table of channels is a new table, or part of one, and nothing else."""
    assert {schema.table_of(code) for code in CHANNELS} == set(schema.TABLES) - {schema.OTHER}
    for table in schema.TABLES:
        names = [column.name for column in schema.columns(table)]
        assert len(set(names)) == len(names)
        assert {"time", "ingest_time"}.isdisjoint(names)


def test_a_password_of_two_lines_is_refused_and_not_shown(tmp_path: Path) -> None:
    """It goes into a header, where a line end would begin another one."""
    file = tmp_path / "password"
    file.write_text("first\nsecond\n")
    arguments = [str(tmp_path), "http://127.0.0.1:1/x", "--password-file", str(file)]
    found = CliRunner().invoke(command, arguments)
    assert isinstance(found.exception, ConfigError)
    assert "one line" in str(found.exception)
    assert "second" not in str(found.exception)
