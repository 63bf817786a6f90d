"""System calls that fail on demand: strace on the threads of a running process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools import tool
from waiting import eventually_sync

STRACE = ("-D", "-f", "--seccomp-bpf", "-qq")
"""strace beside a command that it starts: the command has the process id that the caller sees."""


def traced(log: Path | str, calls: str, *rules: str, paths: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """Return what to put before a command so that some of its calls fail: `rules` such as `write:error=EIO:when=5..7`.

    `paths` limit that to files. Every call of `calls` is in `log`.
    """
    limits = [word for path in paths for word in ("-P", str(path))]
    injections = [word for rule in rules for word in ("-e", f"inject={rule}")]
    return (tool("strace"), *STRACE, "-y", "-o", str(log), "-e", f"trace={calls}", *limits, *injections)


@contextmanager
def injecting(pid: int, rules: list[str], *paths: Path) -> Iterator[None]:
    """Let calls of a process fail, on every thread but its first one, for as long as the block takes."""
    threads = [task.name for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    command = [tool("strace"), "-qq", "-o", "/dev/null"]
    command += [word for thread in threads for word in ("-p", thread)]
    command += [word for path in paths for word in ("-P", str(path))]
    command += [word for rule in rules for word in ("-e", f"inject={rule}")]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        eventually_sync(lambda: all(_is_traced(pid, thread) for thread in threads), "strace to attach")
        yield
    finally:
        strace.terminate()
        strace.communicate(timeout=30)


def _is_traced(pid: int, thread: str) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/task/{thread}/status").read_text()
