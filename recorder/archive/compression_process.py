"""Compression in a process of its own: it takes nothing of the interpreter's lock, and the processor last of all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from recorder.archive.compression import Job, OnDisk
from recorder.errors import ArchiveError
from recorder.settings import environ_without_settings


class CompressionProcess:
    """Starts `python -m recorder.archive` when a job needs it, and again when it has died.

    It does one job at a time, and writes the temporary file only: renaming, noting and deleting stay here, so that a kill
    of either process at any time leaves the plain file or the whole compressed one. It ends with the thread that
    started it.
    """

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ended = False

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        process = self._process
        return process.pid if process else None

    def start(self) -> subprocess.Popen[bytes]:
        """Return the process, started if there is none. Raise `OSError`, and `ArchiveError` after `end`."""
        with self._changing:
            if self._is_ended:
                raise ArchiveError("compression has ended")
            if self._process is None:
                self._process = _spawn()
            return self._process

    def compress(self, job: Job) -> OnDisk:
        """Have a job done. Raise `OSError` and `ArchiveError`, also where the process dies or is ended meanwhile."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        request = [str(job.plain), str(job.temporary), job.codec, job.sha256]
        with suppress(BrokenPipeError):  # it has died since the last job; then there is no answer either
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ArchiveError(f"the process that compressed {job.plain} {self._bury(process)}")
        answer = json.loads(line)
        if "error" in answer:
            raise ArchiveError(answer["error"])
        return OnDisk(**answer)

    def end(self) -> None:
        """End the process, whatever it does, for good. May be called by another thread while a job is done."""
        with self._changing:
            self._is_ended = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process and release what it leaves. Not while a job is done."""
        self.end()
        if self._process is not None:
            self._bury(self._process)

    def _bury(self, process: subprocess.Popen[bytes]) -> str:
        """Make room for another process; return how this one has ended."""
        process.kill()  # it may have closed its output only
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a request that could not be written
                    pipe.close()
        with self._changing:
            self._process = None
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"ended with status {status}"


def _spawn() -> subprocess.Popen[bytes]:
    """Start the process by vfork, which takes a millisecond whatever this process's size.

    It needs no settings, so none are in its environment. Its group is its own, as Ctrl-C is for the recorder. Its session
    is not: Linux shares processors out among sessions first (sched(7), autogroup), and a low priority would mean little.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "recorder.archive"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ_without_settings(),
        process_group=0,
    )
