"""Trial 16: the recorder's core on a virtual clock, with a network and a disk that fail as a seed says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.disk import MemoryDisk
from simulation.mutants import MUTANTS
from simulation.world import World
from structlog.testing import capture_logs
from trials import report, scale

from recorder.archive.disk import Disk

ROOT = Path(__file__).parent.parent.parent
SEEDS = scale(20, 3000)
pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 14_400))]

SEEDS_MAX = 25
"""Of this many seeds, at least one must find a defect."""


def simulate(*options: str, **environment: str) -> str:
    """Run the command of `make simulate`; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "simulation", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_what_must_hold_holds_for_every_seed() -> None:
    """Through faults of disk, network, clock and process nothing is lost, doubled or reordered, and all heals."""
    printed = simulate("--seeds", str(SEEDS), "--hours", "0.05", "--jobs", "2")
    found = re.search(r"([\d,]+) seeds, 0 failed; (.* ([\d,]+) records verified)", printed)
    assert found
    assert int(found[1].replace(",", "")) == SEEDS
    assert int(found[3].replace(",", "")) > 1000
    report(
        16,
        fault="everything, on a virtual clock",
        injected="disk and network in memory that fail as one seed says; kill, power loss, clock jumps, signals",
        holds="nothing lost beyond the promise, doubled, reordered or unexplained; all well after the faults",
        figure=f"{found[1]} seeds, none failed; {found[2]}",
    )


def test_a_seed_is_the_whole_story() -> None:
    """The same seed gives the same simulation to the last byte, whatever Python's hash seed is."""
    runs = {simulate("--seed", "5", "--hours", "0.05", PYTHONHASHSEED=seed) for seed in ("1", "2")}
    assert len(runs) == 1
    assert "digest" in runs.pop()


def test_the_simulated_disk_leaves_no_call_to_the_real_one() -> None:
    """What is not simulated is made of what is: a descriptor of the simulation never reaches the real disk."""
    composed = {"write_all", "append_durably"}
    calls = {name for name, value in vars(Disk).items() if callable(value) and not name.startswith("_")}
    assert calls - set(vars(MemoryDisk)) == composed


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_defect_is_found(name: str) -> None:
    """A recorder with a defect does not get through the simulation."""
    assert any(breaks(seed, name) for seed in range(1, SEEDS_MAX + 1)), name


def breaks(seed: int, name: str) -> bool:
    """Return whether a simulation finds something wrong."""
    with capture_logs():
        try:
            World(seed, 0.03, MUTANTS[name]).run()
        except AssertionError:
            return True
    return False
