"""Verification: every kind of damage is found, and a sound archive is never accused."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from archives import Archive, FaultyDisk, archive_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.archive.entries import entry_of, segment_fields
from recorder.archive.findings import FileReport, Report
from recorder.archive.manifest_index import Entry
from recorder.archive.record import Summary
from recorder.archive.segment_checker import SegmentChecker
from recorder.archive.sequence import RunCheck, SequenceCheck
from recorder.archive.verify import verify
from recorder.errors import ArchiveError
from recorder.ledger import CHANNEL_CHARS_MAX, CHANNELS_MAX, OTHER


def make(folder: Path, compression: str = "none", *, split: bool = False) -> Archive:
    """Make an archive of two runs with some sealed files, ended well."""
    archive = Archive(
        archive_settings(
            folder / "polygon.ndjson",
            flush_every=1,
            max_bytes=1500,
            compression=compression,
            split_per_type=split,
        )
    ).open()
    for _ in range(6):
        archive.write("TQT")
    archive.close()
    archive.clock.advance(10)
    archive.restart()
    for _ in range(6):
        archive.write("TQT")
    archive.close()
    return archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make(tmp_path / "archive")


def problems(folder: Path) -> list[str]:
    report = verify([folder])
    found = report.problems + [
        f"{file.path}: {problem}" for file in [*report.files, *report.rejects] for problem in file.problems
    ]
    assert report.ok == (not found)
    return found


def copies(archive: Archive) -> Iterator[Path]:
    """Yield fresh copies of an archive, each gone when the next is asked for."""
    number = 0
    while True:
        folder = archive.folder.with_name(f"copy-{number}")
        shutil.copytree(archive.folder, folder)
        yield folder
        shutil.rmtree(folder)
        number += 1


def channels_of(number: int) -> list[str]:
    """Return many channels that an exchange might make up, others for each number, all but `T` and a long one."""
    return [
        "T",
        "Y" * (CHANNEL_CHARS_MAX + number),
        *(f"X{place}" for place in range(number, number + CHANNELS_MAX)),
    ]


@pytest.mark.parametrize("killed", [False, True])
def test_channels_without_end_share_a_count(tmp_path: Path, killed: bool) -> None:
    """A segment counts the first channels by name and the rest together, however many come; verify knows which."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    sent: Counter[str] = Counter()
    for number in (40, 0, 80):
        channels = channels_of(number)
        sent.update(channels)
        batch = archive.feed.batch(channels)
        for lines in batch.lines:  # rows count channels in no order
            lines.summary.counts = Counter(dict(reversed(lines.summary.counts.items())))
        archive.writer.write(batch)
        archive.writer.flush()
    if killed:
        archive.kill()
        archive.restart()
    archive.close()
    assert problems(tmp_path) == []
    [segment] = archive.manifest("segment_closed")
    counts = segment["counts"]
    assert len(counts) <= CHANNELS_MAX + 1
    assert counts[OTHER] >= 3, "the long one"
    assert {name: sent[name] for name in counts if name != OTHER} == {
        name: count for name, count in counts.items() if name != OTHER
    }
    assert counts["T"] == 3, "a known channel has its name, however late it comes"
    assert sum(counts.values()) == segment["records"] == sent.total()
    [report] = verify([tmp_path]).files
    assert report.counts == counts


def test_names_of_a_manifest_from_before_the_limit_are_accepted(archive: Archive) -> None:
    """A manifest may have more names, and longer ones, than are given now: they are compared one by one."""
    channels = channels_of(0)
    entry = entry_with(channels)
    checker = SegmentChecker(FileReport("a"), RunCheck("run-1"), 0, entry)
    checker.feed(b"".join(archive.feed.batch(channels).lines[0].data for _ in range(2)))
    checker.end()
    assert dict(checker.summary.counts) == dict.fromkeys(channels, 2)


def entry_with(channels: list[str]) -> Entry:
    """Return what a manifest says of a segment with these channels."""
    summary = Summary(counts=Counter(dict.fromkeys(channels, 2)))
    return entry_of("run-1", segment_fields("a", summary, "", "size", 0))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_a_sound_archive_has_no_problem(tmp_path: Path, compression: str, split: bool) -> None:
    """The report counts what was written, file by file, and progress ends at its total."""
    archive = make(tmp_path, compression, split=split)
    steps: list[tuple[int, int]] = []
    report = verify([tmp_path], progress=lambda done, total: steps.append((done, total)))
    assert report.ok
    assert report.records == 36
    assert report.bytes == sum(map(len, archive.lines))
    assert sum(file.counts["T"] for file in report.files) == 24
    assert not report.losses
    assert steps[-1][0] == steps[-1][1]
    assert steps == sorted(steps)


@pytest.mark.parametrize("path", ["", "polygon.ndjson", "polygon.manifest.ndjson"])
def test_an_archive_is_named_by_its_folder_its_manifest_or_its_active_file(
    archive: Archive, path: str
) -> None:
    """All three mean the whole archive, and naming it twice reads it once."""
    assert verify([archive.folder / path]).records == 36
    assert verify([archive.folder / path, archive.folder]).records == 36


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    """A path that does not exist is told at once."""
    with pytest.raises(ArchiveError, match="does not exist"):
        verify([tmp_path / "missing"])


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, compression: str) -> None:
    """One bit in any file of records, plain or compressed, or in the manifest, is a problem."""
    archive = make(tmp_path / "archive", compression)
    folders = copies(archive)
    names = [*archive.file_names()[:2], "polygon.ndjson", "polygon.manifest.ndjson"]
    for name in names:
        size = (archive.folder / name).stat().st_size
        for place in range(0, size, 41):
            folder = next(folders)
            data = bytearray((folder / name).read_bytes())
            data[place] ^= 1
            (folder / name).write_bytes(data)
            assert problems(folder), (name, place)


@pytest.mark.parametrize("tail", [b"\0" * 512, b'{"ingest_ts":17', b"\n", b"x\n"])
def test_anything_behind_a_file_is_found(archive: Archive, tail: bytes) -> None:
    """Zero bytes, half a line or a line more, behind a sealed or an active file, is a problem."""
    folders = copies(archive)
    for name in (archive.file_names()[0], "polygon.ndjson"):
        folder = next(folders)
        with open(folder / name, "ab") as file:
            file.write(tail)
        assert problems(folder)


def test_a_truncation_anywhere_is_found(archive: Archive) -> None:
    """A file that is cut at any byte is a problem, at the border of a line too."""
    folders = copies(archive)
    for name in (archive.file_names()[0], "polygon.ndjson"):
        data = (archive.folder / name).read_bytes()
        for size in [*range(0, len(data), 37), data.rfind(b"\n", 0, -1) + 1]:
            folder = next(folders)
            (folder / name).write_bytes(data[:size])
            assert problems(folder), (name, size)


def test_a_missing_file_is_found(archive: Archive) -> None:
    """A sealed file that nobody was told to delete is missed."""
    (archive.folder / archive.file_names()[0]).unlink()
    assert any("is missing" in problem for problem in problems(archive.folder))


def test_a_doubled_file_is_found(archive: Archive) -> None:
    """A copy under another name of the archive is a problem."""
    name = archive.file_names()[0]
    shutil.copy(archive.folder / name, archive.folder / name.replace("Z", "Z-77"))
    found = problems(archive.folder)
    assert any("same content" in problem for problem in found)
    assert any("does not know" in problem for problem in found)


@pytest.mark.parametrize("place", [0, 1, 3, -2])
def test_a_removed_or_altered_manifest_line_is_found(archive: Archive, place: int) -> None:
    """The chain shows a line that was taken out, changed, or doubled."""
    lines = archive.names.manifest.read_bytes().splitlines(keepends=True)
    for altered in (
        [line for line in lines if line != lines[place]],
        [line.replace(b'"run-', b'"run_') if line == lines[place] else line for line in lines],
        sorted(lines * 2, key=lines.index),
    ):
        archive.names.manifest.write_bytes(b"".join(altered))
        assert any("polygon.manifest.ndjson, line" in problem for problem in problems(archive.folder))


def test_without_a_manifest_each_line_is_checked(archive: Archive) -> None:
    """Sound files pass; a line that is no record, doubled, or out of order is named with its number."""
    archive.names.manifest.unlink()
    archive.names.lock.unlink()
    assert problems(archive.folder) == []
    path = archive.folder / "polygon.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    first, second, *rest = lines
    for broken, what in (
        ([first, first, second], "comes twice"),
        ([second, first], "comes after"),
        ([first, b'{"seq":1}\n'], "line 2: no record"),
        ([first, second.replace(b'"schema_version":1', b'"schema_version":1,"more":2')], "line 2: no record"),
        (
            [first, second.replace(b'"payload":{', b'"payload":[{').replace(b'},"host', b'}],"host')],
            "no record",
        ),
        ([first, second.replace(b'"S', b'"\xff', 1)], "line 2: not UTF-8"),
        ([first, b"\n", second], "line 2: no record"),
        ([first, second.replace(b'"topic":"', b'"topic":"x')], "topic is not type:symbol"),
        ([first, second[:-1]], "torn"),
    ):
        path.write_bytes(b"".join([*broken, *rest[:0]]))
        assert any(what in problem for problem in problems(archive.folder)), what


def test_a_hole_needs_a_drop(tmp_path: Path) -> None:
    """Sequence numbers that are missing are a problem, unless a drop of as many says where they went."""
    for noted, sound in ((None, False), (3, True), (2, False)):
        folder = tmp_path / str(noted)
        archive = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1)).open()
        archive.write("TQT")
        lost = archive.feed.batch("TTT")
        assert lost.lines[0].summary.first_seq == 4
        archive.write("Q")
        if noted is not None:
            archive.writer.append(
                "drop", cluster="stocks", channel="T", count=noted, reason="x", first_seq=4, last_seq=6
            )
        archive.close()
        assert verify([folder]).ok is sound
        assert len(verify([folder]).drops) == (noted is not None)


def test_a_killed_run_names_its_losses(tmp_path: Path) -> None:
    """A hole at the end of a run that was killed is a loss with its numbers; the same hole long before is a problem."""
    for secs, sound in ((1, True), (3600, False)):
        folder = tmp_path / str(secs)
        archive = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1)).open()
        archive.write("TQ")
        archive.feed.batch("TT")
        archive.write("Q")
        archive.clock.advance(secs)
        archive.write("Q")
        archive.kill()
        report = verify([folder])
        assert report.ok is sound
        assert [(loss.first_seq, loss.last_seq) for loss in report.losses] == ([(3, 4)] if sound else [])


def test_a_live_archive_is_sound(tmp_path: Path) -> None:
    """What a recorder is writing just now is no problem, torn last line included."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.write("TQ")
    with open(tmp_path / "polygon.ndjson", "ab") as file:
        file.write(b'{"ingest')
    report = verify([tmp_path])
    assert report.ok
    assert report.records == 2
    assert "torn" in report.files[0].notes[0]
    archive.kill()


class Meddler:
    """Does something at the n-th time that a file or a folder below another one is opened."""

    def __init__(self) -> None:
        self.folder = ""
        self.left = 0
        self.work: Callable[[], object] = lambda: None
        sys.addaudithook(self._opened)

    def _opened(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("open", "os.scandir") or not self.folder:
            return
        if str(arguments[0]).startswith(self.folder):
            self.left -= 1
            if not self.left:
                self.folder = ""
                self.work()

    def verify(self, archive: Archive, number: int, work: Callable[[], object]) -> tuple[Report, bool]:
        """Verify an archive, and do the work at the n-th look; return also whether it came to that."""
        self.folder, self.left, self.work = str(archive.folder), number, work
        report = verify([archive.folder], jobs=1)
        done, self.folder = not self.folder, ""
        return report, done


@pytest.fixture(scope="module")
def meddler() -> Meddler:
    return Meddler()


class UnsyncedDisk(FaultyDisk):
    """A disk that no test takes the power from."""

    def sync(self, fd: int) -> None:
        """It is not done."""

    def sync_folder(self, path: Path) -> None:
        """It is not done."""


def churn(archive: Archive) -> None:
    """Fill, seal, compress and delete files, several times over."""
    for _ in range(6):
        archive.write("TQT", rejects=[b"[1]"])
        archive.clock.advance(5)
        archive.writer.tick()


def restart(archive: Archive) -> None:
    """Stop, and start again."""
    archive.close()
    archive.clock.advance(1)
    archive.restart()
    churn(archive)


def begin(archive: Archive) -> None:
    """Start a recorder."""
    archive.restart()
    churn(archive)


@pytest.mark.parametrize(
    ("work", "is_live", "retain_bytes"),
    [
        (lambda archive: archive.writer.tick(), True, None),
        (churn, True, None),
        (churn, True, 4000),
        (restart, True, None),
        (begin, False, None),
        (begin, False, 4000),
    ],
)
def test_a_recorder_at_work_is_never_accused(
    tmp_path: Path,
    meddler: Meddler,
    work: Callable[[Archive], object],
    is_live: bool,
    retain_bytes: int | None,
) -> None:
    """Whatever a recorder does at whichever moment of a verification, the archive is sound and nothing is lost."""
    number, done = 0, True
    while done:
        number += 1
        folder = tmp_path / str(number)
        settings = archive_settings(
            folder / "polygon.ndjson",
            flush_every=1,
            max_bytes=1200,
            compression="zstd",
            retain_bytes=retain_bytes,
        )
        archive = Archive(settings, disk=UnsyncedDisk()).open()
        for _ in range(2):
            churn(archive)
            archive.write("TQ")
            archive.close()
            archive.clock.advance(1)
            archive.restart()
        churn(archive)
        for _ in range(3):
            archive.write("TQT")
        if not is_live:
            archive.close()
        report, done = meddler.verify(archive, number, partial(work, archive))
        archive.kill()
        found = report.problems + [problem for file in report.files for problem in file.problems]
        assert report.ok, (number, found)
        assert not report.losses
        assert report.records > 10
        if is_live:
            assert any("is being recorded to" in note for note in report.notes)
        shutil.rmtree(folder)
    assert number > 20


@pytest.mark.parametrize("lock", ["kept", "lost"])
def test_a_manifest_without_its_last_lines_is_found(archive: Archive, lock: str) -> None:
    """The lock file tells how far the manifest goes; without it, an archive without end is not called whole."""
    lines = archive.names.manifest.read_bytes().splitlines(keepends=True)
    if lock == "lost":
        archive.names.lock.unlink()
    for count in range(1, len(lines)):
        archive.names.manifest.write_bytes(b"".join(lines[:count]))
        report = verify([archive.folder])
        if lock == "kept":
            assert not report.ok
        else:
            assert not report.ok or any("cannot be told" in note for note in report.notes)


def test_a_start_remembers_that_the_manifest_was_cut(archive: Archive) -> None:
    """A recorder that finds its manifest cut puts the files on record again, and verification tells so for good."""
    lines = archive.names.manifest.read_bytes().splitlines(keepends=True)
    archive.names.manifest.write_bytes(b"".join(lines[:-1]))
    archive.restart()
    archive.close()
    assert len(archive.manifest("manifest_damaged")) == 1
    assert problems(archive.folder) == []
    assert any("the manifest had lost its end" in note for note in verify([archive.folder]).notes)


def test_a_missing_manifest_is_found(archive: Archive) -> None:
    """A folder whose lock file speaks of a manifest needs it."""
    archive.names.manifest.unlink()
    assert any("manifest.ndjson is missing" in problem for problem in problems(archive.folder))


@pytest.mark.parametrize("name", ["polygon.ndjson", "polygon.rejected.ndjson"])
def test_a_missing_active_file_is_found(archive: Archive, name: str) -> None:
    """A file that was closed at the end, and that nobody was seen to move, is missed."""
    archive.restart()
    archive.write("T", rejects=[b"[1]"])
    archive.close()
    assert problems(archive.folder) == []
    (archive.folder / name).unlink()
    assert any(f"{name} is missing" in problem for problem in problems(archive.folder))


def test_rejects_are_on_record(tmp_path: Path) -> None:
    """What is rejected, rotated by size, kept at a recovery, or written by an older version, is vouched for."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, max_bytes=200))
    (tmp_path / "polygon.rejected.ndjson").write_bytes(b'{"ingest_ts":1,"feed":"f","reason":"r","raw":"x"}\n')
    archive.open()
    for number in range(8):
        archive.write("T", rejects=[b"%d" % number])
    archive.kill()
    with (tmp_path / "polygon.ndjson").open("ab") as file:
        file.write(b'{"ingest_ts":17')
    assert problems(tmp_path) == []
    archive.restart()
    archive.close()
    report = verify([tmp_path])
    assert report.ok
    assert sum(file.records for file in report.rejects) == 10
    assert len(report.rejects) > 2
    for file in report.rejects:
        path = Path(file.path)
        content = path.read_bytes()
        path.write_bytes(content.replace(b'"raw":"', b'"raw":"9', 1))
        assert problems(tmp_path), path
        path.write_bytes(content)


def test_fields_out_of_order_are_found(archive: Archive) -> None:
    """Records are one sequence of fields; a line with two of them exchanged is not a record."""
    archive.names.manifest.unlink()
    archive.names.lock.unlink()
    path = archive.folder / "polygon.ndjson"
    path.write_bytes(
        path.read_bytes().replace(
            b'"hostname":"host-2","app_version":"0.1.0"', b'"app_version":"0.1.0","hostname":"host-2"', 1
        )
    )
    assert any("not in their order" in problem for problem in problems(archive.folder))


def test_lines_of_several_writers_are_told_apart(archive: Archive) -> None:
    """A file that several hosts and versions wrote is read like any other."""
    path = archive.folder / "polygon.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    both = [line.replace(b"host-2", b"host-%d" % (number % 2)) for number, line in enumerate(lines)]
    archive.names.manifest.unlink()
    archive.names.lock.unlink()
    path.write_bytes(b"".join(both))
    assert problems(archive.folder) == []


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 200_000), max_size=20, unique=True).map(sorted), max_size=8))
def test_sequence_numbers_are_a_set(stretches: list[list[int]]) -> None:
    """Holes and doubles are those of a plain set, in whatever order stretches come."""
    check = SequenceCheck()
    seen: set[int] = set()
    doubles = 0
    for numbers in stretches:
        check.add(numbers)
        doubles += len(seen & set(numbers))
        seen |= set(numbers)
    missing = {number for first, last in check.holes() for number in range(first, last + 1)}
    assert missing == set(range(1, max(seen, default=0) + 1)) - seen
    assert check.doubles == doubles


@given(st.permutations(range(8)), st.integers(1, 40_000))
def test_whole_pages_are_forgotten(order: list[int], length: int) -> None:
    """Ranges that fill everything leave no hole and no page in memory, and a second time all of them are doubles."""
    check = SequenceCheck()
    for number in order:
        check.add(range(number * length + 1, (number + 1) * length + 1))
    assert list(check.holes()) == []
    check.add(range(1, 8 * length + 1))
    assert check.doubles == 8 * length
