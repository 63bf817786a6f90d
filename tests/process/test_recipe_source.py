"""The recipe "a source", followed on a copy of the project."""

from __future__ import annotations

import json
from pathlib import Path

from plugins import install
from recipes.source import RECIPE
from waiting import eventually_sync


def test_a_new_source_is_recorded_with_its_session(tmp_path: Path) -> None:
    """Two files beside the recorder; SOURCE names it, its frames are records, its session is in the manifest."""
    assert len(RECIPE.files) == 2
    copy = RECIPE.applied_in(tmp_path)
    site = install(copy.root / "recorder-frames", tmp_path / "site")
    frames, folder = tmp_path / "frames", tmp_path / "archive"
    frames.write_text(
        "".join(f'[{{"ev":"T","sym":"A","t":1760375617662,"q":{number}}}]\n' for number in range(300))
    )
    settings = {
        "PYTHONPATH": str(site),
        "POLYGON_CLUSTER": "stocks",
        "SOURCE": "frames",
        "FRAMES_PATH": str(frames),
        "SINK": "ndjson",
        "NDJSON_DEST": str(folder / "polygon.ndjson"),
        "NDJSON_MIN_FREE_BYTES": "0",
        "METRICS_ADDR": "",
        "ROLES": "archive",
    }
    manifest = folder / "polygon.manifest.ndjson"
    with copy.running("run", **settings) as command:
        eventually_sync(lambda: manifest.exists() and b"session_closed" in manifest.read_bytes(), "the end")
        assert command.stop() == 0
    records = [json.loads(line) for line in (folder / "polygon.ndjson").read_bytes().splitlines()]
    assert [record["payload"]["q"] for record in records] == [*range(300)]
    [closed] = [
        entry
        for entry in map(json.loads, manifest.read_bytes().splitlines())
        if entry["kind"] == "session_closed"
    ]
    assert closed["reason"] == "end of file"
