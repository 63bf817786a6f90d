"""Trial 7: torn tails, flipped bits, zero bytes, missing and doubled files: found by `verify`, repaired at start."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from archives import Archive, archive_settings
from commands import live_settings, running, simulating
from oracle import problems_of, read_manifest, verified
from trials import report, scale
from waiting import eventually_sync

from recorder.archive.verify import Report, verify

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 7200))]

MARKET: Final = ("--cluster", "stocks", "--rate", "2000", "--no-bursts", "--frame-events", "10")
ARCHIVE_BYTES: Final = 180_000
TAIL_BYTES: Final = 65_536
CUTS: Final = scale(25, TAIL_BYTES)
FLIPS: Final = scale(15, 2_000)
IN_PROCESS: Final = (
    "in the process, as tens of thousands of starts would take days; a sample with the command itself"
)
MANIFEST: Final = "polygon.manifest.ndjson"
ACTIVE: Final = "polygon.ndjson"


@dataclass
class Original:
    """An archive that the command recorded, and a copy of it to be damaged."""

    folder: Path
    copy: Path

    def restore(self) -> None:
        """Make the copy whole again."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.folder, self.copy, ignore=shutil.ignore_patterns("*.lock"))

    @property
    def sealed(self) -> list[str]:
        """Names of the rotated files, the oldest first."""
        return sorted(path.name for path in self.folder.glob("polygon.2*"))

    @property
    def lines(self) -> list[bytes]:
        """Every record of the copy, in the order of the files."""
        return self._archive().content()

    def restart(self) -> None:
        """Let a run begin on the copy, and end."""
        archive = self._archive().open()
        archive.close()

    def _archive(self) -> Archive:
        return Archive(archive_settings(self.copy / ACTIVE, compression="zstd", max_bytes=100_000_000))


@pytest.fixture(scope="module")
def fast_folder() -> Iterator[Path]:
    """Yield a folder in memory, where the machine has one: 65,536 starts sync some 400,000 times."""
    memory = Path("/dev/shm")  # noqa: S108  a folder of its own is made in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def record(fast_folder: Path) -> Callable[..., Original]:
    """Return a function that has the command record an archive of each kind once, and kills or stops it."""
    made: dict[str, Original] = {}

    def make(number: signal.Signals, **variables: str) -> Original:
        kind = f"{number.name}-{variables.get('NDJSON_COMPRESSION', 'none')}"
        if kind not in made:
            place = fast_folder / kind
            place.mkdir()
            with simulating(*MARKET, cwd=place) as port:
                settings = live_settings(port, place / "original", ROLES="archive,ops", **variables)
                with running("run", cwd=place, **settings) as recorder:
                    written = 'polygon_sink_written_bytes_total{sink="ndjson"}'
                    eventually_sync(lambda: recorder.metric(written) > ARCHIVE_BYTES, "an archive")
                    assert recorder.stop(number) in {0, -number}
            made[kind] = Original(place / "original", place / "copy")
        return made[kind]

    return make


ROTATING: Final = {"NDJSON_MAX_BYTES": "60000"}


def everything(found: Report) -> list[str]:
    """Return all that a report says is wrong."""
    return [*found.problems, *(problem for file in found.files for problem in file.problems)]


def notes(found: Report) -> list[str]:
    """Return all that a report says a start will repair."""
    return [*found.notes, *(note for file in found.files for note in file.notes)]


def places(size: int) -> list[int]:
    """Return where to cut a file of `size` bytes: everywhere in its last 64 KiB, or at some places there."""
    first = max(0, size - TAIL_BYTES)
    return sorted(random.Random(7).sample(range(first, size), min(CUTS, size - first)))


def test_the_active_file_torn_at_every_byte(record: Callable[..., Original]) -> None:
    """Whole lines stay, the torn one is kept as a reject, and `verify` passes with the start's repair on record."""
    original = record(signal.SIGKILL)
    original.restore()
    data = (original.folder / ACTIVE).read_bytes()
    cuts = places(len(data))
    for size in cuts:
        whole = data[: data.rfind(b"\n", 0, size) + 1]
        (original.copy / ACTIVE).write_bytes(data[:size])
        # The lock file tells how far the manifest goes: the two belong together.
        for name in (MANIFEST, "polygon.lock"):
            shutil.copy(original.folder / name, original.copy)
        (original.copy / "polygon.rejected.ndjson").unlink(missing_ok=True)
        before = verify([original.copy])
        assert before.ok, (size, everything(before))
        assert len(whole) == size or any("torn" in note for note in notes(before)), size
        original.restart()
        assert (original.copy / ACTIVE).read_bytes() == whole, size
        after = verify([original.copy])
        assert after.ok, (size, everything(after))
        assert not notes(after), size
        assert after.records == whole.count(b"\n")
        assert (original.copy / "polygon.rejected.ndjson").exists() == (len(whole) < size)
    report(
        7,
        fault="active file of a killed run torn",
        injected=f"cut at {len(cuts):,} places of its last 64 KiB; started and verified {IN_PROCESS}",
        holds="whole lines stay, the torn one is kept as a reject; the repair is in the manifest; `verify` passes",
        figure=f"{len(cuts):,} cuts, 0 whole lines lost",
    )


def test_the_manifest_torn_at_every_byte(record: Callable[..., Original]) -> None:
    """A start completes it from the files, compressed ones, too: no record is lost or doubled, `verify` passes."""
    original = record(signal.SIGTERM, NDJSON_COMPRESSION="zstd", **ROTATING)
    original.restore()
    lines = original.lines
    data = (original.folder / MANIFEST).read_bytes()
    cuts = places(len(data))
    for size in cuts:
        original.restore()
        (original.copy / MANIFEST).write_bytes(data[:size])
        before = verify([original.copy])
        torn = not data[:size].endswith(b"\n") and size > 0
        assert not torn or any("torn" in text for text in [*everything(before), *notes(before)]), size
        original.restart()
        after = verify([original.copy])
        assert after.ok, (size, everything(after))
        assert original.lines == lines, size
    report(
        7,
        fault="manifest torn",
        injected=f"cut at {len(cuts):,} of its {len(data):,} bytes; started and verified {IN_PROCESS}",
        holds="the start completes it from the files, compressed ones, too; `verify` passes",
        figure=f"{len(cuts):,} cuts, 0 records lost or doubled",
    )


def test_a_compressed_file_torn_at_every_byte(record: Callable[..., Original]) -> None:
    """`verify` finds each cut; a start neither fails nor hides it, and the other files stay what they are."""
    original = record(signal.SIGTERM, NDJSON_COMPRESSION="zstd", **ROTATING)
    original.restore()
    name = original.sealed[0]
    data = (original.folder / name).read_bytes()
    cuts = places(len(data))
    for number, size in enumerate(cuts):
        (original.copy / name).write_bytes(data[:size])
        assert damaged_files(verify([original.copy])) == {name}, size
        if number % 16 == 0:
            original.restart()
            assert damaged_files(verify([original.copy])) == {name}, size
            original.restore()
    report(
        7,
        fault="compressed file torn",
        injected=f"cut at {len(cuts):,} of its {len(data):,} bytes; verified {IN_PROCESS}",
        holds="`verify` names the file, before and after a start",
        figure=f"{len(cuts):,} cuts, {len(cuts):,} found",
    )


def damaged_files(found: Report) -> set[str]:
    """Return the names of the files that a report finds damaged."""
    return {Path(file.path).name for file in found.files if file.problems}


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_every_flipped_bit_is_found(record: Callable[..., Original], codec: str) -> None:
    """One bit of a sealed file, the active file or the manifest is enough; a start continues and does not hide it."""
    original = record(signal.SIGTERM, NDJSON_COMPRESSION=codec, **ROTATING)
    chance = random.Random(codec)
    flips = 0
    for name in (original.sealed[0], original.sealed[-1], ACTIVE, MANIFEST):
        data = (original.folder / name).read_bytes()
        # A chain vouches for every line but its last.
        size = data.rfind(b"\n", 0, -1) if name == MANIFEST else len(data)
        if not size:
            continue
        original.restore()
        for number in range(FLIPS):
            place = chance.randrange(size)
            changed = bytearray(data)
            changed[place] ^= 1 << chance.randrange(8)
            (original.copy / name).write_bytes(changed)
            assert not verify([original.copy]).ok, (name, place)
            if number % 10 == 0:
                original.restart()
                assert not verify([original.copy]).ok, (name, place)
                original.restore()
            flips += 1
    assert flips >= 3 * FLIPS
    report(
        7,
        fault=f"a bit flipped, {'plain' if codec == 'none' else codec} archive",
        injected=f"one bit at a random place of a sealed file, the active file, the manifest; verified {IN_PROCESS}",
        holds="`verify` fails, before and after a start",
        figure=f"{flips:,} flips, {flips:,} found",
    )


def test_a_tail_of_zeros_or_half_a_line_is_cut(record: Callable[..., Original]) -> None:
    """What a power loss leaves behind a sealed or active file or the manifest is told, then cut; nothing is lost."""
    original = record(signal.SIGTERM, **ROTATING)
    original.restore()
    lines = original.lines
    tails = [b"\0" * 512, b"\0", b'{"ingest_ts":17', b'{"kind":"segm']
    for name in (original.sealed[0], original.sealed[-1], ACTIVE, MANIFEST):
        for tail in tails:
            original.restore()
            with (original.copy / name).open("ab") as file:
                file.write(tail)
            before = verify([original.copy])
            assert everything(before) or notes(before), (name, tail)
            original.restart()
            after = verify([original.copy])
            assert after.ok, (name, tail, everything(after))
            assert original.lines == lines, (name, tail)
            rejects = (original.copy / "polygon.rejected.ndjson").read_bytes()
            assert b"after a crash" in rejects, (name, tail)
    report(
        7,
        fault="a tail of zero bytes, or half a line",
        injected=f"512 zeros, one, and half a line behind sealed files, the active file and the manifest; {IN_PROCESS}",
        holds="`verify` tells, a start cuts it and keeps it as a reject; `verify` passes then",
        figure=f"{4 * len(tails)} tails, 0 records lost",
    )


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_missing_and_doubled_files_are_found(record: Callable[..., Original], codec: str) -> None:
    """A sealed file that is gone is missed with its count, one that is there twice is named, also after a start."""
    original = record(signal.SIGTERM, NDJSON_COMPRESSION=codec, **ROTATING)
    for name in original.sealed:
        original.restore()
        (original.copy / name).unlink()
        missing = [f"{name.removesuffix('.zst')} is missing"]
        for started in (False, True):
            if started:
                original.restart()
            problems = everything(verify([original.copy]))
            assert any(problem.startswith(missing[0]) for problem in problems), (name, problems)
        original.restore()
        double = name.replace("Z.ndjson", "Z-1.ndjson")
        shutil.copy(original.folder / name, original.copy / double)
        for started in (False, True):
            if started:
                original.restart()
            problems = everything(verify([original.copy]))
            assert any("same content" in problem for problem in problems), (name, problems)
    report(
        7,
        fault=f"missing and doubled files, {'plain' if codec == 'none' else codec} archive",
        injected="each sealed file deleted, and each copied under another rotated name; verified in the process",
        holds="`verify` names each with what is lost, before and after a start",
        figure=f"{len(original.sealed)} files missing, {len(original.sealed)} doubled, all found",
    )


def test_the_command_repairs_and_says_so(record: Callable[..., Original], tmp_path: Path) -> None:
    """The command cuts the torn line, logs and records it, and goes on behind it; `recorder verify` passes."""
    original = record(signal.SIGKILL)
    data = (original.folder / ACTIVE).read_bytes()
    cuts = random.Random(7).sample(places(len(data)), scale(1, 40))
    with simulating(*MARKET, cwd=tmp_path) as port:
        for size in cuts:
            original.restore()
            (original.copy / ACTIVE).write_bytes(data[:size])
            with (original.copy / MANIFEST).open("ab") as file:
                file.write(b'{"kind":"ga')
            whole = data[: data.rfind(b"\n", 0, size) + 1]
            findings = verified(original.copy)
            assert "the last line is torn" in str(findings["notes"])
            settings = live_settings(port, original.copy, ROLES="archive,ops")
            with running("run", cwd=tmp_path, **settings) as recorder:
                eventually_sync(lambda: recorder.received() > 100, "data again")
                assert len(recorder.logged("archive_line_cut")) == 1 + (len(whole) < size)
                assert recorder.logged("archive_segment_recovered")[0]["records"] == whole.count(b"\n")
                assert recorder.stop() == 0
            (recovered,) = (
                entry
                for entry in read_manifest(original.copy, "segment_closed")
                if entry["reason"] == "recovered"
            )
            assert recovered["records"] == whole.count(b"\n")
            assert (original.copy / ACTIVE).read_bytes().startswith(whole)
            assert not problems_of(verified(original.copy))
    report(
        7,
        fault="torn active file and manifest, the command itself",
        injected=f"active file cut at {len(cuts)} places, half a line behind the manifest; `recorder run` again",
        holds="it logs and records the repair, and goes on behind it; `recorder verify` passes",
        figure=f"{len(cuts)} starts, 0 whole lines lost",
    )
