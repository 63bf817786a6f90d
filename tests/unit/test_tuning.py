"""What the process asks of interpreter and allocator is really in force afterwards."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
from pathlib import Path
from recorder.tuning import tune

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "tuned":
    tune()
before = resident_bytes()
batch = bytearray(32 * 1024 * 1024)
del batch
print(sys.getswitchinterval(), gc.get_freeze_count(), resident_bytes() - before)
"""


def measured(how: str) -> tuple[float, int, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True
    )
    interval, frozen, kept = done.stdout.split()
    return float(interval), int(frozen), int(kept)


def test_threads_take_short_turns_and_what_exists_is_not_collected() -> None:
    """Half a millisecond instead of five, and the modules' objects are out of the collector's sight."""
    interval, frozen, _ = measured("tuned")
    assert interval == 0.0005
    assert frozen > 1000
    interval, frozen, _ = measured("untuned")
    assert (interval, frozen) == (0.005, 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_the_memory_of_a_batch_stays_at_hand() -> None:
    """32 MiB that were freed are still the process's own; without tuning the kernel has them back."""
    assert measured("tuned")[2] > 30 * 1024 * 1024
    assert measured("untuned")[2] < 4 * 1024 * 1024
