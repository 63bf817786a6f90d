"""The long forms of all trials, one after the other: `make trials`, which goes on where the last run was cut.

Each trial runs by its own name in a pytest of its own, so that neither a failure nor a cut costs another one's figures:
docs/reliability.md has them as soon as a trial has passed. `build/trials` holds what happened: `outcomes.ndjson`, a line
for each trial that ended, `figures.ndjson`, and the output of each trial.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import reliability

PROJECT: Final = Path(__file__).resolve().parents[1]
STATE: Final = PROJECT / "build" / "trials"
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
_OUTCOMES: Final = {0: "passed", 1: "failed"}


class Trials:
    """The trials of one project folder, and what became of them so far."""

    def __init__(self, project: Path, state: Path, take: Callable[[list[dict[str, Any]]], None]) -> None:
        """`take` gets the figures of each trial that ended."""
        self._project = project
        self._outcomes = state / "outcomes.ndjson"
        self._figures = state / "figures.ndjson"
        self._outputs = state / "output"
        self._take = take
        self._environment = {**os.environ, "TRIALS": "long", "TRIALS_REPORT": str(self._figures)}

    def collect(self, *arguments: str) -> list[str]:
        """Return the names of the trials that pytest finds, in its order. Raise CalledProcessError."""
        command = [*PYTEST, "--collect-only", "-m", "trial", *arguments]
        found = subprocess.run(
            command, cwd=self._project, env=self._environment, capture_output=True, text=True, check=True
        )
        return [line for line in found.stdout.splitlines() if "::" in line]

    def outcomes(self) -> dict[str, str]:
        """Return the last outcome of each trial that has ended: `passed`, `failed` or `skipped`."""
        if not self._outcomes.exists():
            return {}
        lines = (json.loads(line) for line in self._outcomes.read_text().splitlines())
        return {line["trial"]: line["outcome"] for line in lines}

    def left(self, names: Sequence[str]) -> list[str]:
        """Return the trials that are to run: those that have not ended yet, then those that failed."""
        ended = self.outcomes()
        never = [name for name in names if name not in ended]
        return never + [name for name in names if ended.get(name) == "failed"]

    def run(self, name: str) -> str:
        """Run one trial to its end, and write down what became of it; return the outcome."""
        self._outputs.mkdir(parents=True, exist_ok=True)
        before = self._read_figures()
        begun = time.monotonic()
        output = self._outputs / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.txt"
        with output.open("w") as file:
            done = subprocess.run(
                [*PYTEST, name],
                cwd=self._project,
                env=self._environment,
                stdout=file,
                stderr=file,
                check=False,
            )
        outcome = _OUTCOMES.get(done.returncode, "failed")
        if outcome == "passed" and re.search(r"^1 skipped", output.read_text(), re.MULTILINE):
            outcome = "skipped"
        with self._outcomes.open("a") as file:
            line = {"trial": name, "outcome": outcome, "secs": round(time.monotonic() - begun, 1)}
            file.write(json.dumps(line) + "\n")
        self._take(self._read_figures()[len(before) :])
        return outcome

    def _read_figures(self) -> list[dict[str, Any]]:
        if not self._figures.exists():
            return []
        return [json.loads(line) for line in self._figures.read_text().splitlines()]


def main() -> int:
    """Run what is left of the trials; return 1 if one failed."""
    parser = argparse.ArgumentParser(description="Run the long forms of the trials, one after the other.")
    parser.add_argument(
        "trial", nargs="?", default="", help="only these, by the beginning of their number: 09"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs did")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(STATE, ignore_errors=True)
    trials = Trials(PROJECT, STATE, reliability.take)
    names = [
        name for name in trials.collect("tests") if f"test_trial_{options.trial}" in name or not options.trial
    ]
    left = trials.left(names)
    _say(f"{len(names)} trials, {len(left)} to run; FRESH=1 runs all of them again")
    for place, name in enumerate(left, start=1):
        _say(f"{place}/{len(left)} {name} …")
        _say(f"    {trials.run(name)}")
    ended = trials.outcomes()
    for outcome in ("passed", "skipped", "failed"):
        of_it = [name for name in names if ended.get(name) == outcome]
        _say(f"{len(of_it)} {outcome}")
        if outcome != "passed":
            for name in of_it:
                _say(f"    {name}")
    return int("failed" in (ended.get(name) for name in names))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  a person follows it over hours


if __name__ == "__main__":
    sys.exit(main())
