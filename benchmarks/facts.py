"""Where and with what a measurement was taken."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import LOAD_CPU, PROGRAM_CPU

_PACKAGES: Final = (
    "aiohttp",
    "confluent-kafka",
    "isal",
    "massive",
    "msgspec",
    "orjson",
    "uvloop",
    "websockets",
    "zstandard",
)
_DEBIAN_PACKAGES: Final = ("nginx", "libnginx-mod-nchan", "nats-server", "gcc")
_ROOT: Final = Path(__file__).resolve().parents[1]


def facts() -> dict[str, Any]:
    """Return what a reader must know to judge the figures."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": _commit(),
        "machine": _cpu(),
        "cores": os.cpu_count(),
        "pinned": _pinned(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES}
        | {name: _debian_version(name) for name in _DEBIAN_PACKAGES},
    }


def _cpu() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _pinned() -> str:
    if PROGRAM_CPU == LOAD_CPU:
        return f"everything on core {PROGRAM_CPU}, the only one: the load takes its time from the program"
    return f"the program under test on core {PROGRAM_CPU}, the load on core {LOAD_CPU}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _debian_version(package: str) -> str:
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return "not known"
    return done.stdout or "not installed"


def _commit() -> str:
    """Return the commit, with a `+` where what was measured is not what was committed; results do not count."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "recorder", "pyproject.toml")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
