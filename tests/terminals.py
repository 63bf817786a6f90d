"""Commands on a terminal of their own, as a person has them."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import RECORDER, clean_environment


@contextmanager
def on_a_terminal(
    *arguments: str, cwd: Path, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], bytearray]]:
    """Run a command on a terminal of its own; return the process and what it has shown so far."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*RECORDER, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=clean_environment(TERM="xterm", COLUMNS="140", LINES="40", **settings),
        start_new_session=True,
    )
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 1 << 16))
            except OSError:  # Linux: the other side is closed
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process, shown
        process.wait(60)
        reader.join(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(10)
        os.close(ours)
