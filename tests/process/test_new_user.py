"""A new user gets there by the docs alone: each command block of the README is run, in a clone, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from browser import browsing
from checkouts import PROJECT, clone_into
from commands import KEY, Running, clean_environment, live_settings, simulating
from readme import BLOCKS, ask_duckdb, block, queries
from tools import tool
from trials import report
from waiting import eventually_sync

OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
FIRST_LOOK_SECS = 120
"""From the clone to data on the page, as promised."""


def test_every_block_of_the_readme_is_run() -> None:
    """Those here, and the settings for a first record in test_readme.py."""
    here = [block(words) for words in ("make demo", "pip install", "recorder run", "duckdb -c")]
    others = [block("POLYGON_CLUSTER=stocks"), block("WebSocketClient")]
    assert sorted(here + others) == sorted(text for _, text in BLOCKS)


class Steps:
    """How long each step of the path took."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self.secs: dict[str, float] = {}

    def end(self, name: str) -> None:
        """Note a step, which began where the one before it ended."""
        now = time.monotonic()
        self.secs[name] = now - self._begun
        self._begun = now

    def __str__(self) -> str:
        each = ", ".join(f"{name} {secs:.1f} s" for name, secs in self.secs.items())
        return f"{each}; {sum(self.secs.values()):.0f} s in all"


def environment() -> dict[str, str]:
    """Return what a user has: `python3` is a Python that is new enough, no venv is active, and there is no compiler.

    With one, the installation would take as long again; test_build.py installs the native code.
    """
    path = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    found = {**clean_environment(PYTHONUNBUFFERED="1", RECORDER_NATIVE="no"), **pip, "PATH": path}
    del found["ENV_FILE"]
    return found


def run(folder: Path, commands: str) -> str:
    """Run commands of the docs in a shell; return what they print."""
    shell = [tool("bash"), "-euo", "pipefail", "-c", commands]
    result = subprocess.run(shell, cwd=folder, env=environment(), capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, f"{commands}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
    return result.stdout


@contextmanager
def started(folder: Path, command: str) -> Iterator[Running]:
    """Yield a command of the README that runs until Ctrl-C, in a process group of its own, as in a terminal."""
    running = Running([tool("setsid"), *shlex.split(command)], environment(), folder)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)
        running.kill()


@pytest.mark.timeout(300)
def test_the_whole_path(tmp_path: Path) -> None:
    """Clone, demo, page, stream, query, a recorder of one's own, the vendor's client, service: each as the docs say."""
    clone = tmp_path / "recorder"
    steps = Steps()
    clone_into(clone)
    steps.end("clone")
    take_a_first_look(clone, tmp_path, steps)
    ask_the_archive(clone)
    steps.end("query")
    record_with_a_key(clone, tmp_path, steps)
    install_the_service(clone, tmp_path)
    steps.end("service")
    report(
        0,
        fault="the path of a new user",
        injected="the commands of the README, in a clone",
        holds="each does what the README says of it",
        figure=str(steps),
    )


def take_a_first_look(clone: Path, folder: Path, steps: Steps) -> None:
    """`make demo`: data on the page in time; the stream and the archive are as the README says."""
    command, follow, check = (line for line in block("make demo").splitlines() if not line.startswith("#"))
    # Other tests may have the usual ports.
    with started(clone, f"{command} DEMO_ARGS=--free-ports") as demo:

        def address(pattern: str) -> str:
            assert demo.process.poll() is None, demo.lines
            found = re.search(pattern, "\n".join(demo.out))
            return found[1] if found else ""

        page = eventually_sync(lambda: address(r"(http://\S+/)ready"), "the page", FIRST_LOOK_SECS)
        steps.end("demo")
        with browsing(folder / "chromium") as tab:
            tab.open(page)
            tab.wait(lambda: tab.text("h1") == "Recording", "the state")
            tab.wait(lambda: re.match(r"[1-9]", tab.text(".feed .received")), "data")
            steps.end("page")
            assert tab.complaints == []
        assert sum(steps.secs.values()) < FIRST_LOOK_SECS
        filtered = address(r"filtered ws://(\S+)")
        shown = run(clone, follow.replace("127.0.0.1:8765", filtered) + " --count 3")
        assert {json.loads(line)["ev"] for line in shown.splitlines()} <= {"T", "MB"}
        os.killpg(demo.process.pid, signal.SIGINT)
        demo.wait()
    assert "Done:" in demo.out[-3], demo.out[-5:]
    assert "intact; no record lost" in run(clone, check).lower()
    steps.end("stream and verify")


def ask_the_archive(clone: Path) -> None:
    """The queries of the README answer about what the demo has recorded."""
    tool("jq")
    last_trades, volumes, gaps = queries()
    assert len(json.loads(run(clone, last_trades))) == 5
    assert len(ask_duckdb(volumes, clone)) == 5
    assert "stocks" in run(clone, gaps)


def record_with_a_key(clone: Path, folder: Path, steps: Steps) -> None:
    """The commands for a key, with the README's .env: it records, and the vendor's client gets events from it."""
    run(clone, block("pip install"))
    steps.end("installation")
    with simulating("--cluster=stocks", "--symbols=12", "--rate=600", f"--key={KEY}", cwd=folder) as port:
        given = dict(line.split("=", 1) for line in block("POLYGON_CLUSTER=stocks").splitlines())
        here = live_settings(port, folder)
        changed = {name: here[name] for name in ("POLYGON_API_KEY", "NDJSON_DEST")}
        added = {name: value for name, value in here.items() if name not in given}
        lines = [f"{name}={value}\n" for name, value in {**given, **changed, **added}.items()]
        with (clone / ".env").open("a") as env:
            env.writelines(lines)
        *before, command = (line.partition("#")[0].strip() for line in block("recorder run").splitlines())
        told = [run(clone, line) for line in before]
        assert "POLYGON_API_KEY=***" in told[0]
        with started(clone, command) as recorder:
            eventually_sync(lambda: recorder.get("/ready") == (200, "READY"), "READY")
            steps.end("recording")
            example = block("WebSocketClient").replace("your-key", KEY)
            example = example.replace("127.0.0.1:8765", recorder.address_of("filtered"))
            with subprocess.Popen(
                [sys.executable, "-u", "-c", example], stdout=subprocess.PIPE, text=True
            ) as client:
                assert client.stdout is not None
                assert "symbol='AAPL'" in client.stdout.readline()
                client.kill()
            assert recorder.stop() == 0, recorder.lines[-5:]
    assert list(folder.glob("polygon.trades*.ndjson*"))
    steps.end("the vendor's client")


def install_the_service(clone: Path, folder: Path) -> None:
    """The files of a service are installed by the docs, and systemd accepts the units and the program they start.

    test_install.py boots a machine for these commands, and lets its systemd start the service.
    """
    [commands] = re.findall(r"^```sh\n(sudo python3 -m venv .*?)^```$", OPERATIONS, re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("sudo ") for line in commands.splitlines()]
    root = folder / "root"
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    installing = "\n".join(line for line in lines if line.startswith("install "))
    run(clone, installing.replace(" /etc/", f" {shlex.quote(str(root))}/etc/"))
    assert (root / "etc/recorder/api-key").stat().st_mode & 0o777 == 0o600
    for name in ("recorder.service", "recorder@.service"):
        text = (units / name).read_text()
        assert "/opt/recorder/.venv/bin/recorder" in text
        unit = folder / name.replace("@.", "@stocks.")
        unit.write_text(text.replace("/opt/recorder/", f"{clone}/"))
        command = [tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", str(unit)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
