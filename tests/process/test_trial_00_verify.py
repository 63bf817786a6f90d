"""Trial: one thing changed at random in a sound archive, over and over; verification finds every one."""

from __future__ import annotations

import gzip
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from archives import Archive, archive_settings
from trials import report, scale

from recorder.archive.verify import verify

SEED = 20261121


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Make an archive that has seen everything: runs, codecs, splitting, a kill, a drop, gaps, rejects, retention."""
    dest = tmp_path_factory.mktemp("mutation") / "archive" / "polygon.ndjson"
    archive = Archive(archive_settings(dest, flush_every=1, max_bytes=1500)).open()
    for _ in range(5):
        archive.write("TQT", rejects=[b"\xff not UTF-8", b"[1]"])
    archive.writer.append("gap", cluster="stocks", **{"from": 1, "to": 2}, reason="reset")
    archive.close()
    for codec in ("gzip", "zstd"):
        archive.clock.advance(10)
        archive.restart(compression=codec, split_per_type=True)
        archive.writer.append("session_opened", cluster="stocks")
        for _ in range(12):
            archive.write("TQTA")
        archive.feed.batch("TT")
        archive.writer.append(
            "drop", cluster="stocks", channel="T", count=2, reason="x", first_seq=49, last_seq=50
        )
        archive.write("TQ", rejects=[b"more"])
        archive.close()
    archive.restart()
    archive.write("TQ")
    archive.kill()
    sizes = sum(path.stat().st_size for path in dest.parent.iterdir() if ".2026" in path.name)
    archive.clock.advance(10)
    archive.restart(retain_bytes=sizes - 1000, compression="none")
    archive.write("TQA")
    archive.writer.tick()
    archive.close()
    kinds = Counter(line["kind"] for line in archive.manifest())
    assert {"gap", "drop", "segment_deleted", "segment_compressed", "rejects_closed"} <= set(kinds)
    assert archive.manifest("segment_closed")[-1]["reason"] == "shutdown"
    assert "recovered" in {line["reason"] for line in archive.manifest("segment_closed")}
    suffixes = {path.suffix for path in dest.parent.iterdir()}
    assert {".ndjson", ".gz", ".zst"} <= suffixes
    return archive


class Mutation:
    """Changes one thing in a copy of the archive; says what, or None where that would change nothing."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.manifest = folder / "polygon.manifest.ndjson"
        self.lock = folder / "polygon.lock"
        self.contents = sorted(path for path in folder.iterdir() if path != self.lock)
        self.files = [path for path in self.contents if path != self.manifest]

    def any_byte(self) -> str:
        """Any byte of any file, but of the owner's pid, which is no part of the archive."""
        path = self.chance.choice([*self.contents, self.lock])
        data = bytearray(path.read_bytes())
        begin = data.index(b"\n") + 1 if path == self.lock else 0
        place = self.chance.randrange(begin, len(data))
        data[place] ^= self.chance.randrange(1, 256)
        path.write_bytes(data)
        return f"{path.name}[{place}] = {data[place]}"

    def byte_of_the_last_manifest_line(self) -> str:
        """Any byte of the line that no later one vouches for."""
        data = bytearray(self.manifest.read_bytes())
        place = self.chance.randrange(data.rstrip(b"\n").rindex(b"\n"), len(data))
        data[place] ^= self.chance.randrange(1, 256)
        self.manifest.write_bytes(data)
        return f"manifest[{place}] = {data[place]}"

    def lines(self) -> str:
        """A line removed, doubled, altered, or two of them exchanged, in any file, compressed or not."""
        path = self.chance.choice(self.contents)
        lines = _read(path).splitlines(keepends=True)
        place = self.chance.randrange(len(lines))
        how = self.chance.choice(["remove", "double", "swap", "alter"])
        if how == "swap" and len(set(lines)) > 1:
            other = self.chance.choice([n for n, line in enumerate(lines) if line != lines[place]])
            lines[place], lines[other] = lines[other], lines[place]
        elif how == "double":
            lines.insert(place, lines[place])
        elif how == "alter":
            lines[place] = lines[place].replace(b"1", b"2", 1)
        else:
            del lines[place]
        _write(path, b"".join(lines))
        return f"{how} line {place} of {path.name}"

    def missing(self) -> str:
        """A file deleted."""
        path = self.chance.choice(self.contents)
        path.unlink()
        return path.name

    def doubled(self) -> str:
        """A file copied to another name of the archive."""
        path = self.chance.choice(self.files)
        name = path.name.replace(
            ".ndjson", "-7.ndjson" if ".2026" in path.name else ".20270101T000000000Z.ndjson"
        )
        shutil.copy(path, path.with_name(name))
        return name

    def truncated(self) -> str:
        """A file cut anywhere, at the border of a line as often as not."""
        path = self.chance.choice(self.contents)
        data = path.read_bytes()
        size = self.chance.randrange(len(data))
        if self.chance.random() < 0.5:
            size = data.rfind(b"\n", 0, size) + 1
        path.write_bytes(data[:size])
        return f"{path.name} to {size}"

    def appended(self) -> str:
        """Zero bytes or garbage behind a file."""
        path = self.chance.choice(self.contents)
        count = self.chance.randrange(4, 600)
        data = b"\0" * count if self.chance.random() < 0.5 else self.chance.randbytes(count)
        with path.open("ab") as file:
            file.write(data)
        return f"{count} bytes to {path.name}"

    def exchanged(self) -> str:
        """The contents of two files exchanged."""
        one, other = self.chance.sample(self.files, 2)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
        return f"{one.name} and {other.name}"


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if path.suffix == ".zst" else data


def _write(path: Path, data: bytes) -> None:
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)


KINDS: list[Callable[[Mutation], str]] = [
    Mutation.any_byte,
    Mutation.any_byte,
    Mutation.any_byte,
    Mutation.byte_of_the_last_manifest_line,
    Mutation.lines,
    Mutation.lines,
    Mutation.missing,
    Mutation.doubled,
    Mutation.truncated,
    Mutation.appended,
    Mutation.exchanged,
]


def found(archive: Archive, folder: Path, number: int) -> tuple[str, bool]:
    """Change one thing in a fresh copy; return what, and whether verification found it."""
    shutil.copytree(archive.folder, folder)
    kind = KINDS[number % len(KINDS)]
    what = kind(Mutation(folder, random.Random(SEED + number)))
    sound = verify([folder], jobs=1).ok
    shutil.rmtree(folder)
    return f"{number}, {kind.__name__}: {what}", not sound


@pytest.mark.trial
@pytest.mark.timeout(900)
def test_every_change_is_found(archive: Archive, tmp_path: Path) -> None:
    """Whatever is changed, in whatever file, verification is not ok; and the archive itself is."""
    assert verify([archive.folder]).ok, verify([archive.folder])
    count = scale(110, 1000)
    results = [found(archive, tmp_path / "copy", number) for number in range(count)]
    assert [what for what, seen in results if not seen] == []
    report(
        0,
        fault="an archive changed at random, one thing at a time",
        injected=f"bytes, lines, files, the manifest's last line; seeds {SEED} to {SEED + count - 1}",
        holds="`recorder verify` finds each",
        figure=f"{count} of {count} found",
    )
