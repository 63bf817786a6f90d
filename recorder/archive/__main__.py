"""The process that compresses: `python -m recorder.archive` does the job in each line of stdin, and ends with stdin."""

import ctypes
import json
import os
import platform
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

# First of all: a signal to the whole group or unit is for the recorder, which tells this process when to end.
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)

from recorder.archive.compression import Job, compress_file  # noqa: E402
from recorder.archive.disk import Disk, reason_of  # noqa: E402
from recorder.errors import ArchiveError  # noqa: E402

NICENESS: Final = 19
"""The lowest priority but the idle one. An idle process hardly runs on a busy machine, and takes seconds to end when it is
killed, for which systemd waits before it starts the recorder again."""
TURN_NS: Final = 100_000
"""How long this process may go on when the recorder wakes on the same core. Linux takes it from 6.12 on (sched(7)); without
it a turn is 3 ms and more, also of the lowest priority, and the recorder waits that long."""
OUT_OF_MEMORY_SCORE: Final = "300"
"""Where memory is scarce, the kernel ends this process before any other of the recorder (proc(5), oom_score_adj)."""
_PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""
_SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""The system call's number, from asm/unistd.h; the C library has had a function for it only since glibc 2.41."""
_SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
"""From sched_setattr(2): size, policy, flags, nice, priority, runtime, deadline, period."""


def end_with_the_recorder() -> None:
    """Let the kernel end this process together with the thread that started it, also in the middle of a file."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def yield_to_all() -> None:
    """Leave processor, disk and memory to whoever else wants them."""
    with suppress(OSError):
        os.nice(NICENESS)
    take_short_turns()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)


def take_short_turns() -> None:
    """Leave the core soon to whoever wakes on it. Older kernels and other processors keep their own turns."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return
    wish = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, NICENESS, 0, TURN_NS, 0, 0)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).syscall(number, 0, wish, 0)


def answer_to(request: bytes) -> dict[str, object]:
    """Do a job; return what the recorder is told."""
    plain, temporary, codec, sha256 = json.loads(request)
    try:
        return compress_file(Job(Path(plain), Path(temporary), codec, sha256), Disk())._asdict()
    except OSError as error:
        return {"error": reason_of(error)}
    except ArchiveError as error:
        return {"error": str(error)}


end_with_the_recorder()
# Not before everything is imported: on a busy machine a process of this priority takes long to start.
yield_to_all()
for line in sys.stdin.buffer:
    print(json.dumps(answer_to(line)), flush=True)  # noqa: T201 - stdout is the way back
