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
from checkouts import PROJECT, clone_into
from commands import KEY, Running, clean_environment, get, live_settings, simulating
from tools import tool
from waiting import eventually_sync

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python|ini)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
FIRST_LOOK_SECS = 120
"""From the clone to data on the page, as promised."""


def block(words: str) -> str:
    """Return the one block of the README that has these words."""
    [found] = [text for _, text in BLOCKS if words in text]
    return found


def test_every_block_of_the_readme_is_run() -> None:
    """Those here, and the one-liners in test_readme.py."""
    here = [block(words) for words in ("make demo", "pip install", "recorder run")]
    others = [block("duckdb -c"), block("POLYGON_CLUSTER=stocks"), block("WebSocketClient")]
    assert sorted(here + others) == sorted(text for _, text in BLOCKS)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, cloned."""
    folder = tmp_path_factory.mktemp("clone") / "recorder"
    clone_into(folder)
    return folder


def environment() -> dict[str, str]:
    """Return what a user has: `python3` is a Python that is new enough, and no venv is active."""
    path = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    found = {**clean_environment(PYTHONUNBUFFERED="1"), **pip, "PATH": path}
    del found["ENV_FILE"]
    return found


def run(folder: Path, commands: str) -> str:
    """Run commands of the README in a shell; return what they print."""
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
def test_a_first_look(clone: Path) -> None:
    """`make demo` in a fresh clone: data on the page in time; the stream and the archive are as the README says."""
    begun = time.monotonic()
    command, follow, check = (line for line in block("make demo").splitlines() if not line.startswith("#"))
    # Other tests may have the usual ports.
    with started(clone, f"{command} DEMO_ARGS=--free-ports") as demo:

        def address(pattern: str) -> str:
            assert demo.process.poll() is None, demo.lines
            found = re.search(pattern, "\n".join(demo.out))
            return found[1] if found else ""

        page = eventually_sync(lambda: address(r"http://(\S+)/ready"), "the page", FIRST_LOOK_SECS)

        counted = r"^polygon_events_total\{.*\} [1-9]"
        eventually_sync(
            lambda: re.search(counted, get(page, "/metrics")[1], re.MULTILINE), "data on the page"
        )
        first_look_secs = time.monotonic() - begun
        assert first_look_secs < FIRST_LOOK_SECS
        eventually_sync(lambda: get(page, "/ready") == (200, "READY"), "READY")
        filtered = address(r"filtered ws://(\S+)")
        shown = run(clone, follow.replace("127.0.0.1:8765", filtered) + " --count 3")
        assert {json.loads(line)["ev"] for line in shown.splitlines()} <= {"T", "MB"}
        os.killpg(demo.process.pid, signal.SIGINT)
        demo.wait()
    assert "Done:" in demo.out[-3], demo.out[-5:]
    assert "intact; no record lost" in run(clone, check).lower()


@pytest.mark.timeout(300)
def test_live_with_a_key(clone: Path, tmp_path: Path) -> None:
    """The commands for a key, with the README's .env: it records, and the vendor's client gets events from it."""
    run(clone, block("pip install"))
    with simulating("--cluster=stocks", "--symbols=12", "--rate=600", f"--key={KEY}", cwd=tmp_path) as port:
        given = dict(line.split("=", 1) for line in block("POLYGON_CLUSTER=stocks").splitlines())
        here = live_settings(port, tmp_path)
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
            example = block("WebSocketClient").replace("your-key", KEY)
            example = example.replace("127.0.0.1:8765", recorder.address_of("filtered"))
            with subprocess.Popen(
                [sys.executable, "-u", "-c", example], stdout=subprocess.PIPE, text=True
            ) as client:
                assert client.stdout is not None
                assert "symbol='AAPL'" in client.stdout.readline()
                client.kill()
            assert recorder.stop() == 0, recorder.lines[-5:]
    assert list(tmp_path.glob("polygon.trades*.ndjson*"))
