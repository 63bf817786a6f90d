"""The hours as a command of our own: `python -m recorder.market_hours FIRST LAST CLUSTER…` prints them as JSON, and ends."""

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from datetime import date
from typing import Final

NICENESS: Final = 10
"""A second or two of a processor that nobody waits for."""
_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""

# Who started this ends it; Ctrl-C reaches the whole process group.
signal.signal(signal.SIGINT, signal.SIG_IGN)
with suppress(OSError, AttributeError):
    # A service manager waits for every process of a unit, also for one that was stopped together with the recorder.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
os.nice(NICENESS)

from recorder.market_hours.calendar import CalendarFailed, spans_of  # noqa: E402

first, last = date.fromisoformat(sys.argv[1]), date.fromisoformat(sys.argv[2])
try:
    print(json.dumps({cluster: spans_of(cluster, first, last) for cluster in sys.argv[3:]}))  # noqa: T201
except CalendarFailed as error:
    sys.exit(str(error))
