"""Programs in C that are compiled when they are needed: the load, and the least that a server can do."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.harness import LOAD_CPU, Broken, Program, on

_SOURCES: Final = Path(__file__).parent
_BUILT: Final = Path(__file__).resolve().parents[2] / "build" / "native"


@cache
def built(name: str) -> Path:
    """Compile a program; return its path. Raise `Broken` where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Broken("not installed: a C compiler, cc (Debian: gcc, libc6-dev)")
    _BUILT.mkdir(parents=True, exist_ok=True)
    made = _BUILT / f"{name}.{os.getpid()}"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(made), str(_SOURCES / f"{name}.c")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"{name}.c does not compile: {done.stderr}")
    return made.rename(_BUILT / name)


class Native(Program):
    """A program in C that takes over connected sockets; they are closed here."""

    def __init__(
        self, name: str, *arguments: str, sockets: Sequence[socket.socket], cpu: int = LOAD_CPU
    ) -> None:
        numbers = [each.fileno() for each in sockets]
        self.name = name
        self.process = subprocess.Popen(
            [*on(cpu), str(built(name)), *arguments, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=numbers,
        )
        for each in sockets:
            each.close()


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us, here and in programs started from here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
