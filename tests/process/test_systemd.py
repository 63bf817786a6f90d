"""The units of `systemd/`, and what the real command tells a service manager."""

from __future__ import annotations

import difflib
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import live_settings, running, simulating
from tools import tool
from waiting import eventually_sync

from recorder.errors import EXIT_CONFIG, EXIT_NO_ROOM, EXIT_USAGE
from recorder.ops.notify import STATUS_SECS
from recorder.settings import Settings, load_settings

UNITS = Path(__file__).resolve().parents[2] / "systemd"
NAMES = ("recorder.service", "recorder@.service")
EXPORT = "recorder-export.service"
CLICKHOUSE = "recorder-clickhouse.service"
INSTALLED = "/opt/recorder/.venv/bin/recorder"


def option(name: str, unit: str = NAMES[0]) -> str:
    """Return the value of an option of a unit that has it once."""
    lines = (UNITS / unit).read_text().splitlines()
    [value] = [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]
    return value


@pytest.mark.parametrize("name", [*NAMES, EXPORT, CLICKHOUSE])
def test_systemd_understands_the_units(tmp_path: Path, name: str) -> None:
    """`systemd-analyze verify` has nothing to say: it exits with 0 for unknown keys, too, so any output is a failure."""
    unit = tmp_path / name.replace("@.", "@stocks.")
    # It looks for the program, which is not installed here.
    unit.write_text((UNITS / name).read_text().replace(INSTALLED, tool("true")))
    command = [tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_would_find_a_slip(tmp_path: Path) -> None:
    """A misspelt option shows in the output, so that the test above can fail."""
    unit = tmp_path / "recorder.service"
    text = (UNITS / "recorder.service").read_text().replace(INSTALLED, tool("true"))
    unit.write_text(text.replace("WatchdogSec=", "WatchdogSecs="))
    command = [tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "WatchdogSecs" in result.stderr


@pytest.mark.parametrize("name", [*NAMES, EXPORT, CLICKHOUSE])
def test_the_units_are_hardened(name: str) -> None:
    """`systemd-analyze security` finds an exposure of at most 2.0 of 10."""
    command = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(UNITS / name)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout[-500:]
    assert "Overall exposure level for recorder" in result.stdout


def test_an_instance_differs_only_in_its_names() -> None:
    """recorder@.service is recorder.service with the cluster in names and places, so that the two cannot drift apart."""
    one, each = ((UNITS / name).read_text().splitlines() for name in NAMES)
    changed = [line for line in difflib.ndiff(one, each) if line[:2] in ("- ", "+ ")]
    assert [line for line in changed if line.startswith("+ ") and "%i" not in line and line[2] != "#"] == []
    assert [line.replace("/%i", "").replace(" (%i)", "") for line in each if "CLUSTER=" not in line][1:] == [
        line.replace("/recorder.env", ".env") if "/etc/recorder/recorder.env" in line else line
        for line in one
    ][1:]


def test_the_units_fit_the_program() -> None:
    """Statuses, times and limits are the program's own."""
    defaults = Settings.of()
    assert option("RestartPreventExitStatus") == str(EXIT_CONFIG)
    assert float(option("TimeoutStopSec")) > 2 * defaults.shutdown_timeout_secs
    assert float(option("WatchdogSec")) > 2 * STATUS_SECS
    # A client of each port at the limit, and as many again for files, brokers and those that are being refused.
    assert int(option("LimitNOFILE")) > 2 * 3 * defaults.servers.limits.clients_max


def test_the_export_goes_on_where_trying_again_can_help() -> None:
    """What a restart cannot change ends the service; a full disk and a damaged file do not."""
    final = option("RestartPreventExitStatus", EXPORT).split()
    assert final == [str(EXIT_USAGE), str(EXIT_CONFIG)]
    assert str(EXIT_NO_ROOM) not in final
    assert "--follow --partial" in option("ExecStart", EXPORT)


def test_what_clickhouse_is_sent_with_can_be_told_in_a_file_and_its_password_is_in_no_list_of_processes() -> (
    None
):
    """The server is a variable with a default; a refusal ends the service, and an absence does not."""
    command = option("ExecStart", CLICKHOUSE)
    assert "${CLICKHOUSE_URL} --create --follow --skip-damaged --password-file %d/" in command
    assert option("RestartPreventExitStatus", CLICKHOUSE) == str(EXIT_CONFIG)


def test_the_settings_to_start_from_can_be_used(tmp_path: Path) -> None:
    """Every line of recorder.env is a setting, and none gives a warning."""
    lines = [line for line in (UNITS / "recorder.env").read_text().splitlines() if not line.startswith("#")]
    environ = dict(line.split("=", 1) for line in lines) | {"POLYGON_API_KEY": "k", "SINK": "ndjson"}
    loaded = load_settings({**environ, "NDJSON_DEST": str(tmp_path / "a.ndjson")}, tmp_path)
    assert loaded.warnings == ()


class ServiceManager:
    """The socket of a service manager; what comes is read as it comes."""

    def __init__(self, address: Path) -> None:
        self.messages: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            self.messages.append(dict(line.split("=", 1) for line in message.decode().split("\n")))

    def told(self, name: str) -> list[str]:
        """Return what was said of one thing so far."""
        return [message[name] for message in list(self.messages) if name in message]

    def close(self) -> None:
        """Wake the reader, and go."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._socket.close()


@contextmanager
def service_manager(address: Path) -> Iterator[ServiceManager]:
    """Yield a service manager that listens."""
    manager = ServiceManager(address)
    try:
        yield manager
    finally:
        manager.close()


def test_the_command_keeps_a_service_manager_informed(tmp_path: Path) -> None:
    """READY when it serves, a status line, signs of life while it moves and none while not, reload, stop."""
    address = tmp_path / "notify"
    with (
        service_manager(address) as manager,
        simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path) as port,
    ):
        settings = live_settings(port, tmp_path / "a", NOTIFY_SOCKET=str(address), WATCHDOG_USEC="400000")
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: manager.messages, "the first message")
            assert manager.messages[0]["READY"] == "1"
            assert recorder.get("/health") == (200, "OK")
            eventually_sync(
                lambda: any(text.startswith("stocks streaming; ") for text in manager.told("STATUS")),
                "status",
            )
            eventually_sync(lambda: len(manager.told("WATCHDOG")) > 3, "signs of life")

            active = tmp_path / "a" / "polygon.ndjson"
            eventually_sync(lambda: active.exists() and active.stat().st_size, "records in the file")
            recorder.send(signal.SIGHUP)
            eventually_sync(lambda: len(manager.told("READY")) == 2, "reloaded")
            assert int(manager.told("MONOTONIC_USEC")[0]) > 0
            assert (tmp_path / "a" / "polygon.manifest.ndjson").read_text().count('"reopen"') == 1

            recorder.send(signal.SIGSTOP)
            eventually_sync(
                lambda: "\nState:\tT" in Path(f"/proc/{recorder.process.pid}/status").read_text(), "stopped"
            )
            signs = len(manager.told("WATCHDOG"))
            with pytest.raises(AssertionError, match="never happened"):
                eventually_sync(lambda: len(manager.told("WATCHDOG")) > signs + 1, deadline_secs=1)
            recorder.send(signal.SIGCONT)
            eventually_sync(lambda: len(manager.told("WATCHDOG")) > signs + 2, "signs of life again")

            assert recorder.stop() == 0
            assert manager.told("STOPPING") == ["1"]
            assert manager.told("EXTEND_TIMEOUT_USEC") == ["20000000"]
            assert len(manager.told("READY")) == 2
