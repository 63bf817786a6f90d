"""Autobahn|Testsuite against our side of both: servers towards clients, and the upstream connection."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared_file
from trials import report

pytestmark = [pytest.mark.trial, pytest.mark.timeout(300)]

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache" / "autobahn"
SUITE = "autobahntestsuite==25.10.1"
CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*"
"""All but mass tests (9) and permessage-deflate (12, 13), which is off."""

BAD_UTF8 = [
    f"{group}.{number}"
    for group, numbers in {
        "6.3": (1, 2),
        "6.4": range(1, 5),
        "6.6": (1, 3, 4, 6, 8, 10),
        "6.8": (1, 2),
        "6.10": range(1, 4),
        "6.11": (5,),
        "6.12": range(1, 9),
        "6.13": range(1, 6),
        "6.14": range(1, 11),
        "6.15": (1,),
        "6.16": range(1, 4),
        "6.17": range(1, 6),
        "6.18": range(1, 6),
        "6.19": range(1, 6),
        "6.20": range(1, 8),
        "6.21": range(1, 9),
    }.items()
    for number in numbers
]
"""Text frames with bad UTF-8. A server of ours refuses them; from the exchange one bad symbol must not cost the
connection, so the frame is taken, its good events are recorded, and the bad ones go to the reject file."""
FAILING: dict[str, dict[str, str]] = {
    "server": {},
    "client": {**dict.fromkeys(BAD_UTF8, "bad UTF-8 is kept aside"), "7.9.5": "close code 1006 is taken"},
}
"""Cases that fail, and why; docs/security.md explains."""


@pytest.fixture(scope="session")
def suite() -> tuple[Path, dict[str, str]]:
    """Return the suite's Python and the environment in which it runs; both are made once and kept in `.cache`."""
    tool = shared_file("tools/abts.py")
    environment = {**os.environ, "ABTS_PKG": str(CACHE / "suite")}
    python = CACHE / "venv" / "bin" / "python"
    CACHE.parent.mkdir(exist_ok=True)
    with (CACHE.parent / "autobahn.lock").open("w") as lock:
        # Another process of this test run may want it, too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        make(tool, python, environment)
    return tool, environment


def make(tool: Path, python: Path, environment: dict[str, str]) -> None:
    """Install what the suite needs, unless that has been done."""
    if not (CACHE / "complete").exists():
        shutil.rmtree(CACHE, ignore_errors=True)
        run(sys.executable, "-m", "venv", str(CACHE / "venv"))
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "install", "--no-compile", "autobahn[twisted]", "setuptools<81")
        only = ("--no-deps", "--python-version", "27", "--only-binary=:all:")
        run(*pip, "download", *only, SUITE, "--dest", str(CACHE / "wheel"))
        (wheel,) = (CACHE / "wheel").glob("*.whl")
        run(str(python), str(tool), "prep", str(wheel), environment=environment)
        (CACHE / "complete").touch()


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; return its output."""
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


def judged(which: str, results: Path, output: str) -> None:
    """Report the cases; those that fail are the ones that are listed, and all were run."""
    cases: dict[str, dict[str, Any]] = json.loads(results.read_text())
    failed = {name for name, case in cases.items() if "FAILED" in (case["b"], case["bc"])}
    loose = sum(case["b"] == "NON-STRICT" for case in cases.values())
    assert re.match(r"247 of 247 cases", output), output[-2000:]
    assert failed == set(FAILING[which]), output[-4000:]
    reasons = Counter(FAILING[which].values())
    report(
        11,
        fault=f"Autobahn, our {which}",
        injected=f"{len(cases)} cases of {SUITE.replace('==', ' ')}: {CASES}",
        holds="none fails but the listed ones",
        figure=f"{len(cases) - len(failed)} pass ({loose} of them non-strict), {len(failed)} fail"
        + "".join(f"; {count}: {why}" for why, count in reasons.items()),
    )


def test_our_server(suite: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """Behind the frame guard, and with aiohttp set as the servers set it, what RFC 6455 asks of a server holds."""
    tool, environment = suite
    python = str(CACHE / "venv" / "bin" / "python")
    server = subprocess.Popen(
        [sys.executable, str(HERE / "echo_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin
    assert server.stdout
    try:
        port = int(server.stdout.readline())
        results = tmp_path / "results.json"
        done = subprocess.run(
            [python, str(tool), "client", f"ws://127.0.0.1:{port}/", CASES, "", str(results)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert results.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    finally:
        server.stdin.close()
        server.wait(20)
        server.stdout.close()
    assert server.returncode == 0
    judged("server", results, done.stdout)


def test_our_client(suite: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """With the settings of our upstream connection, what RFC 6455 asks of a client holds."""
    tool, environment = suite
    python = str(CACHE / "venv" / "bin" / "python")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = tmp_path / "results.json"
    echo = (sys.executable, str(HERE / "echo_client.py"))
    done = subprocess.run(
        [python, str(tool), "server", str(port), CASES, "", str(results), "--", *echo],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert results.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    judged("client", results, done.stdout)
