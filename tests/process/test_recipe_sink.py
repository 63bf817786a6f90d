"""The recipe "a sink", followed on a copy of the project."""

from __future__ import annotations

from pathlib import Path

from commands import KEY, simulating
from plugins import install
from recipes.sink import RECIPE
from waiting import eventually_sync


def test_a_new_sink_takes_the_records_that_the_archive_takes(tmp_path: Path) -> None:
    """Two files beside the recorder; SINK names it, its own variable sets it, its books balance at the end."""
    assert len(RECIPE.files) == 2
    copy = RECIPE.applied_in(tmp_path)
    site = install(copy.root / "recorder-file", tmp_path / "site")
    written, kept = tmp_path / "records", tmp_path / "archive" / "polygon.ndjson"
    with simulating("--rate", "500", cwd=tmp_path) as port:
        settings = {
            "PYTHONPATH": str(site),
            "POLYGON_API_KEY": KEY,
            "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
            "POLYGON_CLUSTER": "stocks",
            "SINK": "ndjson,file",
            "FILE_PATH": str(written),
            "NDJSON_DEST": str(kept),
            "NDJSON_MIN_FREE_BYTES": "0",
            "METRICS_ADDR": "",
            "ROLES": "archive",
        }
        with copy.running("run", **settings) as command:
            eventually_sync(lambda: written.exists() and written.stat().st_size > 10_000, "records")
            assert command.stop() == 0
    assert written.read_bytes() == kept.read_bytes()
    assert {entry["sink"]: entry["recorded"] for entry in command.logged("balance")}.keys() == {
        "ndjson",
        "file",
    }
