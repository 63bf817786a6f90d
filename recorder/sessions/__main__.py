"""The hours as a command of our own: `python -m recorder.sessions FIRST LAST CLUSTER…` prints them as JSON, and ends."""

import json
import os
import signal
import sys
from datetime import date

# Who started this ends it; Ctrl-C reaches the whole process group.
signal.signal(signal.SIGINT, signal.SIG_IGN)
NICENESS = 10
"""A second or two of a processor that nobody waits for."""
os.nice(NICENESS)

from recorder.sessions.calendar import CalendarFailed, spans_of  # noqa: E402

first, last = date.fromisoformat(sys.argv[1]), date.fromisoformat(sys.argv[2])
try:
    print(json.dumps({cluster: spans_of(cluster, first, last) for cluster in sys.argv[3:]}))  # noqa: T201
except CalendarFailed as error:
    sys.exit(str(error))
