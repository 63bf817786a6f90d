"""A worker process, as the recording process starts it: `python -m recorder.workers FEED_FD CONNECTIONS_FD`."""

import contextlib
import os
import signal
import sys
from pathlib import Path

# First of all: a signal to the whole group or unit is for the recording process, which tells its workers what to do.
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)

from recorder.workers.process import run_worker  # noqa: E402

NICENESS = 5
"""Where processors are scarce, recording comes before serving."""
OUT_OF_MEMORY_SCORE = "200"
"""Where memory is scarce, the kernel ends a worker first (proc(5), oom_score_adj), whatever the unit says."""

os.nice(NICENESS)
with contextlib.suppress(OSError):
    Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)
sys.exit(run_worker(int(sys.argv[1]), int(sys.argv[2])))
