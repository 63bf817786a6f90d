"""What every trial has: its scale, and the report of what it measured."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

LONG: Final = os.environ.get("TRIALS") == "long"
"""Whether trials run in their long form, as `make trials` does."""
REPORT: Final = os.environ.get("TRIALS_REPORT")
"""Where reports go, a line each; nowhere if it is unset."""

figures: list[Figure] = []
"""What the trials of this process reported."""


@dataclass(frozen=True)
class Figure:
    """One row of docs/reliability.md."""

    number: int
    """The trial, as targets.md counts them; 0 for what belongs to none."""
    fault: str
    injected: str
    """How the fault comes about."""
    holds: str
    """What is asserted."""
    figure: str
    """What was measured."""
    form: str
    """`short`, as in CI, or `long`."""
    date: str
    machine: str


def machine() -> str:
    """Name what the trials run on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return (
        f"{next(names, platform.machine())}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def scale(short: T, long: T) -> T:
    """Return the size of a trial: the short form of CI, or the long one."""
    return long if LONG else short


def report(number: int, *, fault: str, injected: str, holds: str, figure: str) -> None:
    """Report what a trial measured. Call it after the last assertion: a trial that failed has no figure."""
    form = "long" if LONG else "short"
    made = Figure(number, fault, injected, holds, figure, form, f"{datetime.now(UTC):%Y-%m-%d}", machine())
    figures.append(made)
    print(f"\ntrial {number}, {fault}: {figure}")  # noqa: T201  pytest shows it with -s, or when the trial fails
    if REPORT:
        with Path(REPORT).open("a") as file:
            file.write(json.dumps(asdict(made)) + "\n")
