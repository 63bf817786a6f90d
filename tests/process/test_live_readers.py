"""Whoever reads an archive that a recorder rotates ten times a second gets all of it up to then, and no more than once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from commands import live_settings, running, simulating
from waiting import DEADLINE_SECS

from recorder.archive.recording import open_recordings

ROTATIONS = 30


def numbers(path: Path) -> list[int]:
    """Return the numbers of the one run, by a look at its archive."""
    [recording] = open_recordings(path)
    assert recording.problems == []
    return [seq for run in recording.runs for block in run.records() for seq in _numbers(block.lines())]


def _numbers(lines: bytes) -> Iterator[int]:
    yield from (int(line.rpartition(b'"seq":')[2][:-1]) for line in lines.splitlines())


def test_reading_beside_rotation(tmp_path: Path) -> None:
    """By size, in files by type, compressed at once, with the last file read some time after it was looked at."""
    folder = tmp_path / "archive"
    with simulating("--cluster", "stocks", "--rate", "4000", cwd=tmp_path) as port:
        settings = live_settings(port, folder, NDJSON_MAX_BYTES="64KiB", NDJSON_COMPRESSION="zstd")
        settings |= {"NDJSON_SPLIT_PER_TYPE": "true", "NDJSON_FLUSH_EVERY": "1"}
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("archive_segment_closed")
            lasts: list[int] = []
            until = time.monotonic() + DEADLINE_SECS
            while sum("archive_segment_closed" in line for line in recorder.lines) < ROTATIONS:
                assert time.monotonic() < until, recorder.lines[-1]
                found = numbers(folder)
                lasts.append(found[-1])
                # Files are written one after another: only what is newest may be in one of them and not in the next.
                holes = [before for before, after in pairwise(found) if after != before + 1]
                assert found[0] == 1
                assert not holes or holes[0] > lasts[-1] - 4000
            assert lasts == sorted(lasts)
