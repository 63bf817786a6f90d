"""A fixed piece of work whose time tells how fast this core is just now: what other figures are divided by."""

from __future__ import annotations

import json
import os
import time
import zlib
from typing import Final

from benchmarks.harness import PROGRAM_CPU

_ROUNDS: Final = 5
_STEPS: Final = 20_000
_TEXTS: Final = 200
_EVENT: Final = {"ev": "T", "sym": "AAPL", "p": 150.25, "s": 100, "t": 1760375617662, "q": 3, "c": [12, 37]}


def calibration_ns() -> int:
    """Do the work on the core of the program under test; return the CPU time of the fastest of some rounds."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {PROGRAM_CPU})
    try:
        return min(_round_ns() for _ in range(_ROUNDS))
    finally:
        os.sched_setaffinity(0, allowed)


def _round_ns() -> int:
    """Half of it is the interpreter, half is C: parsing, formatting, copying."""
    began_ns = time.thread_time_ns()
    counts: dict[int, int] = {}
    for step in range(_STEPS):
        counts[step & 255] = counts.get(step & 255, 0) + step
    text = b""
    for number in range(_TEXTS):
        event = json.loads(json.dumps({**_EVENT, "q": number}))
        text += b"%d:%b\n" % (event["q"], event["sym"].encode())
    zlib.crc32(text * 50)
    return time.thread_time_ns() - began_ns
