"""A clock that is set back within a run: whoever asks for a time gets every record of that time, and no other."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import Archive, archive_settings

from recorder.archive.cutting import events_of
from recorder.archive.recording import Recording, open_recordings
from recorder.archive.set_back import CLOCK_RACE_MS, SetBacks
from recorder.archive.verify import verify
from recorder.merge import merge

STEPS = 60


def recorded(folder: Path, rng: random.Random, **settings: object) -> Archive:
    """Return an archive of a few runs whose clock is set back, by a little or by an hour, again and again."""
    settings = {"flush_every": 1, "max_bytes": rng.choice([1500, 6000, 1 << 20]), **settings}
    archive = Archive(archive_settings(folder / "polygon.ndjson", **settings)).open()
    for _ in range(STEPS):
        archive.write(rng.choice(["T", "TQ", "QQQ"]))
        archive.clock.advance(rng.choice([0, 1, 20, 200]))
        if rng.random() < 0.1:
            archive.clock.now_ns -= rng.choice([2, 30, 3600]) * 1_000_000_000
        if rng.random() < 0.05:
            archive.close()
            archive.restart()
    return archive


def times(recording: Recording, start_ms: int = 0, end_ms: int = 1 << 62) -> list[tuple[int, int]]:
    return [
        (event.ingest_ts, event.seq)
        for records in recording.records(start_ms=start_ms, end_ms=end_ms)
        for event in events_of(records)
    ]


def spans(rng: random.Random, of: list[int]) -> Iterator[tuple[int, int]]:
    for _ in range(40):
        start_ms, end_ms = rng.choice(of), rng.choice(of) + rng.choice([0, 1])
        yield min(start_ms, end_ms), max(start_ms, end_ms)


@pytest.mark.parametrize("seed", range(6))
def test_a_choice_by_time_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Sealed and not, over files by type, read in small blocks and found by halving; of a merged archive, too."""
    monkeypatch.setattr("recorder.archive.narrowing.NEAR_BYTES", 100)
    monkeypatch.setattr("recorder.archive.reader._READ_BYTES", 500)
    rng = random.Random(seed)
    archive = recorded(tmp_path / "a", rng, split_per_type=seed % 2 == 1)
    if seed < 2:
        archive.close()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", segment_bytes=2000, codec="none")
    for folder in (tmp_path / "a", tmp_path / "c"):
        [recording] = open_recordings(folder)
        everything = times(recording)
        for start_ms, end_ms in spans(rng, [at_ms for at_ms, _ in everything]):
            wanted = [one for one in everything if start_ms <= one[0] < end_ms]
            assert times(recording, start_ms, end_ms) == wanted
            for run in recording.runs:
                own = [event for block in run.events() for event in block]
                since = [event.seq for event in own if event.ingest_ts >= start_ms]
                assert run.first_since(start_ms) == (since[0] if since else None)
    if seed >= 2:
        archive.close()
    assert all(verify([tmp_path / name], jobs=1).ok for name in "ac")


def test_an_older_version_did_not_note_it(tmp_path: Path) -> None:
    """Where the ends of segments show it, all of the run is read."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    for at_secs in (0, 100, 200, 40, 60):
        archive.clock.now_ns += int(at_secs * 1e9)
        archive.write("T")
        archive.clock.now_ns -= int(at_secs * 1e9)
        archive.writer.rotate("signal")
    archive.close()
    noted = archive.names.manifest.read_text()
    assert noted.count("clock_set_back") == 1
    archive.names.manifest.write_text(
        "".join(line for line in noted.splitlines(keepends=True) if "clock_set_back" not in line)
    )
    [recording] = open_recordings(tmp_path)
    first_ms = times(recording)[0][0]
    assert [seq for _, seq in times(recording, first_ms + 30_000, first_ms + 110_000)] == [2, 4, 5]


def test_the_floor_of_what_is_there_is_the_latest_time_of_what_is_not(tmp_path: Path) -> None:
    """Retention deletes the file of before the clock was set back: nobody is told that all since its last time is there."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", flush_every=1)).open()
    archive.clock.advance(3600)
    archive.write("T")
    latest_ms = archive.clock.wall_ns() // 1_000_000
    archive.clock.now_ns -= 3_000_000_000_000
    archive.write("T")
    archive.writer.rotate("signal")
    archive.write("T")
    archive.close()
    archive.restart(retain_bytes=1)
    archive.flush()
    archive.close()
    [recording] = open_recordings(tmp_path)
    assert recording.floor({}).at_ms > latest_ms


def test_it_is_noted_once(tmp_path: Path) -> None:
    """Until the clock has gone further back than ever; what clusters in a race do is no set-back."""
    watch = SetBacks()
    assert watch.notice(1_000_000) is None
    assert watch.notice(1_000_000 - CLOCK_RACE_MS) is None
    assert watch.notice(900_000) == {"from": 1_000_000, "to": 900_000}
    assert watch.notice(950_000) is None
    assert watch.notice(900_000 - CLOCK_RACE_MS) is None
    assert watch.notice(800_000) == {"from": 1_000_000, "to": 800_000}
    assert watch.notice(2_000_000) is None
    assert watch.notice(1_900_000) is None
