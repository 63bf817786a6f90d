"""Trial 19: one part fails, each in turn; recording continues, and the part comes back or is shown as degraded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from commands import (
    RECORDER,
    Running,
    clean_environment,
    free_port,
    get,
    live_settings,
    running,
    simulating,
)
from kafka_brokers import kafka_variables, shared_broker
from listening import listening
from nats_servers import nats_variables, serving
from oracle import account, read_manifest, read_sent, verified
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 1800))]

BREAKING: Final = Path(__file__).parents[1] / "breaking"
ROUNDS: Final = scale(1, 20)
"""How often each part fails."""
UP_AGAIN_SECS: Final = 90
"""A part that has failed often waits for up to half a minute; while that is the ops server, nobody sees its restart."""


class Breakable:
    """What a recorder that can be broken is started with, and how it is broken."""

    def __init__(self, tmp_path: Path) -> None:
        self._folder = tmp_path / "breaking"
        self._folder.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        """Of its ops server, known from outside."""
        self.variables = {
            "PYTHONPATH": str(BREAKING),
            "BREAKING": str(self._folder),
            "METRICS_ADDR": self.address,
            "STATS_INTERVAL_SECS": "1",
        }

    def ask(self, name: str) -> None:
        """Ask for a failure, or for one that lasts until `undo`."""
        (self._folder / name).touch()

    def undo(self, name: str) -> None:
        (self._folder / name).unlink()

    def is_done(self, name: str) -> bool:
        """Whether the failure has happened."""
        return not (self._folder / name).exists()

    def get(self, path: str) -> tuple[int, str]:
        """Ask the ops server, which may be down for a moment; 0: no answer."""
        try:
            return get(self.address, path)
        except OSError:
            return 0, ""

    def status(self) -> dict[str, Any]:
        """Return what /status says; empty while it cannot be reached."""
        code, text = self.get("/status")
        return json.loads(text) if code == 200 else {}

    def part(self, name: str) -> dict[str, Any]:
        """Return how a part fares; empty while that cannot be had."""
        return next((part for part in self.status().get("parts", []) if part["name"] == name), {})

    def recorded(self) -> int:
        """Return how many events the archive holds by its own account."""
        sinks = {sink["name"]: sink for sink in self.status().get("sinks", [])}
        return int(sinks["ndjson"]["balance"]["recorded"]) if "ndjson" in sinks else 0


def drained(recorder: Running) -> None:
    """Records keep coming on stdout; forget them, and keep memory flat."""
    recorder.out.clear()


def test_each_part_fails_in_turn(tmp_path: Path) -> None:
    """Page, stats log, market hours, ports, sinks, feed: each comes back, and the archive misses nothing for it."""
    broken = Breakable(tmp_path)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    failures = {
        "ops": ("page", "run ops"),
        "stats log": ("stats", "run stats log"),
        "market hours": ("run market hours",),
        "reload": ("run reload",),
        "resume": ("run resume",),
        "pacer": ("run pacer",),
        "last values": ("run last values",),
        "firehose": ("run firehose",),
        "filtered": ("run filtered",),
        "bars": ("run bars",),
        "bar timer": ("run bar timer",),
        "stdout": ("stdout",),
        "zmq": ("zmq",),
        "nats": ("nats",),
        "kafka": ("kafka",),
        "feed stocks": ("run feed stocks",),
    }
    failed = 0
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "2000", "--log", str(log), cwd=tmp_path) as port,
    ):
        sinks = {
            **nats_variables(server, ZMQ_ENDPOINT="tcp://127.0.0.1:*", ZMQ_BIND="true"),
            **kafka_variables(shared_broker(), "parts", SINK="ndjson,stdout,zmq,nats,kafka"),
        }
        settings = live_settings(port, folder, **broken.variables, **sinks, SESSION_CALENDAR="on")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(broken.recorded, "records")
            names = {part["name"] for part in broken.status()["parts"]}
            assert names == {*failures, "ndjson"}, "every part is broken once"
            for _ in range(ROUNDS):
                for part, ways in failures.items():
                    for way in ways:
                        failed += 1
                        restarts = eventually_sync(lambda: broken.part(part), part)["restarts"]
                        broken.ask(way)
                        eventually_sync(
                            lambda: broken.part(part).get("restarts", 0) > restarts,
                            f"{way}: a restart",
                            UP_AGAIN_SECS,
                        )
                        eventually_sync(
                            lambda: broken.part(part).get("state") == "up", f"{way}: up again", UP_AGAIN_SECS
                        )
                        before = broken.recorded()
                        eventually_sync(lambda: broken.recorded() > before, f"{way}: recording")
                        drained(recorder)
            eventually_sync(lambda: broken.get("/ready")[0] == 200, "ready")
            assert broken.part("ndjson")["restarts"] == 0
            assert recorder.stop() == 0
    [ended] = read_manifest(folder, "run_ended")
    assert ended["reason"] == "SIGTERM"
    assert ended["balance"]["difference"] == ended["balance"]["dropped"] == 0
    gaps = read_manifest(folder, "gap")
    assert len(gaps) == ROUNDS, "only the feed's own failures are gaps"
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    report(
        19,
        fault="a part fails by a defect, each in turn",
        injected="ops server, page, stats log, market hours, reload, each port, the bars' timer, the other sinks, the feed",
        holds="recording goes on, the part is up again, a gap only where the feed itself failed",
        figure=f"{failed} failures, {failed} parts back, 0 events lost in sessions",
    )


def test_the_archive_alone_ends_the_process(tmp_path: Path) -> None:
    """A defect of its writer: everything else is closed in order, exit 1; the next start repairs what is there."""
    broken = Breakable(tmp_path)
    folder = tmp_path / "archive"
    with (
        simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path) as port,
    ):
        settings = live_settings(port, folder, **broken.variables)
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(broken.recorded, "records")
            with listening(f"ws://{recorder.address_of('firehose')}") as client:
                eventually_sync(lambda: client.frames, "frames")
                broken.ask("archive")
                assert recorder.wait() == 1
                eventually_sync(lambda: client.close_code, "the close")
                assert client.close_code == 1012
            assert recorder.logged("stopped")[-1]["reason"] == "failed"
        assert not read_manifest(folder, "run_ended")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(broken.recorded, "records")
            assert recorder.stop() == 0
    verified(folder)


def test_a_sink_that_fails_at_the_end_does_not_rob_the_archive_of_its_end(tmp_path: Path) -> None:
    """The archive is sealed and says how the run ended, though ZMQ raises while it is closed; the exit says so."""
    broken = Breakable(tmp_path)
    folder = tmp_path / "archive"
    with simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path) as port:
        settings = live_settings(
            port,
            folder,
            **broken.variables,
            SINK="ndjson,zmq",
            ZMQ_ENDPOINT="tcp://127.0.0.1:*",
            ZMQ_BIND="true",
        )
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(broken.recorded, "records")
            broken.ask("zmq end")
            assert recorder.stop() == 1
    [ended] = read_manifest(folder, "run_ended")
    assert (ended["reason"], ended["balance"]["difference"]) == ("SIGTERM", 0)
    assert read_manifest(folder, "segment_closed")
    verified(folder)


def test_a_worker_that_cannot_be_started(tmp_path: Path) -> None:
    """No process is left for it: the recorder continues, says so, and has it back once there is one."""
    broken = Breakable(tmp_path)
    with simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "archive", **broken.variables, SERVE_WORKERS="2")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(lambda: broken.get("/ready")[0] == 200, "ready")
            broken.ask("refuse workers")
            worker = broken.status()["workers"][0]
            os.kill(worker["pid"], signal.SIGKILL)
            recorder.wait_for("worker_start_failed", 2)
            down = broken.status()["workers"][0]
            assert (down["state"], down["pid"]) == ("down", 0)
            assert "cannot be started" in down["reason"]
            code, text = broken.get("/ready?verbose")
            assert code == 200
            assert any("worker 1: cannot be started" in warning for warning in json.loads(text)["warnings"])
            before = broken.recorded()
            eventually_sync(lambda: broken.recorded() > before, "recording")
            broken.undo("refuse workers")
            eventually_sync(lambda: broken.status()["workers"][0]["state"] == "up", "the worker", 60)
            assert broken.part("workers")["restarts"] == 0
            assert recorder.stop() == 0


def test_a_repair_is_no_darkness(tmp_path: Path) -> None:
    """While the archive is repaired, /health answers and /ready says why not; SIGHUP waits; a stop is in time."""
    broken = Breakable(tmp_path)
    folder = tmp_path / "archive"
    with simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, folder, **broken.variables, SHUTDOWN_TIMEOUT_SECS="2")
        broken.ask("hold repair")
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: broken.get("/health") == (200, "OK"), "/health")
            eventually_sync(lambda: "repairing" in broken.get("/ready")[1], "/ready")
            assert broken.get("/ready")[0] == 503
            begun = time.monotonic()
            assert recorder.stop() == 0
            stop_secs = time.monotonic() - begun
            assert stop_secs < 10
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: "repairing" in broken.get("/ready")[1], "/ready")
            recorder.send(signal.SIGHUP)
            recorder.send(signal.SIGUSR1)
            recorder.wait_for("signal_remembered", 2)
            assert not recorder.logged("subscribed")
            broken.undo("hold repair")
            eventually_sync(broken.recorded, "records")
            assert recorder.metric("polygon_reopens_total") == 1
            assert recorder.stop() == 0
    verified(folder)
    report(
        19,
        fault="SIGHUP and SIGTERM while the archive is repaired",
        injected="the repair stands still until it is let go",
        holds="/health answers, /ready says repairing, SIGHUP takes effect afterwards, a stop ends in time",
        figure=f"stopped amid the repair in {stop_secs:.1f} s, with SHUTDOWN_TIMEOUT_SECS=2",
    )


def test_the_first_signal_of_a_stop_that_began_otherwise(tmp_path: Path) -> None:
    """The reader of stdout goes away; SIGTERM comes while the edges drain: the archive is sealed, the exit is 0."""
    broken = Breakable(tmp_path)
    folder = tmp_path / "archive"
    with simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path) as port:
        settings = live_settings(port, folder, **broken.variables, SINK="ndjson,stdout")
        reading, writing = os.pipe()
        with running("run", cwd=tmp_path, stdout=writing, **settings) as recorder:
            os.close(writing)
            with listening(f"ws://{recorder.address_of('firehose')}") as client:
                eventually_sync(lambda: client.frames, "frames")
                broken.ask("hold end")
                os.close(reading)
                eventually_sync(lambda: client.close_code, "the stop")
            recorder.send(signal.SIGTERM)
            # An answer is a later turn of the loop than the signal's.
            assert broken.get("/health")[0] == 200
            broken.undo("hold end")
            assert recorder.wait() == 0
    [ended] = read_manifest(folder, "run_ended")
    assert ended["reason"] == "stdout closed"
    verified(folder)


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the writing end of a pipe that is full and that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\0")
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


def test_a_log_that_nobody_reads(tmp_path: Path) -> None:
    """The pipe of stderr is full from the first line on: recording, serving and stopping do not wait for it."""
    broken = Breakable(tmp_path)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    with (
        simulating("--cluster", "stocks", "--rate", "2000", "--log", str(log), cwd=tmp_path) as port,
        full_pipe() as stderr,
    ):
        settings = live_settings(port, folder, **broken.variables)
        process = subprocess.Popen(
            [*RECORDER, "run"], env=clean_environment(**settings), cwd=tmp_path, stderr=stderr
        )
        try:
            eventually_sync(lambda: broken.recorded() > 5_000, "recording")
            assert broken.get("/ready")[0] == 200
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
            stop_secs = time.monotonic() - begun
        finally:
            process.kill()
            process.wait()
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    report(
        19,
        fault="a log that nobody reads",
        injected="stderr is a full pipe from the first line on",
        holds="recording, serving and stopping do not wait for it",
        figure=f"{len(read_sent(log).events):,} events, 0 lost; stopped in {stop_secs:.1f} s",
    )
