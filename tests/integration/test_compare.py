"""`recorder compare` on recordings of the real command: equal markets, and what one of them lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import finished, live_settings, running, simulating
from waiting import eventually_sync

EVENTS = 6000
START_MS = "1790000000000"
MARKET = ("--cluster", "stocks", "--rate", "20000", "--start-ms", START_MS, "--market-start", "subscriber")


def record(folder: Path, **settings: str) -> Path:
    """Record the same market each time, from its first event to its last."""
    folder.mkdir()
    archive = folder / "archive"
    with (
        simulating(*MARKET, "--fault", f"stall:after={EVENTS}", cwd=folder) as port,
        running("run", cwd=folder, **live_settings(port, archive, **settings)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= EVENTS, "the whole market")
        assert recorder.stop() == 0
    return archive


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A market in one file."""
    return record(tmp_path_factory.mktemp("compare") / "a", NDJSON_SPLIT_PER_TYPE="false")


def test_equal_recordings_are_equal_whatever_their_files_are(recording: Path, tmp_path: Path) -> None:
    """Another recorder, files by type, small, compressed: the events, their order and their bars are the same."""
    other = record(
        tmp_path / "b",
        NDJSON_SPLIT_PER_TYPE="true",
        NDJSON_MAX_BYTES="200000",
        NDJSON_COMPRESSION="zstd",
    )
    assert len(list(other.glob("*.zst"))) > 2
    found = finished("compare", str(recording), str(other), cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "events of each, in the same order, with the same bytes" in found.stdout
    facts = json.loads(finished("compare", "--json", str(recording), str(other), cwd=tmp_path).stdout)
    assert facts["equal"]
    assert facts["clusters"]["stocks"]["events"]["equal"] >= EVENTS
    assert facts["clusters"]["stocks"]["bars"]["equal"] > 100


def test_what_one_lacks_is_named(recording: Path, tmp_path: Path) -> None:
    """By type, with examples and the bars that differ; the exit status says that they do."""
    other = record(tmp_path / "b", NDJSON_SPLIT_PER_TYPE="false", NDJSON_INCLUDE="Q.*,T.A*")
    found = finished("compare", str(recording), str(other), cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.rstrip().endswith("different")
    facts = json.loads(finished("compare", "--json", str(recording), str(other), cwd=tmp_path).stdout)
    events, bars = facts["clusters"]["stocks"]["events"], facts["clusters"]["stocks"]["bars"]
    lines = [json.loads(line) for line in (recording / "polygon.ndjson").read_text().splitlines()]
    lacking = [line for line in lines if line["type"] == "T" and not line["symbol"].startswith("A")]
    assert events["only_a"]["T"] == len(lacking)
    assert events["only_b"] == events["elsewhere"] == {}
    assert events["equal"] == sum(line["type"] in ("Q", "T") for line in lines) - len(lacking)
    assert [one["payload"] for one in events["examples"] if one["payload"]["ev"] == "T"][:3] == [
        line["payload"] for line in lacking[:3]
    ]
    assert bars["only_a"]["100 ms"] > 0


def test_what_cannot_be_compared_is_said(recording: Path, tmp_path: Path) -> None:
    """A path that is no archive, and a file that was altered: one line, and a status of its own."""
    found = finished("compare", str(recording), str(tmp_path / "nowhere"), cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr == (
        f"recorder: {tmp_path}/nowhere does not exist; name the folder of an archive, or its *.manifest.ndjson\n"
    )
    altered = tmp_path / "altered"
    shutil.copytree(recording, altered)
    path = altered / "polygon.ndjson"
    path.write_bytes(path.read_bytes().replace(b'"ev":"T"', b'"ev":"U"', 1))
    found = finished("compare", str(recording), str(altered), cwd=tmp_path)
    assert found.returncode == 2
    assert "is not what was written; see `recorder verify`" in found.stderr
    path.unlink()
    found = finished("compare", str(recording), str(altered), cwd=tmp_path)
    assert found.returncode == 1
    assert "problem: B: " in found.stdout
