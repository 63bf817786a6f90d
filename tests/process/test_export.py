"""`recorder export --follow` as a service has it: the real command beside an archive that grows."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import Running, finished, running
from recorded_events import begin, record, trade
from waiting import eventually_sync

from recorder.errors import EXIT_CONFIG

MS = 1_795_237_800_000


def seqs(dest: Path) -> list[int]:
    """Return the numbers of all records of the tree."""
    files = sorted(dest.rglob("*.parquet"))
    return sorted(seq for path in files for seq in pq.ParquetFile(path).read(["seq"])["seq"].to_pylist())


def records(export: Running) -> int:
    """Return how many records the log says are exported."""
    return sum(line["records"] for line in export.logged("segment_exported"))


def test_it_follows_is_killed_and_goes_on(tmp_path: Path) -> None:
    """It waits for an archive, exports what is sealed when it is, survives SIGKILL, and ends in order at SIGTERM.

    In the end the tree has each record once, and `recorder export` finds nothing to add.
    """
    folder, dest = tmp_path / "archive", tmp_path / "lake"
    # An archive that never comes holds up no other one.
    arguments = ("export", str(folder), str(tmp_path / "none"), "--to", str(dest), "--follow", "--partial")
    with running(*arguments, cwd=tmp_path, LOG_FORMAT="json") as export:
        assert export.wait_for("export_waits")["message"] == f"{folder} has no archive yet"
        archive = begin(folder, max_bytes=800)
        for n in range(7):
            record(archive, [trade("A", MS + n, "1.50", "2")])
        sealed = sum(line["records"] for line in archive.manifest("segment_closed"))
        assert 0 < sealed < 7
        eventually_sync(lambda: records(export) == sealed, "what is sealed is exported")
        export.kill()
    with running(*arguments, cwd=tmp_path, LOG_FORMAT="json") as export:
        export.wait_for("export_started")
        for n in range(7):
            record(archive, [trade("B", MS + n, "1.50", "2")])
        archive.close()
        eventually_sync(lambda: records(export) == 14 - sealed, "the rest is exported")
        begun = time.monotonic()
        assert export.stop(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 10
        assert export.logged("export_stopped")
    assert seqs(dest) == list(range(1, 15))
    last = finished("export", str(folder), "--to", str(dest), cwd=tmp_path)
    assert (last.returncode, last.stdout) == (0, f"{dest}: nothing new; 5 segments were there\n")


@pytest.mark.parametrize("missing", ["pyarrow", "duckdb"])
def test_what_is_not_installed_is_named(tmp_path: Path, missing: str) -> None:
    """One line has the command that installs it, and the status is that of what a person must change."""
    archive = begin(tmp_path / "archive")
    record(archive, [trade("A", MS, "1", "1")])
    archive.close()
    arguments = ["recorder", "export", str(archive.folder), "--to", str(tmp_path / "lake"), "--compact"]
    program = f"import sys; sys.modules[{missing!r}] = None; sys.argv = {arguments}; import recorder.cli as c; c.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == EXIT_CONFIG
    assert re.search(f"needs .*{missing}.* -m pip install .*{missing}", done.stderr, re.IGNORECASE)
    assert "Traceback" not in done.stderr
