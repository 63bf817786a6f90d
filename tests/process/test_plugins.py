"""A sink and a source from outside the package: installed beside it, named by a setting, run by the real command."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from pathlib import Path

import pytest
from commands import KEY, finished, running
from plugins import install
from waiting import eventually_sync

from recorder.archive.verify import verify

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
EVENTS = 500


class Peer:
    """A TCP server for one connection: sends lines, or keeps what it is sent."""

    def __init__(self, lines: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.data = bytearray()
        self._lines = lines
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            connection.sendall(self._lines)
            while data := connection.recv(65536):
                self.data += data

    @property
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in bytes(self.data).splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the example is installed in."""
    return install(EXAMPLE, tmp_path_factory.mktemp("site"))


def test_a_sink_and_a_source_of_another_package_do_their_work(installed: Path, tmp_path: Path) -> None:
    """Frames of the source reach the sink and the archive alike, once each, in order; the stop drains both."""
    frames = [b'[{"ev":"T","sym":"A","t":1760375617662,"q":%d}]' % number for number in range(EVENTS)]
    source, sink = Peer(b"".join(frame + b"\n" for frame in frames)), Peer()
    settings = {
        "PYTHONPATH": str(installed),
        "SOURCE": "tcp",
        "SINK": "ndjson,tcp",
        "TCP_SOURCE_ADDRESS": source.address,
        "TCP_SINK_ADDRESS": sink.address,
        "POLYGON_CLUSTER": "stocks",
        "NDJSON_DEST": str(tmp_path / "archive" / "polygon.ndjson"),
        "NDJSON_MIN_FREE_BYTES": "0",
        "METRICS_ADDR": "127.0.0.1:0",
        "ROLES": "archive,ops",
    }
    with running("run", cwd=tmp_path, **settings) as command:
        eventually_sync(lambda: sink.data.count(b"\n") == EVENTS, "every record at the sink", 30)
        assert command.get("/ready")[0] == 200
        status = json.loads(command.get("/status")[1])
        assert [found["name"] for found in status["sinks"]] == ["ndjson", "tcp"]
        assert command.stop() == 0
    written = (tmp_path / "archive" / "polygon.ndjson").read_bytes()
    assert bytes(sink.data) == written, "both sinks have the same lines"
    assert [record["payload"]["q"] for record in sink.records] == [*range(EVENTS)]  # type: ignore[index]
    report = verify([tmp_path / "archive"])
    assert report.ok, report


def test_an_unknown_name_is_refused_with_the_known_ones(installed: Path, tmp_path: Path) -> None:
    """The message names the variable, what was wrong, and what there is, packages included."""
    done = finished(
        "run", cwd=tmp_path, PYTHONPATH=str(installed), SINK="tcq", SOURCE="exchanges", METRICS_ADDR=""
    )
    assert done.returncode == 78
    assert (
        "SINK='tcq': tcq is not known; known are stdout, ndjson, zmq, nats, kafka, none, tcp" in done.stderr
    )
    assert "SOURCE='exchanges': exchanges is not known; known are exchange, nats, tcp" in done.stderr


def test_settings_of_another_package_are_its_own(installed: Path, tmp_path: Path) -> None:
    """What the package finds wrong with its settings ends the start like any other setting."""
    done = finished(
        "run",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
        SINK="tcp",
        POLYGON_API_KEY=KEY,
        METRICS_ADDR="",
        ROLES="archive",
    )
    assert done.returncode == 78
    assert "TCP_SINK_ADDRESS: must be host:port" in done.stderr


def test_a_package_that_cannot_be_imported_says_which(installed: Path, tmp_path: Path) -> None:
    """The operator learns which package is broken, and how."""
    broken = shutil.copytree(installed, tmp_path / "site")
    (broken / "recorder_tcp.py").write_text("import no_such_module\n")
    done = finished(
        "run",
        cwd=tmp_path,
        PYTHONPATH=str(broken),
        SINK="tcp",
        POLYGON_API_KEY=KEY,
        METRICS_ADDR="",
        ROLES="archive",
    )
    assert done.returncode == 78
    assert "SINK=tcp: the package recorder-tcp cannot be loaded" in done.stderr
    assert "no_such_module" in done.stderr
