"""`recorder verify` as a user runs it: on a terminal, in a pipe, on several cores, beside a recorder at work."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from archives import Archive, archive_settings
from commands import RECORDER, clean_environment, finished, live_settings, running, simulating
from oracle import verified
from terminals import on_a_terminal
from trials import report, scale
from waiting import eventually_sync

from recorder.archive import workers
from recorder.archive.check import Task
from recorder.archive.verify import verify
from recorder.errors import EXIT_INTERRUPTED, ArchiveError


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Make a small archive with a gap, a drop and a reject."""
    archive = Archive(
        archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1, max_bytes=1500)
    ).open()
    archive.write("TQTQTQTQ", rejects=[b"[1]"])
    archive.feed.batch("TT")
    archive.writer.append(
        "drop", cluster="stocks", channel="T", count=2, reason="queue_full", first_seq=9, last_seq=10
    )
    archive.writer.append(
        "gap", cluster="stocks", **{"from": 1_795_237_802_335, "to": 1_795_237_804_335}, reason="reset"
    )
    archive.write("T")
    archive.close()
    return archive


def grow(folder: Path, files: int, file_bytes: int) -> None:
    """Fill a folder with files of records that no manifest knows."""
    source = Archive(archive_settings(folder / "source" / "polygon.ndjson", flush_every=1))
    line = source.feed.batch("T").lines[0].data
    head, _, _ = line.rpartition(b'"seq":')
    for number in range(files):
        with (folder / f"file-{number}.ndjson").open("wb") as file:
            begin, size = 1, 0
            while size < file_bytes:
                block = b"".join(b'%b"seq":%d}\n' % (head, seq) for seq in range(begin, begin + 10_000))
                size += file.write(block)
                begin += 10_000


def test_a_terminal_shows_table_gaps_drops_and_the_verdict(archive: Archive, tmp_path: Path) -> None:
    """People see each file, what is missing and why, and one line that says what is lost of an intact archive."""
    with on_a_terminal("verify", "a", cwd=tmp_path) as (process, shown):
        pass
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert process.returncode == 0
    assert "gap: stocks, 2.000 s from" in text
    assert "dropped: 2 stocks T, seq 9 to 10 (queue_full)" in text
    assert re.search(r"polygon\.rejected\.ndjson\s+1\s+\d+\s+ok", text)
    assert re.search(r"3 files, 9 records and 1 rejects, [\d,]+ bytes: (.*?)\s*$", text)[1] == (  # type: ignore[index]
        "intact; known losses: 2 records dropped; 1 gap without data, 2.000 s in all"
    )


def test_names_and_reasons_are_shown_as_they_are(archive: Archive, tmp_path: Path) -> None:
    """A folder may be called what a terminal library takes for a style; what would steer the terminal is a `?`."""
    folder = "[/red]\x1b[2J"
    (tmp_path / folder).parent.mkdir()
    (tmp_path / "a").rename(tmp_path / folder)
    result = finished("verify", folder, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "[/red]?[2J/polygon.ndjson" in result.stdout
    with on_a_terminal("config", cwd=tmp_path, NDJSON_DEST="[/red]/a.ndjson") as (process, shown):
        pass
    assert process.returncode == 0
    assert b"[/red]/a.ndjson" in shown


def test_json_says_the_same_and_damage_ends_with_3(archive: Archive, tmp_path: Path) -> None:
    """`--json` is one object on stdout, whatever is found; damage is exit 3."""
    sound = finished("verify", "a", "--json", cwd=tmp_path)
    found = json.loads(sound.stdout)
    assert (sound.returncode, sound.stderr, found["ok"], found["records"]) == (0, "", True, 9)
    assert (len(found["gaps"]), len(found["drops"]), len(found["rejects"])) == (1, 1, 1)
    assert found["records_lost"] == 2
    path = tmp_path / "a" / "polygon.ndjson"
    path.write_bytes(path.read_bytes().replace(b'"T"', b'"Q"', 1))
    damaged = finished("verify", "a", "--json", cwd=tmp_path)
    assert (damaged.returncode, json.loads(damaged.stdout)["ok"]) == (3, False)
    text = finished("verify", "a", cwd=tmp_path)
    assert text.returncode == 3
    assert "bytes: damage was found; known losses: 2 records dropped; 1 gap" in text.stdout
    assert finished("verify", "a", "--fail-on-loss", cwd=tmp_path).returncode == 3


def test_what_is_no_archive_is_a_slip_of_the_command_line(tmp_path: Path) -> None:
    """A path that does not exist, a folder without an archive, no path, a wrong option: status 2, which no damage has."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("not ours\n")
    for arguments, words in (
        (["nowhere"], "recorder: nowhere does not exist; name the folder of an archive, or a file in it"),
        (["empty"], "recorder: empty has no archive: neither a manifest nor a file of records is in it"),
        (["empty", "--jobs", "0"], "Invalid value for '--jobs'"),
        ([], "Missing argument 'PATHS...'"),
    ):
        slip = finished("verify", *arguments, cwd=tmp_path)
        assert (slip.returncode, slip.stdout) == (2, "")
        assert words in slip.stderr


def test_known_losses_fail_only_where_that_is_asked_for(archive: Archive, tmp_path: Path) -> None:
    """An intact archive that lost records ends with 0, and with 4 under --fail-on-loss; a gap alone is no such loss."""
    assert finished("verify", "a", cwd=tmp_path).returncode == 0
    lossy = finished("verify", "a", "--fail-on-loss", cwd=tmp_path)
    assert lossy.returncode == 4
    assert lossy.stdout.endswith(
        "intact; known losses: 2 records dropped; 1 gap without data, 2.000 s in all\n"
    )
    whole = Archive(archive_settings(tmp_path / "b" / "polygon.ndjson")).open()
    whole.write("TQ")
    whole.writer.append("gap", cluster="stocks", **{"from": 1000, "to": 3000}, reason="read_timeout")
    whole.close()
    kept = finished("verify", "b", "--fail-on-loss", cwd=tmp_path)
    assert kept.returncode == 0
    assert kept.stdout.endswith("intact; no record lost; 1 gap without data, 2.000 s in all\n")


def test_a_file_that_cannot_be_read_is_no_damage(archive: Archive, tmp_path: Path) -> None:
    """The wrong user is told so with status 1; what can be read is checked, and nothing else is complained of."""
    path = next((tmp_path / "a").glob("polygon.2*.ndjson"))
    path.chmod(0)
    # Root reads every file, unless it lacks the capability.
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, *RECORDER, "verify", "a"],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    [problem] = re.findall("problem: (.*)", done.stdout)
    assert problem == f"a/{path.name}: cannot read a/{path.name}: Permission denied"
    assert re.search(rf"{re.escape(path.name)} +0 +0 +not read", done.stdout)
    assert "bytes: 1 file could not be read; known losses: 2 records dropped" in done.stdout


def group_exists(group: int) -> bool:
    """Return whether any process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_ends_all_processes_at_once(tmp_path: Path) -> None:
    """Interrupted in the middle, with a progress bar and two processes, it ends with 130, no traceback, no orphan."""
    grow(tmp_path, files=2, file_bytes=60_000_000)
    with on_a_terminal("verify", ".", "--jobs", "2", cwd=tmp_path) as (process, shown):
        eventually_sync(lambda: b"MB/s" in shown, "progress")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == EXIT_INTERRUPTED
        eventually_sync(lambda: not group_exists(process.pid), "the end of all processes")
    assert b"verifying" in shown
    assert b"Traceback" not in shown


def test_processes_find_what_one_finds(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared among processes, files give the same report, damage included, and progress ends at its total."""
    monkeypatch.setattr(workers, "_ALONE_BYTES", 0)
    steps: list[tuple[int, int]] = []
    assert verify([tmp_path], jobs=2, progress=lambda *step: steps.append(step)) == verify([tmp_path], jobs=1)
    assert steps[-1][0] == steps[-1][1] > 0
    path = tmp_path / "a" / archive.file_names()[0]
    path.write_bytes(path.read_bytes()[:-10])
    shared = verify([tmp_path], jobs=2)
    assert shared == verify([tmp_path], jobs=1)
    assert not shared.ok


def test_compressed_files_are_shared_for_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small on disk and long to read, they are worth a second process; as many bytes of plain lines are not."""
    seen: set[str] = set()

    def look(done: int, total: int) -> None:
        others = set(multiprocessing.active_children()) - before
        seen.add("shared" if others else "alone")

    for compression, expected in (("zstd", "shared"), ("none", "alone")):
        folder = tmp_path / compression
        made = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1, compression=compression))
        made.open()
        for _ in range(2):
            made.write("TQ" * 50)
            made.writer.rotate("signal")
        made.close()
        on_disk = sum(path.stat().st_size for path in folder.glob("polygon.2*"))
        monkeypatch.setattr(workers, "_ALONE_BYTES", 2 * on_disk)
        before = set(multiprocessing.active_children())
        seen.clear()
        assert verify([folder], jobs=2, progress=look).ok
        assert expected in seen
        assert expected == "shared" or seen == {"alone"}


def test_a_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed from outside, as for want of memory, a worker does not make verification hang."""
    monkeypatch.setattr(workers, "_ALONE_BYTES", -1)
    os.mkfifo(tmp_path / "never")  # opening it waits for a writer
    (tmp_path / "empty").touch()
    tasks = [Task(tmp_path / name, [], None) for name in ("never", "empty")]
    before = set(multiprocessing.active_children())

    def kill() -> None:
        for child in eventually_sync(lambda: set(multiprocessing.active_children()) - before, "workers"):
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ArchiveError, match="was killed"):
        list(workers.check_files(tasks, 2, None))
    killer.join()


@pytest.mark.trial
@pytest.mark.timeout(scale(120, 1800))
def test_an_archive_that_is_being_recorded_to_is_never_accused(tmp_path: Path) -> None:
    """While files are rotated, compressed and deleted every moment, each verification passes and invents no loss."""
    folder = tmp_path / "a"
    times = scale(4, 100)
    variables = {
        "NDJSON_SPLIT_PER_TYPE": "true",
        "NDJSON_MAX_BYTES": "200KB",
        "NDJSON_COMPRESSION": "zstd",
        "NDJSON_RETAIN_BYTES": "600KB",
        "NDJSON_FLUSH_INTERVAL_MS": "50",
    }
    records = 0
    with (
        simulating("--cluster", "stocks", "--rate", "10000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **variables)) as recorder,
    ):
        manifest = folder / "polygon.manifest.ndjson"
        eventually_sync(
            lambda: manifest.exists() and b'"segment_deleted"' in manifest.read_bytes(), "deleted files"
        )
        for _ in range(times):
            found = finished("verify", str(folder), "--json", cwd=tmp_path)
            assert found.returncode == 0, found.stdout + found.stderr
            seen = json.loads(found.stdout)
            assert seen["losses"] == []
            assert any("is being recorded to" in note for note in seen["notes"])
            records += seen["records"]
        changed = len(re.findall(rb'"segment_(?:closed|compressed|deleted)"', manifest.read_bytes()))
        assert recorder.stop() == 0
    verified(folder)
    report(
        0,
        fault="verified while it is recorded to",
        injected="10,000 events/s; files rotated, compressed and deleted by retention all the time",
        holds="no false finding",
        figure=f"{times} verifications of {records:,} records, {changed:,} changes of files meanwhile",
    )
