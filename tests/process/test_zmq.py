"""`SINK=zmq` with the real command, the real example as subscriber, and other sinks beside it."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from commands import clean_environment, finished, free_port, live_settings, running, simulating
from waiting import eventually_sync

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "zmq_sub.py"


def test_every_record_reaches_the_subscriber_and_the_archive(tmp_path: Path) -> None:
    """Archive and ZMQ side by side: what the example prints is the archive's end, line by line, from its first one on."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    variables = {"SINK": "ndjson,zmq", "ZMQ_ENDPOINT": endpoint, "ZMQ_BIND": "true"}
    out = tmp_path / "printed.ndjson"
    with (
        simulating("--cluster", "stocks", "--rate", "5000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **variables)) as recorder,
        out.open("wb") as file,
    ):
        recorder.wait_for("started")
        example = subprocess.Popen(
            [sys.executable, str(EXAMPLE), "--endpoint", endpoint, "--connect"],
            stdout=file,
            env=clean_environment(),
        )
        try:
            eventually_sync(lambda: recorder.metric("polygon_zmq_peers") == 1, "the subscriber")
            eventually_sync(lambda: recorder.metric("polygon_zmq_sent_total") > 20_000, "records")
            assert recorder.stop() == 0
            balances = {entry["sink"]: entry for entry in recorder.logged("balance")}
            last = (tmp_path / "a" / "polygon.ndjson").read_bytes().splitlines()[-1]
            eventually_sync(lambda: out.read_bytes().endswith(last + b"\n"), "the last record")
        finally:
            example.terminate()
            example.wait(20)
    assert set(balances) == {"ndjson", "zmq"}
    assert all(entry["dropped"] == 0 for entry in balances.values())
    recorded = (tmp_path / "a" / "polygon.ndjson").read_bytes().splitlines()
    printed = out.read_bytes().splitlines()
    assert len(printed) > 10_000
    assert printed == recorded[-len(printed) :]


def test_an_endpoint_in_use_ends_the_start(tmp_path: Path) -> None:
    """78 and one line that names the endpoint; the archive is not touched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        variables = {"SINK": "ndjson,zmq", "ZMQ_ENDPOINT": endpoint, "ZMQ_BIND": "true"}
        result = finished("run", cwd=tmp_path, **live_settings(9, tmp_path / "a", **variables))
    assert result.returncode == 78
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert endpoint in line
    assert not (tmp_path / "a").exists()


def test_without_pyzmq_the_line_says_what_to_install(tmp_path: Path) -> None:
    """The extra is optional; asking for the sink without it is a clear error."""
    (tmp_path / "zmq").mkdir()
    (tmp_path / "zmq" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'zmq'\", name='zmq')\n"
    )
    variables = live_settings(9, tmp_path / "a", SINK="zmq", PYTHONPATH=str(tmp_path))
    result = finished("run", cwd=tmp_path, **variables)
    assert result.returncode == 78
    assert f"SINK=zmq needs pyzmq: {sys.executable} -m pip install pyzmq" in result.stderr
