"""The manifest: one chain from any thread, over restarts, and whatever becomes of its file."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from archives import Archive, Fault, FaultyDisk, archive_settings
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from recorder.archive.doubt import SyncDoubt
from recorder.archive.manifest import Manifest
from recorder.archive.manifest_index import NO_PREVIOUS, Entry, read_manifest
from recorder.archive.stats import ArchiveStats
from recorder.archive.verify import verify


def make(path: Path, run_id: str = "run-1") -> Manifest:
    return Manifest(
        path,
        run_id=run_id,
        disk=(disk := FaultyDisk()),
        doubt=SyncDoubt(disk),
        clock=FakeClock(),
        stats=ArchiveStats(),
    )


def entries(path: Path, problem: Callable[[int, str], None] | None = None) -> list[Entry]:
    def refuse(number: int, what: str) -> None:
        pytest.fail(f"line {number}: {what}")

    return list(read_manifest(iter(path.read_bytes().splitlines(keepends=True)), problem or refuse))


def test_a_line_has_its_fields_in_order(tmp_path: Path) -> None:
    """A line begins with kind, run and time, and ends with the checksums of the line before it and of its own."""
    manifest = make(tmp_path / "manifest.ndjson")
    manifest.open()
    manifest.append("session_opened", cluster="stocks")
    manifest.close()
    (line,) = (tmp_path / "manifest.ndjson").read_bytes().splitlines()
    assert orjson.loads(line) == {
        "sum": hashlib.sha256(line.partition(b',"sum":')[0]).hexdigest(),
        "kind": "session_opened",
        "run_id": "run-1",
        "ts": 1_795_237_802_335,
        "cluster": "stocks",
        "prev": NO_PREVIOUS,
    }
    assert list(orjson.loads(line)) == ["kind", "run_id", "ts", "cluster", "prev", "sum"]


def test_the_chain_goes_on_in_the_next_run(tmp_path: Path) -> None:
    """What a run appends is chained to what it found."""
    path = tmp_path / "manifest.ndjson"
    for run in range(3):
        manifest = make(path, f"run-{run}")
        index, torn = manifest.open()
        assert (len(index.runs), torn) == (run, b"")
        manifest.append("run_started")
        manifest.append("run_ended", reason="test")
        manifest.close()
    assert [entry.run_id for entry in entries(path)] == ["run-0", "run-0", "run-1", "run-1", "run-2", "run-2"]


def test_threads_make_one_chain(tmp_path: Path) -> None:
    """Lines from several threads stand one after the other, chained, and each thread's in its order."""
    path = tmp_path / "manifest.ndjson"
    manifest = make(path)
    manifest.open()

    def append(channel: str) -> None:
        for count in range(1, 51):
            manifest.append("drop", channel=channel, count=count)

    threads = [threading.Thread(target=append, args=(channel,)) for channel in "ABC"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest.close()
    found = entries(path)
    assert len(found) == 150
    for channel in "ABC":
        assert [entry.count for entry in found if entry.channel == channel] == list(range(1, 51))


def test_a_line_after_the_end_is_refused(tmp_path: Path) -> None:
    """A compression that ends after its run cannot write into the next run's manifest."""
    path = tmp_path / "manifest.ndjson"
    manifest = make(path)
    manifest.open()
    manifest.append("run_started")
    manifest.close()
    manifest.append("segment_compressed")
    manifest.close()
    assert len(entries(path)) == 1


def test_a_manifest_that_was_moved_goes_on_in_a_new_file_and_shows_it(tmp_path: Path) -> None:
    """A moved manifest is reopened with a warning, and verification says that its beginning is missing."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.write("T")
    archive.names.manifest.rename(tmp_path / "moved")
    archive.flush()
    archive.write("T")
    archive.close()
    assert archive.stats.vanished == 1
    assert [line["kind"] for line in archive.manifest()] == ["segment_closed", "run_ended"]
    assert any("the beginning is missing" in problem for problem in verify([tmp_path]).problems)


@given(st.lists(st.sampled_from(["gap", "drop", "ü"]), min_size=2, max_size=6), st.data())
def test_any_altered_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], data: st.DataObject
) -> None:
    """A changed byte breaks a line's own checksum, the line, or the chain behind it."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.ndjson"
    manifest = make(path)
    manifest.open()
    for kind in kinds:
        manifest.append(kind, reason="a reason")
    manifest.close()
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 2))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    problems: list[int] = []
    entries(path, lambda number, _: problems.append(number))
    assert problems


def test_a_manifest_whose_fsync_failed_is_replaced_not_trusted(tmp_path: Path) -> None:
    """After a failed fsync the lines go to a new file, synced before it takes the name; until then nothing is claimed."""
    path = tmp_path / "manifest.ndjson"
    disk, clock, stats = FaultyDisk(), FakeClock(), ArchiveStats()
    manifest = Manifest(path, run_id="run-1", disk=disk, doubt=SyncDoubt(disk), clock=clock, stats=stats)
    manifest.open()
    manifest.append("run_started")
    before = path.stat().st_ino
    disk.faults["sync"] = Fault(errno.EIO)
    manifest.append("session_opened", cluster="stocks")
    disk.calls.clear()
    for _ in range(5):
        assert not manifest.flush()
        manifest.append("session_closed", cluster="stocks")
    assert disk.calls.count("sync") == 1, "the old file is never synced again, a new one made once a second"
    assert "Input/output error" in manifest.failure
    disk.faults.clear()
    disk.calls.clear()
    clock.advance(1)
    assert manifest.flush()
    calls = [call for call in disk.calls if call in ("sync", "rename", "sync_folder")]
    assert calls == ["sync", "rename", "sync_folder"]
    assert path.stat().st_ino != before
    assert manifest.failure == ""
    manifest.append("run_ended")
    manifest.close()
    assert [entry.kind for entry in entries(path)] == [
        "run_started",
        "session_opened",
        *["session_closed"] * 5,
        "run_ended",
    ]


@pytest.mark.parametrize("call", ["open", "write", "sync", "rename", "sync_folder"])
def test_a_manifest_that_cannot_be_replaced_yet_loses_no_line(tmp_path: Path, call: str) -> None:
    """Whatever fails while the new file is made, every line is in the manifest once it works."""
    path = tmp_path / "manifest.ndjson"
    disk, clock = FaultyDisk(), FakeClock()
    manifest = Manifest(
        path, run_id="run-1", disk=disk, doubt=SyncDoubt(disk), clock=clock, stats=ArchiveStats()
    )
    manifest.open()
    disk.faults["sync"] = Fault(errno.EIO, times=1)
    manifest.append("run_started")
    for _ in range(3):
        disk.faults = {call: Fault(errno.EIO)}
        clock.advance(1)
        manifest.append("session_opened", cluster="stocks")
        assert not manifest.flush()
    disk.faults = {}
    clock.advance(1)
    assert manifest.flush()
    manifest.close()
    assert [entry.kind for entry in entries(path)] == ["run_started", *["session_opened"] * 3]


def test_a_copy_of_the_manifest_that_a_crash_left_is_deleted(tmp_path: Path) -> None:
    """A new file that never took its place goes at the next start, and the old one is read."""
    path = tmp_path / "manifest.ndjson"
    manifest = make(path)
    manifest.open()
    manifest.append("run_started")
    manifest.close()
    copy = path.with_name(path.name + ".tmp")
    copy.write_bytes(b"{")
    again = make(path)
    index, _ = again.open()
    again.close()
    assert len(index.runs) == 1
    assert not copy.exists()


def test_a_plain_file_stays_while_the_manifest_is_not_durable(tmp_path: Path) -> None:
    """Compression deletes nothing on the word of a manifest that a power loss may take back."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1, compression="zstd")).open()
    archive.write("TT")
    archive.disk.faults["sync"] = Fault(errno.EIO, match=".manifest.")
    archive.writer.rotate("signal")
    archive.writer.tick()
    plain = [name for name in archive.file_names() if name.endswith("Z.ndjson")]
    assert len(plain) == 1
    archive.disk.faults.clear()
    archive.clock.advance(1)
    archive.close()
    assert archive.content() == archive.lines
    assert verify([tmp_path]).ok
