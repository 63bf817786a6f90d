"""`recorder run` with an access log: who received what is in its file, to the event, through kills and broken disks."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import Running, finished, live_settings, running, simulating
from listening import Listener, listening
from waiting import eventually_sync

TOKEN = "a-token-of-a-client-0123456789"
PORTS = {"firehose": "*", "filtered": "T.*", "bars": "100Ms.*"}


@contextmanager
def recording(folder: Path, **variables: str) -> Iterator[Running]:
    """Run a recorder with an access log and a line a second."""
    with simulating("--cluster", "stocks", "--symbols", "20", "--rate", "500", cwd=folder) as port:
        settings = live_settings(port, folder / "archive", **variables)
        settings |= {"AUTH_TOKENS": f"acme:{TOKEN}", "ACCESS_LOG_INTERVAL_SECS": "0.5"}
        settings |= {"ACCESS_LOG_DEST": str(log_of(folder))}
        with running("run", cwd=folder, **settings) as recorder:
            recorder.wait_for("subscribed")
            yield recorder


def log_of(folder: Path) -> Path:
    return folder / "log" / "access.jsonl"


def lines_of(*paths: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def total(folder: Path, *options: str) -> dict[str, Any]:
    """Return what `recorder audit` says of the one token on the one day."""
    found = finished("audit", *map(str, (folder / "log").iterdir()), "--json", *options, cwd=folder)
    assert found.returncode == 0, found.stderr
    rows = json.loads(found.stdout)["totals"]
    # Two where the test runs at midnight.
    return {key: sum(row[key] for row in rows) for key in ("connections", "events", "bytes")} | rows[0]


def have_received(clients: Sequence[Listener]) -> bool:
    return all(len(client.frames) > 5 for client in clients)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_clients_received_is_in_the_log_to_the_event(tmp_path: Path, workers: str) -> None:
    """All three ports, in this process and behind workers, over a rotation by another program; the token is nowhere."""
    with recording(tmp_path, SERVE_WORKERS=workers) as recorder:
        clients = [
            Listener(f"ws://{recorder.address_of(port)}", topics, TOKEN) for port, topics in PORTS.items()
        ]
        eventually_sync(lambda: have_received(clients), "data")
        moved = log_of(tmp_path).with_name("moved.jsonl")
        log_of(tmp_path).rename(moved)
        recorder.send(signal.SIGHUP)
        eventually_sync(
            lambda: log_of(tmp_path).exists() and lines_of(log_of(tmp_path)), "lines in a new file"
        )
        clients[0].close()
        assert recorder.stop() == 0
        for client in clients[1:]:
            client.close()
        received = sum(len(client.events) for client in clients)
    found = total(tmp_path, "--token", "acme")
    assert (found["connections"], found["events"]) == (3, received)
    assert found["bytes"] > sum(len(frame) for client in clients for frame in client.frames)
    assert (found["ports"], found["topics"]) == (sorted(PORTS), sorted(PORTS.values()))
    lines = lines_of(moved, log_of(tmp_path))
    ends = sorted(line["reason"] for line in lines if line["kind"] == "left")
    assert ends == ["closed 1000", "shutdown", "shutdown"]
    assert TOKEN not in moved.read_text() + log_of(tmp_path).read_text()


def test_a_kill_loses_the_last_interval_at_most(tmp_path: Path) -> None:
    """What the log says until then stands, and `recorder audit` says that an end is missing."""
    with (
        recording(tmp_path) as recorder,
        listening(f"ws://{recorder.address_of('filtered')}", "*", TOKEN) as client,
    ):
        eventually_sync(lambda: have_received([client]), "data")
        before = len(client.events)
        counted = eventually_sync(
            lambda: (
                (events := sum(line["events"] for line in lines_of(log_of(tmp_path)))) >= before and events
            ),
            "what the client has, in the log",
        )
        recorder.send(signal.SIGKILL)
        recorder.wait()
    found = finished("audit", str(log_of(tmp_path)), cwd=tmp_path)
    assert found.returncode == 0
    assert "the end of 1 connections is not in these files" in found.stderr
    assert counted <= total(tmp_path)["events"] <= len(client.events)


def test_a_log_that_cannot_be_written_harms_nobody_and_is_seen(tmp_path: Path) -> None:
    """Clients are served, /status warns, the metric counts what waits, and all is written once it can be."""
    with (
        recording(tmp_path) as recorder,
        listening(f"ws://{recorder.address_of('filtered')}", "*", TOKEN) as client,
    ):
        folder = log_of(tmp_path).parent
        eventually_sync(lambda: lines_of(log_of(tmp_path)), "a line")
        folder.rename(tmp_path / "away")
        folder.touch()  # in its place, so that nothing can be made there

        def warnings() -> str:
            return "".join(json.loads(recorder.get("/status")[1])["warnings"])

        eventually_sync(lambda: "access log: " in warnings(), "a warning")
        assert recorder.get("/ready")[0] == 200
        recorder.wait_for("access_log_not_written")
        served = len(client.events)
        eventually_sync(lambda: len(client.events) > served, "data")
        folder.unlink()
        recorder.wait_for("access_log_written_again")
        eventually_sync(lambda: not warnings(), "no warning")
        (tmp_path / "away" / "access.jsonl").rename(folder / "earlier.jsonl")
        assert recorder.stop() == 0
        received = len(client.events)
    found = total(tmp_path)
    assert found["events"] == received


def test_a_start_without_a_writable_file_says_what_to_do(tmp_path: Path) -> None:
    """The status is 78, and the line names the variable."""
    (tmp_path / "log").touch()
    settings = live_settings(1, tmp_path / "archive", ACCESS_LOG_DEST=str(log_of(tmp_path)))
    found = finished("run", cwd=tmp_path, **settings)
    assert found.returncode == 78
    assert "ACCESS_LOG_DEST: " in found.stderr
    assert "name a file that the recorder's user may write to" in found.stderr
