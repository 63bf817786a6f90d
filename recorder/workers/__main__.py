"""A worker process, as the recording process starts it: `python -m recorder.workers FEED_FD CONNECTIONS_FD`."""

import os
import signal
import sys

# First of all: a signal to the whole group or unit means the recording process, which tells its workers what to do.
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)

from recorder.workers.process import run_worker  # noqa: E402

NICENESS = 5
"""Where processors are short, recording comes before serving."""

os.nice(NICENESS)
sys.exit(run_worker(int(sys.argv[1]), int(sys.argv[2])))
