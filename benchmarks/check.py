"""Says whether an event has become more expensive: `python -m benchmarks.check`, and `--update` to accept what is.

A fixed workload (`benchmarks.workload`) is run under valgrind, which counts instructions: the same ones on a busy machine
as on an idle one. Where valgrind is missing its CPU time is taken, relative to a calibration loop, which is far less
exact. System calls, sockets and disks are no part of it; `python -m benchmarks record` measures those. The workload is
run with native code and without: each has a baseline of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.calibration import calibration_ns
from benchmarks.facts import facts
from benchmarks.harness import PROGRAM_CPU, Broken, on
from benchmarks.scenario import RESULTS
from benchmarks.workload import EVENTS, parts
from recorder import native

BASELINE: Final = RESULTS / "baseline.json"
INSTRUCTIONS: Final = "instructions an event"
RELATIVE: Final = "CPU time an event, millionths of the calibration loop"
TOLERANCES: Final = {INSTRUCTIONS: 0.03, RELATIVE: 0.25}
WITH: Final = "with native code"
WITHOUT: Final = "without native code"
_WISHES: Final = {WITH: native.YES, WITHOUT: native.NO}
_ROUNDS: Final = 5
_ROUNDS_TIMED: Final = 25
_REPEATS: Final = 3
_TIMEOUT_SECS: Final = 600
_COUNTED: Final = re.compile(r"Collected : (\d+)")

Costs = Mapping[str, Mapping[str, float]]
"""By measure, then by part of the workload."""


def workload(variant: str, part: str, rounds: int, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run the workload as a process whose hashes, and so whose steps, are always the same."""
    fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", native.VARIABLE: _WISHES[variant]}
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "benchmarks.workload", part, str(rounds)],
        env={**os.environ, **fixed},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECS,
    )
    if done.returncode:
        raise Broken(f"the workload ended with {done.returncode}: {done.stderr[-500:]}")
    return done


def instructions(valgrind: str, variant: str) -> dict[str, float]:
    """Count each part's instructions an event: a run with rounds, less one without."""

    def counted(part: str, rounds: int) -> int:
        with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
            tool = (valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/profile")
            found = _COUNTED.search(workload(variant, part, rounds, *tool).stderr)
        if found is None:
            raise Broken("valgrind counted nothing")
        return int(found[1])

    names = list(parts())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        nothing, *all_ = pool.map(counted, [names[0], *names], [0, *[_ROUNDS] * len(names)])
    return {name: (count - nothing) / (_ROUNDS * EVENTS) for name, count in zip(names, all_, strict=True)}


def relative(variant: str) -> dict[str, float]:
    """Return each part's CPU time an event against the calibration loop's, the least of some runs."""

    def once(name: str) -> float:
        loop_ns = calibration_ns()
        took = json.loads(workload(variant, name, _ROUNDS_TIMED, *on(PROGRAM_CPU)).stdout)
        return float(took["ns"] / took["events"] / loop_ns * 1e6)

    return {name: min(once(name) for _ in range(_REPEATS)) for name in parts()}


def measured(variant: str) -> dict[str, dict[str, float]]:
    """Measure what can be measured here."""
    valgrind = shutil.which("valgrind")
    costs = {INSTRUCTIONS: instructions(valgrind, variant)} if valgrind else {}
    return {**costs, RELATIVE: relative(variant)}


def compared(before: Costs, now: Costs) -> tuple[str, dict[str, tuple[float, float, bool]]]:
    """Return the most exact measure that both have, and of each part its cost before, now, and whether that is worse."""
    measure = next(measure for measure in TOLERANCES if measure in before and measure in now)
    bound = 1 + TOLERANCES[measure]
    return measure, {
        name: (before[measure][name], cost, cost > before[measure][name] * bound)
        for name, cost in now[measure].items()
        if name in before[measure]
    }


def show(variant: str, measure: str, rows: Mapping[str, tuple[float, float, bool]], console: Console) -> None:
    """Print the comparison."""
    title = f"{measure}, {variant}"
    table = Table("part", "before", "now", "change", "", title=title, title_justify="left")
    for name, (before, now, worse) in rows.items():
        style = "bold red" if worse else ""
        table.add_row(
            *(name, f"{before:,.0f}", f"{now:,.0f}", f"{now / before - 1:+.1%}"),
            Text("worse" if worse else "ok", style=style),
        )
    console.print(table)
    console.print(f"worse: more than {TOLERANCES[measure]:.0%} above the baseline")


@click.command()
@click.option("--update", is_flag=True, help="Let what is measured now be the baseline.")
@click.option("--baseline", type=click.Path(path_type=Path), default=BASELINE, help="Where it is kept.")
def main(update: bool, baseline: Path) -> None:
    """Compare the cost of an event with the baseline's. Exit status 1: something has become worse."""
    console = Console()
    here = facts()
    kept: dict[str, Any] = json.loads(baseline.read_text()) if baseline.exists() else {}
    if not kept and not update:
        raise click.ClickException(f"{baseline} does not exist; --update makes it")
    variants = [WITHOUT] if native.absent() else [WITH, WITHOUT]
    if update and WITH not in variants:
        raise click.ClickException(f"a baseline has both, and there is no native code: {native.absent()}")
    now = {variant: measured(variant) for variant in variants}
    if update:
        baseline.parent.mkdir(parents=True, exist_ok=True)
        baseline.write_text(json.dumps({"facts": here, "costs": now}, indent=1, ensure_ascii=False) + "\n")
    if not kept:
        return
    for fact in ("python", "versions", "machine"):
        if kept["facts"][fact] != here[fact]:
            console.print(
                f"note: the baseline's {fact} was {kept['facts'][fact]}, now it is {here[fact]}: "
                "what differs may be theirs",
                highlight=False,
            )
    if WITH not in variants:
        console.print(f"note: measured without native code alone: {native.absent()}", highlight=False)
    is_worse = False
    for variant in variants:
        if variant not in kept["costs"]:
            console.print(f"note: the baseline knows nothing {variant}", highlight=False)
            continue
        measure, rows = compared(kept["costs"][variant], now[variant])
        show(variant, measure, rows, console)
        is_worse |= any(worse for _, _, worse in rows.values())
    sys.exit(is_worse and not update)


if __name__ == "__main__":
    main()
