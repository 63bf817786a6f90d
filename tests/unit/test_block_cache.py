"""Readers of the same segments share what one of them has read; each gets exactly its records, and memory has a bound."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, archive_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.archive import block_cache, reader, recorded_segment
from recorder.archive.block_cache import BlockCache, BlockSource
from recorder.archive.proofs import Proofs
from recorder.archive.reader import read_blocks
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import RecordedRun, Recording
from recorder.errors import ArchiveError

BLOCK_BYTES = 2000
"""Of a file that is read at once here, so that a small file is many blocks."""
BATCHES = 60


def run_of(folder: Path, compression: str, *, split: bool = False) -> RecordedRun:
    """Return a run whose records are in a sealed file, or one for each type."""
    archive = Archive(
        archive_settings(
            folder / "polygon.ndjson",
            flush_every=1,
            max_bytes=BATCHES * 700,
            split_per_type=split,
            compression=compression,
        )
    ).open()
    for _ in range(BATCHES):
        archive.write("TQTQ")
        archive.clock.advance(1)
    archive.close()
    return Recording(archive.names.manifest).runs[0]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_READ_BYTES", BLOCK_BYTES)
    monkeypatch.setattr(reader, "_READ_COMPRESSED_BYTES", 100)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often the content of files is read, by name."""
    found: Counter[str] = Counter()

    def counted(path: Path, *arguments: Any, codec: str = "", **options: Any) -> Iterator[bytes]:
        found[path.name] += codec != "none"
        return read_blocks(path, *arguments, codec=codec, **options)

    monkeypatch.setattr(recorded_segment, "read_blocks", counted)
    return found


class Reader:
    """Reads a run from a number on, through a cache."""

    def __init__(self, run: RecordedRun, cache: BlockCache, first_seq: int = 1) -> None:
        self.sources: Counter[BlockSource] = Counter()
        self.found: list[bytes] = []

        def read(segment: Segment, first_seq: int) -> Iterator[Any]:
            return cache.records(segment, first_seq, self.sources)

        self._blocks = run.records(first_seq=first_seq, read=read)

    def step(self) -> bool:
        """Read a block more; return whether there was one."""
        records = next(self._blocks, None)
        if records is not None:
            self.found += records.payloads(0, len(records))
        return records is not None

    def read_all(self) -> list[bytes]:
        while self.step():
            pass
        return self.found

    def rest(self) -> None:
        """Let go of files."""
        self._blocks.close()  # type: ignore[attr-defined]


def payloads_of(run: RecordedRun) -> list[bytes]:
    return [bytes(event.payload) for block in run.events() for event in block]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_readers_beside_each_other_read_a_file_once(
    tmp_path: Path, compression: str, opened: Counter[str]
) -> None:
    """Whoever is ahead by a block reads it from disk, the others have it from memory; in turns, too."""
    run = run_of(tmp_path, compression)
    cache = BlockCache(10**6, Proofs())
    readers, wanted = [Reader(run, cache) for _ in range(3)], payloads_of(run)
    opened.clear()
    turn = 0
    while [one.step() for one in (*readers[turn % 3 :], *readers[: turn % 3])] != [False] * 3:
        turn += 1
    assert [one.found for one in readers] == [wanted] * 3
    sources = sum((one.sources for one in readers), Counter())
    assert sources["disk"] == turn > 5
    assert sources["memory"] == 2 * turn
    assert all(one.sources["disk"] for one in readers), "each has read on what another one had opened"
    name = run.segments[0].path.name
    proven = compression == "none"  # by its content, which is read for that besides
    assert opened[name] == 1 + proven


def test_memory_has_a_bound_and_goes_back(tmp_path: Path) -> None:
    """However much is read; with the last reader everything goes."""
    run = run_of(tmp_path, "none")
    cache = BlockCache(4 * BLOCK_BYTES, Proofs())
    wanted = payloads_of(run)
    first, second = Reader(run, cache), Reader(run, cache)
    while first.step():
        assert cache.size_bytes <= 4 * BLOCK_BYTES
    assert second.read_all() == first.found == wanted
    third = Reader(run, cache)
    third.step()
    assert cache.open_files == 1
    third.rest()
    assert cache.open_files == 0
    cache.clear()
    assert cache.size_bytes == 0


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_who_comes_later_begins_near_its_number(
    tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known blocks are not read again for it, and what stands before is not cut."""
    run = run_of(tmp_path, compression)
    cache = BlockCache(10**6, Proofs())
    assert Reader(run, cache).read_all()
    cut: list[int] = []
    monkeypatch.setattr(block_cache, "cut", lambda data, name: cut.append(len(data)))
    late = Reader(run, cache, first_seq=run.segments[0].last_seq - 1)
    assert late.step()
    assert late.sources == {"memory": 1}
    assert not cut


@given(
    compression=st.sampled_from(["none", "gzip", "zstd"]),
    split=st.booleans(),
    bytes_max=st.sampled_from([0, 3000, 20_000, 10**6]),
    starts=st.lists(st.integers(1, BATCHES * 4 + 1), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), max_size=20),
)
@settings(max_examples=25, deadline=None)
def test_each_gets_exactly_its_records(
    compression: str, split: bool, bytes_max: int, starts: list[int], steps: list[tuple[int, int]]
) -> None:
    """Whoever reads when, from where, and however little is kept."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(reader, "_READ_BYTES", BLOCK_BYTES)
        patch.setattr(reader, "_READ_COMPRESSED_BYTES", 100)
        patch.setattr(block_cache, "_MARKS_MAX", 5)
        run = run_of(Path(folder), compression, split=split)
        wanted = payloads_of(run)
        cache = BlockCache(bytes_max, Proofs())
        readers = [Reader(run, cache, start) for start in starts]
        for number, count in steps:
            for _ in range(count):
                readers[number % len(readers)].step()
        for one, start in zip(readers, starts, strict=True):
            assert one.read_all() == wanted[start - 1 :]
        assert cache.open_files == 0


def test_threads_share_it(tmp_path: Path) -> None:
    """Who needs what another one is just reading waits for that."""
    run = run_of(tmp_path, "gzip")
    wanted = payloads_of(run)
    cache = BlockCache(10**6, Proofs())
    readers = [Reader(run, cache) for _ in range(8)]
    threads = [threading.Thread(target=one.read_all) for one in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [one.found for one in readers] == [wanted] * 8
    blocks = readers[0].sources.total()
    assert sum(one.sources["disk"] for one in readers) == blocks
    assert sum(one.sources["memory"] for one in readers) == 7 * blocks


def test_who_waits_for_a_block_that_cannot_be_read_is_not_left_waiting(tmp_path: Path) -> None:
    """The error comes to each of them."""
    run = run_of(tmp_path, "none")
    path = run.segments[0].path
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    cache = BlockCache(10**6, Proofs())
    for _ in range(2):
        with pytest.raises(ArchiveError, match="not what was written"):
            Reader(run, cache).step()
