"""What a process that moves much data asks of the interpreter and of the allocator, once, when all parts are made."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

_SWITCH_INTERVAL_SECS: Final = 0.0005
"""How long another thread may keep the loop waiting for the interpreter; Python's own 5 ms would show as latency."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""
_KEPT_BYTES: Final = 256 * 1024 * 1024
_HEAP_BYTES: Final = 64 * 1024 * 1024


def tune() -> None:
    """Shorten the interpreter's turns, leave what exists out of garbage collection, and keep freed memory at hand.

    By default glibc gives each freed batch of megabytes back to the kernel, which clears it page by page when the
    next one needs it: 8 % of the recorder's time. Up to `_KEPT_BYTES` of freed memory stay with the process instead.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECS)
    gc.collect()
    gc.freeze()
    if sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # musl has none
            mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
