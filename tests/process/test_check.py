"""`recorder check` as its user runs it: each line in its good and in its bad form, and no harm done by looking."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed
from commands import KEY, RECORDER, clean_environment, finished, live_settings, running, simulating
from faketime import Clock
from tools import tool
from volumes import mounted, small
from waiting import eventually_sync

from recorder.errors import EXIT_INTERRUPTED

SAMPLE = ("--sample-secs", "0.5")


@dataclass
class Checked:
    """What one run of the command said."""

    status: int
    findings: list[dict[str, Any]]
    notes: str
    """Standard error."""

    def of(self, subject: str) -> list[tuple[str, str]]:
        """Return level and text of the findings on a subject."""
        return [(f["level"], f["text"]) for f in self.findings if f["subject"] == subject]

    def one(self, subject: str, words: str) -> dict[str, Any]:
        """Return the one finding on a subject whose text has these words."""
        found = [f for f in self.findings if f["subject"] == subject and words in f["text"]]
        assert len(found) == 1, (words, self.findings)
        return found[0]

    def failed(self) -> list[str]:
        """Return the texts of all failures."""
        return [f["text"] for f in self.findings if f["level"] == "failure"]


def check(cwd: Path, *arguments: str, prefix: tuple[str, ...] = (), **variables: str) -> Checked:
    """Run it with `--json`."""
    result = subprocess.run(
        [*prefix, *RECORDER, "check", "--json", *arguments],
        env=clean_environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert KEY not in result.stdout + result.stderr
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert report["exit_status"] == result.returncode
    assert all(f["advice"] for f in report["findings"] if f["level"] in ("warning", "failure"))
    return Checked(result.returncode, report["findings"], result.stderr)


def offline(tmp_path: Path, *, prefix: tuple[str, ...] = (), **variables: str) -> Checked:
    """Check all but the exchange, which is not there."""
    return check(tmp_path, "--offline", prefix=prefix, **live_settings(9, tmp_path / "a", **variables))


def online(
    tmp_path: Path,
    *faults: str,
    options: tuple[str, ...] = (),
    sample: tuple[str, ...] = SAMPLE,
    **variables: str,
) -> Checked:
    """Check against a simulated exchange."""
    given = [word for fault in faults for word in ("--fault", fault)]
    with simulating("--cluster", "stocks", "--rate", "500", *given, *options, cwd=tmp_path) as port:
        return check(tmp_path, *sample, **live_settings(port, tmp_path / "a", **variables))


@contextmanager
def taken_port() -> Iterator[int]:
    """Yield a port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def everything(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_is_well(tmp_path: Path) -> None:
    """Key, topics, rate, age, clock, disk: measured and told; status 0; and no trace of it is left anywhere."""
    found = online(tmp_path, options=("--rate", "2000"), NDJSON_COMPRESSION="zstd")
    assert found.status == 0
    assert not found.failed()
    assert found.one("stocks", "key accepted")["level"] == "ok"
    assert found.one("stocks", "all 2 topics acknowledged")["level"] == "ok"
    data = found.one("stocks", "in real time")
    assert data["level"] == "ok"
    assert data["figures"]["records_per_sec"] > 500
    assert found.one("clock", "from that of 127.0.0.1")["figures"]["most_secs"] < 1.5
    assert found.one("disk speed", "MB/s")["figures"]["sync_secs"] > 0
    full = found.one("disk space", "of which compression leaves")
    assert full["figures"]["bytes_per_sec"] < data["figures"]["bytes_per_sec"] / 2
    assert ("ok", f"{tmp_path / 'a'} will be made in {tmp_path}") in found.of("archive")
    assert "--offline leaves this out" in found.notes
    assert not any(tmp_path.iterdir())


def test_offline_asks_nobody(tmp_path: Path) -> None:
    """Nothing listens at the exchange's address, and nothing is missed; the key need not be told."""
    found = offline(tmp_path)
    assert found.status == 0
    assert found.of("exchange") == [("skipped", "--offline: key and topics were not tried")]
    assert found.notes == ""


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    """A line for each, as `run` has it; 78, and nothing else is looked at."""
    found = offline(tmp_path, NDJSON_MAX_BYTES="lots", READ_TIMEOUT_SECS="-1")
    assert found.status == 78
    assert [f["text"].partition(":")[0] for f in found.findings] == [
        "READ_TIMEOUT_SECS='-1'",
        "NDJSON_MAX_BYTES='lots'",
    ]
    bare = finished("check", "--offline", cwd=tmp_path)
    assert bare.returncode == 78
    assert re.match(r"failure +settings +POLYGON_API_KEY: must be set", bare.stdout)


def test_a_slip_is_a_failure(tmp_path: Path) -> None:
    """The nearest name is told, and 78, as by `run`."""
    found = offline(tmp_path, NDJSON_ROTATE_SEC="60")
    assert found.status == 78
    assert found.one("settings", "did you mean NDJSON_ROTATE_SECS?")["level"] == "failure"


def test_a_recorder_that_writes_no_file_is_not_ready_to_record(tmp_path: Path) -> None:
    """What is missing is a warning, with what to set; the last line says it, too."""
    settings = live_settings(9, tmp_path)
    del settings["SINK"], settings["NDJSON_DEST"]
    found = check(tmp_path, "--offline", **settings)
    assert found.status == 0
    told = found.one("settings", "no file is written: SINK is not set")
    assert told["level"] == "warning"
    assert "set SINK=ndjson and NDJSON_DEST=" in told["text"]
    assert found.of("archive") == [("skipped", "no file is written: SINK does not name ndjson")]
    printed = finished("check", "--offline", cwd=tmp_path, **settings).stdout
    assert printed.splitlines()[-1].endswith(": ready to run, and no file will be written")


@pytest.mark.parametrize(
    ("fault", "words", "advice"),
    [
        ("refuse-auth", "key refused: authentication failed", "check POLYGON_API_KEY"),
        ("no-access", "key refused:", "real time"),
        ("max-connections", "too many connections:", "another program uses this key"),
        ("not-authorized:topics=T+Q", "2 of 2 topics not authorised: T.*, Q.*", "plan"),
        ("no-greeting", "still waiting for the greeting", "check again"),
    ],
)
def test_what_the_exchange_refuses(tmp_path: Path, fault: str, words: str, advice: str) -> None:
    """A failure that says what was said, and what to do; status 1."""
    found = online(tmp_path, fault)
    assert found.status == 1
    assert len(found.failed()) == 1
    told = found.one("stocks", words)
    assert told["level"] == "failure"
    assert advice in told["advice"]


@pytest.mark.parametrize(
    ("faults", "topics", "words"),
    [
        (("not-authorized:topics=Q",), "T.*,Q.*", "1 of 2 topics not authorised: Q.*"),
        ((), "T.*,ZZ.*", "1 of 2 topics not acknowledged: ZZ.*"),
    ],
    ids=["not in the plan", "unknown"],
)
def test_some_topics_are_missing(tmp_path: Path, faults: tuple[str, ...], topics: str, words: str) -> None:
    """The others would be recorded, so it is a warning; and they are measured."""
    found = online(tmp_path, *faults, SUBSCRIPTION=topics)
    assert found.status == 0
    assert found.one("stocks", words)["level"] == "warning"
    assert found.one("stocks", "records a second")["level"] == "ok"


def test_nobody_listens_at_the_exchange(tmp_path: Path) -> None:
    """No connection: the address is named."""
    found = check(tmp_path, *SAMPLE, **live_settings(9, tmp_path / "a"))
    assert found.status == 1
    assert "ws://127.0.0.1:9/stocks" in found.one("stocks", "no connection:")["advice"]


def test_delayed_data_is_told(tmp_path: Path) -> None:
    """Events a quarter of an hour old: a plan without real time."""
    start_ms = int((time.time() - 900) * 1000)
    found = online(tmp_path, options=("--start-ms", str(start_ms)))
    assert found.one("stocks", "delayed by 15 minutes")["level"] == "warning"


def test_a_market_that_brings_nothing(tmp_path: Path) -> None:
    """Neither rate nor age is known, which is said, and is no fault."""
    found = online(tmp_path, SUBSCRIPTION="T.ZZZZ")
    assert found.status == 0
    assert found.one("stocks", "no data within")["level"] == "skipped"
    assert found.one("disk space", "how long that lasts is not known")["level"] == "skipped"


@pytest.mark.parametrize(
    ("offset_secs", "level", "words"), [(5, "warning", "ahead of"), (-90, "failure", "behind")]
)
def test_a_clock_that_is_wrong(tmp_path: Path, offset_secs: float, level: str, words: str) -> None:
    """By how much, in which direction, with bounds around the truth; a minute is a failure."""
    clock = Clock(tmp_path)
    clock.set(offset_secs)
    found = online(tmp_path, **clock.variables)
    told = found.one("clock", words)
    assert told["level"] == level
    figures = told["figures"]
    assert figures["least_secs"] <= -offset_secs <= figures["most_secs"]
    assert figures["most_secs"] - figures["least_secs"] <= 1.5


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """The finding names the variable, the address, and the program that has it."""
    with taken_port() as port:
        found = offline(tmp_path, FIREHOSE_PORT=str(port))
    assert found.status == 1
    told = found.one("ports", f"FIREHOSE_PORT 127.0.0.1:{port} is in use by")
    assert f"(pid {os.getpid()})" in told["text"]


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    """Cannot be listened on."""
    found = offline(tmp_path, METRICS_ADDR="192.0.2.1:9898", AUTH_TOKENS="a:token-0123456789")
    assert found.status == 1
    assert found.one("ports", "METRICS_ADDR 192.0.2.1:9898 cannot be used to listen")["level"] == "failure"
    assert found.one("clients", "tokens cross the network of METRICS_ADDR")["level"] == "warning"


def test_a_zmq_endpoint_that_is_taken(tmp_path: Path) -> None:
    """A TCP endpoint is checked like any port. A path is asked but never bound, which would take it from its owner."""
    with taken_port() as port:
        found = offline(tmp_path, SINK="ndjson,zmq", ZMQ_BIND="true", ZMQ_ENDPOINT=f"tcp://127.0.0.1:{port}")
        assert found.one("ports", f"ZMQ_ENDPOINT 127.0.0.1:{port} is in use")["level"] == "failure"
    path = tmp_path / "sock"
    settings = {"SINK": "ndjson,zmq", "ZMQ_BIND": "true", "ZMQ_ENDPOINT": f"ipc://{path}"}
    assert offline(tmp_path, **settings).one("ports", f"ipc://{path} is free")["level"] == "ok"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        told = offline(tmp_path, **settings).one("ports", f"ipc://{path} is in use")
        assert told["level"] == "failure"
        assert path.is_socket()


@pytest.mark.parametrize(("files", "level", "status"), [(300, "warning", 0), (200, "failure", 1)])
def test_few_open_files(tmp_path: Path, files: int, level: str, status: int) -> None:
    """Too few for CLIENTS_MAX is a warning, too few for the recorder itself a failure."""
    found = offline(tmp_path, prefix=(tool("prlimit"), f"--nofile={files}:{files}"))
    assert found.status == status
    told = found.one("open files", f"{files} are allowed")
    assert told["level"] == level
    assert told["figures"]["allowed"] == files
    few = offline(tmp_path, prefix=(tool("prlimit"), "--nofile=300:300"), CLIENTS_MAX="20")
    assert few.one("open files", "300 are allowed, 276 needed")["level"] == "ok"


def test_a_file_system_that_is_read_only(tmp_path: Path) -> None:
    """A failure of the place, and of the disk; nothing is written."""
    with mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        found = offline(tmp_path, NDJSON_DEST=str(tmp_path / "ro" / "polygon.ndjson"))
    assert found.status == 1
    assert found.one("archive", "is read-only")["level"] == "failure"
    assert found.one("disk speed", "Read-only file system")["level"] == "failure"


def test_the_access_log_is_looked_at(tmp_path: Path) -> None:
    """Its folder, its file, its lock, its disk and who shares that; no file is made by looking."""
    unset = offline(tmp_path).one("access log", "ACCESS_LOG_DEST is not set")
    assert unset["level"] == "skipped"
    folder = tmp_path / "log"
    dest = folder / "access.jsonl"
    good = offline(tmp_path, ACCESS_LOG_DEST=str(dest), NDJSON_MIN_FREE_BYTES="1MiB")
    assert good.status == 0
    assert good.of("access log")[0] == ("ok", f"{folder} will be made in {tmp_path}")
    assert good.one("access log", "which leaves some of it")["figures"]["free_bytes"] > 0
    assert not folder.exists()

    dest.mkdir(parents=True)
    told = offline(tmp_path, ACCESS_LOG_DEST=str(dest))
    assert (told.status, told.failed()) == (1, [f"{dest} is not a regular file"])
    dest.rmdir()
    with dest.open("ab") as file:
        filled = offline(tmp_path, ACCESS_LOG_DEST=str(dest))  # the tests leave NDJSON_MIN_FREE_BYTES at 0
        assert filled.one("access log", "NDJSON_MIN_FREE_BYTES is 0")["level"] == "warning"
        fcntl.flock(file, fcntl.LOCK_EX)
        held = offline(tmp_path, ACCESS_LOG_DEST=str(dest))
        assert held.failed() == [f"another recorder writes to {dest}"]
    with mounted(tmp_path / "ro", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        closed = offline(tmp_path, ACCESS_LOG_DEST=str(tmp_path / "ro" / "access.jsonl"))
        assert closed.one("access log", "is read-only")["level"] == "failure"
    with small(tmp_path / "disk", 64 << 20) as disk:
        scarce = offline(tmp_path, ACCESS_LOG_DEST=str(disk / "access.jsonl"))
        assert scarce.one("access log", "once it is full, lines are lost")["level"] == "failure"
        elsewhere = offline(tmp_path, ACCESS_LOG_DEST=str(dest), NDJSON_DEST=str(disk / "polygon.ndjson"))
        assert elsewhere.one("access log", "free on its disk")["level"] == "ok"


def test_a_folder_of_another_user(tmp_path: Path) -> None:
    """Root may write everywhere, which says nothing of the recorder's user; a user that may not write there is refused."""
    if os.geteuid():
        pytest.skip("only root can give a folder to another user")
    folder = tmp_path / "a"
    folder.mkdir(mode=0o755)
    os.chown(folder, 4711, 4711)
    told = offline(tmp_path).one("archive", "belongs to user 4711")
    assert told["level"] == "warning"
    powerless = (tool("setpriv"), "--bounding-set=-dac_override,-dac_read_search", "--")
    refused = offline(tmp_path, prefix=powerless)
    assert refused.status == 1
    assert refused.one("archive", "user 0 may not write to")["level"] == "failure"
    assert refused.one("disk speed", "not tried: Permission denied")["level"] == "skipped"
    folder.chmod(0o700)
    hidden = offline(tmp_path, prefix=powerless, NDJSON_DEST=str(folder / "b" / "polygon.ndjson"))
    assert hidden.one("archive", "could not be looked at: Permission denied")["level"] == "failure"


def test_a_small_disk(tmp_path: Path) -> None:
    """When it is full is told from the rate; retention that fits makes that never; none left is a failure."""
    with small(tmp_path / "disk", 256 << 20) as disk:
        dest = {"NDJSON_DEST": str(disk / "polygon.ndjson"), "NDJSON_COMPRESSION": "zstd"}
        soon = online(tmp_path, **dest)
        assert soon.status == 1
        [told] = soon.failed()
        assert re.search(r"would fill it in \d+ (hours|minutes)", told)
        kept = {"NDJSON_RETAIN_BYTES": "100MiB", "NDJSON_ROTATE_SECS": "60"}
        never = online(tmp_path, **dest, **kept)
        assert never.status == 0
        assert "never full" in never.of("disk space")[0][1]
        much = online(tmp_path, **dest, **kept | {"NDJSON_RETAIN_BYTES": "10GiB"})
        assert much.one("disk space", "more than there is room for")["level"] == "failure"
        paused = offline(tmp_path, **dest, NDJSON_MIN_FREE_BYTES="1GiB")
        assert paused.one("disk space", "recording pauses below 1.0 GiB")["level"] == "failure"
        assert not any(disk.iterdir())


@pytest.mark.parametrize(
    ("rate", "level", "status"),
    [("20000", "failure", 1), ("1000", "warning", 0)],
    ids=["always", "in a burst"],
)
def test_a_disk_that_is_slower_than_the_feed(tmp_path: Path, rate: str, level: str, status: int) -> None:
    """What is measured on the feed is held against what is measured on the disk: 1.7 MB/s here."""
    slow = tmp_path / "sitecustomize.py"
    slow.write_text("import os, select\nos.fsync = lambda fd: select.select([], [], [], 0.6)\n")
    # A market of this rate takes a moment to begin on a busy machine.
    sample = ("--sample-secs", "4")
    options = ("--rate", rate, "--no-bursts")
    found = online(tmp_path, PYTHONPATH=str(tmp_path), options=options, sample=sample)
    told = found.one("disk speed", "MB/s are recorded")
    assert (told["level"], found.status) == (level, status)
    assert told["figures"]["sync_secs"] >= 0.6


def test_beside_the_recorder_that_runs(tmp_path: Path) -> None:
    """Its connection, its archive and its ports are left alone; what it does is told instead, and its rate."""
    only_one = ("--cluster", "stocks", "--rate", "500", "--connections-max", "1")
    with taken_port() as free:
        pass
    with simulating(*only_one, cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "a", METRICS_ADDR=f"127.0.0.1:{free}")
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.received() > 100, "data")
            settings["FILTERED_PROXY_PORT"] = recorder.port_of("filtered")
            found = check(tmp_path, "--sample-secs", "1", **settings)
            pid = recorder.process.pid
            assert found.status == 0, found.failed()
            told = found.one("stocks", f"the recorder with pid {pid} follows it: streaming")
            assert told["level"] == "ok"
            assert found.one("archive", f"owned by the recorder with pid {pid}, which runs")
            assert found.one(
                "ports", f"FILTERED_PROXY_PORT 127.0.0.1:{recorder.port_of('filtered')} is in use"
            )
            assert found.one("disk space", f"written by the recorder with pid {pid}")
            assert "connecting" not in found.notes
            assert recorder.metric("polygon_reconnects_total") == 0
            assert recorder.metric("polygon_connected") == 1
            assert recorder.stop() == 0
    assert finished("verify", "a", cwd=tmp_path).returncode == 0


def test_a_recorder_that_does_not_answer(tmp_path: Path) -> None:
    """Whoever holds the archive may follow the same cluster, so nothing is risked."""
    with simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "a")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("subscribed")
            found = check(tmp_path, *SAMPLE, **settings)
            assert found.one("stocks", "holds the archive, and may follow it")["level"] == "skipped"
            assert found.one("archive", "a second one would end with status 78")["level"] == "warning"
            assert recorder.stop() == 0


def test_another_program_with_the_same_exchange(tmp_path: Path) -> None:
    """Whoever is connected there is seen and left alone; --connect says that it has another key, or does not matter."""
    only_one = ("--cluster", "stocks", "--rate", "500", "--connections-max", "1")
    with (
        simulating(*only_one, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "b")) as other,
    ):
        other.wait_for("subscribed")
        settings = live_settings(port, tmp_path / "a")
        found = check(tmp_path, *SAMPLE, **settings)
        told = found.one("stocks", f"(pid {other.process.pid}) is connected to 127.0.0.1:{port} already")
        assert (told["level"], found.status) == ("skipped", 0)
        assert "--connect" in told["advice"]
        assert not other.logged("disconnected")
        assert check(tmp_path, "--connect", *SAMPLE, **settings).one("stocks", "key accepted")
        assert other.wait_for("disconnected")["reason"] == "max_connections"


def recorded(tmp_path: Path) -> Path:
    """Return an archive that a recorder has left in order."""
    with (
        simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a")) as recorder,
    ):
        eventually_sync(lambda: recorder.received() > 500, "data")
        assert recorder.stop() == 0
    return tmp_path / "a"


def test_what_an_archive_tells_of_itself(tmp_path: Path) -> None:
    """Whole, left by a killed run, damaged, cut: each is told, and not a byte of it is changed by looking."""
    folder = recorded(tmp_path)
    manifest = folder / "polygon.manifest.ndjson"
    whole = manifest.read_bytes()
    before = everything(folder)
    assert offline(tmp_path).one("archive", "runs: 1, files: 1")["level"] == "ok"
    assert everything(folder) == before
    manifest.write_bytes(whole.replace(b'"run_started"', b'"run_Started"'))
    assert offline(tmp_path).one("archive", "the manifest is damaged: line 1")["level"] == "failure"
    lines = whole.splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:-1]))
    assert offline(tmp_path).one("archive", "lines are missing at its end")["level"] == "failure"
    (folder / "polygon.lock").unlink()
    before = everything(folder)
    killed = offline(tmp_path).one("archive", "the last run was killed, which the next start repairs")
    assert killed["level"] == "ok"
    assert everything(folder) == before


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    """As `run` refuses it."""
    (tmp_path / "a" / "polygon.ndjson").mkdir(parents=True)
    assert offline(tmp_path).one("archive", "is not a regular file")["level"] == "failure"
    (tmp_path / "b").write_text("a file")
    told = offline(tmp_path, NDJSON_DEST=str(tmp_path / "b" / "polygon.ndjson"))
    assert told.one("archive", "is not a folder")["level"] == "failure"


def test_certificates(tmp_path: Path) -> None:
    """Valid, about to expire, expired, not its key's: by the clock at hand."""
    certificate, key = self_signed(tmp_path, "good")
    pair = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    assert offline(tmp_path, **pair).one("tls", "is valid until")["level"] == "ok"
    clock = Clock(tmp_path)
    for days, level, words in (
        (20, "warning", "expires on"),
        (31, "failure", "has expired on"),
        (-2, "failure", "is not valid before"),
    ):
        clock.set(days * 86_400)
        assert offline(tmp_path, **pair, **clock.variables).one("tls", words)["level"] == level
    mixed = pair | {"TLS_KEY_FILE": str(self_signed(tmp_path, "other")[1])}
    assert offline(tmp_path, **mixed).one("tls", "is not the key of")["level"] == "failure"


def test_clients_tokens(tmp_path: Path) -> None:
    """How many, for whom; a file that cannot be read; and tokens that cross a network in the clear."""
    good = offline(tmp_path, BIND_HOST="0.0.0.0", AUTH_TOKENS="a:token-0123456789")  # noqa: S104
    assert good.one("clients", "1 tokens; reachable by anybody who can reach 0.0.0.0")["level"] == "ok"
    assert good.one("clients", "in the clear")["level"] == "warning"
    bad = offline(tmp_path, AUTH_TOKENS_FILE=str(tmp_path / "missing"))
    assert bad.one("clients", "cannot be read")["level"] == "failure"


def test_market_hours_are_told(tmp_path: Path) -> None:
    """On a Saturday: closed, and until when."""
    clock = Clock(tmp_path)
    clock.set(1_795_280_400 - time.time())  # 2026-11-21 17:00 UTC
    found = offline(tmp_path, SESSION_CALENDAR="on", **clock.variables)
    assert found.of("market hours") == [("ok", "stocks: the market is closed until Mon 2026-11-23 09:00 UTC")]
    assert offline(tmp_path).of("market hours") == [("skipped", "SESSION_CALENDAR is off")]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    """In the middle of it: no file, no lock, status 130 and no traceback."""
    with simulating("--cluster", "stocks", "--rate", "100", cwd=tmp_path) as port:
        command = subprocess.Popen(
            [*RECORDER, "check", "--sample-secs", "60"],
            env=clean_environment(**live_settings(port, tmp_path / "a")),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert command.stderr is not None
        assert "connecting to" in command.stderr.readline()
        command.send_signal(signal.SIGINT)
        out, said = command.communicate(timeout=30)
    assert command.returncode == EXIT_INTERRUPTED
    assert "Traceback" not in said
    assert out == ""
    assert not any(tmp_path.iterdir())


def test_the_report_in_a_pipe_and_on_a_terminal(tmp_path: Path) -> None:
    """Plain lines with what to do below, and the verdict, without any escape code; colours for a person only."""
    settings = live_settings(9, tmp_path / "a", NDJSON_RETAIN_SECS="60", FORCE_COLOR="1")
    piped = finished("check", "--offline", cwd=tmp_path, **settings)
    assert piped.returncode == 0
    assert "\x1b" not in piped.stdout
    assert re.search(r"^warning  settings .*\n +-> set, correct or remove it", piped.stdout, re.MULTILINE)
    assert re.search(r"^\d+ warnings?, \d+ ok, \d+ skipped: ready to record$", piped.stdout, re.MULTILINE)
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*RECORDER, "check", "--offline"],
        env=clean_environment(**settings, TERM="xterm", COLUMNS="100"),
        cwd=tmp_path,
        stdout=child,
        stderr=child,
    ) as command:
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the other side is closed
                break
            shown += part
        assert command.wait(30) == 0
    os.close(parent)
    assert b"\x1b[33mwarning" in shown
    assert b"ready to record" in shown
