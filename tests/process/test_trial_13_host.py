"""Trial 13: a host that gives too little: an archive that has an owner, few files, no time, little CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from listening import listening
from oracle import account, follow, read_manifest, read_sent, time_ms, verified
from tools import tool
from trials import report, scale
from waiting import eventually_sync, lasting

from recorder.errors import EXIT_CONFIG

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

UPGRADE = (
    b"GET /stocks HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CPU = Path("/sys/fs/cgroup/cpu")
CPU_PERIOD_US = 100_000


def test_a_second_recorder_keeps_its_hands_off(tmp_path: Path) -> None:
    """It exits 78 and names the owner's pid; the first one continues, and the archive shows no trace of the second."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    tries = scale(2, 20)
    with simulating("--cluster", "stocks", "--rate", "1000", "--log", str(log), cwd=tmp_path) as port:
        settings = live_settings(port, folder, NDJSON_MAX_BYTES="50000", NDJSON_COMPRESSION="zstd")
        with running("run", cwd=tmp_path, **settings) as owner:
            owner.wait_for("subscribed")
            for _ in range(tries):
                with running("run", cwd=tmp_path, **settings) as second:
                    assert second.wait() == EXIT_CONFIG
                (line,) = [line for line in second.lines if line.startswith("recorder:")]
                assert f"is owned by the recorder with pid {owner.process.pid}" in line
                received = owner.received()
                eventually_sync(lambda received=received: owner.received() > received, "data goes on")
            assert owner.get("/ready")[0] == 200
            assert owner.stop() == 0
    found = account(log, folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    assert len(read_manifest(folder, "run_started")) == 1
    assert not read_manifest(folder, "gap", "drop")
    verified(folder)
    report(
        13,
        fault="two recorders on one archive",
        injected="`recorder run` with the settings of one that runs, under load, with rotation",
        holds="the second exits 78 and names the owner's pid; the first loses nothing",
        figure=f"{tries} of {tries} refused, {found.recorded:,} of {found.sent:,} events recorded",
    )


def knock(address: str) -> socket.socket:
    """Ask for a WebSocket."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(UPGRADE)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """Return what a connection says first; nothing if it was cut."""
    try:
        return connection.recv(4096)
    except ConnectionResetError:
        return b""


def closed_with(connection: socket.socket, code: int) -> bool:
    """Return whether what is said until the end closes with a code."""
    said = b""
    try:
        while more := connection.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    return b"\x88" in said and code.to_bytes(2, "big") in said


def goes_on(recorder: Running, folder: Path, sessions: int) -> None:
    """Wait until new segments were closed and a new session stands; the page answers, and says that all is well."""
    segments = len(read_manifest(folder, "segment_closed"))
    eventually_sync(lambda: len(read_manifest(folder, "segment_closed")) >= segments + 3, "rotation goes on")
    eventually_sync(lambda: len(recorder.logged("subscribed")) >= sessions, "the exchange is reached again")
    eventually_sync(lambda: is_ready(recorder), "ready")


def is_ready(recorder: Running) -> bool:
    """Return whether the page says so; while it still has as many connections as it may, it cuts others."""
    try:
        return recorder.get("/ready")[0] == 200
    except (ConnectionError, urllib.error.URLError):
        return False


def test_connections_to_the_page_leave_the_archive_its_files(tmp_path: Path) -> None:
    """One user of the machine opens more connections to METRICS_ADDR than there are files: recording notices nothing."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    limit, count = 64, 200
    market = ("--rate", "3000", "--log", str(log), "--fault", "close:after=5000,code=1001,times=0")
    with ExitStack() as stack:
        port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
        settings = live_settings(
            port, folder, ROLES="archive,ops", NDJSON_MAX_BYTES="100000", NDJSON_COMPRESSION="zstd"
        )
        prefix = (tool("prlimit"), f"--nofile={limit}:{limit}")
        recorder = stack.enter_context(running("run", cwd=tmp_path, prefix=prefix, **settings))
        recorder.wait_for("subscribed")
        host, _, number = recorder.address.rpartition(":")
        held = [stack.enter_context(socket.create_connection((host, int(number)))) for _ in range(count)]
        sessions = len(recorder.logged("subscribed"))
        segments = len(read_manifest(folder, "segment_closed"))
        eventually_sync(lambda: len(read_manifest(folder, "segment_closed")) >= segments + 3, "rotation")
        eventually_sync(lambda: len(recorder.logged("subscribed")) > sessions, "another session")
        assert recorder.logged("metrics_connections_refused")
        for connection in held:
            connection.close()
        eventually_sync(lambda: is_ready(recorder), "ready")
        assert recorder.stop() == 0
    assert not recorder.logged("archive_not_written")
    assert not recorder.logged("connect_failed")
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    report(
        13,
        fault="connections to the page",
        injected=f"`prlimit --nofile={limit}`, {count} silent connections to METRICS_ADDR, rotation, an exchange that "
        "hangs up again and again",
        holds="archive and exchange keep their files; connections beyond the limit get 503",
        figure=f"{found.recorded:,} events recorded, none lost, {len(recorder.logged('subscribed'))} sessions",
    )


@pytest.mark.parametrize("when", ["from the start", "while it runs"])
def test_few_files_are_the_clients_loss(tmp_path: Path, when: str) -> None:
    """At the limit of open files archive, exchange and page continue; clients are refused early, in clear words."""
    prlimit = tool("prlimit")
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    at_start = when == "from the start"
    limit = 48
    market = ("--rate", "3000", "--log", str(log), "--fault", "close:after=5000,code=1001,times=0")
    with ExitStack() as stack:
        port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
        settings = live_settings(
            port, folder, NDJSON_MAX_BYTES="100000", NDJSON_COMPRESSION="zstd", CLIENT_AUTH_TIMEOUT_SECS="60"
        )
        prefix = (prlimit, f"--nofile={limit}:{limit}") if at_start else ()
        recorder = stack.enter_context(running("run", cwd=tmp_path, prefix=prefix, **settings))
        recorder.wait_for("subscribed")
        good = stack.enter_context(listening(f"ws://{recorder.address_of('firehose')}"))
        connections = [
            stack.enter_context(knock(recorder.address_of("filtered")))
            for _ in range(scale(100, 1000) if at_start else 60)
        ]
        answers = [answer_of(connection) for connection in connections]
        let_in = sum(1 for answer in answers if answer.startswith(b"HTTP/1.1 101"))
        if at_start:
            told = sum(1 for answer in answers if b"503" in answer and b"may open no more files" in answer)
            assert let_in
            assert told
            assert let_in + told + answers.count(b"") == len(connections)
            figure = f"of {len(connections)} clients {let_in} let in, {told} told 503, the rest cut"
        else:
            assert let_in == len(connections)
            subprocess.run(
                [prlimit, f"--pid={recorder.process.pid}", f"--nofile={limit}:{limit}"], check=True
            )
            # The clients beyond the limit leave within moments, and are told why.
            recorder.wait_for("client_left", len(connections) // 2)
            evictions = 'polygon_server_evictions_total{port="filtered",reason="files"}'
            shed = int(eventually_sync(lambda: recorder.metric(evictions), "who was closed"))
            assert sum(closed_with(connection, 1013) for connection in connections[-shed:]) == shed
            figure = f"of {len(connections)} clients {shed} closed with 1013, {let_in - shed} kept"
        # Silent connections hold nothing up either.
        host, _, number = recorder.address_of("bars").rpartition(":")
        for _ in range(50):
            stack.enter_context(socket.create_connection((host, int(number))))
        sessions = len(recorder.logged("subscribed"))
        goes_on(recorder, folder, sessions + 1)
        assert good.close_code is None
        warnings = recorder.logged("open_files_exhausted")
        assert 1 <= len(warnings) <= scale(6, 60)
        for connection in connections:  # nobody there would answer the close of a recorder that stops
            connection.close()
        assert recorder.stop() == 0
        heard = follow(read_sent(log).events, good.events)
    assert not heard.missing, heard
    if at_start:
        # Where the limit is lowered, archive and exchange wait for moments until the clients are gone.
        assert not recorder.logged("archive_not_written")
        assert not recorder.logged("connect_failed")
    found = account(log, folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    verified(folder)
    report(
        13,
        fault=f"limit of open files, {when}",
        injected=f"`prlimit --nofile={limit}`, more clients than that, 50 silent ones, rotation, an exchange that hangs "
        "up again and again",
        holds="archive, exchange and page go on from a reserve; clients get 503 or 1013; one warning in 10 s",
        figure=f"{figure}; {found.recorded:,} events recorded, none lost, {len(recorder.logged('subscribed'))} sessions",
    )


@pytest.mark.parametrize("exchange_waits", [True, False], ids=["exchange-waits", "exchange-cuts"])
def test_a_stop_is_seen_in_lag_and_gap(tmp_path: Path, exchange_waits: bool) -> None:
    """SIGSTOP, then SIGCONT: the lag metric shows the whole stop; what the exchange kept is recorded, the rest a gap."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    stop_secs = scale(8, 60)
    kept = 1 << 30 if exchange_waits else 1 << 20
    market = ("--rate", scale("10000", "2000"), "--log", str(log), "--pending-bytes-max", str(kept))
    with (
        simulating("--cluster", "stocks", *market, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, READ_TIMEOUT_SECS="5")) as recorder,
    ):
        recorder.wait_for("subscribed")
        eventually_sync(lambda: recorder.received() > 2000, "data")
        recorder.send(signal.SIGSTOP)
        lasting(stop_secs)
        recorder.send(signal.SIGCONT)
        if not exchange_waits:
            recorder.wait_for("subscribed", 2)
        received = recorder.received()
        eventually_sync(lambda: recorder.received() > received + 4000, "data goes on")
        lag_secs = recorder.metric("polygon_event_loop_lag_peak_seconds")
        assert recorder.stop() == 0
    assert stop_secs * 0.98 <= lag_secs <= stop_secs + 10
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    gaps = read_manifest(folder, "gap")
    if exchange_waits:
        # It was we who slept: no silence of the exchange, no new session, nothing lost.
        assert not gaps
        assert {loss.explained for loss in found.losses} <= {"after the end"}
        figure = (
            f"peak lag {lag_secs:.1f} s for a stop of {stop_secs} s; {found.recorded:,} events, none lost"
        )
    else:
        (gap,) = gaps
        # `slow_consumer` in words, if the exchange had the patience to wait until somebody read it.
        assert gap["reason"] in ("server_disconnect", "disconnected")
        sent = read_sent(log)
        first = sent.connections.index(sent.connections[-1])
        # Whatever is missing is younger than the gap's beginning: with the first event behind it, the gap ends.
        recorded = time_ms(sent.events[found.losses[0].first - 1 if found.losses else first - 1])
        assert gap["from"] <= recorded
        missing_secs = (time_ms(sent.events[first]) - time_ms(sent.events[first - 1])) / 1000
        figure = (
            f"peak lag {lag_secs:.1f} s for a stop of {stop_secs} s; a gap of "
            f"{(gap['to'] - gap['from']) / 1000:.1f} s in the manifest, in which the exchange sent nothing for "
            f"{missing_secs:.1f} s; {found.lost:,} events lost on the way"
        )
    report(
        13,
        fault="process stopped, "
        + ("and the exchange waits" if exchange_waits else "and the exchange hangs up"),
        injected=f"SIGSTOP for {stop_secs} s, then SIGCONT",
        holds="the lag metric shows the stop; no false silence; a gap where there is one; books balance",
        figure=figure,
    )


@contextmanager
def cpu_share(percent: int) -> Iterator[Path]:
    """Yield a cgroup that may use `percent` of one core; skip the test where none can be made."""
    group = CPU / f"recorder-trial-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v1 with a CPU quota: {error}")
    try:
        (group / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(CPU_PERIOD_US * percent // 100))
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (CPU / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_little_cpu_costs_time_and_no_records(tmp_path: Path) -> None:
    """With a tenth of a core the books balance, the lag metric tells, and no record is dropped uncounted."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    seconds = scale(5, 120)
    rate = 20_000
    market = ("--rate", str(rate), "--frame-events", "1", "--log", str(log))
    with (
        cpu_share(10) as group,
        simulating("--cluster", "stocks", *market, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, NDJSON_MAX_BYTES="4000000")) as recorder,
    ):
        recorder.wait_for("subscribed")
        (group / "cgroup.procs").write_text(str(recorder.process.pid))

        def throttled_secs() -> float:
            told = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
            return int(told["throttled_time"]) / 1e9

        lasting(seconds)
        eventually_sync(lambda: throttled_secs() > 0.5, "the starving", 60)

        def lag_shows() -> bool:
            # A loop that is throttled misses up to nine tenths of a period, but a sample need not fall into one.
            return recorder.metric("polygon_event_loop_lag_peak_seconds") >= 0.05

        eventually_sync(lag_shows, "a lag that shows it", 60, every_secs=0.2)
        lag_peak_secs = recorder.metric("polygon_event_loop_lag_peak_seconds")
        starved_secs = throttled_secs()
        (CPU / "cgroup.procs").write_text(str(recorder.process.pid))
        assert recorder.stop() == 0
        (ended,) = read_manifest(folder, "run_ended")
    found = account(log, folder)
    assert found.faultless, found
    assert found.dropped == ended["balance"]["dropped"]
    verified(folder)
    report(
        13,
        fault="CPU quota",
        injected=f"cgroup cpu.cfs_quota_us: a tenth of a core for {seconds} s at {rate:,} events/s, each a frame of its own",
        holds="books balance, the lag metric shows it, drops are counted",
        figure=f"throttled for {starved_secs:.1f} s; peak lag {lag_peak_secs * 1000:.0f} ms; {found.recorded:,} of "
        f"{found.sent:,} events recorded, {found.dropped} dropped",
    )
