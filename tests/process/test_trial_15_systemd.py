"""Trial 15: a real systemd runs the units as installed: ready, status, reload, stop, watchdog, restart, exit status 78."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import waiting
from commands import KEY
from machines import EXCHANGE_PORT, PROJECT, UNITS, Machine, machine
from oracle import account, read_manifest, record_files, verified
from tools import tool
from trials import report, scale

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

DOCS = (UNITS.parent / "docs" / "operations.md").read_text()
SETTINGS = f"""\
{(UNITS / "recorder.env").read_text()}
POLYGON_WS_URL=ws://127.0.0.1:{EXCHANGE_PORT}
BACKOFF_INITIAL_SECS=0.1
BACKOFF_MAX_SECS=0.5
SESSION_CALENDAR=off
NDJSON_COMPRESSION=zstd
NDJSON_MIN_FREE_BYTES=0
"""
"""No hours: where groups are of cgroup v1, systemd does not notice that the last process of a unit is gone that was not
the first, and waits for TimeoutStopSec."""
WATCHDOG_SECS = scale(
    3, int((UNITS / "recorder.service").read_text().partition("WatchdogSec=")[2].split()[0])
)
"""As installed in the long form."""
STOP_SECS = scale(8, int((UNITS / "recorder.service").read_text().partition("TimeoutStopSec=")[2].split()[0]))
"""The same. Where groups are of cgroup v1, systemd waits as long for the processes of a unit whose first one was killed."""


eventually = partial(waiting.eventually_sync, every_secs=0.2)
"""To look takes a process in the container each time."""


def installing() -> str:
    """Return the commands of docs/operations.md that install the service, but for those that fetch Python's packages."""
    [commands] = re.findall(r"^```sh\n(sudo python3 -m venv .*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("sudo ") for line in commands.splitlines()]
    assert [line.partition(" ")[0] for line in lines[:2]] == ["python3", "/opt/recorder/.venv/bin/pip"]
    return "\n".join(lines[2:])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    """A machine on which the recorder is installed and set up, and an exchange runs."""
    with machine(tmp_path) as made:
        made.run("sh", "-euc", f"cd /opt/recorder\n{installing()}")
        made.write("/etc/recorder/api-key", f"{KEY}\n", 0o600)
        made.write("/etc/recorder/recorder.env", SETTINGS)
        made.write("/etc/recorder/stocks.env", SETTINGS)
        made.write(
            "/etc/systemd/system/recorder.service.d/watchdog.conf",
            f"[Service]\nWatchdogSec={WATCHDOG_SECS}\nTimeoutStopSec={STOP_SECS}\n",
        )
        yield made


def checking() -> str:
    """Return the command of docs/operations.md that checks as the service would have it."""
    [command] = re.findall(r"^```sh\n(sudo systemd-run .*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
    return command.removeprefix("sudo ").strip()


def test_the_check_as_the_service_has_it(host: Machine) -> None:
    """User, key, limits and place are the unit's; beside the service that runs it leaves the exchange alone."""
    host.write("/etc/recorder/recorder.env", f"{SETTINGS}SESSION_CALENDAR=on\n")
    host.start_exchange("--rate", "2000", "--connections-max", "1")
    eventually(lambda: "listening on" in host.journal("exchange"), "the exchange")
    before = host.run("sh", "-euc", checking())
    assert re.search(r"^ok +stocks +key accepted", before, re.MULTILINE), before
    assert re.search(r"^ok +archive +/var/lib/recorder can be written", before, re.MULTILINE), before
    assert "failure" not in before
    assert list((host.root / "var/lib/recorder").iterdir()) == []
    host.run("systemctl", "start", "recorder")
    eventually(lambda: "stocks streaming" in host.show("recorder", "StatusText"), "a status")
    beside = host.run("sh", "-euc", checking())
    pid = host.show("recorder", "MainPID")
    assert f"the recorder with pid {pid} follows it: streaming" in beside
    assert "failure" not in beside
    # The calendars are computed within all of the unit's restrictions.
    eventually(lambda: "market_hours_known" in host.journal("recorder"), "the hours")
    assert "disconnected" not in host.journal("recorder")


BLOCKER = "blocker"


def bytes_written(folder: Path) -> int:
    """Return the size of all files of records."""
    return sum(path.stat().st_size for path in record_files(folder))


def wait_for_records(folder: Path) -> None:
    """Wait until more is written than now."""
    before = bytes_written(folder)
    eventually(lambda: bytes_written(folder) > before, "records")


def block_by_stop(host: Machine) -> None:
    """Stop the whole process, as a debugger or a freezer does."""
    host.run("systemctl", "kill", "--signal=STOP", "recorder")


def block_the_loop(host: Machine) -> None:
    """Hold the event loop's thread in its next wait for minutes; the other threads continue."""
    pid = host.show("recorder", "MainPID")
    calls = "epoll_wait,epoll_pwait"
    host.run(
        "systemd-run",
        "--collect",
        f"--unit={BLOCKER}",
        tool("strace"),
        f"--attach={pid}",
        "-qq",
        "--output=/dev/null",
        f"--trace={calls}",
        f"--inject={calls}:delay_enter=600s",
    )


@pytest.mark.parametrize("unit", ["recorder", "recorder@stocks"])
def test_a_service_lives_as_systemd_expects(tmp_path: Path, host: Machine, unit: str) -> None:
    """Started when ready, with a status; reloaded when reopened; stopped in order; hardened; the key out of sight."""
    sent = host.start_exchange("--rate", "2000")
    folder = host.root / "var/lib/recorder" / unit.partition("@")[2]
    begun = time.monotonic()
    host.run("systemctl", "start", unit)
    start_secs = time.monotonic() - begun
    assert (folder / "polygon.manifest.ndjson").exists(), "started before the archive was open"
    eventually(lambda: "stocks streaming" in host.show(unit, "StatusText"), "a status")
    assert "Status: " in host.run("systemctl", "status", unit)
    wait_for_records(folder)

    pid = host.show(unit, "MainPID")
    environment = host.run("cat", f"/proc/{pid}/environ")
    assert "POLYGON_API_KEY_FILE=/run/credentials/" in environment
    assert KEY not in environment
    state = dict(line.split(":\t", 1) for line in host.run("cat", f"/proc/{pid}/status").splitlines())
    assert (state["NoNewPrivs"], state["Seccomp"], int(state["CapEff"], 16)) == ("1", "2", 0)
    assert state["Uid"].split()[0] == host.run("id", "-u", "recorder").strip() != "0"
    limits = host.run("cat", f"/proc/{pid}/limits")
    assert re.search(r"Max core file size +0 +0", limits)

    begun = time.monotonic()
    host.run("systemctl", "reload", unit)
    reload_secs = time.monotonic() - begun
    assert [entry["reason"] for entry in read_manifest(folder, "segment_closed", "segment")] == ["reopen"]
    host.write(settings := f"/etc/recorder/{unit.rpartition('@')[2]}.env", f"{SETTINGS}CLIENTS_MAX=many\n")
    host.run("systemctl", "reload", unit, status=1)
    eventually(lambda: "refused: CLIENTS_MAX='many'" in host.journal(unit), "the reason in the journal")
    host.write(settings, SETTINGS)
    assert host.show(unit, "MainPID") == pid
    assert host.show(unit, "ActiveState") == "active"
    wait_for_records(folder)

    # The process that compresses works within all of the unit's restrictions.
    host.run("systemctl", "kill", "--kill-who=main", "--signal=USR1", unit)
    eventually(lambda: list(folder.glob("polygon.*.ndjson.zst")), "a compressed file", deadline_secs=60)

    host.run("systemctl", "stop", unit)
    assert host.show(unit, "Result") == "success"
    assert host.show(unit, "ExecMainStatus") == "0"
    assert KEY not in host.journal(unit)
    (ended,) = read_manifest(folder, "run_ended")
    assert ended["reason"] == "SIGTERM"
    host.run("systemctl", "stop", "exchange")
    found = account(sent, folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    verified(folder)
    report(
        15,
        fault=f"start, reload, stop of {unit}.service",
        injected="`systemctl`, in a container with a real systemd (systemd-nspawn), the units as installed",
        holds="started when the archive is open and the ports listen, files reopened when a reload returns, which fails "
        "where a setting is refused, stopped in order with nothing received lost; no capability, seccomp on, the key "
        "neither in environment nor log",
        figure=f"ready after {start_secs:.1f} s, reloaded in {reload_secs:.2f} s, {found.recorded:,} events, 0 lost",
    )


@pytest.mark.parametrize("block", [block_by_stop, block_the_loop])
def test_a_blocked_recorder_is_killed_and_started_again(
    host: Machine, block: Callable[[Machine], None]
) -> None:
    """The watchdog ends it, the log says where it stood, a new one records; the gap and the torn run are written down."""
    times = scale(1, 10)
    sent = host.start_exchange("--rate", "2000")
    folder = host.root / "var/lib/recorder"
    host.run("systemctl", "start", "recorder")
    longest_secs = 0.0
    for number in range(1, times + 1):
        wait_for_records(folder)
        assert host.show("recorder", "NRestarts") == str(number - 1)
        begun = time.monotonic()
        block(host)
        eventually(
            lambda number=number: host.journal("recorder").count("Watchdog timeout") == number,  # type: ignore[misc]
            "a watchdog that strikes",
            deadline_secs=WATCHDOG_SECS + 30,
        )
        # A process that strace holds cannot end before strace lets go of it.
        host.run("systemctl", "stop", BLOCKER, status=None)
        eventually(
            lambda number=number: (
                host.show("recorder", "NRestarts") == str(number)
                and host.show("recorder", "ActiveState") == "active"
            ),
            "a restart",
            deadline_secs=90,  # systemd may wait for the process that compresses
        )
        wait_for_records(folder)
        longest_secs = max(longest_secs, time.monotonic() - begun)
    journal = host.journal("recorder")
    assert journal.count("Watchdog timeout") == times
    assert journal.count("Fatal Python error: Aborted") == times
    host.run("systemctl", "stop", "recorder")
    host.run("systemctl", "stop", "exchange")
    assert len(read_manifest(folder, "run_started")) == times + 1
    assert len(read_manifest(folder, "run_ended")) == 1
    assert len(read_manifest(folder, "gap")) == times
    found = account(sent, folder)
    assert found.faultless, found
    verified(folder)
    how = "`kill -STOP`" if block is block_by_stop else "strace holds the event loop's thread in its wait"
    report(
        15,
        fault="a blocked recorder",
        injected=f"{how}; WatchdogSec={WATCHDOG_SECS}, a real systemd in a container",
        holds="killed by the watchdog with a traceback of each thread in the log, started again, records go on, the gap "
        "is in the manifest, `verify` accepts the archive, every lost event explained",
        figure=f"{times} blocks; from block to records again {longest_secs:.1f} s at most; {found}",
    )


def test_a_hung_disk_is_no_reason_to_kill(host: Machine) -> None:
    """While a write hangs for twice WatchdogSec the recorder lives; told to stop, it gets the time to write the rest."""
    host.write("/etc/systemd/system/recorder.service.d/stop.conf", "[Service]\nTimeoutStopSec=1\n")
    host.write("/etc/recorder/recorder.env", f"{SETTINGS}SHUTDOWN_TIMEOUT_SECS=90\n")
    sent = host.start_exchange("--rate", "2000")
    folder = host.root / "var/lib/recorder"
    host.run("systemctl", "start", "recorder")
    wait_for_records(folder)
    pid = host.show("recorder", "MainPID")
    host.run(
        "systemd-run",
        "--collect",
        f"--unit={BLOCKER}",
        tool("strace"),
        f"--attach={pid}",
        "--follow-forks",
        "-qq",
        "--output=/dev/null",
        "--trace-path=/var/lib/recorder/polygon.trades.ndjson",
        "--trace=write",
        "--inject=write:delay_enter=600s:when=1",
    )
    begun = time.monotonic()
    eventually(lambda: "MiB pending" in host.show("recorder", "StatusText"), "much pending")
    waiting.lasting(2 * WATCHDOG_SECS)
    assert host.show("recorder", "NRestarts") == "0"
    assert host.show("recorder", "MainPID") == pid
    host.run("systemctl", "stop", "--no-block", "recorder")
    waiting.lasting(3)  # longer than TimeoutStopSec
    assert host.show("recorder", "ActiveState") == "deactivating"
    hung_secs = time.monotonic() - begun
    host.run("systemctl", "stop", BLOCKER)  # strace lets go of the write
    eventually(lambda: host.show("recorder", "ActiveState") == "inactive", "the end")
    assert host.show("recorder", "Result") == "success"
    host.run("systemctl", "stop", "exchange")
    found = account(sent, folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    verified(folder)
    report(
        15,
        fault="a hung disk under a watchdog",
        injected=f"strace holds one write; WatchdogSec={WATCHDOG_SECS}, TimeoutStopSec=1; `systemctl stop` while it hangs; "
        "a real systemd in a container",
        holds="not killed, signs of life go on; the stop asks for the time that it needs; nothing received is lost",
        figure=f"hung for {hung_secs:.0f} s, 0 restarts, {found.recorded:,} events, 0 lost",
    )


def test_what_a_restart_cannot_help_is_not_restarted(host: Machine) -> None:
    """A bad setting and a refused key end with 78 and stay so; `kill -9` does not."""
    host.start_exchange("--rate", "100", "--key", KEY)
    host.run("systemctl", "start", "recorder")
    host.run("systemctl", "kill", "--signal=KILL", "recorder")
    # Under version 1 of control groups nobody tells a systemd in a container that the last process is gone: it waits.
    eventually(lambda: host.show("recorder", "NRestarts") == "1", "a restart", 60)
    eventually(lambda: host.show("recorder", "ActiveState") == "active", "active again")
    host.run("systemctl", "stop", "recorder")

    host.write("/etc/recorder/recorder.env", f"{SETTINGS}NDJSON_COMPRESSION=lzma\n")
    host.run("systemctl", "start", "recorder", status=1)
    expect_78(host, "NDJSON_COMPRESSION='lzma'")
    host.write("/etc/recorder/recorder.env", SETTINGS)
    host.write("/etc/recorder/api-key", "a-key-that-is-not-accepted\n", 0o600)
    host.run("systemctl", "start", "recorder", status=None)
    expect_78(host, "POLYGON_API_KEY")


@pytest.mark.parametrize("unit", ["recorder", "recorder@stocks"])
def test_logrotate_as_installed(host: Machine, unit: str) -> None:
    """`logrotate/recorder` as shipped: rotates under load as the service's user, and is content with a stopped service."""
    # What is shipped keeps 14 files.
    rotations = scale(3, 12)
    host.write("/etc/logrotate.d/recorder", (PROJECT / "logrotate" / "recorder").read_text())
    for file in ("recorder.env", "stocks.env"):
        host.write(f"/etc/recorder/{file}", f"{SETTINGS}NDJSON_ROTATE_SECS=\nNDJSON_COMPRESSION=none\n")
    sent = host.start_exchange("--rate", "5000")
    folder = host.root / "var/lib/recorder" / unit.partition("@")[2]

    def rotate() -> None:
        """Rotate all that there is; the new names end in the second."""
        command = "logrotate --force --state /var/lib/logrotate.status /etc/logrotate.d/recorder 2>&1"
        assert host.run("sh", "-c", command) == ""
        waiting.another_second()

    rotate()
    host.run("systemctl", "start", unit)
    wait_for_records(folder)
    for turn in range(1, rotations + 1):
        rotate()
        eventually(
            lambda turn=turn: len(read_manifest(folder, "segment_closed")) >= turn,  # type: ignore[misc]
            "the file opened again",
        )
        wait_for_records(folder)
    assert host.show(unit, "NRestarts") == "0"
    host.run("systemctl", "stop", unit)
    rotate()
    moved = sorted(folder.glob("polygon.trades.ndjson-*"))
    assert [path.suffix for path in moved] == [*[".gz"] * rotations, moved[-1].suffix]
    assert len(moved) == rotations + 1
    host.run("systemctl", "start", unit)
    wait_for_records(folder)
    host.run("systemctl", "stop", unit)
    host.run("systemctl", "stop", "exchange")
    user = int(host.run("id", "-u", "recorder"))
    for path in (*moved, folder / "polygon.trades.ndjson"):
        state = path.stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o777) == (user, user, 0o640), path
    found = account(sent, folder, moved=moved)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end", "gap"}
    verified(folder)
    report(
        8,
        fault=f"logrotate as installed, {unit}.service",
        injected="`logrotate/recorder` as it is shipped, by the real logrotate under a real systemd in a container, at "
        "5 k events/s; twice while the service does not run",
        holds="no word and status 0 each time; every file is the service's own and as private as before, old ones "
        "compressed; nothing received is lost, none twice; `verify` passes",
        figure=f"{rotations + 2} rotations, {found.recorded:,} events, 0 lost, 0 twice",
    )


def expect_78(host: Machine, words: str) -> None:
    """Wait until the recorder has ended with 78, and see that nobody starts it again."""
    eventually(lambda: host.show("recorder", "ActiveState") == "failed", "the end")
    assert host.show("recorder", "Result") == "exit-code"
    assert host.show("recorder", "ExecMainStatus") == "78"
    assert host.show("recorder", "NRestarts") == "0"
    # "failed" is where a unit stays: one that is to be restarted is "activating (auto-restart)" instead.
    assert host.show("recorder", "SubState") == "failed"
    assert words in host.journal("recorder")
