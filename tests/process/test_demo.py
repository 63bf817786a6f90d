"""`recorder demo`: where it listens, what it tells a newcomer to type, and what it says when it fails."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import clean_environment, finished, free_port, running
from tools import tool
from waiting import eventually_sync

from recorder.cli import demo as cli
from recorder.errors import EXIT_CONFIG

SLOW = ("--rate", "300", "--cluster", "stocks")


def typed(folder: Path, command: str) -> str:
    """Type a command into a shell; return what it prints."""
    shell = [tool("bash"), "-c", command]
    result = subprocess.run(
        shell, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, f"{command}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result.stdout


def test_the_ports_of_the_environment_and_every_command_as_typed(tmp_path: Path) -> None:
    """It listens where METRICS_ADDR and the ports say; each command that it prints works in that folder as it stands."""
    ports = {name: str(free_port()) for name in ("FIREHOSE_PORT", "FILTERED_PROXY_PORT", "AGGREGATOR_PORT")}
    metrics = f"127.0.0.1:{free_port()}"
    folder = "my data"
    with running("demo", "--dir", folder, *SLOW, cwd=tmp_path, METRICS_ADDR=metrics, **ports) as demo:
        text = eventually_sync(
            lambda: "\n".join(demo.out) if any("follow" in line for line in demo.out) else "", "the words"
        )
        assert f"look     http://{metrics}/ " in text
        assert f"filtered ws://127.0.0.1:{ports['FILTERED_PROXY_PORT']} " in text
        eventually_sync(lambda: demo.out[-1].count("events") and " 0 events " not in demo.out[-1], "events")
        [follow] = re.findall(r"^  follow   (.+)$", text, re.MULTILINE)
        assert json.loads(typed(tmp_path, f"{follow} --raw --count 1"))["ev"] == "T"
        [look] = re.findall(r"in a terminal: (.+)$", text, re.MULTILINE)
        assert "RECORDING" in typed(tmp_path, f"{look} --once")
        assert demo.stop() == 0
    done, head, verify = demo.out[-3:]
    assert re.match(
        r"Done: [\d,]+ events received, [\d,]+ recorded, 0 dropped; [34] files in my data/\.", done
    )
    words = shlex.split(head)
    assert words[:3] == ["Try:", "head", "-n1"]
    assert words[-2:] == ["|", "jq"]
    [line] = typed(tmp_path, head.removeprefix("Try:").rpartition("|")[0]).splitlines()
    assert json.loads(line)["feed"] == "stocks"
    assert "intact" in typed(tmp_path, verify)
    with (tmp_path / folder / "polygon.manifest.ndjson").open() as manifest:
        assert json.loads(manifest.readline())["kind"] == "run_started"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """A demo that cannot listen ends with 78, names the way out, and does not say that it is done."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for name, value in (("METRICS_ADDR", address), ("FILTERED_PROXY_PORT", address.rpartition(":")[2])):
            others = {"METRICS_ADDR": "127.0.0.1:0", "FIREHOSE_PORT": "0", "FILTERED_PROXY_PORT": "0"}
            result = finished("demo", *SLOW, cwd=tmp_path, **{**others, "AGGREGATOR_PORT": "0", name: value})
            assert result.returncode == EXIT_CONFIG
            assert address in result.stderr
            assert "in use" in result.stderr
            assert result.stderr.rstrip().endswith("; --free-ports takes free ones")
            assert "Done" not in result.stdout
            assert "Try" not in result.stdout


def test_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare name where the shell finds this program by it; its path where it does not, or finds another one."""
    programs = [tmp_path / "venv" / "bin" / "recorder", tmp_path / "other" / "recorder"]
    for program in programs:
        program.parent.mkdir(parents=True)
        shutil.copy(sys.executable, program)
    monkeypatch.chdir(tmp_path)
    for path, given, shown in (
        ("", "venv/bin/recorder", "venv/bin/recorder"),
        ("", str(programs[0]), "venv/bin/recorder"),
        (str(programs[0].parent), str(programs[0]), "recorder"),
        (str(programs[1].parent), str(programs[0]), "venv/bin/recorder"),
        ("", str(tmp_path / "recorder"), "./recorder"),
    ):
        monkeypatch.setenv("PATH", path)
        monkeypatch.setattr(sys, "argv", [given])
        assert cli._own_name() == shown
    monkeypatch.setattr(sys, "argv", [f"{tmp_path}/recorder/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "a b" / "python"))
    assert cli._own_name() == "'a b/python' -m recorder"
    assert os.access(programs[0], os.X_OK)


def test_a_demo_that_is_forgotten_fills_no_disk() -> None:
    """The archive of the demo has a bound, whatever the environment says."""
    from recorder.demo import DemoOptions, _settings

    settings = _settings(DemoOptions(Path("data"), ("stocks",), 1, 1, None, False, "recorder"), 1)
    assert settings.archive.retain_bytes == 2 << 30
