"""`recorder query` as a person runs it: on a terminal, interrupted, killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from archives import Archive, archive_settings
from commands import RECORDER, clean_environment, finished
from terminals import on_a_terminal
from volumes import small
from waiting import eventually_sync

from recorder.errors import EXIT_INTERRUPTED

ENDLESS = "SELECT sum(hash(range)) FROM trades, range(1000000000000)"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Make a small archive, and a folder for what is temporary."""
    archive = Archive(
        archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1, split_per_type=True)
    ).open()
    archive.write("TQTQ")
    archive.close()
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_whatever_ends_it_nothing_is_left(archive: Path) -> None:
    """Ctrl-C and SIGTERM end a query at once; after SIGKILL the next query removes the folder, but none that is in use."""
    temporary = archive / "tmp"

    def folders() -> list[Path]:
        return sorted(temporary.iterdir())

    environment = {"TMPDIR": str(temporary)}
    with on_a_terminal("query", "a", ENDLESS, cwd=archive, **environment) as (killed, _):
        eventually_sync(lambda: list(temporary.glob("*/.lock")), "a folder")
        left = folders()
        with on_a_terminal("query", "a", ENDLESS, cwd=archive, **environment) as (other, shown):
            eventually_sync(lambda: b"answering" in shown, "a bar")
            assert len(folders()) == 2
            os.killpg(other.pid, signal.SIGINT)
            assert other.wait(20) == EXIT_INTERRUPTED
        assert b"Traceback" not in shown
        assert folders() == left
        os.killpg(killed.pid, signal.SIGKILL)
    assert folders() == left
    with on_a_terminal("query", "a", ENDLESS, cwd=archive, **environment) as (other, shown):
        eventually_sync(lambda: b"answering" in shown, "a bar")
        assert folders() != left
        os.killpg(other.pid, signal.SIGTERM)
        assert other.wait(20) == EXIT_INTERRUPTED
    assert folders() == []


def test_a_reader_that_has_enough_and_a_full_disk(archive: Path) -> None:
    """Whoever closes the pipe has all he wanted, and that is no failure; a full disk is one line, and leaves nothing."""
    many = "SELECT range, hash(range) FROM range(200000)"
    command = [*RECORDER, "query", "a", many]
    with subprocess.Popen(
        command, cwd=archive, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(20), process.stderr.read()) == (0, b"")
    with small(archive / "disk", 64 << 10) as disk:
        full = finished("query", "a", many, "--parquet", "disk/many.parquet", cwd=archive)
        assert not list(disk.iterdir())
    assert full.returncode == 1
    assert full.stderr == "recorder: cannot write disk/many.parquet: No space left on device\n"
    with Path("/dev/full").open("wb") as output:
        printed = subprocess.run(
            [*RECORDER, "query", "a", "SELECT 1"],
            cwd=archive,
            env=clean_environment(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert printed.returncode == 1
    assert re.fullmatch(
        rb"recorder: cannot print .*: No space left on device; .* is incomplete\n", printed.stderr
    )


def test_on_a_terminal(archive: Path) -> None:
    """A table as wide as the terminal, behind bars that take their lines back; the same rows as CSV in a pipe."""
    sql = "SELECT seq, symbol, payload FROM trades ORDER BY seq"
    with on_a_terminal("query", "a", sql, cwd=archive) as (process, shown):
        pass
    assert process.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    [*_, header, first, second] = [line.split() for line in plain.splitlines() if line.strip()]
    assert (header, first[:2], second[:2]) == (["seq", "symbol", "payload"], ["1", "S1"], ["3", "S3"])
    with on_a_terminal("query", "a", "SELECT * FROM trades ORDER BY seq", cwd=archive) as (process, shown):
        pass
    below = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "\n")
    assert re.search(r"^row 1 ─+.*?^symbol +S1 .*?^row 2 ─+.*?^symbol +S3 ", below, re.DOTALL | re.MULTILINE)
    assert "tape" not in below  # it has no value
    piped = finished("query", "a", sql, cwd=archive)
    assert [line.split(",")[:2] for line in piped.stdout.splitlines()] == [
        ["seq", "symbol"], ["1", "S1"], ["3", "S3"],
    ]  # fmt: skip
