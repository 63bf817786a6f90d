"""Sealed segments are held against their checksums before anything of them is yielded, and once in a process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from archives import Archive, archive_settings

from recorder.archive import recorded_segment
from recorder.archive.proofs import Proofs
from recorder.archive.reader import read_blocks
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording
from recorder.errors import ArchiveError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, bool]]:
    """Count how often files are read: by name, and whether as they lie on disk."""
    found: Counter[tuple[str, bool]] = Counter()

    def counted(path: Path, *arguments: Any, codec: str = "", **options: Any) -> Iterator[bytes]:
        found[path.name, codec == "none"] += 1
        return read_blocks(path, *arguments, codec=codec, **options)

    monkeypatch.setattr(recorded_segment, "read_blocks", counted)
    return found


def segment_of(folder: Path, compression: str) -> Segment:
    """Return a sealed segment of some lines."""
    settings = archive_settings(
        folder / "polygon.ndjson", flush_every=1, max_bytes=1500, compression=compression
    )
    archive = Archive(settings).open()
    for _ in range(8):
        archive.write("TQTQ")
        archive.clock.advance(1)
    archive.close()
    segment = next(iter(Recording(archive.names.manifest).segments))
    assert segment.path.suffix == {"none": ".ndjson", "zstd": ".zst", "gzip": ".gz"}[compression]
    return segment


def content(segment: Segment, proofs: Proofs | None = None) -> bytes:
    return b"".join(segment.blocks(proofs))


@pytest.mark.parametrize("compression", ["none", "zstd", "gzip"])
def test_a_segment_is_proven_once_for_all_readers(
    tmp_path: Path, compression: str, opened: Counter[tuple[str, bool]]
) -> None:
    """Of a compressed file the sum of the bytes on disk is enough: each reader decompresses it once."""
    segment, proofs = segment_of(tmp_path, compression), Proofs()
    plain = content(segment)
    opened.clear()
    for _ in range(3):
        assert content(segment, proofs) == plain
    name = segment.path.name
    wanted = {(name, False): 4} if compression == "none" else {(name, False): 3, (name, True): 1}
    assert opened == wanted


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_file_that_has_changed_since_is_proven_anew(tmp_path: Path, compression: str) -> None:
    """Nothing of it is yielded, whatever its name and size."""
    segment, proofs = segment_of(tmp_path, compression), Proofs()
    content(segment, proofs)
    data = bytearray(segment.path.read_bytes())
    data[len(data) // 2] ^= 1
    segment.path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"not what was written; see `recorder verify`"):
        next(segment.blocks(proofs))
    data[len(data) // 2] ^= 1
    segment.path.write_bytes(data)
    assert content(segment, proofs)


def as_zstd(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=19).compress(plain)


@pytest.mark.parametrize("with_proofs", [True, False])
@pytest.mark.parametrize(
    "change", [lambda plain: plain, lambda plain: plain.replace(b"T:", b"X:", 1)], ids=["same", "other"]
)
def test_a_compressed_file_is_the_one_that_was_written(
    tmp_path: Path, with_proofs: bool, change: Callable[[bytes], bytes]
) -> None:
    """One that another program has made is refused, as `recorder verify` does, though it be whole."""
    segment = segment_of(tmp_path, "zstd")
    segment.path.write_bytes(as_zstd(change(content(segment))))
    with pytest.raises(ArchiveError, match="not what was written"):
        content(segment, Proofs() if with_proofs else None)


@pytest.mark.parametrize("with_proofs", [True, False])
def test_without_the_sum_of_the_compressed_file_the_plain_one_counts(
    tmp_path: Path, with_proofs: bool
) -> None:
    """The first versions did not note it."""
    noted = segment_of(tmp_path, "zstd")
    plain = content(noted)
    [segment] = [one for one in Recording(_forget_sums(tmp_path)).segments if one.path == noted.path]
    assert segment.packed is None
    assert content(segment, Proofs() if with_proofs else None) == plain
    segment.path.write_bytes(as_zstd(plain.replace(b"T:", b"X:", 1)))
    with pytest.raises(ArchiveError, match="not what was written"):
        content(segment, Proofs() if with_proofs else None)


def _forget_sums(folder: Path) -> Path:
    """Write the manifest anew as if nobody had noted the sums of compressed files; its chain breaks by that."""
    manifest = folder / "polygon.manifest.ndjson"
    entries = list(map(orjson.loads, manifest.read_bytes().splitlines()))
    for entry in entries:
        if entry["kind"] == "segment_compressed":
            del entry["sha256"]
    manifest.write_bytes(b"".join(orjson.dumps(entry) + b"\n" for entry in entries))
    return manifest


def test_a_file_that_grows_is_not_proven_again(tmp_path: Path, opened: Counter[tuple[str, bool]]) -> None:
    """The segment of an earlier run in the active file: what is appended lies behind it."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.write("TQ")
    archive.close()
    archive.restart()
    [segment] = [one for one in Recording(archive.names.manifest).segments if one.sha256]
    proofs = Proofs()
    plain = content(segment, proofs)
    archive.write("TQ")
    opened.clear()
    assert content(segment, proofs) == plain
    assert opened == {("polygon.ndjson", False): 1}
    with segment.path.open("r+b") as file:
        os.pwrite(file.fileno(), b"X", segment.size_bytes - 20)
        os.ftruncate(file.fileno(), segment.size_bytes)
    with pytest.raises(ArchiveError, match="not what was written"):
        content(segment, proofs)
    archive.close()


def test_who_ends_reads_no_long_file_to_its_end(tmp_path: Path) -> None:
    """A thread that proves a file of gigabytes would hold the end of the process."""
    segment, proofs = segment_of(tmp_path, "none"), Proofs()
    proofs.is_over = True
    with pytest.raises(ArchiveError, match="this recorder ends"):
        content(segment, proofs)
