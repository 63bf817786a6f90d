"""Bad input of every kind: one clear line, a defined exit status, and nothing lost that was there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import RECORDER, clean_environment, finished, live_settings, running, simulating
from tools import tool
from waiting import eventually_sync

KEY = "test-key-0123456789"


def refused(folder: Path, tmp_path: Path, **variables: str) -> str:
    """Return the one line with which `recorder run` ends with status 78."""
    settings = {**live_settings(9, folder), **variables}
    result = finished("run", cwd=tmp_path, **settings)
    assert result.returncode == 78, result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert KEY not in result.stdout + result.stderr
    [fatal] = [
        entry
        for entry in map(json.loads, set(result.stderr.splitlines()) - set(lines))
        if entry["event"] == "fatal"
    ]
    assert (fatal["level"], fatal["exit_status"]) == ("CRITICAL", 78)
    assert f"recorder: {fatal['message']}" == lines[0]
    assert "recorder check" in fatal["advice"]
    return lines[0]


def test_all_bad_settings_are_reported_at_once(tmp_path: Path) -> None:
    """One line for each bad variable, with the value and what is allowed; exit status 78."""
    result = finished(
        "run",
        cwd=tmp_path,
        POLYGON_API_KEY=KEY,
        NDJSON_MAX_BYTES="lots",
        POLYGON_CLUSTER="bonds",
        NDJSON_GZIP="perhaps",
        READ_TIMEOUT_SECS="-1",
    )
    assert result.returncode == 78
    [fatal, *lines] = result.stderr.splitlines()
    assert len(lines) == 4
    assert json.loads(fatal)["message"].splitlines() == [line.removeprefix("recorder: ") for line in lines]
    for name in (
        "NDJSON_MAX_BYTES='lots'",
        "POLYGON_CLUSTER='bonds'",
        "NDJSON_GZIP='perhaps'",
        "READ_TIMEOUT_SECS='-1'",
    ):
        assert any(name in line for line in lines), result.stderr


def test_no_key_is_said(tmp_path: Path) -> None:
    """Without a key, `run` ends with 78 and names the variable."""
    result = finished("run", cwd=tmp_path)
    assert result.returncode == 78
    assert "POLYGON_API_KEY" in result.stderr


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    """The line names the path, and what to do."""
    (tmp_path / "a").write_text("not a folder")
    line = refused(tmp_path / "a", tmp_path)
    assert str(tmp_path / "a") in line
    assert line.endswith("; mend that, or set NDJSON_DEST to a place that can be written")
    assert (tmp_path / "a").read_text() == "not a folder"


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    """The line names the path and says that it is a folder."""
    (tmp_path / "a" / "polygon.ndjson").mkdir(parents=True)
    line = refused(tmp_path / "a", tmp_path)
    assert str(tmp_path / "a" / "polygon.ndjson") in line
    assert "folder" in line or "directory" in line


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """/proc takes no folder, not even from root."""
    line = refused(Path("/proc/recorder"), tmp_path)
    assert "/proc/recorder" in line
    assert line.endswith("set NDJSON_DEST to a place that can be written")


def test_a_disk_that_is_full_at_start(tmp_path: Path) -> None:
    """The line says so; what was on the disk stays."""
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        [tool("mount"), "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (mount / "precious").write_bytes(b"x" * 10)
        filled = subprocess.run(
            ["dd", "if=/dev/zero", f"of={mount}/filler"], capture_output=True, text=True, check=False
        )
        assert "No space left" in filled.stderr
        assert "No space left" in refused(mount / "a", tmp_path)
        assert (mount / "precious").read_bytes() == b"x" * 10
    finally:
        subprocess.run([tool("umount"), str(mount)], check=True)


def test_a_second_recorder_is_told_who_owns_the_archive(tmp_path: Path) -> None:
    """It ends with 78 and the owner's pid; the first one continues."""
    with (
        simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a")) as first,
    ):
        eventually_sync(lambda: first.received() > 100, "data")
        assert str(first.process.pid) in refused(
            tmp_path / "a", tmp_path, POLYGON_WS_URL=f"ws://127.0.0.1:{port}"
        )
        before = first.received()
        eventually_sync(lambda: first.received() > before, "the first goes on")
        assert first.stop() == 0


def test_an_address_in_use(tmp_path: Path) -> None:
    """Its variable is named, with what to do, and the archive is not touched."""
    with (
        simulating("--cluster", "stocks", "--rate", "100", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a")) as first,
    ):
        line = refused(tmp_path / "b", tmp_path, METRICS_ADDR=first.address)
        assert "METRICS_ADDR" in line
        number = first.port_of("bars")
        line = refused(tmp_path / "b", tmp_path, AGGREGATOR_PORT=number)
        assert f"AGGREGATOR_PORT: 127.0.0.1:{number} is in use by another program: stop that" in line
        line = refused(tmp_path / "b", tmp_path, BIND_HOST="192.0.2.1", AUTH_TOKENS="a:0123456789abcdef")
        assert "192.0.2.1:0 cannot be used: Cannot assign requested address; take an address of this" in line
        assert not (tmp_path / "b").exists()
        assert first.stop() == 0


def test_a_prefix_in_a_topic(tmp_path: Path) -> None:
    """The streamer's `SUBSCRIPTION=T:ES*`: the line says how to have the same here."""
    line = refused(tmp_path / "a", tmp_path, SUBSCRIPTION="T:ES*")
    assert line.endswith("set SUBSCRIPTION=T.* and NDJSON_INCLUDE=T:ES*")


@pytest.mark.parametrize("fault", ["refuse-auth", "no-access"])
def test_a_refused_key_ends_the_start(tmp_path: Path, fault: str) -> None:
    """78 and one line that says what to check; the key itself is nowhere."""
    with simulating("--cluster", "stocks", "--rate", "100", "--fault", fault, cwd=tmp_path) as port:
        line = refused(tmp_path / "a", tmp_path, POLYGON_WS_URL=f"ws://127.0.0.1:{port}")
    assert "POLYGON_API_KEY" in line
    assert "stocks" in line


def test_nobody_listens(tmp_path: Path) -> None:
    """The recorder stays and tries again; /ready says why there is no data."""
    with running("run", cwd=tmp_path, **live_settings(9, tmp_path / "a")) as recorder:
        recorder.wait_for("connect_failed", 3)
        status, text = recorder.get("/ready")
        assert status == 503
        assert "stocks" in text
        assert "127.0.0.1:9" in text
        assert recorder.get("/health") == (200, "OK")
        assert recorder.stop() == 0


def test_ready_when_data_flows_and_not_before(tmp_path: Path) -> None:
    """503 with the reason until data frames have come, then 200."""
    with (
        simulating("--cluster", "stocks", "--rate", "200", cwd=tmp_path) as port,
        running(
            "run", cwd=tmp_path, **live_settings(port, tmp_path / "a", READY_MIN_MESSAGES="20")
        ) as recorder,
    ):
        status, text = recorder.get("/ready")
        assert (status, "stocks" in text) == (503, True)
        eventually_sync(lambda: recorder.get("/ready") == (200, "READY"), "ready")
        verbose = json.loads(recorder.get("/ready?verbose")[1])
        assert verbose["ready"] is True
        assert recorder.stop() == 0


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Nobody reads stdout, so the shutdown would take its time; the second SIGTERM does not wait for it."""
    out, hold = os.pipe()
    variables = {**live_settings(0, tmp_path), "NDJSON_DEST": "stdout", "SHUTDOWN_TIMEOUT_SECS": "600"}
    try:
        with simulating("--cluster", "stocks", "--rate", "20000", cwd=tmp_path) as port:
            variables["POLYGON_WS_URL"] = f"ws://127.0.0.1:{port}"
            with running("run", cwd=tmp_path, stdout=hold, **variables) as recorder:
                eventually_sync(
                    lambda: recorder.metric("polygon_sink_pending_bytes") > 100_000, "a full pipe"
                )
                recorder.send(signal.SIGTERM)
                eventually_sync(lambda: recorder.metric("polygon_connected") == 0, "the feed has ended")
                assert recorder.process.poll() is None
                assert recorder.stop(timeout=10) == 1
    finally:
        os.close(out)
        os.close(hold)


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    """`recorder run | head -n1` ends with status 0 and no complaint, for records and for log lines."""
    with simulating("--cluster", "stocks", "--rate", "5000", cwd=tmp_path) as port:
        for variables in ({"SINK": "stdout"}, {"SINK": "ndjson", "NDJSON_DEST": "stdout"}):
            settings = {**live_settings(port, tmp_path), **variables, "LOG_LEVEL": "warning"}
            del settings["NDJSON_MIN_FREE_BYTES"]  # of which it would be said that it has no effect
            if variables["SINK"] == "stdout":
                del settings["NDJSON_DEST"]
                settings["LOG_LEVEL"] = "warning,polygon_events=info"
            process = subprocess.Popen(
                [*RECORDER, "run"],
                env=clean_environment(**settings),
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            line = json.loads(process.stdout.readline())
            process.stdout.close()
            assert process.wait(30) == 0
            assert process.stderr.read() == b""
            process.stderr.close()
            if variables["SINK"] == "stdout":
                fields = line["fields"]
                assert line["target"] == "polygon_events"
                assert fields["line"].startswith(f"{fields['type']}:{fields['symbol']} {{")
                assert fields["payload"]["ev"] == fields["type"]
            else:
                assert line["seq"] == 1
